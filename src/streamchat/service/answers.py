"""The verbs by which somebody outside answers what a run waits for: a person, the page, a background job."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

from streamchat.buffers.base import EventBuffer, Input, RunRecord
from streamchat.core.answers import Answer, AnswerKind
from streamchat.core.fold import fold
from streamchat.core.given import check_instance
from streamchat.errors import InvalidInput, RunNotFound, StreamChatError
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

__all__ = ["AnsweringVerbs"]

_A_JOB_ID = "what ctx.job_id says"


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
        check_instance("arguments", arguments, Mapping, "a dict of the tool's arguments", none=True)
        body: dict[str, Any] = {"approved": approved}
        if reason is not None:
            body["reason"] = reason
        if arguments is not None:
            body["arguments"] = dict(arguments)
        run = await self._may_answer(run_id, principal, "approve")
        await self._answer(run, "approval", call_id, body, principal)

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
        await self._answer(run, "tool_result", call_id, _brought(output, error), principal)

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
        await self._answer(run, "job_result", call_id, _brought(result, error), principal)

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

    async def _answer(
        self,
        run: RunRecord,
        kind: AnswerKind,
        call_id: str,
        body: dict[str, Any],
        principal: Principal | None,
    ) -> None:
        supervisor = self._opened()
        by = principal.id if principal is not None else None
        state = fold(await read_log(self.buffer, run.run_id))
        most = self.options.limits.max_tool_output_bytes
        declared = RunTerms.of(run.request).client_tools
        tools = tools_of(self.model, with_client_tools(self.tools, declared))
        answer = Answer(kind, call_id, body, by)
        check_answer(state, tools, answer, most=most)
        posted = await self.buffer.post(run.run_id, Input(kind, call_id, body, by))
        if posted.new:
            supervisor.poke(run.run_id, run.principal)
        # Whether it came in time is said by the store's clock, as it is to the run: ours may be an hour off.
        came = posted.run.updated_at if posted.new else await self._came(run.run_id, answer)
        check_answer(state, tools, answer, most=most, now=came)

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
