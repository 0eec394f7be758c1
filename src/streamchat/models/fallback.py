"""Several models behind one: when one cannot be asked, the next is."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from streamchat.core.given import check_callable, check_instance
from streamchat.errors import InvalidInput, ModelError
from streamchat.models.base import Model, ModelOutput, ModelRequest, ModelRetry

__all__ = ["FallbackModel", "unless_bad_request"]


def unless_bad_request(error: ModelError) -> bool:
    """Another model is asked after any error but ``bad_request``, which it would refuse as well."""
    return error.code != "bad_request"


class FallbackModel:
    """Asks the first of ``models``; after a failure before its first token (and its own retries), the next.

    A failure after the first token goes up; when the orchestrator then asks again (``request.attempt`` > 0),
    it is the next model that is asked first, and the others after it in a circle. ``when`` says for an error
    whether to move on (default: `unless_bad_request`); an error for which it says no goes up. When all have
    failed, the last one's error goes up, with a note for each of the others. Each move is announced by a
    `ModelRetry` of 0 seconds.

    ``name`` is what stands in ``run_started``, by default the first model's; usage names the model that
    answered.
    """

    def __init__(
        self,
        models: Sequence[Model],
        *,
        when: Callable[[ModelError], bool] = unless_bad_request,
        name: str | None = None,
    ) -> None:
        check_instance("models", models, Sequence, "a list of models")
        if not models:
            raise InvalidInput("FallbackModel([]) has no model to ask; give at least one", field="models")
        for model in models:
            check_instance("models", model, Model, "models, such as OpenAIChatModel(client, name)")
        check_callable("when", when, "a function of a ModelError")
        self._models = tuple(models)
        self._when = when
        self._name = name or self._models[0].name

    @property
    def name(self) -> str:
        """The name of the whole."""
        return self._name

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelOutput], None]:
        """Stream the answer of the first model that gives one; raises `ModelError` as the class says."""
        first = request.attempt % len(self._models)
        models = self._models[first:] + self._models[:first]
        failures: list[ModelError] = []
        for position, model in enumerate(models, start=1):
            if failures:
                yield [ModelRetry(len(failures), 0.0, failures[-1].code)]
            spoken = False
            try:
                async with aclosing(model.stream(request)) as stream:
                    async for batch in stream:
                        spoken = spoken or any(not isinstance(item, ModelRetry) for item in batch)
                        yield batch
                return
            except ModelError as error:
                if spoken or position == len(models) or not self._when(error):
                    for other, earlier in zip(models, failures, strict=False):
                        error.add_note(f"before it failed {other.name}: {earlier.code}: {earlier}")
                    raise
                failures.append(error)
