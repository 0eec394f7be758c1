"""Approvals: a person decides before a tool runs, days later if need be, and nothing is kept in memory."""

from __future__ import annotations

from collections import Counter
from typing import Any

import anyio
import pytest

from streamchat.core.answers import Answer
from streamchat.errors import AnswerConflict, InvalidInput, WaitNotFound
from streamchat.events import RunResumed, Suspended
from streamchat.orchestration.answering import check_answer
from streamchat.orchestration.context import RunContext
from streamchat.orchestration.options import Hooks, Limits, Refuse, RunOptions
from streamchat.principal import Principal
from streamchat.testing import Call, ScriptedModel
from streamchat.tools import ToolContext, ToolRegistry
from tests.orchestrator.support import FAST, Log, assert_whole, play, stored
from tests.orchestrator.waiting import Desk, calls, new

pytestmark = pytest.mark.anyio


class Bank:
    """Tools that cost, and what they were given."""

    def __init__(self) -> None:
        self.paid: list[int] = []
        self.looked = 0
        self.tools = ToolRegistry()

        @self.tools.tool(requires_approval=True)
        async def pay(amount: int = 1) -> str:
            self.paid.append(amount)
            return f"paid {amount}"

        @self.tools.tool
        async def look() -> str:
            self.looked += 1
            return "looked"

    def desk(self, *steps: Any, options: RunOptions = FAST) -> Desk:
        return Desk(ScriptedModel([*steps, "Done."]), self.tools, options)


def pay(call_id: str, amount: int = 1) -> Call:
    return Call("pay", {"amount": amount}, id=call_id)


async def test_a_call_that_needs_approval_is_asked_for_and_the_run_suspends():
    bank = Bank()
    desk = bank.desk(calls(pay("p", 7), "look"))
    log = await desk.live()
    asked = log.of("approval_requested")[0]
    assert (asked.call_id, asked.name, asked.arguments, asked.step) == ("p", "pay", {"amount": 7}, 1)
    assert asked.expires_at == desk.now + 7 * 24 * 3600 * 1000
    suspended = log.events[-1]
    assert isinstance(suspended, Suspended)
    [wait] = suspended.waits
    assert (wait.kind, wait.call_id, wait.approval_id) == ("approval", "p", asked.approval_id)
    assert wait.expires_at == asked.expires_at
    assert log.of("status")[-1].status == "waiting"
    assert (bank.paid, bank.looked) == ([], 1), "the step's other calls run meanwhile"
    assert desk.state.status == "suspended"
    [call] = [call for call in desk.state.calls if call.call_id == "p"]
    assert call.state == "approval"
    assert call.approval is not None
    assert call.approval.approved is None


async def test_what_was_approved_runs_and_the_model_is_told():
    bank = Bank()
    desk = bank.desk(calls(pay("p", 7)))
    await desk.live()
    desk.approve("p", reason="fine")
    log = await desk.live()
    assert new(log)[:5] == [
        "run_resumed",
        "approval_resolved",
        "tool_started",
        "tool_result",
        "step_finished",
    ]
    assert log.of("run_resumed")[0].reason == "approval"
    resolved = log.of("approval_resolved")[0]
    assert (resolved.approved, resolved.reason, resolved.by) == (True, "fine", "ann")
    assert bank.paid == [7]
    assert desk.told() == {"p": "paid 7"}
    assert desk.inbox == []
    assert_whole(desk.events)
    [call] = desk.state.calls
    assert call.approval is not None
    assert (call.approval.approved, call.approval.by) == (True, "ann")


async def test_what_was_denied_never_runs_and_the_model_is_told_why():
    bank = Bank()
    desk = bank.desk(calls(pay("p")))
    await desk.live()
    desk.deny("p", "too much")
    log = await desk.live()
    assert new(log)[:4] == ["run_resumed", "approval_resolved", "tool_result", "step_finished"]
    assert log.results()["p"].outcome == "denied"
    assert bank.paid == []
    assert "did not allow" in desk.told()["p"]
    assert "too much" in desk.told()["p"]
    assert_whole(desk.events)


async def test_edited_arguments_are_what_the_tool_gets_and_the_model_sees():
    bank = Bank()
    desk = bank.desk(calls(pay("p", 700)))
    await desk.live()
    desk.approve("p", arguments={"amount": 5})
    await desk.live()
    assert bank.paid == [5]
    [message] = [m for m in desk.model.requests[-1].messages if m.calls]  # type: ignore[attr-defined]
    assert message.calls[0].arguments == '{"amount":5}'
    assert_whole(desk.events)


async def test_edited_arguments_that_do_not_fit_are_refused_at_the_door():
    desk = Bank().desk(calls(pay("p")))
    await desk.live()
    with pytest.raises(InvalidInput, match="amount") as caught:
        desk.approve("p", arguments={"amount": "lots"})
    assert caught.value.field == "arguments.amount"


async def test_edited_arguments_that_got_past_the_door_are_told_to_the_model():
    bank = Bank()
    desk = bank.desk(calls(pay("p")))
    await desk.live()
    desk.post("approval", "p", checked=False, approved=True, arguments={"amount": "lots"})
    await desk.live()
    assert bank.paid == []
    assert "amount" in desk.told()["p"]
    assert_whole(desk.events)


async def test_each_answer_wakes_the_run_and_the_model_waits_for_all():
    bank = Bank()
    desk = bank.desk(calls(pay("a", 1), pay("b", 2), pay("c", 3)))
    await desk.live()
    assert desk.waits == [("approval", "a"), ("approval", "b"), ("approval", "c")]
    desk.approve("b")
    log = await desk.live()
    assert bank.paid == [2], "it runs at once"
    assert "step_finished" not in new(log)
    assert desk.waits == [("approval", "a"), ("approval", "c")]
    desk.deny("a")
    await desk.live()
    assert desk.waits == [("approval", "c")]
    assert len(desk.model.requests) == 1  # type: ignore[attr-defined]
    desk.approve("c")
    await desk.live()
    assert bank.paid == [2, 3]
    assert set(desk.told()) == {"a", "b", "c"}
    assert_whole(desk.events)


async def test_several_answers_at_once_are_taken_at_once():
    bank = Bank()
    desk = bank.desk(calls(pay("a", 1), pay("b", 2)))
    await desk.live()
    desk.approve("b")
    desk.approve("a")
    log = await desk.live()
    assert new(log)[:5] == [
        "run_resumed", "approval_resolved", "approval_resolved", "tool_started", "tool_started",
    ]  # fmt: skip
    assert sorted(bank.paid) == [1, 2]
    assert_whole(desk.events)


async def test_an_answer_that_comes_while_other_calls_work_is_taken_at_once():
    bank = Bank()
    gate = anyio.Event()

    @bank.tools.tool
    async def slow() -> str:
        await gate.wait()
        return "slow"

    desk = bank.desk(calls(pay("p", 3), "slow"))

    def react(log: Log) -> None:
        kind = log.events[-1].type
        if kind == "approval_requested":
            desk.context.answer(Answer("approval", "p", {"approved": True}))
        elif kind == "tool_result" and bank.paid:
            gate.set()

    log = await desk.live(react)
    assert bank.paid == [3]
    assert log.types("suspended") == []
    assert log.status == "success"
    assert desk.context.inputs == []
    assert_whole(desk.events)


async def test_an_answer_that_comes_with_the_suspension_stays_for_whoever_goes_on():
    bank = Bank()
    desk = bank.desk(calls(pay("p", 3)))

    def react(log: Log) -> None:
        if log.events[-1].type == "suspended":
            desk.context.answer(Answer("approval", "p", {"approved": True}))

    await desk.live(react)
    assert len(desk.inbox) == 1
    # A store refuses to suspend then: the same holder goes on, from the log without that event.
    assert desk.events.pop().type == "suspended"
    log = await desk.live(resumed=None)
    assert "run_resumed" not in log.types()
    assert bank.paid == [3]
    assert_whole(desk.events)


async def test_what_nobody_decides_in_time_is_denied():
    bank = Bank()
    desk = bank.desk(calls(pay("p")), options=RunOptions(approval_timeout=60))
    await desk.live()
    assert desk.state.waits[0].expires_at == desk.now + 60_000
    desk.now += 60_000
    log = await desk.live()
    assert log.of("run_resumed")[0].reason == "expired"
    result = log.results()["p"]
    assert result.outcome == "denied"
    assert "time" in result.error
    assert bank.paid == []
    assert_whole(desk.events)


async def test_an_answer_that_came_when_its_time_was_over_is_none():
    bank = Bank()
    desk = bank.desk(calls(pay("p"), pay("q")), options=RunOptions(approval_timeout=60))
    await desk.live()
    desk.now += 59_999
    desk.approve("q")
    desk.now += 1
    with pytest.raises(AnswerConflict):
        desk.approve("p")
    desk.post("approval", "p", checked=False, approved=True)
    log = await desk.live()
    assert {i: r.outcome for i, r in log.results().items()} == {"p": "denied", "q": "ok"}
    assert bank.paid == [1], "only the one that was decided on in time"
    assert desk.inbox == []


async def test_a_tool_may_set_its_own_time_to_decide():
    tools = ToolRegistry()
    tools.add(lambda: None, name="a", requires_approval=True, approval_timeout=5)
    tools.add(lambda: None, name="b", requires_approval=True, approval_timeout=None)
    desk = Desk(ScriptedModel([calls("a", "b"), "Done."]), tools)
    await desk.live()
    assert [wait.expires_at for wait in desk.state.waits] == [desk.now + 5000, None]


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_predicate_decides_by_the_arguments_and_the_principal(kind):
    tools = ToolRegistry()
    ran: list[int] = []

    def needs(ctx: ToolContext, arguments: dict[str, Any]) -> bool | str:
        assert ctx.principal is not None
        costs = arguments["amount"]
        return f"Pay {costs}?" if costs > 10 and ctx.principal.id != "boss" else False

    async def needs_async(ctx: ToolContext, arguments: dict[str, Any]) -> bool | str:
        await anyio.sleep(0)
        return needs(ctx, arguments)

    @tools.tool(requires_approval=needs if kind == "sync" else needs_async)
    async def pay(amount: int) -> None:
        ran.append(amount)

    def desk() -> Desk:
        step = calls(Call("pay", {"amount": 5}, id="a"), Call("pay", {"amount": 50}, id="b"))
        return Desk(ScriptedModel([step, "Done."]), tools)

    someone = desk()
    log = await someone.live(principal=Principal("ann"))
    assert ran == [5]
    assert [event.message for event in log.of("approval_requested")] == ["Pay 50?"]
    boss = desk()
    await boss.live(principal=Principal("boss"))
    assert sorted(ran) == [5, 5, 50]
    assert boss.state.status == "success"


async def test_a_predicate_that_raises_asks():
    tools = ToolRegistry()

    @tools.tool(requires_approval=lambda ctx, arguments: arguments["no such"])
    async def pay() -> None: ...

    desk = Desk(ScriptedModel([calls("pay"), "Done."]), tools)
    await desk.live()
    assert desk.waits == [("approval", "pay")]


@pytest.mark.parametrize("answer", [None, 0, "", [], {"approved": False}], ids=repr)
@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_predicate_that_says_neither_yes_nor_no_asks(kind, answer, caplog):
    """Most of all one whose author has forgotten a ``return``."""
    tools = ToolRegistry()

    def needs(ctx: ToolContext, arguments: dict[str, Any]) -> Any:
        return answer

    async def needs_async(ctx: ToolContext, arguments: dict[str, Any]) -> Any:
        return answer

    @tools.tool(requires_approval=needs if kind == "sync" else needs_async)
    async def pay() -> None: ...

    desk = Desk(ScriptedModel([calls("pay"), "Done."]), tools)
    await desk.live()
    assert desk.waits == [("approval", "pay")]
    assert "requires_approval of tool pay returned" in caplog.text


async def test_a_call_that_cannot_run_is_asked_of_nobody():
    desk = Bank().desk(calls(Call("pay", {"amount": "x"}, id="p")))
    log = await desk.live()
    assert log.types("approval_requested") == []
    assert log.results()["p"].outcome == "error"


def changed_bank() -> tuple[ToolRegistry, list[tuple[int, str]]]:
    """The bank's tools of the next version, where to pay takes a currency."""
    tools, paid = ToolRegistry(), list[tuple[int, str]]()

    @tools.tool(requires_approval=True)
    async def pay(amount: int, currency: str) -> str:
        paid.append((amount, currency))
        return "paid"

    @tools.tool
    async def look() -> str:
        return "looked"

    return tools, paid


async def test_where_the_tool_has_changed_meanwhile_it_is_the_edited_arguments_that_are_judged():
    desk = Bank().desk(calls(pay("p", 1)))
    await desk.live()
    desk.tools, paid = changed_bank()
    desk.approve("p", arguments={"amount": 3, "currency": "EUR"})
    await desk.live()
    assert paid == [(3, "EUR")]
    assert desk.told() == {"p": "paid"}
    assert_whole(desk.events)


async def test_where_the_tool_has_changed_a_decision_is_still_waited_for_and_then_judged():
    desk = Bank().desk(calls(pay("p", 1), pay("q", 2), pay("r", 3)))
    await desk.live()
    desk.tools, paid = changed_bank()
    desk.approve("p")
    await desk.live()
    assert desk.state.status == "suspended"
    assert [wait.call_id for wait in desk.state.waits] == ["q", "r"]
    desk.approve("q", arguments={"amount": 3, "currency": "EUR"})
    desk.deny("r", "no")
    await desk.live()
    assert paid == [(3, "EUR")]
    told = desk.told()
    assert "currency" in told["p"]
    assert told["q"] == "paid"
    assert "did not allow" in told["r"]
    assert_whole(desk.events)


async def test_a_tool_that_is_gone_when_the_answer_comes_is_an_error_for_the_model():
    bank = Bank()
    desk = bank.desk(calls(pay("p")))
    await desk.live()
    desk.approve("p")
    desk.tools = ToolRegistry()
    await desk.live()
    assert "There is no tool" in desk.told()["p"]
    assert_whole(desk.events)


async def test_the_hook_before_a_tool_sees_the_arguments_that_were_agreed_to():
    seen: list[Any] = []

    def before_tool(ctx: ToolContext, call: Any) -> Refuse | None:
        seen.append(call.arguments)
        return Refuse("never more than 3") if call.arguments["amount"] > 3 else None

    bank = Bank()
    options = RunOptions(hooks=Hooks(before_tool=before_tool))
    desk = bank.desk(calls(pay("p", 700), pay("q", 2)), options=options)
    await desk.live()
    assert seen == [], "not before a person has agreed"
    desk.approve("p", arguments={"amount": 5})
    desk.approve("q")
    await desk.live()
    assert sorted(map(str, seen)) == ["{'amount': 2}", "{'amount': 5}"]
    assert bank.paid == [2]
    assert desk.told()["p"].endswith("never more than 3")
    assert_whole(desk.events)


# Stopping, and what ends a run that waits.


async def test_a_stop_while_it_waits_gives_every_call_one_result():
    bank = Bank()
    desk = bank.desk(calls(pay("a"), pay("b"), "look"))
    await desk.live()
    desk.approve("a")
    context = RunContext(run_id="run", inputs=list(desk.inbox), clock=lambda: desk.now)
    context.stop("enough", by="ann")
    log = await play(desk.model, tools=desk.tools, context=context, history=desk.events, options=FAST)
    assert isinstance(log.events[0], RunResumed)
    assert log.events[0].reason == "cancel"
    assert log.outcomes() == ["cancelled", "cancelled"]
    assert bank.paid == []
    assert_whole([*desk.events, *log.events])


async def test_a_stop_while_others_work_and_one_waits():
    bank = Bank()
    there = anyio.Event()

    @bank.tools.tool
    async def slow() -> None:
        there.set()
        await anyio.sleep_forever()

    desk = bank.desk(calls(pay("p"), "slow"))
    async with anyio.create_task_group() as group:
        group.start_soon(desk.live)
        await there.wait()
        desk.context.stop("enough")
    assert desk.state.status == "cancelled"
    assert {call.call_id: call.outcome for call in desk.state.calls} == {
        "p": "cancelled",
        "slow": "cancelled",
    }
    assert_whole(desk.events)


async def test_the_deadline_does_not_run_while_the_run_is_suspended():
    bank = Bank()
    desk = bank.desk(calls(pay("p")), options=RunOptions(limits=Limits(deadline=600.0)))
    await desk.live(age=10.0)
    suspended_at = desk.now
    desk.now += 24 * 3600 * 1000
    desk.approve("p")
    # As the next holder finds it: the suspension was stored a day ago.
    desk.context = RunContext(
        run_id="run", inputs=list(desk.inbox), clock=lambda: desk.now, age=10.0 + 24 * 3600
    )
    log = await play(
        desk.model,
        tools=desk.tools,
        context=desk.context,
        history=stored(desk.events, suspended_at),
        options=desk.options,
    )
    assert log.status == "success"
    assert bank.paid == [1]


async def test_a_limit_ends_a_run_that_waits():
    desk = Bank().desk(calls(pay("p")), options=RunOptions(limits=Limits(max_events=4)))
    log = await desk.live()
    assert log.status == "error"
    assert log.error.code == "max_events"
    assert_whole(desk.events)


# The door.


async def test_an_answer_to_what_was_never_asked_is_refused():
    desk = Bank().desk(calls(pay("p"), "look"))
    await desk.live()
    for kind, call_id in [("approval", "x"), ("approval", "look"), ("tool_result", "p"), ("job_result", "p")]:
        with pytest.raises(WaitNotFound):
            check_answer(desk.state, desk.tools, Answer(kind, call_id, {"approved": True}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"approved": 1},
        {"approved": None},
        {"approved": True, "reason": 3},
        {"approved": False, "arguments": {}},
        {"approved": True, "arguments": [1]},
    ],
)
async def test_a_decision_of_another_shape_is_refused(body):
    desk = Bank().desk(calls(pay("p")))
    await desk.live()
    with pytest.raises(InvalidInput):
        check_answer(desk.state, desk.tools, Answer("approval", "p", body))


async def test_whether_a_second_answer_is_the_same_is_left_to_the_store():
    desk = Bank().desk(calls(pay("p")))
    await desk.live()
    desk.approve("p")
    await desk.live()
    check_answer(desk.state, desk.tools, Answer("approval", "p", {"approved": False}))


async def test_what_ended_without_an_answer_takes_none():
    tools = ToolRegistry()
    tools.add(lambda: None, name="p", requires_approval=True, approval_timeout=1)
    tools.add(lambda: None, name="q", requires_approval=True)
    desk = Desk(ScriptedModel([calls("p", "q"), "Done."]), tools)
    await desk.live()
    desk.now += 1000
    await desk.live()
    assert desk.waits == [("approval", "q")]
    with pytest.raises(AnswerConflict, match="'denied'"):
        check_answer(desk.state, desk.tools, Answer("approval", "p", {"approved": True}))


async def test_a_worker_that_dies_after_the_decision_does_not_ask_again():
    bank = Bank()
    counts: Counter[str] = Counter()
    for approved in (True, False):
        desk = bank.desk(calls(pay("p")))
        await desk.live()
        desk.post("approval", "p", approved=approved, reason="so be it")
        await desk.live(lambda log: log.events[-1].type == "approval_resolved")
        log = await desk.live()
        counts[log.results()["p"].outcome] += 1
        assert log.of("run_resumed")[0].reason == "takeover"
        assert log.types("approval_requested") == []
        assert_whole(desk.events)
    assert counts == {"ok": 1, "denied": 1}
    assert bank.paid == [1]
