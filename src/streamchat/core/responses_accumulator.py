"""A whole Responses stream: text, reasoning, refusal, calls, sources, status, usage and errors.

What a ``done`` event or the final response says overrides what the deltas made; an empty final output does
not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count
from typing import Any, ClassVar

from streamchat.core.calls import as_dict
from streamchat.core.completion import (
    Choice,
    Completion,
    ContentKind,
    Delta,
    Part,
    ProviderItem,
    SourceDelta,
    ToolCall,
)
from streamchat.core.jsontext import encode_json, join_surrogates, scrub
from streamchat.core.responses_calls import ResponseCalls
from streamchat.core.responses_items import (
    CALL_INPUT,
    Content,
    Item,
    ItemTable,
    item_data,
    text_of_part,
)

__all__ = ["ResponsesAccumulator"]

_TERMINAL = frozenset({"completed", "incomplete", "failed", "cancelled"})
_OWN_TYPES = frozenset({"message", "reasoning", *CALL_INPUT})


class ResponsesAccumulator:
    """Puts the events of one Responses stream together.

    ``add`` takes events as they were decoded and returns what each one changed; unknown types change
    nothing. After an error only the final event's status and usage are still read. ``finish`` says what it
    all came to, as one choice.
    """

    def __init__(self) -> None:
        self.done = False
        self.error: str | None = None
        self.error_detail: Any = None
        self.usage: dict[str, Any] | None = None
        self.response_id: str | None = None
        self.model: str | None = None
        self.status: str | None = None
        self._reason: str | None = None  # why the response is incomplete
        self._table = ItemTable()
        self._sources: dict[str, int] = {}
        self._counter = count()
        self._calls = ResponseCalls(self._counter.__next__)

    @property
    def ended(self) -> bool:
        """Whether the provider said that it is done: a final event, or ``[DONE]``."""
        return self.done or self.status is not None

    @property
    def finish_reason(self) -> str | None:
        """The status in the words of Chat Completions; None before the end."""
        if self.status == "completed":
            return "tool_calls" if self._calls else "stop"
        if self.status == "incomplete":
            return "content_filter" if self._reason == "content_filter" else "length"
        return "error" if self.status == "failed" else self.status

    def mark_done(self) -> None:
        """The stream's own end mark came; whatever follows is ignored."""
        self.done = True

    def fail(self, detail: Any) -> None:
        """The stream reported an error, or sent what is not JSON; ``detail`` is its own words."""
        if self.error is None and not self.done:
            self.error = "stream_error"
            self.error_detail = detail

    def add(self, event: Mapping[str, Any]) -> list[Delta]:
        """Adds one event; returns what it changed, in order."""
        data: Any = event if event.__class__ is dict else as_dict(event)
        if self.done or data is None:
            return []
        out: list[Delta] = []
        type = data.get("type")
        handler = self._HANDLERS.get(type) if type.__class__ is str else None
        if handler is not None:
            if self.error is None or handler is ResponsesAccumulator._end:
                handler(self, data, out)
        elif type == "error" or (data.get("error") and (type is None or type == "response.error")):
            self.fail(data.get("error") or dict(data))
        elif type is None and data.get("object") == "response":
            self._end({"response": data}, out)  # not a stream: the whole response as one JSON body
        return out

    def finish(self) -> Completion:
        """The completion as it is now; before the end of the stream, as if the connection had ended here."""
        error = self.error
        if error is None and not self.ended:
            error = "incomplete_stream"
        cut = error is not None or self.status in ("incomplete", "failed", "cancelled")
        calls = self._calls.finish(self._table.items, cut)
        if error is None:
            error = next((call.problem for call in calls if call.problem), None)
        items = sorted(self._table.items, key=Item.rank)
        ids = {call.part: call.id for call in calls}
        output = [data for item in items if (data := item_data(item, ids)) is not None]
        return Completion(
            choices=[self._choice(items, calls)],
            usage=scrub(self.usage),
            error=error,
            status=self.status,
            error_detail=scrub(self.error_detail),
            response_id=self.response_id,
            model=self.model,
            extras={"output": output} if output else {},
            provider_items=[
                ProviderItem(item.part, scrub(item.final)) for item in items if item.part >= 0 and item.final
            ],
        )

    def _choice(self, items: list[Item], calls: list[ToolCall]) -> Choice:
        contents = [content for item in items for content in item.in_order() if content]
        final = {content.number(): content.text() for content in contents}
        replaced = {content.part for content in contents if not content.shown} | self._calls.replaced(calls)
        parts = [Part(content.part, content.kind, final[content.part]) for content in contents]
        parts += [Part(call.part, "tool_call", call.arguments_json) for call in calls]
        parts += [Part(part, "source", "") for part in self._sources.values()]
        text, reasoning, refusal = (
            "".join(final[content.part] for content in contents if content.kind == kind)
            for kind in ("text", "reasoning", "refusal")
        )
        return Choice(
            text=text,
            reasoning=reasoning,
            refusal=refusal,
            finish_reason=self.finish_reason,
            tool_calls=calls,
            parts=sorted(parts),
            replaced=frozenset(replaced),
        )

    # ------------------------------------------------------------------------------------------- the response

    def _begin(self, event: dict[str, Any], out: list[Delta]) -> None:
        response = event.get("response")
        if isinstance(response, dict):
            self._keep_names(response)

    def _end(self, event: dict[str, Any], out: list[Delta]) -> None:
        response = event.get("response")
        if not isinstance(response, dict):
            response = {}
        self._keep_names(response)
        if isinstance(response.get("usage"), dict):
            self.usage = response["usage"]
        status = response.get("status")
        if not isinstance(status, str) or status not in _TERMINAL:
            status = str(event.get("type", "")).rpartition(".")[2]
            status = {"canceled": "cancelled"}.get(status, status)
        self.status = status if status in _TERMINAL else "completed"
        details = response.get("incomplete_details")
        if isinstance(details, dict) and isinstance(details.get("reason"), str):
            self._reason = details["reason"]
        if self.error is None:
            taken: set[Item] = set()
            output = response.get("output")
            for index, data in enumerate(output if isinstance(output, list) else []):
                if isinstance(data, dict):
                    item = self._table.settle(index, data, taken)
                    taken.add(item)
                    self._settle_item(item, data, out)
            if response.get("error") or self.status == "failed":
                self.fail(response.get("error") or event.get("error") or dict(event))

    def _keep_names(self, response: dict[str, Any]) -> None:
        for field, key in (("response_id", "id"), ("model", "model")):
            value = response.get(key)
            if isinstance(value, str) and value and not getattr(self, field):
                setattr(self, field, join_surrogates(value))

    # -------------------------------------------------------------------------------------------------- items

    def _item_added(self, event: dict[str, Any], out: list[Delta]) -> None:
        data = event.get("item")
        if not isinstance(data, dict):
            return
        item = self._table.begin(event, data)
        if item.type in CALL_INPUT:
            self._calls.begin(item, data, out)
        elif item.type is not None and item.type not in _OWN_TYPES:
            self._keep_provider_item(item, data)

    def _item_done(self, event: dict[str, Any], out: list[Delta]) -> None:
        data = event.get("item")
        if isinstance(data, dict):
            index = event.get("output_index")
            item = self._table.settle(index if index.__class__ is int else None, data)
            self._settle_item(item, data, out)

    def _settle_item(self, item: Item, data: dict[str, Any], out: list[Delta]) -> None:
        """Takes an item as it finally is."""
        item.final = data
        if item.type in CALL_INPUT:
            self._calls.close(item, data, out)
        elif item.type == "message" or item.type == "reasoning":
            for key, shift in (("summary", "summary"), ("content", "content")):
                parts = data.get(key)
                for number, part in enumerate(parts if isinstance(parts, list) else []):
                    self._settle_part(item, shift, number, part, out)
        elif item.type is not None:
            self._keep_provider_item(item, data)

    def _keep_provider_item(self, item: Item, data: dict[str, Any]) -> None:
        if item.part < 0:
            item.part = next(self._counter)
        item.final = data

    # ----------------------------------------------------------------------------------------------- contents

    def _content(self, item: Item, slot: str, number: Any, kind: ContentKind) -> Content:
        key = (slot + kind, number if number.__class__ is int else 0)
        content = item.contents.get(key)
        if content is None:
            content = item.contents[key] = Content(kind, self._counter.__next__)
        return content

    def _say(
        self, event: dict[str, Any], out: list[Delta], item_type: str, slot: str, kind: ContentKind
    ) -> None:
        text: Any = event.get("delta")
        if text.__class__ is str and text:
            item = self._table.find(event, item_type)
            number = event.get("summary_index" if slot == "summary" else "content_index")
            self._content(item, slot, number, kind).add(text, out)

    def _text_delta(self, event: dict[str, Any], out: list[Delta]) -> None:
        self._say(event, out, "message", "content", "text")

    def _refusal_delta(self, event: dict[str, Any], out: list[Delta]) -> None:
        self._say(event, out, "message", "content", "refusal")

    def _summary_delta(self, event: dict[str, Any], out: list[Delta]) -> None:
        self._say(event, out, "reasoning", "summary", "reasoning")

    def _reasoning_delta(self, event: dict[str, Any], out: list[Delta]) -> None:
        self._say(event, out, "reasoning", "content", "reasoning")

    def _text_done(self, event: dict[str, Any], out: list[Delta]) -> None:
        """The end of a text, a refusal or a reasoning text, with all of it."""
        type = event["type"]
        part = {"type": "output_text", "text": event.get("text")}
        if ".refusal." in type:
            part = {"type": "refusal", "refusal": event.get("refusal")}
        elif ".reasoning" in type:
            part = {"type": "reasoning_text", "text": event.get("text")}
        self._part_done({**event, "part": part}, out)

    def _part_done(self, event: dict[str, Any], out: list[Delta]) -> None:
        part = event.get("part")
        if text_of_part(part) is None:
            return
        summary = ".reasoning_summary" in event["type"]
        reasoning = summary or (isinstance(part, dict) and part.get("type") == "reasoning_text")
        item = self._table.find(event, "reasoning" if reasoning else "message")
        number = event.get("summary_index" if summary else "content_index")
        self._settle_part(item, "summary" if summary else "content", number, part, out)

    def _settle_part(self, item: Item, slot: str, number: Any, part: Any, out: list[Delta]) -> None:
        said = text_of_part(part)
        if said is not None:
            kind, text = said
            self._content(item, slot, number, kind).settle(text, out)
        if isinstance(part, dict) and isinstance(part.get("annotations"), list):
            for annotation in part["annotations"]:
                self._keep_source(annotation, out)

    def _annotation(self, event: dict[str, Any], out: list[Delta]) -> None:
        self._keep_source(event.get("annotation"), out)

    def _keep_source(self, annotation: Any, out: list[Delta]) -> None:
        if isinstance(annotation, dict):
            annotation = scrub(annotation)
            key = encode_json(annotation)
            if key not in self._sources:  # each comes again with the text's end
                self._sources[key] = part = next(self._counter)
                out.append(SourceDelta(part, annotation))

    # -------------------------------------------------------------------------------------------------- calls

    def _input_delta(self, event: dict[str, Any], out: list[Delta]) -> None:
        item = self._table.find(event, _call_type(event))
        if item.type in CALL_INPUT:
            self._calls.extend(item, event.get("delta"), out)

    def _input_done(self, event: dict[str, Any], out: list[Delta]) -> None:
        item = self._table.find(event, _call_type(event))
        if item.type in CALL_INPUT:
            self._calls.name(item, event, out)
            self._calls.settle(item, event.get(CALL_INPUT[item.type]), out)

    _HANDLERS: ClassVar[dict[str, Callable[[ResponsesAccumulator, dict[str, Any], list[Delta]], None]]] = {
        "response.output_text.delta": _text_delta,
        "response.function_call_arguments.delta": _input_delta,
        "response.reasoning_summary_text.delta": _summary_delta,
        "response.reasoning_text.delta": _reasoning_delta,
        "response.refusal.delta": _refusal_delta,
        "response.custom_tool_call_input.delta": _input_delta,
        "response.output_text.done": _text_done,
        "response.refusal.done": _text_done,
        "response.reasoning_text.done": _text_done,
        "response.reasoning_summary_text.done": _text_done,
        "response.content_part.done": _part_done,
        "response.reasoning_summary_part.done": _part_done,
        "response.function_call_arguments.done": _input_done,
        "response.custom_tool_call_input.done": _input_done,
        "response.output_text.annotation.added": _annotation,
        "response.output_item.added": _item_added,
        "response.output_item.done": _item_done,
        "response.created": _begin,
        "response.queued": _begin,
        "response.in_progress": _begin,
        "response.completed": _end,
        "response.incomplete": _end,
        "response.failed": _end,
        "response.cancelled": _end,
        "response.canceled": _end,
        "response.done": _end,
    }


def _call_type(event: dict[str, Any]) -> str:
    return "custom_tool_call" if "custom_tool" in event["type"] else "function_call"
