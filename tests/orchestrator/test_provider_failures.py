"""A provider that dies: withdrawn and asked again, or the partial text and an error; never text twice."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

import anyio
import pytest

from streamchat.core.accumulator import ContentDelta
from streamchat.core.fold import fold
from streamchat.errors import InvalidInput, ModelError
from streamchat.models.base import ModelOutput, ModelRequest, ModelResult
from streamchat.orchestration import run
from streamchat.orchestration.options import Hooks, RunOptions
from streamchat.testing import Call, ScriptedModel, Step, failure
from streamchat.tools import ToolRegistry
from tests.orchestrator.support import Watched, assert_concluded, assert_whole, play

pytestmark = pytest.mark.anyio


def tools() -> ToolRegistry:
    registry = ToolRegistry()

    @registry.tool
    async def look(n: int) -> int:
        return n

    return registry


WHOLE = Step("one two three", reasoning="so then", calls=[Call("look", {"n": 1}, id="functions.look:0")])
PIECES = len(WHOLE.pieces())


def dying(after: int, how: str) -> Step:
    if how == "cut":
        return replace(WHOLE, cut_after=after)
    return replace(WHOLE, error=how, error_after=after)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("how", ["cut", "connection", "idle_timeout", "stream_error"])
async def test_a_stream_that_dies_at_any_chunk_is_withdrawn_and_asked_again(how, batch):
    for after in range(1, PIECES + 1):
        model = Watched(ScriptedModel([dying(after, how), WHOLE, "Done."], batch=batch))
        log = await play(model, tools=tools())
        assert_whole(log.events)
        assert (log.status, log.text, model.open) == ("success", "one two threeDone.", 0)
        (reset,) = log.of("step_reset")
        assert (reset.attempt, reset.reason, reset.retry_in) == (2, "provider", 0.0)
        assert len(log.of("step_started")) == 2, "never again after a reset"
        assert log.outcomes() == ["ok"]
        for border in log.borders:
            if border < len(log.events):
                assert_concluded(log.events[:border])
            assert fold(log.events[:border]).text in "one two threeDone."


@pytest.mark.parametrize("how", ["cut", "connection"])
async def test_the_last_failure_leaves_the_partial_text(how):
    pieces = WHOLE.pieces()
    for after in range(1, PIECES + 1):
        model = ScriptedModel([dying(after, how)])
        log = await play(model, tools=tools(), options=RunOptions(max_step_restarts=0))
        assert_whole(log.events)
        assert (log.status, log.error.phase) == ("error", "model")
        assert log.error.retryable
        assert log.of("step_reset") == []
        assert log.text == "".join(piece.text for piece in pieces[:after] if piece.kind == "text")
        assert log.of("message_completed")[0].finish_reason is None


async def test_restarts_are_bounded():
    steps = [dying(3, "connection")] * 3
    with ScriptedModel(steps) as model:
        log = await play(model, tools=tools(), options=RunOptions(max_step_restarts=2, restart_delay=0.0))
    assert [reset.attempt for reset in log.of("step_reset")] == [2, 3]
    assert [request.attempt for request in model.requests] == [0, 1, 2]
    assert (log.status, log.text) == ("error", "one")
    assert_whole(log.events)


async def test_restarts_are_counted_for_each_step_by_itself():
    good = Step("x", calls=[Call("look", {"n": 1})])
    bad = Step("x", error="connection", error_after=1)
    with ScriptedModel([bad, good, bad, good, bad, "Done."]) as model:
        log = await play(model, tools=tools(), options=RunOptions(max_step_restarts=1, restart_delay=0.0))
    assert log.status == "success"
    assert_whole(log.events)


@pytest.mark.parametrize("code", ["connection", "rate_limited", "authentication", "server_error"])
async def test_a_failure_before_the_first_token_is_not_reset(code):
    """Models ask again by themselves as long as nothing was seen."""
    log = await play(ScriptedModel([failure(code)]))
    assert log.of("step_reset") == []
    assert (log.status, log.error.phase, log.error.code) == ("error", "model", code)
    assert_whole(log.events)


async def test_notices_of_a_model_that_asks_again_are_shown_and_are_no_tokens():
    log = await play(ScriptedModel([Step("x", retries=2)]))
    assert [event.status for event in log.of("status")] == ["thinking", "retrying", "retrying"]
    failed = Step("x", retries=1, cut_after=0)
    log = await play(ScriptedModel([failed]))
    assert log.of("step_reset") == []
    assert log.status == "error"


async def test_a_failure_that_asking_again_cannot_mend_ends_the_run_at_once():
    step = Step("one two", error=failure("bad_request"), error_after=1)
    log = await play(ScriptedModel([step]))
    assert (log.of("step_reset"), log.text, log.error.retryable) == ([], "one", False)
    assert_whole(log.events)


async def test_a_provider_that_asks_for_patience_is_left_alone_for_so_long():
    step = Step("one two", error=failure("rate_limited", retry_after=0.03), error_after=1)
    log = await play(ScriptedModel([step, "one two"]))
    assert log.of("step_reset")[0].retry_in == 0.03
    assert log.status == "success"


async def test_a_provider_that_asks_for_too_much_patience_is_not_asked_again():
    step = Step("one two", error=failure("rate_limited", retry_after=3600), error_after=1)
    with anyio.fail_after(5):
        log = await play(ScriptedModel([step]))
    assert (log.of("step_reset"), log.status, log.text) == ([], "error", "one")


async def test_each_restart_waits_twice_as_long():
    steps = [dying(2, "connection")] * 3 + [Step("Done.")]
    options = RunOptions(max_step_restarts=3, restart_delay=0.004)
    log = await play(ScriptedModel(steps), options=options)
    assert [reset.retry_in for reset in log.of("step_reset")] == [0.004, 0.008, 0.016]


class Raw:
    """A model that is a plain async generator function of the request."""

    name = "raw"

    def __init__(self, function) -> None:
        self.stream = function


async def test_a_model_that_raises_anything_else_is_a_failure_of_the_model():
    async def stream(request: ModelRequest) -> AsyncGenerator[Sequence[ModelOutput], None]:
        yield [ContentDelta("text", 0, "one")]
        raise KeyError("secret")

    log = await play(Raw(stream))
    assert (log.status, log.error.phase, log.error.code, log.text) == (
        "error",
        "model",
        "provider_error",
        "one",
    )
    assert "secret" not in repr(log.events)
    assert log.error.correlation_id
    assert_whole(log.events)


async def test_a_model_that_cannot_even_be_asked_is_a_failure_of_the_model():
    def stream(request: ModelRequest) -> AsyncGenerator[Sequence[ModelOutput], None]:
        raise InvalidInput("n=2", field="n")

    log = await play(Raw(stream))
    assert (log.status, log.error.phase, log.error.code) == ("error", "model", "bad_request")
    assert_whole(log.events)


async def test_a_stream_without_a_result_is_incomplete():
    async def stream(request: ModelRequest) -> AsyncGenerator[Sequence[ModelOutput], None]:
        yield [ContentDelta("text", 0, "one")]

    log = await play(Raw(stream), options=RunOptions(max_step_restarts=1, restart_delay=0.0))
    assert len(log.of("step_reset")) == 1
    assert log.error.code == "incomplete_stream"
    assert_whole(log.events)


@pytest.mark.parametrize("odd", ["text", 3, None, ContentDelta("smell", 0, "x")])  # type: ignore[arg-type]
async def test_a_model_that_yields_what_is_no_output_is_a_failure_of_the_model(odd):
    async def stream(request: ModelRequest) -> AsyncGenerator[Sequence[ModelOutput], None]:
        yield [ContentDelta("text", 0, "one")]
        yield [odd]

    log = await play(Raw(stream))
    assert (log.status, log.error.phase) == ("error", "model")
    assert_whole(log.events)


async def test_a_failure_after_the_result_changes_nothing():
    """The answer is there; a connection that breaks after it is no failure of it."""

    async def stream(request: ModelRequest) -> AsyncGenerator[Sequence[ModelOutput], None]:
        yield [ContentDelta("text", 0, "all"), ModelResult("stop")]
        raise ModelError("connection lost", code="connection", retryable=True)

    log = await play(Raw(stream))
    assert (log.status, log.text, log.of("step_reset")) == ("success", "all", [])
    assert_whole(log.events)


async def test_a_model_that_lingers_after_its_result_does_not_hold_the_run_up(monkeypatch):
    monkeypatch.setattr(run, "_DRAIN_SECONDS", 0.02)

    async def stream(request: ModelRequest) -> AsyncGenerator[Sequence[ModelOutput], None]:
        yield [ContentDelta("text", 0, "all"), ModelResult("stop")]
        await anyio.sleep_forever()

    with anyio.fail_after(5):
        log = await play(Raw(stream))
    assert (log.status, log.text) == ("success", "all")


async def test_the_request_after_a_reset_holds_nothing_of_the_withdrawn_attempt():
    with ScriptedModel([dying(4, "connection"), WHOLE, "Done."]) as model:
        await play(model, tools=tools())
    assert model.requests[1].messages == model.requests[0].messages


async def test_the_time_to_the_first_token_is_that_of_the_step():
    with ScriptedModel([dying(1, "connection"), "Done."]) as model:
        log = await play(model, tools=tools())
    finished = log.of("step_finished")[0]
    assert 0 <= finished.time_to_first_token <= finished.duration


async def test_usage_of_a_step_that_stands_is_kept_when_a_later_one_fails():
    good = Step("x", calls=[Call("look", {"n": 1})])
    log = await play(ScriptedModel([good, failure("server_error")]), tools=tools())
    assert log.status == "error"
    assert log.of("finalized")[0].usage.total_tokens > 0
    assert [part.type for part in log.of("message_completed")[0].content] == ["text", "tool_call"]
    assert_whole(log.events)


async def test_before_step_is_asked_for_every_attempt():
    attempts = []
    hooks = Hooks(before_step=lambda context, request: attempts.append(request.attempt))
    await play(
        ScriptedModel([dying(1, "connection"), "Done."]), options=RunOptions(restart_delay=0.0, hooks=hooks)
    )
    assert attempts == [0, 1]
