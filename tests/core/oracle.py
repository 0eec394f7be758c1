"""A second, slow fold, written from the design and not from the code: what the content of a log must be.

It reads the whole log anew for each part, so that it shares neither structure nor mistakes with the real one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from streamchat.events import StreamEvent, encode_event

JSON = dict[str, Any]
_TEXTS = {"text_delta": "text", "reasoning_delta": "reasoning", "refusal_delta": "refusal"}


def standing(log: Sequence[StreamEvent]) -> list[JSON]:
    """The events of the log as JSON, without those that a later reset of their step withdraws."""
    events = [json.loads(encode_event(event)[0]) for event in log]
    withdrawn = {"tool_call_delta", "tool_call", "source", "file", "tool_result", *_TEXTS}
    kept = []
    for index, event in enumerate(events):
        resets = [e for e in events[index:] if e["type"] == "step_reset" and e["step"] == event.get("step")]
        if not (resets and event["type"] in withdrawn):
            kept.append(event)
    return kept


def texts_of(log: Sequence[StreamEvent]) -> dict[int, tuple[str, str]]:
    """Kind and text of each text part that stands."""
    events = standing(log)
    found = {}
    for part in {e["part"] for e in events if e["type"] in _TEXTS}:
        deltas = [e for e in events if e["type"] in _TEXTS and e["part"] == part]
        text = "".join(e["text"] for e in deltas)
        for completed in [e for e in events if e["type"] == "model_completed"]:
            text = next((p["text"] for p in completed["parts"] if p["part"] == part and "text" in p), text)
        found[part] = (_TEXTS[deltas[0]["type"]], text)
    return found


def calls_of(log: Sequence[StreamEvent]) -> dict[str, JSON]:
    """Of each complete call that stands: its part, state, outcome, output and attempts."""
    events = standing(log)
    states = {
        "approval_requested": "approval",
        "approval_resolved": "called",
        "tool_started": "running",
        "tool_result": "done",
        "job_result": "done",
    }
    found = {}
    for called in [e for e in events if e["type"] == "tool_call"]:
        about = [e for e in events if e.get("call_id") == called["call_id"] and e["type"] in states]
        answers = [e for e in about if e["type"] in ("tool_result", "job_result")]
        answer = answers[-1] if answers else {}
        state = states[about[-1]["type"]] if about else "called"
        found[called["call_id"]] = {
            "part": called["part"],
            "state": "deferred" if answer.get("outcome") == "deferred" else state,
            "outcome": answer.get("outcome"),
            "output": answer.get("output"),
            "attempts": max((e["attempt"] for e in about if e["type"] == "tool_started"), default=0),
        }
    return found


def wholes_of(log: Sequence[StreamEvent]) -> dict[int, str]:
    """The sources and files that stand, by part."""
    return {e["part"]: e["type"] for e in standing(log) if e["type"] in ("source", "file")}
