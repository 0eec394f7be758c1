"""What an AG-UI request brings to a run that waits: decisions on its interrupts, and what the page's tools
came to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from streamchat.buffers.base import RunRecord
from streamchat.core.answers import Answer, awaited
from streamchat.core.fold import fold
from streamchat.core.state import RunState
from streamchat.errors import AnswerConflict, InvalidInput, RunNotFound, RunOver, WaitNotFound
from streamchat.events import StoredEvent
from streamchat.http.ag_ui_input import (
    InputMessage,
    RunAgentInput,
    Verdict,
    failure_of,
    readings_of,
    verdict,
)
from streamchat.messages import ToolCallPart
from streamchat.principal import Principal
from streamchat.service.answers import decision, tool_result
from streamchat.service.chat import StreamChat
from streamchat.wire.ag_ui import Ids

__all__ = ["Given", "GivenAnswers", "Refused", "unknown_interrupt"]


class Refused(Exception):
    """What AG-UI answers with ``RUN_ERROR``: an input that the thread as it stands has no use for."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def unknown_interrupt() -> Refused:
    """Return the refusal of an answer that nobody asked for."""
    return Refused("unknown_interrupt", "Nothing in this thread waits for an answer to this interrupt.")


@dataclass(frozen=True, slots=True)
class Given:
    """What was handed over to a run. ``known`` is its log as it was before; ``awaited`` says that it was
    waiting for some of this."""

    known: Sequence[StoredEvent]
    awaited: bool


class GivenAnswers:
    """The answers of one request."""

    def __init__(self, chat: StreamChat, principal: Principal | None, body: RunAgentInput) -> None:
        self._chat = chat
        self._principal = principal
        self._body = body

    async def give(self, run: RunRecord) -> Given | None:
        """Hand over what there is for ``run``; None where that is nothing that it asked for.

        Raises `Refused` for decisions that are not asked for, unreadable, not all, or others than before.
        """
        body = self._body
        ids = Ids(run.message_id)
        results = {message.tool_call_id or "": message for message in body.results()}
        brings = not run.over and any(call_id.startswith(ids.call("")) for call_id in results)
        if not (body.resume or brings):
            return None
        known = await self._chat.whole_log(run.run_id, self._principal)
        state = fold(known)
        decided = self._decided(state)
        brought = [
            (call, results[ids.call(call.call_id)])
            for call in state.calls
            if ids.call(call.call_id) in results and awaited(call) == "tool_result"
        ]
        # What cannot be taken is refused before anything is.
        read = [await self._read(run.run_id, call, result) for call, result in brought]
        await self._decide(run.run_id, decided)
        for answer in read:
            if answer is not None:
                await self._bring(run.run_id, answer)
        if not decided and not brought:
            return None
        waiting = {wait.call_id for wait in state.waits}
        return Given(known, any(call.call_id in waiting for call, _ in (*decided, *brought)))

    def _decided(self, state: RunState) -> list[tuple[ToolCallPart, Verdict]]:
        """Read the resume entries."""
        asked = {call.approval.approval_id: call for call in state.calls if call.approval is not None}
        decided: list[tuple[ToolCallPart, Verdict]] = []
        for entry in {entry.interrupt_id: entry for entry in self._body.resume}.values():
            call, given = asked.get(entry.interrupt_id), verdict(entry)
            if call is None:
                raise unknown_interrupt()
            if given is None:
                raise Refused(
                    "invalid_payload",
                    f"The payload for interrupt {entry.interrupt_id} must have approved, true or false; "
                    "reason is text, editedArgs an object.",
                )
            decided.append((call, given))
        if decided:
            self._check_coverage(state, {call.call_id for call, _ in decided})
        return decided

    def _check_coverage(self, state: RunState, decided: set[str]) -> None:
        missing = [
            call.approval.approval_id
            for call in state.calls
            if call.approval is not None and awaited(call) == "approval" and call.call_id not in decided
        ]
        if missing:
            raise Refused("interrupts_open", f"These interrupts must be answered too: {', '.join(missing)}.")

    async def _decide(self, run_id: str, decided: Sequence[tuple[ToolCallPart, Verdict]]) -> None:
        try:
            answers = [
                decision(call.call_id, given.approved, reason=given.reason, arguments=given.arguments)
                for call, given in decided
            ]
            await self._chat.submit_answers(run_id, answers, self._principal)
        except (AnswerConflict, RunOver):
            raise Refused("answer_conflict", "This was answered otherwise, or it is too late.") from None
        except InvalidInput as error:
            raise Refused("invalid_payload", f"The answer does not fit: {error.field}.") from None
        except (WaitNotFound, RunNotFound):
            raise unknown_interrupt() from None

    async def _read(self, run_id: str, call: ToolCallPart, result: InputMessage) -> Answer | None:
        """Read a tool's result: of its readings the first that fits what the tool declares; None where the
        call waits for none any more.

        One that fits nothing is an error of the tool's. It cannot be refused, as the page sends it with each
        request of the thread; and some have no other place for why there is none.
        """
        if result.error is None:
            for value in readings_of(result):
                try:
                    return await self._judged(run_id, tool_result(call.call_id, value))
                except InvalidInput:
                    continue
        error = failure_of(result) if result.error is None else result.error
        return await self._judged(run_id, tool_result(call.call_id, error=error))

    async def _judged(self, run_id: str, answer: Answer) -> Answer | None:
        try:
            await self._chat.check_answers(run_id, [answer], self._principal)
        except (AnswerConflict, WaitNotFound):
            return None  # as below
        return answer

    async def _bring(self, run_id: str, answer: Answer) -> None:
        try:
            await self._chat.submit_answers(run_id, [answer], self._principal)
        except (AnswerConflict, RunOver, WaitNotFound):
            return  # it was answered since, or is not waited for any more: the log says what came of it
