"""Provider streams for the tests of the accumulators: the case files, and chunks written by hand."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from streamchat.core.accumulator import (
    CallDelta,
    Completion,
    CompletionReader,
    ContentDelta,
    Delta,
    SourceDelta,
)

HERE = Path(__file__).parent
# Bodies that real providers sent; they are kept beside the checkout, not in it.
RECORDED = HERE.parents[2] / "shared" / "streams"


def cases(name: str) -> list[dict[str, Any]]:
    """The cases of one file; a recorded one that is not there has none."""
    path = (HERE if name.startswith("quirks") else RECORDED) / name
    if not path.exists():
        return []
    with (gzip.open if name.endswith(".gz") else open)(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def body_of(case: dict[str, Any]) -> tuple[bytes, str]:
    """The bytes of a case, and the API they belong to."""
    if "events" in case:
        return b"".join(event_frame(event) for event in case["events"]), "responses"
    if "sse" in case:
        return case["sse"].encode("utf-8", "surrogatepass"), "responses" if "status" in case[
            "expect"
        ] else "chat"
    return body(case["chunks"], done=case.get("done", True)), "chat"


def event_frame(event: dict[str, Any]) -> bytes:
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


def body(chunks: list[Any], *, done: bool = True) -> bytes:
    """Chunks as a server writes them."""
    frames = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    return "".join([*frames, "data: [DONE]\n\n" if done else ""]).encode()


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, index: int = 0) -> dict[str, Any]:
    """One chunk with one choice."""
    choice = {"index": index, "delta": delta or {}, "finish_reason": finish}
    return {"id": "c1", "object": "chat.completion.chunk", "model": "m", "choices": [choice]}


def call(
    index: Any = None, id: Any = None, name: Any = None, arguments: Any = None, **more: Any
) -> dict[str, Any]:
    """One entry of ``tool_calls`` with only the keys that are given."""
    entry: dict[str, Any] = {key: value for key, value in (("index", index), ("id", id)) if value is not None}
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    return {**entry, **({"function": function} if function else {}), **more}


def read(blocks: list[bytes], api: Any = "chat") -> tuple[Completion, list[Delta]]:
    """What a body in blocks comes to, and the deltas on the way, which must make up the completion."""
    reader = CompletionReader(api)
    deltas = [delta for block in blocks for delta in reader.feed(block)] + reader.close()
    completion = reader.finish()
    assert reader.finish() == completion, "finish changed something"
    check_deltas(completion, deltas)
    return completion, deltas


def chat(*chunks: Any, done: bool = True) -> Completion:
    return read([body(list(chunks), done=done)])[0]


def calls(*fragments: Any, finish: str | None = "tool_calls", done: bool = True) -> list[tuple[Any, ...]]:
    """(id, name, arguments or raw text, problem) of the calls that these fragments come to, one chunk each.

    A fragment is an entry of ``tool_calls`` or a list of them. Ids that were not on the wire are None.
    """
    entries = [fragment if isinstance(fragment, list) else [fragment] for fragment in fragments]
    sent = {entry.get("id") for group in entries for entry in group}
    chunks = [chunk({"tool_calls": group}) for group in entries]
    completion = chat(*chunks, *([chunk(finish=finish)] if finish is not None else []), done=done)
    found = completion.choices[0].tool_calls
    assert len({one.id for one in found}) == len(found)
    assert all(one.id for one in found)
    return [
        (
            one.id if one.id in sent else None,
            one.name,
            one.arguments_json if one.problem else one.arguments,
            one.problem,
        )
        for one in found
    ]


def check_deltas(completion: Completion, deltas: list[Delta]) -> None:
    """What holds for the deltas of every stream."""
    seen: dict[tuple[int, int], str] = {}  # what the deltas of a part join to, by choice and part
    names: dict[tuple[int, int], str | None] = {}
    positions: dict[tuple[int, int], int] = {}
    ids: dict[tuple[int, int], str] = {}
    highest: dict[int, int] = {}
    for delta in deltas:
        key = (delta.choice, delta.part)
        if key not in seen:
            assert delta.part > highest.get(delta.choice, -1), "parts are numbered at first sight"
            highest[delta.choice] = delta.part
            seen[key] = ""
        if isinstance(delta, ContentDelta):
            assert delta.text
            delta.text.encode()  # no halves of surrogate pairs
            seen[key] += delta.text
        elif isinstance(delta, CallDelta):
            assert positions.setdefault(key, delta.position) == delta.position
            assert ids.setdefault(key, delta.id or "") in ("", delta.id)
            if delta.id:
                ids[key] = delta.id
            if delta.name is not None:
                names[key] = delta.name
            delta.arguments.encode()
            seen[key] += delta.arguments
    for choice in completion.choices:
        assert [part.part for part in choice.parts] == sorted({part.part for part in choice.parts})
        for part in choice.parts:
            if part.part not in choice.replaced and part.kind != "source":
                assert seen.get((choice.index, part.part), "") == part.text
        for kind in ("text", "reasoning", "refusal"):
            assert sorted(getattr(choice, kind)) == sorted(
                "".join(p.text for p in choice.parts if p.kind == kind)
            )
        for one in choice.tool_calls:
            key = (choice.index, one.part)
            assert positions[key] == one.position
            assert names.get(key) == one.name
            assert ids[key] in ("", one.id)
            assert (one.arguments is None) == (one.problem is not None)


def sources(deltas: list[Delta]) -> list[dict[str, Any]]:
    return [delta.data for delta in deltas if isinstance(delta, SourceDelta)]


def cut(stream: bytes, places: list[int]) -> Iterator[bytes]:
    """The stream in pieces that end at ``places`` (taken modulo its length)."""
    edges = sorted({0, len(stream), *(place % (len(stream) + 1) for place in places)})
    yield from (stream[start:end] for start, end in pairwise(edges))
