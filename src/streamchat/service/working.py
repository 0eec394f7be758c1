"""Working on claimed runs: from what is stored with a run to a driver at work, and what is told after."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from pydantic import BaseModel

from streamchat.buffers.base import Claim, EventBuffer, Input
from streamchat.concurrency import Deadline
from streamchat.core.conclude import conclude
from streamchat.errors import BufferUnavailable, LeaseLost, RunNotFound
from streamchat.events import Cancelled, ErrorEvent, ResumeReason, StoredEvent, StreamEvent
from streamchat.models.base import Model
from streamchat.orchestration.context import RunContext
from streamchat.orchestration.options import RunOptions
from streamchat.orchestrator import orchestrate
from streamchat.service.driver import Driver, DriverOptions, NotNow
from streamchat.service.hub import Hub
from streamchat.service.log import read_log
from streamchat.service.outputs import output_name
from streamchat.service.request import RunRequest
from streamchat.service.summary import RunSummary, SummaryBuilder
from streamchat.service.titling import Titler
from streamchat.tools import ToolRegistry, with_client_tools

__all__ = ["RunWorker"]

log = logging.getLogger("streamchat.service")

_OVER = ("success", "error", "cancelled")

_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 5.0
"""Seconds before a run is given back whose needs the application could not meet."""


class RunWorker:
    """What this process needs to work on runs, whoever created them."""

    def __init__(
        self,
        name: str,
        buffer: EventBuffer,
        hub: Hub,
        model: Model,
        tools: ToolRegistry,
        run_options: RunOptions,
        driver_options: DriverOptions,
        *,
        deps: Callable[[RunContext], Any] | None,
        on_run_finished: Callable[[RunSummary], Any] | None,
        deliver: Callable[[str], Awaitable[None]],
        titler: Titler,
        complete: Callable[[RunContext, RunRequest], Awaitable[RunRequest]],
        output_types: Mapping[str, type[BaseModel]],
    ) -> None:
        self.name = name
        self.driver_options = driver_options
        self._buffer = buffer
        self._hub = hub
        self._model = model
        self._tools = tools
        self._run_options = run_options
        self._deps = deps
        self._on_run_finished = on_run_finished
        self._deliver = deliver
        self._titler = titler
        self._complete = complete
        self._output_types = output_types
        self._cancelling: set[asyncio.Task[None]] = set()

    async def work(self, claim: Claim, register: Callable[[Driver], None]) -> None:
        """Drive one claimed run to its end, and tell what it came to.

        A run whose stored request does not read is ended with an ``error``, and so is one whose workers die
        before they write anything: left alone, they would be taken over for ever.
        """
        run = claim.run
        context = self._context(claim)
        summary = SummaryBuilder(run.created_at)
        summary.claimed_at = run.updated_at
        try:
            request = RunRequest.model_validate_json(run.request)
            output_name(request.output_type, self._output_types)
        except ValueError as error:
            await self._give_up(claim, context, summary, _unreadable(run.run_id, error))
            return
        if claim.was == "running" and await self._breaks_off_at_once(claim):
            await self._give_up(claim, context, summary, _too_often(run.run_id))
            return
        driver = self._driver(claim, context, summary, request)
        register(driver)
        self._hub.feed(run.run_id, True)
        try:
            came_to = await driver.drive()
        finally:
            self._hub.feed(run.run_id, False)
        await self._tell(came_to)
        if came_to.outcome in _OVER:
            await self._titler.title(run, request, context)

    def _context(self, claim: Claim) -> RunContext:
        run, clock = claim.run, _clock_of(claim, self.driver_options.lease_ttl)
        return RunContext(
            run_id=run.run_id,
            conversation_id=run.conversation_id,
            message_id=run.message_id,
            parent_run_id=run.parent_run_id,
            principal=run.principal,
            fence=claim.lease.fence,
            worker=self.name,
            resumed=_why(claim),
            age=max(0, clock() - run.created_at) / 1000,
            clock=clock,
        )

    def _driver(
        self, claim: Claim, context: RunContext, summary: SummaryBuilder, request: RunRequest | None
    ) -> Driver:
        made = False

        async def make_events(history: Sequence[StoredEvent]) -> AsyncGenerator[StreamEvent, None]:
            nonlocal made, request
            if not made:
                request = await self._prepare(claim, context, request, history)
            made = True
            return orchestrate(
                self._model,
                request.messages if request is not None else (),
                tools=with_client_tools(self._tools, request.client_tools if request is not None else ()),
                context=context,
                history=history,
                options=self._options_for(request),
            )

        return Driver(
            claim,
            self._buffer,
            context,
            make_events,
            self._hub.publish,
            self.driver_options,
            summary,
            user_message_id=request.user_message_id if request is not None else None,
        )

    def _options_for(self, request: RunRequest | None) -> RunOptions:
        if request is None or request.output_type is None:
            return self._run_options
        return replace(self._run_options, output_type=self._output_types[request.output_type])

    async def _prepare(
        self,
        claim: Claim,
        context: RunContext,
        request: RunRequest | None,
        history: Sequence[StoredEvent],
    ) -> RunRequest | None:
        """Ask the application for what the run needs; one that is stopped meanwhile does not wait for it.

        A run that had begun before is given back where it cannot be had (`NotNow`), after a pause: what was
        said, and what a person agreed to, is not to be lost over a database that restarts.
        """
        if context.stopping or request is None:
            return request
        if request.later and context.clock is not None:
            # The time in which others had their turn is not its own.
            began = history[1].at if len(history) > 1 else context.clock()
            context.age = max(0, context.clock() - began) / 1000
        with Deadline() as deadline:
            context.interrupt = deadline.expire
            try:
                if self._deps is not None:
                    deps = self._deps(context)
                    context.deps = await deps if inspect.isawaitable(deps) else deps
                request = await self._complete(context, request)
            except (LeaseLost, RunNotFound, BufferUnavailable):
                raise  # the driver knows what these ask for
            except Exception as error:
                if len(history) > 1:
                    await self._pause_before_another(claim, error)
                raise
            context.previous_runs = request.previous_runs
        context.interrupt = None
        return request

    async def _pause_before_another(self, claim: Claim, error: Exception) -> None:
        """Raise `NotNow` after a while, if the run may be claimed once more."""
        before = await self._claims_in_vain(claim)
        most = self._run_options.limits.max_takeovers
        if most is not None and before >= most:
            return
        seconds = min(_FIRST_PAUSE * 2 ** min(before, 10), _LONGEST_PAUSE)
        log.warning(
            "run %s: what it needs to go on cannot be had, it is given back in %.1f s",
            claim.run.run_id,
            seconds,
            exc_info=error,
        )
        await asyncio.sleep(seconds)
        raise NotNow from error

    async def _breaks_off_at_once(self, claim: Claim) -> bool:
        """Whether one claim after another came to nothing; the log counts only those that wrote to it."""
        most = self._run_options.limits.max_takeovers
        return most is not None and await self._claims_in_vain(claim) > most

    async def _claims_in_vain(self, claim: Claim) -> int:
        """How many claims before this one wrote nothing since the log's last event."""
        here = claim.lease.head_seq
        page = await self._buffer.read(claim.run.run_id, here, 1)
        return sum(segment.first_seq == here + 1 for segment in page.segments) - 1

    async def _give_up(
        self, claim: Claim, context: RunContext, summary: SummaryBuilder, failure: ErrorEvent
    ) -> None:
        run = claim.run
        so_far = await read_log(self._buffer, run.run_id)
        events = conclude(so_far, failure, resumed=context.resumed, worker=self.name)
        await self._driver(claim, context, summary, None).conclude(so_far, events)
        await self._tell(summary.build(run.run_id, run.conversation_id, "error", self.name))

    async def cancel_unheld(self, run_id: str, posted: Input) -> None:
        """End a run that nobody holds, outside the concurrency bound: there is no work in it.

        Where somebody holds it, nothing is done: they find the cancel in the inbox. Cancelled, it finishes
        all the same, in a task that `close` waits for: half of it would leave a run that is held and not
        worked on.
        """
        task = asyncio.create_task(self._cancel_unheld(run_id, posted), name=f"streamchat cancel {run_id}")
        self._cancelling.add(task)
        task.add_done_callback(self._cancelling.discard)
        await asyncio.shield(task)

    async def close(self) -> None:
        """Wait for what was begun."""
        if self._cancelling:
            await asyncio.wait(set(self._cancelling))

    async def _cancel_unheld(self, run_id: str, posted: Input) -> None:
        claim = await self._buffer.claim(self.name, self.driver_options.lease_ttl, run_id)
        if claim is None:
            return
        try:
            request = RunRequest.model_validate_json(claim.run.request)
            summary = SummaryBuilder(claim.run.created_at)
            driver = self._driver(claim, self._context(claim), summary, request)
            cancelled = Cancelled(by=posted.by, reason=posted.body.get("reason"))
            so_far = await read_log(self._buffer, run_id)
            ending = conclude(so_far, cancelled, resumed="cancel", worker=self.name)
            await driver.conclude(so_far, ending)
        except Exception as error:
            log.warning("run %s: it could not be ended here, whoever claims it will: %s", run_id, error)
            # A batch whose fate is unknown may have been written: no other is sent in its place.
            if not isinstance(error, BufferUnavailable):
                with suppress(LeaseLost, BufferUnavailable, RunNotFound):
                    await self._buffer.append(claim.lease, [], then="queue")
            return
        await self._tell(summary.build(run_id, claim.run.conversation_id, "cancelled", self.name))

    async def _tell(self, summary: RunSummary) -> None:
        log.info("%s", summary.line())
        if summary.outcome in _OVER:
            await self._deliver(summary.run_id)
        if self._on_run_finished is None:
            return
        try:
            answer = self._on_run_finished(summary)
            if inspect.isawaitable(answer):
                await answer
        except Exception:
            log.exception("run %s: on_run_finished raised", summary.run_id)


def _clock_of(claim: Claim, ttl: float) -> Callable[[], int]:
    """The store's clock, as far as it can be told from here: what expires is compared with what it said."""
    claimed_at, began = claim.lease.expires_at - round(ttl * 1000), time.monotonic()
    return lambda: claimed_at + int((time.monotonic() - began) * 1000)


def _why(claim: Claim) -> ResumeReason:
    """Return why a log that holds more than its beginning is gone on with."""
    if claim.was == "running":
        return "takeover"
    return "retry" if claim.run.parent_run_id is not None and claim.lease.fence == 1 else "handover"


def _unreadable(run_id: str, error: Exception) -> ErrorEvent:
    correlation_id = uuid.uuid4().hex
    log.error("run %s: it cannot be begun (%s)", run_id, correlation_id, exc_info=error)
    return ErrorEvent(
        phase="orchestration",
        code="internal_error",
        message="The answer could not be begun.",
        correlation_id=correlation_id,
    )


def _too_often(run_id: str) -> ErrorEvent:
    log.error("run %s: its workers die before they write anything, it is given up", run_id)
    return ErrorEvent(phase="limit", code="max_takeovers", message="The answer broke off too often.")
