"""Laws of the accumulators: any message in any pieces, any damage to a stream, and the cost of a fragment."""

from __future__ import annotations

import copy
import json
import sys
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamchat.core import arguments as arguments_module
from streamchat.core.accumulator import ChatCompletionAccumulator, ResponsesAccumulator, ToolCallAccumulator
from tests.core.provider_streams import body, call, cases, chunk, cut, event_frame, read

# --------------------------------------------------------------------------- any message in any pieces

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.text('😀é{}"\\:a', max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
ARGUMENTS = st.dictionaries(TEXT, VALUES, max_size=3)
NAMES = st.text("abcdefgh_", min_size=1, max_size=12)


def units(text: str) -> list[str]:
    """The UTF-16 code units of a text: providers cut between the halves of a pair."""
    raw = text.encode("utf-16-le")
    return [raw[at : at + 2].decode("utf-16-le", "surrogatepass") for at in range(0, len(raw), 2)]


@st.composite
def pieces(draw: st.DrawFn, text: str) -> list[str]:
    """A text in pieces, some of them empty."""
    parts = units(text)
    edges = sorted({0, len(parts), *draw(st.lists(st.integers(0, len(parts)), max_size=6))})
    return ["".join(parts[start:end]) for start, end in pairwise(edges)]


@st.composite
def messages(draw: st.DrawFn) -> tuple[dict[str, Any], list[tuple[str, Any]]]:
    """What a model says, and its pieces in the order of the wire: calls interleave, kinds follow on."""
    message: dict[str, Any] = {"reasoning": draw(TEXT), "text": draw(TEXT), "refusal": draw(TEXT)}
    message["calls"] = draw(st.lists(st.tuples(NAMES, ARGUMENTS), max_size=4))
    wire: list[tuple[str, Any]] = []
    for kind in ("reasoning", "text", "refusal"):
        wire += [(kind, piece) for piece in draw(pieces(message[kind]))]
    queues: list[list[tuple[str, Any]]] = []
    for index, (_, arguments) in enumerate(message["calls"]):
        raw = json.dumps(
            arguments, ensure_ascii=draw(st.booleans()), separators=draw(st.sampled_from([None, (",", ":")]))
        )
        queues.append([("call", (index, piece)) for piece in draw(pieces(raw))])
    while any(queues):
        queue = draw(st.sampled_from([queue for queue in queues if queue]))
        wire.append(queue.pop(0))
    return message, wire


@given(messages(), st.lists(st.integers(0, 99_999), max_size=10), st.booleans())
def test_a_chat_message_in_any_pieces_is_the_message(said, places: list[int], ids_again: bool) -> None:
    message, wire = said
    fields = {"reasoning": "reasoning_content", "text": "content", "refusal": "refusal"}
    chunks: list[dict[str, Any]] = [
        chunk({"tool_calls": [call(index, f"id{index}", name, "")]})
        for index, (name, _) in enumerate(message["calls"])
    ]
    for kind, piece in wire:
        if kind == "call":
            index, text = piece
            chunks.append(
                chunk({"tool_calls": [call(index, f"id{index}" if ids_again else None, None, text)]})
            )
        else:
            chunks.append(chunk({fields[kind]: piece}))
    completion, _ = read(list(cut(body([*chunks, chunk(finish="stop")]), places)))
    check(completion, message)


@given(messages(), st.lists(st.integers(0, 99_999), max_size=10), st.booleans(), st.booleans())
def test_a_response_in_any_pieces_is_the_response(
    said, places: list[int], indexed: bool, final: bool
) -> None:
    message, wire = said
    items: list[dict[str, Any]] = [{"type": "reasoning", "id": "i0"}, {"type": "message", "id": "i1"}]
    for index, (name, _) in enumerate(message["calls"]):
        items.append({"type": "function_call", "id": f"i{index + 2}", "call_id": f"id{index}", "name": name})

    def event(type: str, index: int, **more: Any) -> dict[str, Any]:
        where = {"output_index": index} if indexed else {"item_id": f"i{index}"}
        return {"type": f"response.{type}", **where, **more}

    events = [event("output_item.added", index, item=item) for index, item in enumerate(items)]
    for kind, piece in wire:
        if kind == "call":
            events.append(event("function_call_arguments.delta", piece[0] + 2, delta=piece[1]))
        elif kind == "reasoning":
            events.append(event("reasoning_summary_text.delta", 0, summary_index=0, delta=piece))
        else:
            name, number = ("output_text", 0) if kind == "text" else ("refusal", 1)
            events.append(event(f"{name}.delta", 1, content_index=number, delta=piece))
    raw = [json.dumps(arguments) for _, arguments in message["calls"]]
    whole = [
        {**items[0], "summary": [{"type": "summary_text", "text": message["reasoning"]}]},
        {
            **items[1],
            "content": [
                {"type": "output_text", "text": message["text"]},
                {"type": "refusal", "refusal": message["refusal"]},
            ],
        },
        *({**item, "arguments": text} for item, text in zip(items[2:], raw, strict=True)),
    ]
    end = {
        "type": "response.completed",
        "response": {"status": "completed", "output": whole if final else []},
    }
    stream = b"".join(map(event_frame, [*events, end]))
    completion, _ = read(list(cut(stream, places)), "responses")
    check(completion, message)
    assert completion.status == "completed"


def check(completion: Any, message: dict[str, Any]) -> None:
    assert completion.error is None
    choice = completion.choices[0]
    assert (choice.text, choice.reasoning, choice.refusal) == (
        message["text"],
        message["reasoning"],
        message["refusal"],
    )
    found = [(one.id, one.name, one.arguments, one.problem) for one in choice.tool_calls]
    assert found == [
        (f"id{n}", name, arguments, None) for n, (name, arguments) in enumerate(message["calls"])
    ]


# ------------------------------------------------------------------------------ any damage to a stream

SMALL = [
    case for name in ("chat", "responses") for case in cases(f"quirks_{name}.jsonl") if len(str(case)) < 9000
]
SMALL = [case for case in SMALL if "sse" not in case]
JUNK: list[Any] = [
    None,
    "",
    0,
    1,
    -1,
    True,
    [],
    {},
    "null",
    "{}",
    "{",
    "\ud83d",
    "\ude00",
    {"a": "\ud83d"},
    [1],
    1.5,
    "0",
]
JUNK += ['{"a":1}', "x", [None], [[]], {"": []}, '"', '"{}"', {"type": "function"}, ["a"]]


def places_in(value: Any) -> list[tuple[Any, Any]]:
    """Every container in a JSON value with each of its keys."""
    found: list[tuple[Any, Any]] = []
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    for key in keys:
        found.append((value, key))
        found += places_in(value[key])
    return found


@given(st.sampled_from(SMALL), st.data())
def test_a_damaged_stream_raises_nothing_and_its_deltas_still_make_up_the_completion(
    case, data: st.DataObject
) -> None:
    case = copy.deepcopy(case)
    key = "events" if "events" in case else "chunks"
    for _ in range(data.draw(st.integers(1, 4))):
        spots = places_in(case[key])
        holder, at = data.draw(st.sampled_from(spots))
        other, there = data.draw(st.sampled_from(spots))
        match data.draw(st.sampled_from(["junk", "junk", "copy", "drop", "twice"])):
            case "junk":
                holder[at] = copy.deepcopy(data.draw(st.sampled_from(JUNK)))
            case "copy":
                holder[at] = copy.deepcopy(other[there])
            case "drop":
                del holder[at]
            case "twice":
                case[key].append(copy.deepcopy(data.draw(st.sampled_from(case[key]))))
        if not case[key]:
            return
    stream, api = (body(case[key]), "chat") if key == "chunks" else (body(case[key], done=False), "responses")
    completion, _ = read([stream], api)
    repr(completion).encode()  # nothing in it that UTF-8 cannot carry


# ------------------------------------------------------------------------------ the cost of a fragment


def work(run: Callable[[], Any]) -> Counter[str]:
    """How often each function, of Python or of C, is called by ``run``."""
    counts: Counter[str] = Counter()

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        if event == "c_call":
            counts[argument.__qualname__] += 1
        elif event == "call":
            counts[frame.f_code.co_qualname] += 1

    sys.setprofile(profile)
    try:
        run()
    finally:
        sys.setprofile(None)
    return counts


def feed(fragments: list[dict[str, Any]]) -> Callable[[], None]:
    accumulator = ToolCallAccumulator()

    def run() -> None:
        for fragment in fragments:
            accumulator.add([fragment])

    return run


# Fragments that ask for the most: each could begin another call, repeat the buffer or name it anew.
STREAMS: dict[str, Callable[[int], list[dict[str, Any]]]] = {
    "plain": lambda n: [call(0, "a", "f", '{"s":"'), *(call(0, None, None, "abc") for _ in range(n))],
    "name and id every time": lambda n: [call(0, "a", "f", '{"s":"' if not i else "ab") for i in range(n)],
    "name every time, no id": lambda n: [call(0, None, "f", '{"s":"' if not i else "{a") for i in range(n)],
    "neither, name every time": lambda n: [
        call(None, None, "f", '{"s":"' if not i else "{a") for i in range(n)
    ],
    "another id every time": lambda n: [
        call(0, "a", "f", '{"s":"'),
        *(call(0, f"i{i}", None, "{b") for i in range(n)),
    ],
    "complete at once, then space": lambda n: [call(0, None, "f", "{}" if not i else " ") for i in range(n)],
    "complete at once, then names": lambda n: [call(0, None, "f", "{}" if not i else "") for i in range(n)],
    "braces": lambda n: [call(0, None, "f", '{"a":' if i < n // 2 else "}") for i in range(n)],
    "equal fragments": lambda n: [call(0, None, None, '"') for _ in range(n)],
    "a number": lambda n: [call(0, None, "f", "1") for _ in range(n)],
    "objects": lambda n: [call(0, None, None, {"s": "ab"}) for _ in range(n)],
    "many calls": lambda n: [
        call(i % max(n // 8, 1), None, "f" if i < n // 8 else None, '{"') for i in range(n)
    ],
}


@pytest.mark.parametrize("name", STREAMS)
def test_a_fragment_takes_as_many_steps_whatever_was_gathered_and_however_many_calls_are_open(
    name: str,
) -> None:
    few, many = (work(feed(STREAMS[name](n))) for n in (400, 1600))
    assert many.total() <= 4.2 * few.total(), (few.most_common(5), many.most_common(5))


@pytest.mark.parametrize("name", STREAMS)
def test_no_character_is_looked_at_again_for_every_fragment_after_it(name: str, monkeypatch) -> None:
    looked_at = 0

    def counted(function: Callable[..., Any], size: Callable[..., int]) -> Callable[..., Any]:
        def wrapper(*given: Any) -> Any:
            nonlocal looked_at
            found = function(*given)
            looked_at += size(found, *given)
            return found

        return wrapper

    text = arguments_module.ArgumentText.text
    monkeypatch.setattr(arguments_module.ArgumentText, "text", counted(text, lambda found, *_: len(found)))
    monkeypatch.setattr(
        arguments_module,
        "is_json",
        counted(arguments_module.__dict__["is_json"], lambda _, given: len(given)),
    )
    walk = arguments_module._Scan._walk
    monkeypatch.setattr(
        arguments_module._Scan, "_walk", counted(walk, lambda _, scan, given, at: len(given) - at)
    )
    fragments = STREAMS[name](3000)
    feed(fragments)()
    sent = sum(len(str(fragment["function"].get("arguments", ""))) for fragment in fragments)
    assert looked_at <= 4 * sent + 1000


@pytest.mark.parametrize("api", ["chat", "responses"])
def test_a_chunk_of_text_costs_the_same_at_the_end_as_at_the_start(api: str) -> None:
    def run(n: int) -> Counter[str]:
        chat, responses = ChatCompletionAccumulator(), ResponsesAccumulator()
        text = {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "abc"}
        chunks = [chunk({"content": "abc"}) for _ in range(n)]
        if api == "chat":
            return work(lambda: [chat.add(one) for one in chunks])
        return work(lambda: [responses.add(text) for _ in range(n)])

    few, many = run(300).total(), run(1200).total()
    assert many <= 4.1 * few
