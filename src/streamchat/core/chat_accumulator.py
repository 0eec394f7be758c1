"""A whole Chat Completions stream: all choices, their text, reasoning, refusal, calls and finish, usage and
errors.

Numbers in comments are the rules of the provider notes.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any, cast

from streamchat.core.calls import as_dict, natural
from streamchat.core.completion import (
    Choice,
    Completion,
    ContentDelta,
    ContentKind,
    Delta,
    Part,
    SourceDelta,
)
from streamchat.core.extras import MessageExtras
from streamchat.core.jsontext import encode_json, hold_surrogate, join_surrogates, scrub
from streamchat.core.tool_calls import ToolCallAccumulator

__all__ = ["ChatCompletionAccumulator"]

# Rule 8: the gravest first; any other reason yields to these, and among the others the first one stays.
_GRAVITY = {"error": 5, "content_filter": 4, "length": 3, "tool_calls": 2, "function_call": 1}

# Rule "one source per delta": the first of these that has text. `reasoning_details` comes after them.
_REASONING_FIELDS = ("reasoning_content", "reasoning")


class ChatCompletionAccumulator:
    """Puts the chunks of one Chat Completions stream together.

    ``add`` takes chunks as they were decoded (dicts; objects of the SDK are converted) and returns what
    each one changed. After ``mark_done`` (the stream's ``[DONE]``) and after an error nothing more is
    added; usage still is after an error. ``finish`` says what it all came to.
    """

    def __init__(self) -> None:
        self.done = False
        self.error: str | None = None
        self.error_detail: Any = None
        self.usage: dict[str, Any] | None = None
        self.response_id: str | None = None
        self.model: str | None = None
        self._choices: dict[int, _Choice] = {}
        self._first: _Choice | None = None  # choice 0

    @property
    def finish_reason(self) -> str | None:
        """The finish reason so far of the first choice."""
        return self._choices[min(self._choices)].finish_reason if self._choices else None

    @property
    def ended(self) -> bool:
        """Whether the provider said that it is done: ``[DONE]`` or every choice's finish reason (rule 9)."""
        return self.done or (
            bool(self._choices) and all(choice.finish_reason is not None for choice in self._choices.values())
        )

    def mark_done(self) -> None:
        """The stream's own end mark came; whatever follows is ignored."""
        self.done = True

    def fail(self, detail: Any) -> None:
        """The stream reported an error, or sent what is not JSON (rule 11); ``detail`` is its own words."""
        if self.error is None and not self.done:
            self.error = "stream_error"
            self.error_detail = detail

    def add(self, chunk: Mapping[str, Any]) -> list[Delta]:
        """Adds one chunk; returns what it changed, in order."""
        if self.done:
            return []
        data: Any = chunk if chunk.__class__ is dict else as_dict(chunk)
        if data is None:
            return []
        usage = data.get("usage")
        if usage:
            self._keep_usage(usage)
        elif "x_groq" in data and self.usage is None:
            groq = data["x_groq"]
            self._keep_usage(groq.get("usage") if groq.__class__ is dict else None)
        if self.error is not None:
            return []
        if not self.response_id or not self.model:
            self._keep_names(data)
        out: list[Delta] = []
        choices: Any = data.get("choices")
        if choices.__class__ is list:
            for place, choice in enumerate(choices):
                if choice.__class__ is dict:
                    self._add_choice(choice, place, out)
        if "error" in data or not choices:
            self._check_error(data)
        return out

    def finish(self) -> Completion:
        """The completion as it is now; before the end of the stream, as if the connection had ended here."""
        error = self.error
        if error is None and not self.ended:
            error = "incomplete_stream"
        broken = error is not None
        choices = [self._choices[index].finish(broken) for index in sorted(self._choices)]
        if error is None:
            problems = (call.problem for choice in choices for call in choice.tool_calls)
            error = next((problem for problem in problems if problem), None)
        return Completion(
            choices=choices,
            usage=scrub(self.usage),
            error=error,
            error_detail=scrub(self.error_detail),
            response_id=self.response_id,
            model=self.model,
            extras=choices[0].extras if choices else {},
        )

    def _add_choice(self, choice: dict[str, Any], place: int, out: list[Delta]) -> None:
        index = choice.get("index")
        state = self._first if index == 0 else None
        if state is None:
            state = self._state(index, place)
        delta = choice.get("delta")
        if delta.__class__ is dict:
            if delta:
                state.add(delta, out)
        elif delta is None and choice.get("message").__class__ is dict:
            state.add_message(choice["message"], out)
        finish = choice.get("finish_reason")
        if finish is not None:
            state.keep_finish(finish)
        if choice.get("usage") and not self.usage:  # Moonshot has it here
            self._keep_usage(choice["usage"])
        if choice.get("error"):
            self.fail(choice["error"])

    def _state(self, index: Any, place: int) -> _Choice:
        number = natural(index)
        if number is None:
            number = place
        state = self._choices.get(number)
        if state is None:
            state = self._choices[number] = _Choice(number)
            if number == 0:
                self._first = state
        return state

    def _keep_usage(self, usage: Any) -> None:
        if isinstance(usage, Mapping):
            self.usage = dict(usage)  # the last one wins; they are running totals

    def _keep_names(self, data: Mapping[str, Any]) -> None:
        for field, key in (("response_id", "id"), ("model", "model")):
            value = data.get(key)
            if value.__class__ is str and value and not getattr(self, field):
                setattr(self, field, join_surrogates(value))

    def _check_error(self, data: Mapping[str, Any]) -> None:
        error = data.get("error")
        if error:
            self.fail(error)
        elif data.get("object") == "error" or data.get("type") == "error":
            self.fail(dict(data))
        elif data.get("errors") and "choices" not in data:
            self.fail(data["errors"])


class _Choice:
    """One choice while it grows. A part ends where the kind of content changes or a call speaks."""

    __slots__ = (
        "_calls",
        "_counter",
        "_extras",
        "_held",
        "_kind",
        "_part",
        "_parts",
        "_pieces",
        "_sources",
        "_streamed",
        "finish_reason",
        "index",
    )

    def __init__(self, index: int) -> None:
        self.index = index
        self.finish_reason: str | None = None
        self._counter = count()
        self._parts: list[tuple[int, ContentKind, list[str]]] = []
        self._kind = ""
        self._part = -1
        self._pieces: list[str] = []
        self._held = ""  # a high surrogate at the end of the current part
        self._calls: ToolCallAccumulator | None = None
        self._sources: dict[str, int] = {}
        self._extras = MessageExtras()
        self._streamed = False  # something came in a delta, not in a whole message

    def add(self, delta: dict[str, Any], out: list[Delta]) -> None:
        self._streamed = True
        content: Any = delta.get("content")
        if len(delta) == 1:  # the usual ones need none of the other questions
            if content.__class__ is str:
                self._say("text", content, out)
                return
            calls = delta.get("tool_calls")
            if calls:
                self._add_calls(calls, out)
                return
        self._add_fields(delta, content, out)

    def add_message(self, message: dict[str, Any], out: list[Delta]) -> None:
        """A whole message in place of a delta: says only what the deltas before it did not."""
        fields = dict(message)
        for key, kind in (
            ("content", "text"),
            ("refusal", "refusal"),
            ("reasoning_content", "reasoning"),
            ("reasoning", "reasoning"),
        ):
            value: Any = fields.get(key)
            known = self._text(kind)
            if known and value.__class__ is str and value.startswith(known):
                fields[key] = value[len(known) :]
            elif known and self._streamed:
                fields.pop(key, None)
        if self._streamed:
            if self._text("reasoning"):
                fields.pop("reasoning_details", None)
            if self._calls:
                fields.pop("tool_calls", None)
                fields.pop("function_call", None)
        self._add_fields(fields, fields.get("content"), out)

    def keep_finish(self, finish: Any) -> None:
        """Rule 8."""
        if finish.__class__ is str and finish:
            known = self.finish_reason
            if known is None or _GRAVITY.get(finish, 0) > _GRAVITY.get(known, 0):
                self.finish_reason = join_surrogates(finish)

    def finish(self, broken: bool) -> Choice:
        calls = self._calls.finish(self.finish_reason, cut=broken) if self._calls is not None else []
        parts: list[Part] = []
        replaced: set[int] = set()
        if self._held and self._part < 0:
            self._open_part(cast("ContentKind", self._kind))
        for number, kind, pieces in self._parts:
            text = "".join(pieces)
            if self._held and number == self._part:
                text += "\ufffd"
                replaced.add(number)
            parts.append(Part(number, kind, text))
        parts.extend(Part(call.part, "tool_call", call.arguments_json) for call in calls)
        if self._calls is not None:
            replaced.update(self._calls.replaced(calls))
        parts.extend(Part(number, "source", "") for number in self._sources.values())
        parts.sort()
        return Choice(
            index=self.index,
            text="".join(part.text for part in parts if part.kind == "text"),
            reasoning="".join(part.text for part in parts if part.kind == "reasoning"),
            refusal="".join(part.text for part in parts if part.kind == "refusal"),
            finish_reason=self.finish_reason,
            tool_calls=calls,
            parts=parts,
            replaced=frozenset(replaced),
            extras=self._extras.merged(),
        )

    def _add_fields(self, delta: dict[str, Any], content: Any, out: list[Delta]) -> None:
        reasoned = False
        for field in _REASONING_FIELDS:
            value = delta.get(field)
            if value:
                text = _text_of(value)
                if text:
                    self._say("reasoning", text, out)
                    self._extras.reasoning_field = field
                    reasoned = True
                    break
        if "reasoning_details" in delta and not reasoned:
            text = "".join(_detail_text(item) for item in _items(delta["reasoning_details"]))
            if text:
                self._say("reasoning", text, out)
                reasoned = True
        if content:
            if content.__class__ is str:
                self._say("text", content, out)
            else:
                self._add_content_parts(_items(content), reasoned, out)
        refusal = delta.get("refusal")
        if refusal.__class__ is str and refusal:
            self._say("refusal", refusal, out)
        calls = delta.get("tool_calls")
        if not calls:
            function = delta.get("function_call")  # the form before tools: one call, without id and index
            if function.__class__ is dict and function:
                calls = [{"index": 0, "function": function}]
        if calls:
            self._add_calls(calls, out)
        if "annotations" in delta:
            self._add_sources(delta["annotations"], out)
        self._extras.keep(delta)

    def _add_calls(self, calls: Any, out: list[Delta]) -> None:
        if self._calls is None:
            self._calls = ToolCallAccumulator(choice=self.index, new_part=self._counter.__next__)
        self._release(out)
        deltas = self._calls.add(calls)
        if deltas:
            self._kind = "tool_call"
            out.extend(deltas)

    def _add_content_parts(self, items: list[Any], reasoned: bool, out: list[Delta]) -> None:
        for item in items:
            if item.__class__ is str:
                self._say("text", item, out)
                continue
            if item.__class__ is not dict:
                continue
            kind = item.get("type")
            if kind == "thinking" or kind == "reasoning":
                text = _text_of(item)
                if text and not reasoned:
                    self._say("reasoning", text, out)
            elif kind == "refusal":
                self._say("refusal", _text_of(item.get("refusal")), out)
            elif kind is None or kind == "text" or kind == "output_text" or kind == "":
                self._say("text", _text_of(item.get("text")), out)

    def _add_sources(self, annotations: Any, out: list[Delta]) -> None:
        for item in _items(annotations):
            if item.__class__ is not dict:
                continue
            item = scrub(item)
            key = encode_json(item)
            if key not in self._sources:  # some servers send all of them again and again
                self._sources[key] = part = next(self._counter)
                out.append(SourceDelta(part, item, self.index))

    def _say(self, kind: ContentKind, text: str, out: list[Delta]) -> None:
        if not text:
            return
        if kind != self._kind:
            self._release(out)
            self._kind = kind
            self._part = -1
        if self._held or not text.isascii():
            text, self._held = hold_surrogate(self._held, text)
            if not text:
                return
        if self._part < 0:
            self._open_part(kind)
        self._pieces.append(text)
        out.append(ContentDelta(kind, self._part, text, self.index))

    def _open_part(self, kind: ContentKind) -> None:
        self._part = next(self._counter)
        self._pieces = []
        self._parts.append((self._part, kind, self._pieces))

    def _release(self, out: list[Delta]) -> None:
        """The other half of a surrogate pair can no longer come."""
        if self._held:
            self._held = ""
            if self._part < 0:
                self._open_part(cast("ContentKind", self._kind))
            self._pieces.append("\ufffd")
            out.append(ContentDelta(self._parts[-1][1], self._part, "\ufffd", self.index))

    def _text(self, kind: str) -> str:
        return "".join(piece for _, known, pieces in self._parts if known == kind for piece in pieces)


def _items(value: Any) -> list[Any]:
    """A list as it is; one item that should have been in a list, in one."""
    if value.__class__ is list:
        return list(value)
    return [value] if value.__class__ is dict or value.__class__ is str else []


def _text_of(value: Any) -> str:
    """The text in a piece of content, however it is wrapped."""
    if value.__class__ is str:
        return str(value)
    if value.__class__ is list:
        return "".join(_text_of(item) for item in value)
    if value.__class__ is dict:
        for key in ("text", "thinking", "reasoning", "summary", "content"):
            if value.get(key):
                return _text_of(value[key])
    return ""


def _detail_text(item: Any) -> str:
    """What can be read of an entry of `reasoning_details`; encrypted ones have nothing."""
    if item.__class__ is not dict:
        return ""
    text = item.get("text") or item.get("summary")
    return text if isinstance(text, str) else ""
