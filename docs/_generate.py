"""Writes the generated parts of the reference pages from the code: ``python docs/_generate.py``.

A page holds hand-written text, and parts from ``<!-- generated: NAME -->`` to ``<!-- /generated -->`` that
this fills in. With ``--check`` nothing is written, and the stale pages are named (exit status 1).
"""

from __future__ import annotations

import dataclasses
import inspect
import logging
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from streamchat import (
    Hooks,
    Limits,
    MemoryEventBuffer,
    RunContext,
    RunOptions,
    RunSummary,
    ServiceLimits,
    StreamChat,
    errors,
)
from streamchat.adapters.asgi import asgi_app
from streamchat.buffers.redis import RedisEventBuffer
from streamchat.buffers.sql import SQLEventBuffer
from streamchat.core.fold import RunState, StepState
from streamchat.core.lifecycle import BARRIERS, CALL, HELD, RUN, diagram
from streamchat.events import EVENT_TYPES, FinishedPart, Wait
from streamchat.http import CORS, AGUIOptions, HTTPOptions, OpenAIOptions, VercelOptions
from streamchat.http.errors import error_response
from streamchat.messages import (
    CallApproval,
    CallJob,
    FilePart,
    ReasoningPart,
    RefusalPart,
    SourcePart,
    TextPart,
    ToolCallPart,
    Usage,
)
from streamchat.models import FallbackModel, OpenAIChatModel, OpenAIResponsesModel, RetryPolicy
from streamchat.testing.buffers import BEHAVIOURS
from streamchat.tools import ToolContext, ToolOptions

DOCS = Path(__file__).resolve().parent
COMMAND = "python docs/_generate.py"
_PART = re.compile(r"(<!-- generated: (?P<name>[\w-]+) -->\n).*?(<!-- /generated -->)", re.DOTALL)
_PARTS = (TextPart, ReasoningPart, RefusalPart, ToolCallPart, SourcePart, FilePart)
_SHAPES = (*_PARTS, CallApproval, CallJob, FinishedPart, Wait, Usage)
_WORDS: dict[Any, str] = {
    int: "integer",
    float: "number",
    str: "string",
    bool: "boolean",
    Any: "any JSON value",
    NoneType: "null",
}


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [header, tuple("---" for _ in header), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def meaning(model: type[BaseModel]) -> str:
    """A model's docstring as one paragraph of Markdown."""
    text = " ".join((model.__doc__ or "").split())
    return text.replace("``", "`")


def json_type(annotation: Any) -> str:
    """What JSON a field holds, in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in _WORDS:
        return _WORDS[annotation]
    if origin is Annotated:
        return json_type(arguments[0])
    if origin is Literal:
        return " ".join(f"`{value}`" for value in arguments)
    if origin in (Union, UnionType):
        if set(arguments) == set(_PARTS):
            return "[content part](#content-parts)"
        return " or ".join(json_type(argument) for argument in arguments if argument is not NoneType)
    if origin is tuple:
        return f"array of {json_type(arguments[0])}"
    if origin is dict:
        return "object"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        name = (
            annotation.model_fields["type"].default
            if "type" in annotation.model_fields
            else annotation.__name__
        )
        return f"[{name}](#{name.lower()})"
    raise TypeError(f"{annotation!r}: teach docs/_generate.py to say what JSON that is")


def fields(model: type[BaseModel]) -> str:
    """The table of a model's fields, but for ``type`` and what no client sees."""
    rows = []
    for name, field in model.model_fields.items():
        if name == "type" or field.exclude:
            continue
        if field.is_required():
            absent = "required"
        elif field.default is None:
            absent = "none"
        elif field.default == ():
            absent = "empty"
        else:
            absent = f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"
        rows.append((f"`{name}`", json_type(field.annotation), absent))
    return table(("field", "JSON", "if absent"), rows) if rows else "No fields.\n"


def event_overview() -> str:
    """One row for each type of event."""
    rows = []
    for kind, model in EVENT_TYPES.items():
        stored = "barrier" if kind in BARRIERS else f"with `{HELD[kind]}`" if kind in HELD else ""
        rows.append((f"[`{kind}`](#{kind})", f"`{model.__name__}`", stored))
    return table(("type", "class", "stored"), rows)


def event_details() -> str:
    """Each event's meaning and fields."""
    return "\n".join(
        f"### {kind}\n\n{meaning(model)}\n\n{fields(model)}" for kind, model in EVENT_TYPES.items()
    )


def shapes() -> str:
    """What events hold: content parts and the other nested objects."""
    found = []
    for model in _SHAPES:
        kind = model.model_fields["type"].default if "type" in model.model_fields else None
        title = f"`{kind}` (`{model.__name__}`)" if kind else model.__name__
        level = "####" if kind else "###"
        found.append(f"{level} {title}\n\n{meaning(model)}\n\n{fields(model)}")
    return "\n".join(found)


def run_state() -> str:
    """The state that a log folds to."""
    return "\n".join(f"### {m.__name__}\n\n{meaning(m)}\n\n{fields(m)}" for m in (RunState, StepState))


def mermaid(rows: Any) -> str:
    """A table of the lifecycle as a diagram."""
    return f"```mermaid\n{diagram(rows)}```\n"


def phases(rows: Any) -> str:
    """A table of the lifecycle as a table."""
    cells = []
    for phase, row in rows.items():
        after: dict[str, list[str]] = {}
        for kind, target in row.items():
            after.setdefault(target, []).append(f"`{kind}`")
        cells += [(f"**{phase}**", " ".join(kinds), target) for target, kinds in after.items()]
        if not row:
            cells.append((f"**{phase}**", "nothing", ""))
    return table(("in phase", "may come", "and leads to"), cells)


# What an application sets: functions' keyword arguments and dataclasses' fields, as they are written.


def prose(thing: Any) -> str:
    """A docstring as Markdown, paragraph by paragraph."""
    return inspect.cleandoc(thing.__doc__ or "").replace("``", "`")


def default_of(value: Any) -> str:
    """A default as it would be written."""
    if isinstance(value, frozenset | dict | tuple | list) and not value:
        return "empty"
    if inspect.isfunction(value):
        return f"`{value.__name__}`"
    return f"`{value!r}`"


def annotation_of(value: Any) -> str:
    """A type as it is written in the code; a string already, where annotations are postponed."""
    return f"`{value if isinstance(value, str) else getattr(value, '__name__', value)}`"


def dataclass_fields(kind: Any) -> str:
    """A dataclass: what it says of itself, and its fields with their defaults."""
    rows = []
    for field in dataclasses.fields(kind):
        if not field.init:
            continue
        if field.default_factory is not dataclasses.MISSING:
            made = field.default_factory
            absent = (
                "a new id"
                if getattr(made, "__name__", "") == "_run_id"
                else f"`{getattr(made, '__name__', made)}()`"
            )
        else:
            absent = "required" if field.default is dataclasses.MISSING else default_of(field.default)
        rows.append((f"`{field.name}`", annotation_of(field.type), absent.replace("`dict()`", "empty")))
    return f"{prose(kind)}\n\n{table(('field', 'type', 'default'), rows)}"


def arguments(function: Any, *, hidden: Sequence[str] = ("clock", "token")) -> str:
    """A function's or class's arguments with their defaults, after what it says of itself."""
    rows = []
    for name, parameter in inspect.signature(function).parameters.items():
        if name in hidden or parameter.kind is parameter.VAR_KEYWORD:
            continue
        required = parameter.default is parameter.empty
        absent = "required" if required else default_of(parameter.default)
        rows.append((f"`{name}`", annotation_of(parameter.annotation), absent))
    return f"{prose(function)}\n\n{table(('argument', 'type', 'default'), rows)}"


def tool_options() -> str:
    """What a tool may be registered with."""
    return f"{prose(ToolOptions)}\n"


def error_table() -> str:
    """Every error: class, code, HTTP status where a client can meet it, and what it says of itself."""
    rows = []
    for name in errors.__all__:
        kind = getattr(errors, name)
        bases = ", ".join(f"`{base.__name__}`" for base in kind.__bases__)
        rows.append((f"`{name}`", f"`{_example(kind).code}`", bases, meaning(kind)))
    return table(("class", "`code`", "is a", "when"), rows)


def answer_table() -> str:
    """The errors that the HTTP layer has an answer for: status, code and the sentence that clients see."""
    rows = []
    for name in errors.__all__:
        made = _example(getattr(errors, name))
        logging.disable()  # what has no answer of its own is logged as a failure
        response = error_response(made, "GET /")
        logging.disable(logging.NOTSET)
        if response.status == 500:
            continue
        told = re.search(rb'"message":"([^"]*)"', bytes(response.body))  # type: ignore[arg-type]
        headers = [key for key, _ in response.headers if key == "retry-after"]
        rows.append(
            (
                f"`{name}`",
                str(response.status),
                f"`{made.code}`",
                told[1].decode() if told else "",
                "`Retry-After`" if headers else "",
            )
        )
    return table(("error", "status", "`code`", "`message`", "headers"), rows)


def _example(kind: Any) -> errors.StreamChatError:
    if kind is errors.MissingDependency:
        return errors.MissingDependency("it", "extra", "module")
    if kind is errors.ConversationBusy:
        return errors.ConversationBusy("", active_run_id="r")
    made: errors.StreamChatError = kind("")
    return made


def behaviours() -> str:
    """The behaviours of the conformance suite, by their names."""
    return "".join(f"- {name.replace('_', ' ')}\n" for name in sorted(BEHAVIOURS))


PARTS: dict[str, Callable[[], str]] = {
    "event-overview": event_overview,
    "event-details": event_details,
    "shapes": shapes,
    "run-state": run_state,
    "run-diagram": lambda: mermaid(RUN),
    "run-table": lambda: phases(RUN),
    "call-diagram": lambda: mermaid(CALL),
    "call-table": lambda: phases(CALL),
    "errors": error_table,
    "answers": answer_table,
    "behaviours": behaviours,
    "tool-options": tool_options,
    "stream-chat": lambda: arguments(StreamChat),
    "asgi-app": lambda: arguments(asgi_app),
    "memory-buffer": lambda: arguments(MemoryEventBuffer),
    "sql-buffer": lambda: arguments(SQLEventBuffer),
    "redis-buffer": lambda: arguments(RedisEventBuffer),
    "chat-model": lambda: arguments(OpenAIChatModel),
    "responses-model": lambda: arguments(OpenAIResponsesModel),
    "fallback-model": lambda: arguments(FallbackModel),
    "run-options": lambda: dataclass_fields(RunOptions),
    "limits": lambda: dataclass_fields(Limits),
    "hooks": lambda: dataclass_fields(Hooks),
    "service-limits": lambda: dataclass_fields(ServiceLimits),
    "http-options": lambda: dataclass_fields(HTTPOptions),
    "ag-ui-options": lambda: dataclass_fields(AGUIOptions),
    "openai-options": lambda: dataclass_fields(OpenAIOptions),
    "vercel-options": lambda: dataclass_fields(VercelOptions),
    "cors": lambda: dataclass_fields(CORS),
    "retry-policy": lambda: dataclass_fields(RetryPolicy),
    "run-context": lambda: dataclass_fields(RunContext),
    "tool-context": lambda: dataclass_fields(ToolContext),
    "run-summary": lambda: dataclass_fields(RunSummary),
}


def filled(text: str) -> str:
    """A page with its generated parts as the code says them now."""
    return _PART.sub(lambda match: f"{match[1]}\n{PARTS[match['name']]()}\n{match[3]}", text)


def stale() -> dict[Path, str]:
    """The pages whose generated parts are not what the code says, with what they should be."""
    pages = {path: path.read_text(encoding="utf-8") for path in sorted(DOCS.rglob("*.md"))}
    return {path: now for path, text in pages.items() if (now := filled(text)) != text}


def main() -> int:
    """Write the pages, or with ``--check`` only say which are stale."""
    pages = stale()
    check = "--check" in sys.argv[1:]
    for path, text in pages.items():
        if not check:
            path.write_text(text, encoding="utf-8")
        sys.stdout.write(f"{path.relative_to(DOCS)} {'is stale' if check else 'written'}\n")
    return 1 if check and pages else 0


if __name__ == "__main__":
    sys.exit(main())
