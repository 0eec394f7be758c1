"""One step's share of the model: from its batches of deltas to typed events with part numbers and call ids.

`ModelStep.read` hands out what one read of the provider brought; it never waits with a scope or task held across a
yield, because it does not yield: the orchestrator does.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from typing import Any

from streamchat.concurrency import Deadline
from streamchat.core.accumulator import CallDelta, ContentDelta, SourceDelta, ToolCall
from streamchat.errors import ModelError
from streamchat.events import (
    FinishedPart,
    ModelCompleted,
    ReasoningDelta,
    RefusalDelta,
    SourceEvent,
    StatusEvent,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    ToolCallEvent,
    ToolResult,
)
from streamchat.models.base import (
    Model,
    ModelOutput,
    ModelRequest,
    ModelResult,
    ModelRetry,
    ProviderCall,
)

__all__ = ["CheckCall", "ModelStep"]

CheckCall = Callable[[ToolCall], str | None]
"""Says of a complete call which problem it has, or None."""

_DELTAS: dict[str, Callable[..., StreamEvent]] = {
    "text": TextDelta,
    "reasoning": ReasoningDelta,
    "refusal": RefusalDelta,
}
_MAX_ID = 128


class ModelStep:
    """One attempt at a step: asks the model once and translates its answer.

    ``first_part`` is the number of the attempt's first part; ``taken`` are the call ids that the run has used.
    """

    def __init__(
        self,
        model: Model,
        request: ModelRequest,
        *,
        first_part: int,
        taken: Iterable[str],
        check_call: CheckCall,
        executed_by: Callable[[str], str],
    ) -> None:
        self.request = request
        self.result: ModelResult | None = None
        self.visible = False
        """Whether anything was handed out that a reader could have seen."""
        self.first_token_at: float | None = None
        self._first_part = first_part
        # Stores may compare ids without regard to case, so a case variant counts as taken.
        self._taken = {call_id.casefold() for call_id in taken}
        self._ids: dict[int, str] = {}
        self._seen: set[int] = set()
        self._parts: dict[int, int] = {}
        self._check_call = check_call
        self._executed_by = executed_by
        self._stream: AsyncGenerator[Sequence[ModelOutput], None] = model.stream(request)

    async def read(self, deadline: Deadline) -> list[StreamEvent] | None:
        """Return what the next read of the provider brought (perhaps nothing yet), or None if ``deadline`` ended it.

        After the batch with ``model_completed`` there is nothing to read any more. Raises `ModelError`.
        """
        batch: Sequence[ModelOutput] = ()
        try:
            async with deadline:
                batch = await anext(self._stream)
        except StopAsyncIteration:
            raise ModelError(
                f"the model's stream of step {self.request.step} ended without a result",
                code="incomplete_stream",
                retryable=True,
            ) from None
        except ModelError:
            raise
        except Exception as error:
            raise ModelError(
                f"the model {self.request.step=} raised {type(error).__name__}: {error}", code="provider_error"
            ) from error
        if deadline.expired:
            await self.close()
            return None
        return self._translate(batch)

    async def drain(self) -> None:
        """Let the model finish with its response after the result, so that the connection can be used again."""
        async for _ in self._stream:
            pass

    async def close(self) -> None:
        """Close the provider's response; idempotent."""
        await self._stream.aclose()

    def _translate(self, batch: Sequence[ModelOutput]) -> list[StreamEvent]:
        step, base = self.request.step, self._first_part
        events: list[StreamEvent] = []
        for output in batch:
            kind = type(output)
            if kind is ContentDelta:
                self._seen.add(output.part)  # type: ignore[union-attr]
                events.append(_DELTAS[output.kind](step=step, part=base + output.part, text=output.text))  # type: ignore[union-attr]
            elif kind is CallDelta:
                events.append(self._call_delta(output))  # type: ignore[arg-type]
            else:
                events += self._other(output)
        if events and not self.visible and any(event.type != "status" for event in events):
            self.visible = True
            self.first_token_at = time.monotonic()
        return events

    def _other(self, output: ModelOutput) -> list[StreamEvent]:
        if isinstance(output, ModelResult):
            return self._completed(output)
        if isinstance(output, ModelRetry):
            detail = f"{output.code}, attempt {output.attempt}, again in {output.seconds:.1f} s"
            return [StatusEvent(step=self.request.step, status="retrying", detail=detail)]
        if isinstance(output, SourceDelta):
            self._seen.add(output.part)
            data: dict[str, Any] = dict(output.data)
            source = SourceEvent(
                step=self.request.step,
                part=self._first_part + output.part,
                url=_text(data.get("url")),
                title=_text(data.get("title")),
                data=data,
            )
            return [source]
        raise ModelError(f"the model yielded {output!r:.200}, which is no ModelOutput", code="provider_error")

    def _call_delta(self, delta: CallDelta) -> StreamEvent:
        self._seen.add(delta.part)
        return ToolCallDelta(
            step=self.request.step,
            part=self._first_part + delta.part,
            call_id=self._call_id(delta.position, delta.id),
            index=delta.position,
            name=delta.name,
            arguments=delta.arguments,
        )

    def _call_id(self, position: int, provider_id: str | None) -> str:
        """The run's id for a call: fixed when the call is first seen, whatever id the provider sends later."""
        known = self._ids.get(position)
        if known is not None:
            return known
        call_id = provider_id if provider_id is not None and _usable(provider_id) else ""
        count = 0
        while not call_id or call_id.casefold() in self._taken:
            call_id = f"call_{self.request.step}_{position}" + (f"_{count}" if count else "")
            count += 1
        self._taken.add(call_id.casefold())
        self._ids[position] = call_id
        return call_id

    def _whole_part(self, part: int) -> int:
        """The run's number for a part that comes whole: its own, unless a later one was already handed out."""
        if part in self._seen:
            return self._parts.get(part, self._first_part + part)
        number = part if not self._seen or part > max(self._seen) else max(self._seen) + 1
        self._seen.update((part, number))
        self._parts[part] = self._first_part + number
        return self._first_part + number

    def _completed(self, result: ModelResult) -> list[StreamEvent]:
        self.result = result
        events: list[StreamEvent] = []
        kept: dict[str, dict[str, Any]] = {}
        results: list[StreamEvent] = []
        for part in result.parts:
            if part.part not in self._seen and part.text and part.kind in _DELTAS:
                # A provider that sends only the whole: its readers see one delta.
                delta = _DELTAS[part.kind]
                events.append(delta(step=self.request.step, part=self._whole_part(part.part), text=part.text))
        for call in result.calls:
            event = self._tool_call(call)
            events.append(event)
            kept[event.call_id] = {"arguments": call.arguments_json}
            if call.extra:
                kept[event.call_id]["extra"] = call.extra
        for position, provided in enumerate(result.provider_calls, start=1000):
            called, answered = self._provider_call(position, provided)
            events.append(called)
            results.append(answered)
        extras = {**(result.extras or {}), **({"calls": kept} if kept else {})}
        completed = ModelCompleted(
            step=self.request.step,
            finish_reason=result.finish_reason,
            parts=tuple(
                FinishedPart(part=self._parts.get(p.part, self._first_part + p.part), text=p.text if p.replaced else None)
                for p in result.parts
                if p.kind in _DELTAS and p.part in self._seen
            ),
            call_ids=tuple(event.call_id for event in events if isinstance(event, ToolCallEvent)),
            usage=result.usage,
            private=extras or None,
        )
        return [*events, completed, *results]

    def _tool_call(self, call: ToolCall) -> ToolCallEvent:
        call_id = self._call_id(call.position, call.id)
        return ToolCallEvent(
            step=self.request.step,
            part=self._whole_part(call.part),
            call_id=call_id,
            provider_call_id=call.id,
            name=call.name or "",
            arguments=call.arguments,
            arguments_text=call.arguments_json if call.arguments is None else None,
            problem=self._check_call(call),  # type: ignore[arg-type]
            executed_by=self._executed_by(call.name or ""),  # type: ignore[arg-type]
        )

    def _provider_call(self, position: int, call: ProviderCall) -> tuple[ToolCallEvent, ToolResult]:
        call_id = self._call_id(position, call.id)
        called = ToolCallEvent(
            step=self.request.step,
            part=self._whole_part(call.part),
            call_id=call_id,
            provider_call_id=call.id,
            name=call.name,
            arguments=call.arguments,
            executed_by="provider",
        )
        answered = ToolResult(step=self.request.step, call_id=call_id, outcome="ok", output=call.output)
        return called, answered


def _usable(provider_id: str) -> bool:
    """Whether an id may stand in our log: short, printable ASCII without spaces."""
    return 0 < len(provider_id) <= _MAX_ID and provider_id.isascii() and provider_id.isprintable() and (
        " " not in provider_id
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
