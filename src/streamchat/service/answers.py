"""The verbs by which somebody outside answers what a run waits for: a person, the page, a background job."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import Any

from streamchat.buffers.base import EventBuffer, Input, RunRecord
from streamchat.core.answers import Answer, AnswerKind, may_be_used
from streamchat.core.fold import fold
from streamchat.core.given import check_instance
from streamchat.core.state import RunState
from streamchat.errors import AnswerConflict, InvalidInput, RunNotFound, StreamChatError
from streamchat.models.base import Model
from streamchat.orchestration.answering import check_answer
from streamchat.orchestration.options import RunOptions
from streamchat.orchestration.workflow_run import tools_of
from streamchat.principal import Principal
from streamchat.service.access import Action, Gate
from streamchat.service.log import read_log
from streamchat.service.request import RunTerms
from streamchat.service.supervisor import Supervisor
from streamchat.tools import OutputUnusable, ToolRegistry, with_client_tools
from streamchat.tools.output import json_value

__all__ = ["AnsweringVerbs", "decision", "tool_result"]

_A_JOB_ID = "what ctx.job_id says"

_ACTIONS: dict[AnswerKind, Action] = {
    "approval": "approve",
    "tool_result": "submit_tool_result",
    "job_result": "complete_job",
}


def decision(
    call_id: str, approved: bool, *, reason: str | None = None, arguments: Mapping[str, Any] | None = None
) -> Answer:
    """Return what `AnsweringVerbs.resolve_approval` says. Raises `InvalidInput`."""
    check_instance("arguments", arguments, Mapping, "a dict of the tool's arguments", none=True)
    body: dict[str, Any] = {"approved": approved}
    if reason is not None:
        body["reason"] = reason
    if arguments is not None:
        body["arguments"] = dict(arguments)
    return Answer("approval", call_id, body)


def tool_result(call_id: str, output: Any = None, *, error: str | None = None) -> Answer:
    """Return what `AnsweringVerbs.submit_tool_result` says. Raises `InvalidInput`."""
    return Answer("tool_result", call_id, _brought(output, error))


class AnsweringVerbs:
    """The part of `StreamChat` that takes answers; that class sets what stands here.

    An answer is checked against the run's log and then stored: the run takes it, in whichever process, and a
    suspended one is woken. The same answer again changes nothing, also when the run is over.
    """

    buffer: EventBuffer
    model: Model
    tools: ToolRegistry
    options: RunOptions
    _access: Gate
    _job_key: bytes | None

    def _opened(self) -> Supervisor:
        """Raise where the service is not open."""
        raise NotImplementedError

    async def resolve_approval(
        self,
        run_id: str,
        call_id: str,
        approved: bool,
        *,
        reason: str | None = None,
        arguments: Mapping[str, Any] | None = None,
        principal: Principal | None = None,
    ) -> None:
        """Decide on a call that waits for approval; `authorize` is asked for the action ``approve``.

        ``reason`` is told to the model when the call is denied. ``arguments`` take the place of the model's
        and are validated as those were. Raises `RunNotFound`, `WaitNotFound` (nothing was asked about that
        call), `InvalidInput` (with ``field``), `AnswerConflict` (decided otherwise, or too late), `RunOver`,
        `BufferUnavailable`.
        """
        answer = decision(call_id, approved, reason=reason, arguments=arguments)
        run = await self._may_answer(run_id, principal, "approve")
        await self._answer(run, (answer,), principal)

    async def submit_tool_result(
        self,
        run_id: str,
        call_id: str,
        output: Any = None,
        *,
        error: str | None = None,
        principal: Principal | None = None,
    ) -> None:
        """Bring the result of a client-side tool, or the ``error`` (text for the model) that it ended with.

        `authorize` is asked for the action ``submit_tool_result``. Raises as `resolve_approval` does;
        `InvalidInput` also for a result that is not of the type that the tool declares, or too large.
        """
        run = await self._may_answer(run_id, principal, "submit_tool_result")
        await self._answer(run, (tool_result(call_id, output, error=error),), principal)

    async def submit_answers(
        self, run_id: str, answers: Sequence[Answer], principal: Principal | None = None
    ) -> None:
        """Bring several answers to one run: each is judged before the first one is taken.

        `authorize` is asked for the action of each; ``by`` and ``at`` of an answer are not looked at. Raises
        what the verb of any of them would, `AnswerConflict` also for two that contradict each other, and none
        was taken then. Only what happens meanwhile can part them: the run ends, a time runs out, the store
        fails. The same again takes what is left.
        """
        run = await self._may_answer_all(run_id, answers, principal)
        if run is not None:
            await self._answer(run, answers, principal)

    async def check_answers(
        self, run_id: str, answers: Sequence[Answer], principal: Principal | None = None
    ) -> None:
        """Raise what `submit_answers` would for what these say, and take none; whether a call was answered
        otherwise before is not looked at."""
        run = await self._may_answer_all(run_id, answers, principal)
        if run is not None:
            await self._judge(run, answers)

    async def complete_job(
        self,
        job_id: str,
        result: Any = None,
        *,
        error: str | None = None,
        principal: Principal | None = None,
    ) -> None:
        """Bring the result of a background job, or the ``error`` (text for the model) that it ended with.

        Any process over the same store may call it. Without a ``principal`` it is the application's own code
        that speaks, and nobody is asked; with one, `authorize` is, for the action ``complete_job``. Raises as
        `resolve_approval` does, `RunNotFound` also for what is no job's id.
        """
        check_instance("job_id", job_id, str, _A_JOB_ID)
        run_id, _, call_id = job_id.partition(":")
        if not call_id:
            raise RunNotFound(f"{job_id!r:.200} is no job's id; ctx.job_id says what it is")
        if principal is None:
            self._opened()
            run = await self.buffer.get(run_id)
        else:
            run = await self._may_answer(run_id, principal, "complete_job")
        await self._answer(run, (Answer("job_result", call_id, _brought(result, error)),), principal)

    def job_secret(self, job_id: str) -> str:
        """Return what ``POST /jobs/{job_id}`` wants to see as ``X-Job-Secret``: hand it to who does the job.

        It is good for that job only, and the same in every process with the same ``job_secret``. Raises
        `StreamChatError` where the service was made without one, `InvalidInput` for what is no text.
        """
        check_instance("job_id", job_id, str, _A_JOB_ID)
        if self._job_key is None:
            raise StreamChatError(
                "jobs have no secrets here: pass StreamChat(job_secret=…), the same everywhere"
            )
        return hmac.new(self._job_key, _bytes_of(job_id), hashlib.sha256).hexdigest()

    def knows_job_secret(self, job_id: str, secret: str) -> bool:
        """Say whether ``secret`` is the job's; no secret is right where the service was made without one.

        Raises `InvalidInput` for what is no text.
        """
        check_instance("job_id", job_id, str, _A_JOB_ID)
        check_instance("secret", secret, str, "what job_secret() returned", secret=True)
        if self._job_key is None:
            return False
        return hmac.compare_digest(self.job_secret(job_id).encode(), _bytes_of(secret))

    async def _may_answer(self, run_id: str, principal: Principal | None, action: Action) -> RunRecord:
        self._opened()
        return await self._access.run(run_id, principal, action)

    async def _may_answer_all(
        self, run_id: str, answers: Sequence[Answer], principal: Principal | None
    ) -> RunRecord | None:
        """None where there is no answer."""
        run = None
        for answer in answers:
            check_instance("answers", answer, Answer, "each of them an Answer")
            if answer.kind not in _ACTIONS:
                raise InvalidInput(
                    f"kind must be one of {', '.join(_ACTIONS)}, not {answer.kind!r:.80}", field="kind"
                )
        actions: dict[Action, None] = {_ACTIONS[answer.kind]: None for answer in answers}
        for action in actions:
            run = await self._may_answer(run_id, principal, action)
        return run

    async def _judge(self, run: RunRecord, answers: Sequence[Answer]) -> tuple[RunState, ToolRegistry]:
        """Raise for what cannot be taken; return what it was judged by."""
        state = fold(await read_log(self.buffer, run.run_id))
        declared = RunTerms.of(run.request).client_tools
        tools = tools_of(self.model, with_client_tools(self.tools, declared))
        said: dict[tuple[AnswerKind, str], Mapping[str, Any]] = {}
        for answer in answers:
            check_answer(state, tools, answer, most=self.options.limits.max_tool_output_bytes)
            if said.setdefault((answer.kind, answer.call_id), answer.body) != answer.body:
                raise AnswerConflict(
                    f"run {run.run_id}: call {answer.call_id!r} is given two answers of kind {answer.kind!r} "
                    "at once; give one"
                )
        return state, tools

    async def _answer(self, run: RunRecord, answers: Sequence[Answer], principal: Principal | None) -> None:
        supervisor = self._opened()
        by = principal.id if principal is not None else None
        state, tools = await self._judge(run, answers)
        for answer in await self._known_first(run.run_id, state, answers):
            posted = await self.buffer.post(
                run.run_id, Input(answer.kind, answer.call_id, dict(answer.body), by)
            )
            if posted.new:
                supervisor.poke(run.run_id, run.principal)
            # Whether it came in time is said by the store's clock, as it is to the run: ours may be an hour
            # off.
            came = posted.run.updated_at if posted.new else await self._came(run.run_id, answer)
            check_answer(state, tools, answer, most=self.options.limits.max_tool_output_bytes, now=came)

    async def _known_first(self, run_id: str, state: RunState, answers: Sequence[Answer]) -> Sequence[Answer]:
        """Put first what answers a call once more: the store refuses it or changes nothing."""
        if len(answers) < 2:
            return answers
        calls = {call.call_id: call for call in state.calls}
        left = {(each.kind, each.key) for each in await self.buffer.inputs(run_id)}
        return sorted(
            answers,
            key=lambda answer: (
                may_be_used(answer.kind, calls.get(answer.call_id))
                and (answer.kind, answer.call_id) not in left
            ),
        )

    async def _came(self, run_id: str, answer: Answer) -> int | None:
        """When an answer came that the run has not taken yet; None for another."""
        inputs = await self.buffer.inputs(run_id)
        return next((i.at for i in inputs if (i.kind, i.key) == (answer.kind, answer.call_id)), None)


def _bytes_of(text: str) -> bytes:
    return text.encode(errors="surrogatepass")  # what a server makes of a path that is no UTF-8


def _brought(output: Any, error: str | None) -> dict[str, Any]:
    if error is not None:
        if output is not None:
            raise InvalidInput("give either a result or an error, not both", field="error")
        return {"error": error}
    try:
        return {"output": json_value(output)}
    except OutputUnusable as problem:
        raise InvalidInput(f"the result cannot be passed on: {problem}", field="output") from problem
