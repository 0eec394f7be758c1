"""`ScriptedModel` does what its script says, and complains when the script and the requests do not match."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from streamchat.errors import InvalidInput, ModelError
from streamchat.messages import MessageCall, ModelMessage, Usage
from streamchat.models import CallDelta, Model, ModelRetry
from streamchat.testing import Call, ScriptedModel, ScriptExhausted, Stall, Step, failure
from tests.models.support import ask, asking

pytestmark = pytest.mark.anyio

STEP = Step("It is raining.", calls=[Call("weather", {"city": "Oslo"})], reasoning="Let me look.")


async def test_a_step_is_said_piece_by_piece_and_then_its_result() -> None:
    with ScriptedModel([STEP]) as model:
        assert isinstance(model, Model)
        heard = await ask(model)
    assert heard.text() == "It is raining."
    assert heard.text("reasoning") == "Let me look."
    assert "".join(i.arguments for i in heard.items if isinstance(i, CallDelta)) == '{"city":"Oslo"}'
    assert all(len(batch) == 1 for batch in heard.batches)
    assert heard.result.finish_reason == "tool_calls"
    assert [(call.name, call.arguments) for call in heard.result.calls] == [("weather", {"city": "Oslo"})]
    assert heard.result.usage == Usage(
        model="scripted", input_tokens=10, output_tokens=9, total_tokens=19, reasoning_tokens=3
    )


async def test_batches_hold_as_many_pieces_as_asked_for() -> None:
    heard = await ask(ScriptedModel([Step("a b c d e")], batch=2))
    assert [len(batch) for batch in heard.batches] == [2, 2, 2]  # the last is one piece and the result


async def test_text_is_answered_once_or_every_time() -> None:
    once = ScriptedModel.text("hello")
    assert (await ask(once)).text() == "hello"
    once.assert_used_up()
    with pytest.raises(ScriptExhausted, match="request 2"):
        await ask(once)
    always = ScriptedModel.text("hello", repeat=True)
    assert [(await ask(always)).text() for _ in range(3)] == ["hello"] * 3
    always.assert_used_up()


async def test_what_was_never_asked_for_is_a_failure() -> None:
    with pytest.raises(ScriptExhausted, match="1 of 2"), ScriptedModel(["a", "b"]) as model:
        await ask(model)


async def test_an_exception_in_the_block_is_not_hidden_by_an_unused_script() -> None:
    with pytest.raises(ZeroDivisionError), ScriptedModel(["a"]):
        raise ZeroDivisionError


async def test_a_request_too_many_is_a_failure_even_if_someone_swallowed_it() -> None:
    model = ScriptedModel([])
    with pytest.raises(ScriptExhausted):
        await ask(model)
    with pytest.raises(ScriptExhausted, match="request 1"):
        model.assert_used_up()


async def test_errors_come_before_the_first_piece_or_after_so_many() -> None:
    own = failure("rate_limited", retry_after=3.0)
    model = ScriptedModel(
        [Step("a b c", error="timeout"), Step("a b c", error=own, error_after=2), ZeroDivisionError("x")]
    )
    first, second = await ask(model), await ask(model)
    assert (first.text(), first.failure.code) == ("", "timeout")
    assert (second.text(), second.failure.code, second.failure.retry_after) == ("a b", "rate_limited", 3.0)
    with pytest.raises(ZeroDivisionError):
        await ask(model)


async def test_an_error_can_be_said_again_and_again() -> None:
    own = failure("timeout")
    model = ScriptedModel([Step(error=own)], repeat=True)
    errors = [(await ask(model)).failure for _ in range(2)]
    assert errors[0] is not errors[1], "raised twice, one exception would grow two tracebacks"
    assert {error.code for error in errors} == {"timeout"}
    assert own.__traceback__ is None


@pytest.mark.parametrize("cut_after", range(7))
async def test_a_cut_ends_the_stream_at_any_piece(cut_after: int) -> None:
    step = Step("a b", calls=[Call("f", {"x": 1})], reasoning="c", cut_after=cut_after)
    heard = await ask(ScriptedModel([step]))
    assert len(heard.items) == cut_after == len(step.pieces()[:cut_after])
    assert heard.failure.code == "incomplete_stream"


async def test_a_stall_stands_until_it_is_released() -> None:
    stall = Stall()
    model = ScriptedModel([Step("a b c", stall_after=2, stall=stall)])
    async with aclosing(model.stream(asking())) as stream:
        assert await anext(stream)
        assert await anext(stream)
        waiting = asyncio.ensure_future(anext(stream))
        await stall.reached()
        assert not waiting.done()
        stall.release()
        assert await waiting
        assert [batch async for batch in stream]


async def test_a_stall_may_be_any_event() -> None:
    event = asyncio.Event()
    event.set()
    assert (await ask(ScriptedModel([Step("a b", stall_after=1, stall=event)]))).text() == "a b"


async def test_notices_of_retries_come_first() -> None:
    heard = await ask(ScriptedModel([Step("ok", retries=2)]))
    assert heard.items[:2] == [ModelRetry(1, 0.0, "connection"), ModelRetry(2, 0.0, "connection")]
    assert heard.text() == "ok"


async def test_a_step_may_be_a_function_of_the_request() -> None:
    model = ScriptedModel(lambda request: f"attempt {request.attempt}")
    assert (await ask(model, asking(attempt=4))).text() == "attempt 4"
    mixed = ScriptedModel(["one", lambda request: ValueError("no")])
    await ask(mixed)
    with pytest.raises(ValueError, match="no"):
        await ask(mixed)


async def test_something_that_is_no_step_is_refused() -> None:
    with pytest.raises(InvalidInput, match="is not a step"):
        await ask(ScriptedModel([3]))  # type: ignore[list-item]


async def test_a_history_with_an_unanswered_call_is_refused_as_a_provider_would() -> None:
    call = MessageCall(call_id="c", name="f", arguments="{}")
    request = asking([ModelMessage(role="assistant", calls=(call,))])
    strict = ScriptedModel(["ok"])
    heard = await ask(strict, request)
    assert (heard.failure.code, heard.failure.status, heard.failure.retryable) == ("bad_request", 400, False)
    with pytest.raises(ScriptExhausted, match="'c'"):
        strict.assert_used_up()
    assert (await ask(ScriptedModel(["ok"], strict=False), request)).text() == "ok"


async def test_ids_of_calls_are_new_in_each_answer_unless_given() -> None:
    step = Step(calls=[Call("f"), Call("f", id="mine"), Call("f")])
    model = ScriptedModel([step, step])
    ids = [[call.id for call in (await ask(model)).result.calls] for _ in range(2)]
    assert ids[0][1] == ids[1][1] == "mine"
    made = [i for answer in ids for i in answer if i != "mine"]
    assert len(set(made)) == 4


async def test_broken_arguments_are_said_as_they_are() -> None:
    (call,) = (await ask(ScriptedModel([Step(calls=[Call("f", '{"x":')])]))).result.calls
    assert (call.arguments_json, call.problem) == ('{"x":', "invalid_json")


async def test_requests_are_recorded() -> None:
    model = ScriptedModel(["a", "b"])
    await ask(model, asking("first"))
    await ask(model, asking("second", step=2))
    assert [request.messages[0].content for request in model.requests] == ["first", "second"]
    assert [request.step for request in model.requests] == [1, 2]


async def test_a_failure_is_the_error_that_its_code_says() -> None:
    assert isinstance(failure("bad_request"), ModelError)
    assert [failure(code).retryable for code in ("bad_request", "authentication", "timeout")] == [
        False,
        False,
        True,
    ]
