"""Logs and what they fold to, as JSON for folds in other languages: ``python -m tests.core.make_vectors``.

A vector has ``events`` as they come over the wire, and ``states``: for some lengths, what the first so many
events fold to (`RunState` with its nulls). Folding on from one of these states must give the next.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from streamchat.core.conclude import conclude, ending
from streamchat.core.fold import Folder, fold
from streamchat.events import (
    CustomEvent,
    FileEvent,
    FinishedPart,
    ReasoningDelta,
    RefusalDelta,
    RunResumed,
    RunStarted,
    SourceEvent,
    StatusEvent,
    StepFinished,
    StepReset,
    StoredEvent,
    StreamEvent,
    UnknownEvent,
    parse_event,
)
from streamchat.messages import Usage
from streamchat.testing.choices import SeededChoices
from streamchat.testing.log_walk import ENDINGS, LogWalk
from tests.core.logs import (
    asked,
    begun,
    call,
    call_delta,
    completed,
    decided,
    finished,
    job,
    progress,
    result,
    step,
    suspended,
    text,
    with_job,
)

FOLDER = Path(__file__).parent / "vectors"
COMMAND = "python -m tests.core.make_vectors"
STARTED = RunStarted(run_id="run_1", conversation_id="c_1", message_id="m_1", model="small")
USAGE = Usage(provider="openai", model="small", input_tokens=12, output_tokens=3, total_tokens=15)


def ended(log: Sequence[StreamEvent]) -> list[StreamEvent]:
    """The log with the ending of a success."""
    folder = Folder()
    for event in log:
        folder.add(event)
    return [*log, *ending(folder, duration=2.5)]


def walked(seed: int, *, as_written: bool) -> list[StreamEvent]:
    """A long log that the tables allow."""
    walk = LogWalk(SeededChoices(seed), as_written=as_written)
    while len(walk.log) < 60:
        walk.step()
    walk.finish(ENDINGS[seed % len(ENDINGS)])
    return walk.log


def texts() -> list[StreamEvent]:
    return ended(
        [
            STARTED,
            StatusEvent(status="thinking"),
            step(),
            ReasoningDelta(step=1, part=0, text="They say hello."),
            text(1, "Hel"),
            text(1, "lo \N{WAVING HAND SIGN}"),
            RefusalDelta(step=1, part=2, text="No more."),
            SourceEvent(step=1, part=4, url="https://example.org", data={"n": None}),
            FileEvent(step=1, part=6, media_type="image/png", url="https://example.org/i.png"),
            CustomEvent(name="note", data=[1]),
            UnknownEvent.model_validate({"type": "from_the_future", "x": 1}),
            completed(
                usage=USAGE,
                finish_reason="stop",
                parts=(FinishedPart(part=1, text="Hello \N{WAVING HAND SIGN}!"), FinishedPart(part=2)),
            ),
            StepFinished(step=1, duration=1.25, time_to_first_token=0.5),
        ]
    )


def tools() -> list[StreamEvent]:
    return ended(
        [
            STARTED,
            step(),
            call_delta("a", 0, '{"city":'),
            call_delta("b", 1, "{"),
            call_delta("a", 0, '"Rome"}'),
            call_delta("only_seen", 2, "{"),
            call("a", 0, arguments={"city": "Rome"}, provider_call_id="functions.weather:0"),
            call("b", 1, arguments=None, arguments_text="{", problem="truncated"),
            completed("a", "b", usage=USAGE, finish_reason="tool_calls"),
            result("b", "error", error="The arguments were cut off."),
            begun("a"),
            progress("a"),
            begun("a", attempt=2),
            result("a", output={"celsius": 31.5, "wind": None}, duration=0.25),
            finished(),
            step(2),
            text(3, "Hot.", 2),
            completed(number=2, usage=USAGE.model_copy(update={"model": "large"}), finish_reason="stop"),
            finished(2),
        ]
    )


def resets() -> list[StreamEvent]:
    return ended(
        [
            STARTED,
            step(),
            text(0, "Lost"),
            call_delta("a", 1),
            StepReset(step=1, attempt=1, reason="provider", retry_in=0.5),
            text(2, "Lost again"),
            RunResumed(reason="takeover", worker="w2"),
            StepReset(step=1, attempt=2, reason="takeover"),
            text(3, "Kept"),
            call("a", 4),
            completed("a"),
            begun("a"),
            result("a", output="done"),
            finished(),
        ]
    )


def waiting() -> list[StreamEvent]:
    log: list[StreamEvent] = [
        STARTED,
        step(),
        call("a", 0),
        call("b", 1),
        completed("a", "b"),
        asked("a"),
        asked("b"),
    ]
    return [
        *log,
        decided(True, "b", arguments={"to": "ann"}),
        begun("b"),
        result("b"),
        suspended("approval", "a"),
    ]


def jobs() -> list[StreamEvent]:
    log: list[StreamEvent] = [
        STARTED,
        *with_job()[1:],
        suspended("job"),
        RunResumed(reason="job", worker="w2"),
    ]
    return ended(
        [
            *log,
            job(output={"url": "https://example.org/v.mp4"}),
            step(2),
            text(1, "Done.", 2),
            completed(number=2),
            finished(2),
        ]
    )


def cut_off() -> list[StreamEvent]:
    log: list[StreamEvent] = [
        STARTED,
        step(),
        text(0, "I will"),
        call("a", 1),
        call("b", 2),
        completed("a", "b"),
        begun("a"),
    ]
    return [*log, *conclude(log, "worker_lost", resumed="takeover", worker="w2")]


def stopped() -> list[StreamEvent]:
    log: list[StreamEvent] = [STARTED, step(), text(0, "Half a sen"), call_delta("a", 1)]
    return [*log, *conclude(log, "cancelled")]


VECTORS = {
    "texts": texts,
    "tools": tools,
    "resets": resets,
    "waiting": waiting,
    "jobs": jobs,
    "cut_off": cut_off,
    "stopped": stopped,
    "walk_as_written": lambda: walked(11, as_written=True),
    "walk_loose": lambda: walked(12, as_written=False),
    "trimmed": lambda: tools()[-2:],
    "empty": list,
}


def vector(name: str) -> dict[str, Any]:
    """One vector as it stands in its file."""
    log = VECTORS[name]()
    first = 22 if name == "trimmed" else 1
    stored = [
        StoredEvent(seq, 1_700_000_000_000 + 10 * seq, event, "g") for seq, event in enumerate(log, first)
    ]
    wire = [json.loads(event.public_json()) for event in stored]
    # Folded from what is on the wire, so that nothing private can matter.
    read = [StoredEvent(fields["seq"], fields["at"], parse_event(fields), "g") for fields in wire]
    lengths = sorted({0, len(read) // 4, len(read) // 2, 3 * len(read) // 4, len(read)})
    states = [{"events": n, "state": json.loads(fold(read[:n]).model_dump_json())} for n in lengths]
    return {"events": wire, "states": states}


def encoded(name: str) -> str:
    """The text of a vector's file: one event or state a line."""
    made = vector(name)
    rows = [
        f'"{key}": [\n' + ",\n".join(json.dumps(row, ensure_ascii=False) for row in made[key]) + "\n]"
        for key in made
    ]
    return "{" + ",\n".join(rows) + "}\n"


def main() -> None:
    """Write all vectors."""
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.json"):
        path.unlink()
    for name in VECTORS:
        (FOLDER / f"{name}.json").write_text(encoded(name), encoding="utf-8")
    sys.stdout.write(f"{len(VECTORS)} vectors in {FOLDER.name}/\n")


if __name__ == "__main__":
    main()
