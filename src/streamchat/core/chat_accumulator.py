"""A whole Chat Completions stream: all choices, their text, reasoning, refusal, calls and finish, usage and
errors.

Numbers in comments are the rules of the provider notes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streamchat.core.calls import as_dict, natural
from streamchat.core.chat_choice import ChatChoice
from streamchat.core.completion import Completion, Delta
from streamchat.core.jsontext import join_surrogates, scrub

__all__ = ["ChatCompletionAccumulator"]


class ChatCompletionAccumulator:
    """Puts the chunks of one Chat Completions stream together.

    ``add`` takes chunks as they were decoded (dicts; objects of the SDK are converted) and returns what
    each one changed. After ``mark_done`` (the stream's ``[DONE]``) and after an error nothing more is
    added; usage still is after an error. ``finish`` says what it all came to.

    With ``one_choice`` only the choice that is seen first is read; ``left_out`` says whether there were
    others.
    """

    def __init__(self, *, one_choice: bool = False) -> None:
        self.left_out = False
        self._one_choice = one_choice
        self.done = False
        self.error: str | None = None
        self.error_detail: Any = None
        self.usage: dict[str, Any] | None = None
        self.response_id: str | None = None
        self.model: str | None = None
        self._choices: dict[int, ChatChoice] = {}
        self._first: ChatChoice | None = None  # choice 0

    @property
    def finish_reason(self) -> str | None:
        """The finish reason so far of the first choice."""
        return self._choices[min(self._choices)].finish_reason if self._choices else None

    @property
    def ended(self) -> bool:
        """Whether the provider said that it is done: ``[DONE]`` or every choice's finish reason (rule 9)."""
        if self._first is not None and self._first.finish_reason is None:
            return self.done  # asked for each chunk
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
            if state is None:
                return
        delta = choice.get("delta")
        if delta.__class__ is dict and delta:
            state.add(delta, out)
        elif not delta and choice.get("message").__class__ is dict and (delta is None or not state.streamed):
            state.add_message(choice["message"], out)
        finish = choice.get("finish_reason")
        if finish is not None:
            state.keep_finish(finish)
        if choice.get("usage") and not self.usage:  # Moonshot has it here
            self._keep_usage(choice["usage"])
        if choice.get("error"):
            self.fail(choice["error"])

    def _state(self, index: Any, place: int) -> ChatChoice | None:
        number = natural(index)
        if number is None:
            number = place
        state = self._choices.get(number)
        if state is None:
            if self._one_choice and self._choices:
                self.left_out = True
                return None
            state = self._choices[number] = ChatChoice(number)
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
