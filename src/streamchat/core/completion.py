"""What the accumulators give: the deltas while a response streams, and the completion at its end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

__all__ = [
    "CallDelta",
    "CallProblem",
    "Choice",
    "Completion",
    "ContentDelta",
    "ContentKind",
    "Delta",
    "Part",
    "ProviderItem",
    "SourceDelta",
    "ToolCall",
]

ContentKind: TypeAlias = Literal["text", "reasoning", "refusal"]
CallProblem: TypeAlias = Literal["invalid_json", "truncated", "missing_name"]


class ContentDelta(NamedTuple):
    """More text of one part. ``part`` counts the parts of a choice from 0, in order of first sight."""

    kind: ContentKind
    part: int
    text: str
    choice: int = 0


class CallDelta(NamedTuple):
    """More of one tool call.

    ``position`` counts the calls of a choice from 0, in order of first sight. ``id`` is the provider's id
    if it is known so far and no other call of the choice has it. ``name`` is the whole name as known so far
    when it became known or changed, else None. ``arguments`` purely extends what came before for this call;
    once a provider replaced the text in another way, nothing more comes, and the final ``ToolCall`` is the
    truth.
    """

    part: int
    position: int
    id: str | None
    name: str | None
    arguments: str
    choice: int = 0


class SourceDelta(NamedTuple):
    """A citation, as the provider describes it in ``data``; a part of its own."""

    part: int
    data: dict[str, Any]
    choice: int = 0


Delta: TypeAlias = ContentDelta | CallDelta | SourceDelta


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A complete call of a tool.

    ``arguments`` is the object that ``arguments_json`` (the raw text) holds, or None when there is a
    ``problem``: ``invalid_json``, ``truncated`` (the provider stopped inside) or ``missing_name``. A tool
    whose input is plain text (a custom tool) has it under ``input``. ``extra`` holds what else the provider
    sent with the call and wants back on the next turn, such as thought signatures; a ``type`` other than
    ``function`` is in it as well. ``index`` is the provider's index, ``position`` and ``part`` are those of
    the call's deltas.
    """

    id: str
    name: str | None
    arguments: dict[str, Any] | None
    arguments_json: str
    problem: CallProblem | None = None
    extra: dict[str, Any] | None = None
    index: int | None = None
    position: int = 0
    part: int = 0


class Part(NamedTuple):
    """One part of a choice, with its final text (a call's: the raw arguments; a source has none)."""

    part: int
    kind: Literal["text", "reasoning", "refusal", "tool_call", "source"]
    text: str


class ProviderItem(NamedTuple):
    """Something that the provider ran itself (a web search, code), as it describes it in ``item``."""

    part: int
    item: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer of the model.

    ``tool_calls`` are in the provider's order. ``parts`` are all parts in order of ``part``; the texts of
    those in ``replaced`` are not what the deltas joined give. ``extras`` is what the provider wants back
    with the message on the next turn.
    """

    index: int = 0
    text: str = ""
    reasoning: str = ""
    refusal: str = ""
    finish_reason: str | None = None
    tool_calls: list[ToolCall] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    replaced: frozenset[int] = frozenset()
    extras: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole response.

    ``error`` is None, ``stream_error`` (the provider reported a failure or sent what is not JSON; its own
    words are in ``error_detail``, for the log), ``incomplete_stream`` (it ended without saying so), or the
    first call's problem. ``status`` is the response's where the API has one. ``usage`` is the provider's.
    ``extras`` is what the next request must send back: for Chat Completions the first choice's, for
    Responses ``output`` (the items). ``provider_items`` (Responses) is what the provider ran itself; it is
    in ``extras`` as well.
    """

    choices: list[Choice]
    usage: dict[str, Any] | None = None
    error: str | None = None
    status: str | None = None
    error_detail: Any = None
    response_id: str | None = None
    model: str | None = None
    extras: dict[str, Any] = field(default_factory=dict)
    provider_items: list[ProviderItem] = field(default_factory=list)
