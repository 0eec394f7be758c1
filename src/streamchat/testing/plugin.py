"""The pytest plugin: fixtures for tests of applications; pytest finds it where streamchat is installed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from streamchat.testing import ScriptedModel, ScriptedProvider
    from streamchat.testing.scripted import ScriptedStep

__all__ = ["MakeScriptedModel", "no_model_retries", "scripted_model", "scripted_provider"]

# pytest imports this module, and the packages that it is in, wherever streamchat is installed. So those
# import neither openai nor a database, and what the fixtures need waits for them.


class MakeScriptedModel(Protocol):
    """What the fixture `scripted_model` is."""

    def __call__(self, *steps: ScriptedStep, repeat: bool = False) -> ScriptedModel:
        """A model that answers with ``steps``."""
        ...


@pytest.fixture
def scripted_model() -> Iterator[MakeScriptedModel]:
    """``scripted_model(*steps)`` makes a `ScriptedModel`; the test fails if its script was not used up."""
    from streamchat.testing.scripted import ScriptedModel

    made: list[ScriptedModel] = []

    def make(*steps: ScriptedStep, repeat: bool = False) -> ScriptedModel:
        made.append(ScriptedModel(steps, repeat=repeat))
        return made[-1]

    yield make
    for model in made:
        model.assert_used_up()


@pytest.fixture
def scripted_provider() -> Iterator[ScriptedProvider]:
    """A `ScriptedProvider` in a thread, filled with ``add``; the test fails if it was not used up."""
    from streamchat.testing.provider import ScriptedProvider

    with ScriptedProvider() as provider:
        yield provider
    provider.assert_used_up()


@pytest.fixture
def no_model_retries() -> Iterator[None]:
    """No model retries by itself during the test."""
    from streamchat.models.retry import retries_off

    with retries_off():
        yield
