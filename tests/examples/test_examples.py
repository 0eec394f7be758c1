"""Each example runs as it is, as its own process, against a scripted provider over real HTTP."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from streamchat import check_log, parse_event
from streamchat.testing import Call, ScriptedProvider, Stall, Step
from streamchat.testing.provider import Reply
from tests.project.support import ROOT

Start = Callable[..., subprocess.Popen[str]]
USER = {"x-user": "ada"}


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number: int = listener.getsockname()[1]
    return number


@pytest.fixture
def start(scripted_provider: ScriptedProvider, port: int, tmp_path: Path) -> Iterator[Start]:
    """Starts an example in an empty directory."""
    started: list[subprocess.Popen[str]] = []

    def begin(name: str, *arguments: str, **more: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "OPENAI_API_KEY": "scripted", "PORT": str(port)}
        environment |= {"OPENAI_BASE_URL": scripted_provider.base_url, "PYTHONUNBUFFERED": "1"}
        # As a user runs them: without asyncio's debug mode, whose slow-callback notes go to stderr.
        environment["PYTHONASYNCIODEBUG"] = ""
        # The examples are about what they show, not about the SQLite that this Python was built with.
        environment["PYTHONWARNINGS"] = "ignore:SQLite"
        environment |= more
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "examples" / name), *arguments],
            cwd=tmp_path,
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def wait_until_served(process: subprocess.Popen[str], port: int) -> str:
    """Returns the URL once somebody listens there."""
    while process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            return f"http://127.0.0.1:{port}"
        except ConnectionRefusedError:
            time.sleep(0.05)
    raise AssertionError(process.communicate()[1])


def events_of(text: str) -> list[dict[str, Any]]:
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
    assert check_log(parse_event(event) for event in events) == "over"
    return events


def test_the_service_answers_its_users_and_keeps_what_it_said(
    start: Start, scripted_provider: ScriptedProvider, port: int
) -> None:
    scripted_provider.add(Step(calls=[Call("stock", {"item": "lamp"})]), Step("Four lamps are left."))
    server = start("asgi_chat.py")
    url = wait_until_served(server, port)
    assert httpx2.post(f"{url}/runs", json={"message": "Hello"}).status_code == 401
    answer = httpx2.post(f"{url}/runs/stream", json={"message": "How many?"}, headers=USER, timeout=30)
    events = events_of(answer.text)
    assert [e["output"] for e in events if e["type"] == "tool_result"] == [{"item": "lamp", "left": 4}]
    assert [e["message"] for e in events if e["type"] == "tool_progress"] == ["counting lamp"]
    path = answer.headers["content-location"]
    assert httpx2.get(f"{url}{path}", headers={"x-user": "eve"}).status_code == 404

    server.send_signal(signal.SIGTERM)
    server.communicate(timeout=20)
    again = start("asgi_chat.py")
    wait_until_served(again, port)
    assert events_of(httpx2.get(f"{url}{path}", headers=USER).text) == events


def test_a_stream_without_a_service(start: Start, scripted_provider: ScriptedProvider, port: int) -> None:
    scripted_provider.add(Step("Hello, you."))
    url = wait_until_served(start("bare_stream.py"), port)
    answer = httpx2.get(url, params={"q": "Say hello."}, timeout=30)
    assert "".join(e["text"] for e in events_of(answer.text) if e["type"] == "text_delta") == "Hello, you."
    assert scripted_provider.requests[0].messages == [{"role": "user", "content": "Say hello."}]


def test_a_chat_in_the_terminal_remembers_its_tools_results(
    start: Start, scripted_provider: ScriptedProvider
) -> None:
    scripted_provider.add(Step(calls=[Call("clock", id="c1")]), Step("It is late."), Step("As I said."))
    said, errors = start("terminal.py").communicate("What time is it?\nReally?\n", timeout=30)
    assert not errors
    assert "[c1: ok]" in said
    assert "It is late.\n[success" in said
    assert "As I said." in said
    roles = [message["role"] for message in scripted_provider.requests[-1].messages]
    assert roles == ["user", "assistant", "tool", "assistant", "user"]


def test_an_interrupt_stops_the_answer_and_not_the_chat(
    start: Start, scripted_provider: ScriptedProvider
) -> None:
    stall = Stall()
    scripted_provider.add(Reply(step=Step("Once upon a time", stall_after=2, stall=stall)), Step("Yes?"))
    chat = start("terminal.py")
    assert chat.stdin is not None
    assert chat.stdout is not None
    chat.stdin.write("Tell me a tale\n")
    chat.stdin.flush()
    seen = ""
    while "Once upon" not in seen:
        seen += chat.stdout.read(1)
    chat.send_signal(signal.SIGINT)
    rest, errors = chat.communicate("Stop\n", timeout=30)
    assert not errors
    assert "[cancelled," in rest
    assert "Yes?" in rest


def test_an_encrypted_store_tells_nobody_anything_and_survives_a_change_of_keys(
    start: Start, scripted_provider: ScriptedProvider, tmp_path: Path
) -> None:
    scripted_provider.add(Step("Your cat is called Mimir."), Step("As I said: Mimir."))
    first, second = (base64.b64encode(os.urandom(32)).decode() for _ in range(2))
    said, errors = start("encrypted.py", "What is my cat called?", KEYS=f"one:{first}").communicate(
        timeout=30
    )
    assert (said, errors) == ("Your cat is called Mimir.\n", "")
    stored = b"".join(path.read_bytes() for path in tmp_path.glob("chat.db*"))
    assert b"run_started" in stored  # types and ids are no secret
    for secret in (b"Mimir", b"my cat"):
        assert secret not in stored

    keys = f"two:{second},one:{first}"
    said, errors = start("encrypted.py", "Once more?", KEYS=keys).communicate(timeout=30)
    assert (said, errors) == ("As I said: Mimir.\n", "")
    history = [message["content"] for message in scripted_provider.requests[-1].messages]
    assert history == ["What is my cat called?", "Your cat is called Mimir.", "Once more?"]

    # Without the first key, the older half cannot be read, and the error says what is missing.
    said, errors = start("encrypted.py", "And now?", KEYS=f"two:{second}").communicate(timeout=30)
    assert said == ""
    assert "the key 'one': add its codec to `older_codecs`" in errors
