"""What the demo's scripted provider says: tool calls for what it understands, else talk."""

from __future__ import annotations

import json
import re
from typing import Any

from streamchat.testing import Call, ProviderRequest, Reply, Step

__all__ = ["reply"]

_DELAY = 0.04

_TALK = (
    "I am a scripted provider: no model is asked, but everything else is real. This text was streamed "
    "over HTTP to the OpenAI client, put together, written to the log, and sent to you from there. "
    "Drop the connection while I talk, or reload the page: the answer goes on, and not a word is lost or "
    "said twice. Ask me for the weather in Oslo and Rome, to roll two dice, to render a video, to send "
    "an email, to edit the page, to build a site, what your browser says, for a flaky job, or for a failure."
)
_NUMBERS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6}


def reply(request: ProviderRequest) -> Reply:
    """Answer a request of either API: by the user's words, or by what the tools came to."""
    return Reply(step=_step(request.messages), delay=_DELAY)


def _step(messages: list[dict[str, Any]]) -> Step:
    results = _results_since_user(messages)
    if results:
        return Step(text=_about(results))
    asked = _last_user_text(messages)
    words = asked.lower()
    if "fail" in words and "job" not in words:
        return Step(
            text="This will break off in the middle, and be asked again", error="stream_error", error_after=6
        )
    calls = _calls(asked, words)
    if calls:
        return Step(
            text="Let me see. ", reasoning="The user wants something that a tool can do.", calls=calls
        )
    return Step(text=_TALK)


def _calls(asked: str, words: str) -> list[Call]:
    calls: list[Call] = []
    if "weather" in words:
        named = re.search(r"\b(?:in|for|of) ((?:[A-Z][\w-]+(?:, and |, | and | or | )?)+)", asked)
        cities = re.split(r", and |, | and | or ", named[1].strip()) if named else ["Oslo"]
        calls += [Call("weather", {"city": city}) for city in cities[:5]]
    if "dice" in words or "roll" in words:
        count = next((number for word, number in _NUMBERS.items() if word in words), 1)
        calls.append(Call("roll_dice", {"count": count}))
    if "video" in words:
        calls.append(Call("render_video", {"title": "A walk in the woods"}))
    if "email" in words or "mail" in words.split():
        found = re.search(r"\S+@\S+\.\w+", asked)
        calls.append(
            Call(
                "send_email",
                {"to": found[0] if found else "ada@example.org", "subject": "Hello", "body": asked},
            )
        )
    if "page" in words:
        patch = [
            {"op": "replace", "path": "/title", "value": "Our new bakery"},
            {"op": "add", "path": "/sections/-", "value": {"heading": "Cake", "text": "On Sundays."}},
        ]
        calls.append(Call("edit_page", {"patch": patch}, fragments=6))
    if "browser" in words:
        calls.append(Call("browser_info", {}))
    if "site" in words:
        calls.append(Call("build_site", {"name": "our-bakery"}))
    if "job" in words:
        calls.append(Call("flaky_job", {"name": "the nightly import"}))
    return calls


def _last_user_text(messages: list[dict[str, Any]]) -> str:
    for message in reversed(messages):
        if message.get("role") == "user":
            content = message.get("content") or ""
            if isinstance(content, str):
                return content
            return " ".join(part.get("text", "") for part in content)
    return ""


def _results_since_user(messages: list[dict[str, Any]]) -> list[str]:
    """The tools' answers to the last user message, in either API's form."""
    results: list[str] = []
    for message in reversed(messages):
        if message.get("role") == "user":
            break
        if message.get("role") == "tool":
            results.append(str(message.get("content")))
        elif message.get("type") == "function_call_output":
            results.append(str(message.get("output")))
    return results[::-1]


def _about(results: list[str]) -> str:
    lines = ["Here is what came of it:"]
    for result in results:
        try:
            value = json.loads(result)
        except ValueError:
            value = result
        if isinstance(value, dict) and "degrees" in value:
            value = f"{value['city']}: {value['degrees']}°{value['unit'].upper()}, {value['sky']}"
        lines.append(f"- {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}")
    return "\n".join(lines)
