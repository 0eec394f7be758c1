"""`FallbackModel` over scripted models."""

from __future__ import annotations

import pytest

from streamchat.errors import InvalidInput
from streamchat.models import FallbackModel, ModelRetry
from streamchat.testing import Call, ScriptedModel, Step
from tests.models.support import ask, asking

pytestmark = pytest.mark.anyio


async def test_the_first_model_that_can_be_asked_answers() -> None:
    broken, good, unused = ScriptedModel([Step(error="server_error")]), ScriptedModel(["ok"]), ScriptedModel()
    heard = await ask(FallbackModel([broken, good, unused]))
    assert heard.text() == "ok"
    assert heard.notices == [ModelRetry(1, 0.0, "server_error")]
    for model in (broken, good, unused):
        model.assert_used_up()


async def test_a_models_own_retries_come_first_and_are_passed_on() -> None:
    first = ScriptedModel([Step(retries=2, error="connection")])
    heard = await ask(FallbackModel([first, ScriptedModel(["ok"])]))
    assert [notice.code for notice in heard.notices] == ["connection"] * 3
    assert heard.text() == "ok"


async def test_a_failure_after_the_first_token_goes_up_and_the_next_attempt_asks_the_next_model() -> None:
    first = ScriptedModel([Step("one two", error="connection", error_after=1)])
    second = ScriptedModel(["three"])
    model = FallbackModel([first, second])
    heard = await ask(model)
    assert heard.text() == "one"
    assert heard.failure.code == "connection"
    assert not second.requests
    assert (await ask(model, asking(attempt=1))).text() == "three"


async def test_a_later_attempt_goes_round_to_the_first_again() -> None:
    first, second = ScriptedModel.text("first", repeat=True), ScriptedModel([Step(error="server_error")] * 2)
    model = FallbackModel([first, second])
    assert (await ask(model, asking(attempt=1))).text() == "first"
    assert (await ask(model, asking(attempt=2))).text() == "first"
    assert (await ask(model, asking(attempt=3))).text() == "first"
    second.assert_used_up()


async def test_a_call_counts_as_the_first_token() -> None:
    first = ScriptedModel([Step(calls=[Call("weather")], cut_after=1)])
    second = ScriptedModel()
    heard = await ask(FallbackModel([first, second]))
    assert heard.failure.code == "incomplete_stream"
    assert not second.requests


async def test_a_bad_request_does_not_move_on_unless_told_to() -> None:
    models = [ScriptedModel([Step(error="bad_request")], repeat=True), ScriptedModel.text("ok", repeat=True)]
    heard = await ask(FallbackModel(models))
    assert heard.failure.code == "bad_request"
    assert not models[1].requests
    assert (await ask(FallbackModel(models, when=lambda error: True))).text() == "ok"


@pytest.mark.parametrize("code", ["authentication", "rate_limited", "timeout", "first_token_timeout"])
async def test_other_failures_move_on(code: str) -> None:
    models = [ScriptedModel([Step(error=code)]), ScriptedModel(["ok"])]
    assert (await ask(FallbackModel(models))).text() == "ok"


async def test_when_all_fail_the_last_error_goes_up_and_names_the_others() -> None:
    models = [
        ScriptedModel([Step(error="server_error")], name="a"),
        ScriptedModel([Step(error="timeout")], name="b"),
        ScriptedModel([Step(error="connection")], name="c"),
    ]
    heard = await ask(FallbackModel(models))
    assert heard.failure.code == "connection"
    notes = "\n".join(heard.failure.__notes__)
    assert "a: server_error" in notes
    assert "b: timeout" in notes


async def test_an_error_that_is_no_model_error_is_nothing_to_fall_back_from() -> None:
    second = ScriptedModel()
    with pytest.raises(ZeroDivisionError):
        await ask(FallbackModel([ScriptedModel([ZeroDivisionError()]), second]))
    assert not second.requests


async def test_closing_it_closes_the_model_that_speaks() -> None:
    model = FallbackModel([ScriptedModel([Step("one two", stall_after=1)])])
    stream = model.stream(asking())
    assert await anext(stream)
    await stream.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


def test_the_name_is_the_first_models_unless_given() -> None:
    models = [ScriptedModel(name="a"), ScriptedModel(name="b")]
    assert FallbackModel(models).name == "a"
    assert FallbackModel(models, name="both").name == "both"


def test_no_models_are_refused() -> None:
    with pytest.raises(InvalidInput):
        FallbackModel([])
