"""Writes the generated parts of the reference pages from the code: ``python docs/_generate.py``.

A page holds hand-written text, and parts from ``<!-- generated: NAME -->`` to ``<!-- /generated -->`` that
this fills in. With ``--check`` nothing is written, and the stale pages are named (exit status 1).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from streamchat.core.fold import RunState, StepState
from streamchat.core.lifecycle import BARRIERS, CALL, HELD, RUN, diagram
from streamchat.events import EVENT_TYPES, FinishedPart, Wait
from streamchat.messages import (
    FilePart,
    ReasoningPart,
    RefusalPart,
    SourcePart,
    TextPart,
    ToolCallPart,
    Usage,
)

DOCS = Path(__file__).resolve().parent
COMMAND = "python docs/_generate.py"
_PART = re.compile(r"(<!-- generated: (?P<name>[\w-]+) -->\n).*?(<!-- /generated -->)", re.DOTALL)
_PARTS = (TextPart, ReasoningPart, RefusalPart, ToolCallPart, SourcePart, FilePart)
_SHAPES = (*_PARTS, FinishedPart, Wait, Usage)
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


PARTS: dict[str, Callable[[], str]] = {
    "event-overview": event_overview,
    "event-details": event_details,
    "shapes": shapes,
    "run-state": run_state,
    "run-diagram": lambda: mermaid(RUN),
    "run-table": lambda: phases(RUN),
    "call-diagram": lambda: mermaid(CALL),
    "call-table": lambda: phases(CALL),
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
