"""The main job on real input: provider bytes to a client that drops and comes back, through the demo's
process."""

from __future__ import annotations

import gzip
import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from streamchat import check_log, fold, parse_event
from streamchat.core.sse import SSEDecoder
from streamchat.testing import Reply, ScriptedProvider, accumulate_sse
from tests.e2e.conftest import Demo

Start = Callable[..., Demo]
STREAMS = Path(__file__).resolve().parents[3] / "shared" / "streams"


def events_of(body: bytes) -> list[dict[str, Any]]:
    """The events in a response's bytes; a frame that is cut off counts as not received."""
    return [json.loads(frame.data) for frame in SSEDecoder().feed(body)]


def recorded_bodies() -> Iterator[tuple[str, bytes]]:
    """Recorded streams of plain answers, shortest first."""
    path = STREAMS / "recorded_chat.jsonl.gz"
    if not path.exists():
        return
    found = []
    for line in gzip.decompress(path.read_bytes()).decode().splitlines():
        case = json.loads(line)
        choice = (case["expect"]["choices"] or [{}])[0]
        if choice.get("text") and not choice["tool_calls"] and case["expect"].get("error") is None:
            found.append((case["name"], case["sse"].encode()))
    yield from sorted(found, key=lambda each: len(each[1]))[:40:10]


RECORDED = list(recorded_bodies())
TALK = (
    b"".join(
        b'data: {"choices":[{"index":0,"delta":{"content":"word%d "},"finish_reason":null}]}\n\n' % n
        for n in range(12)
    )
    + b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
)


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider(repeat=True) as running:
        yield running


def demo_over(start_demo: Start, provider: ScriptedProvider, body: bytes) -> Demo:
    provider.add(Reply(body=body))
    return start_demo("--base-url", provider.base_url, "--model", "recorded", OPENAI_API_KEY="any")


def raw_get(demo: Demo, path: str, cursor: str | None, most: int | None = None) -> bytes:
    """The body of a response over a socket of our own, cut by closing it after ``most`` bytes of the body."""
    with socket.create_connection(("127.0.0.1", demo.port)) as connection:
        last = f"Last-Event-ID: {cursor}\r\n" if cursor else ""
        # HTTP/1.0: the body is not chunked, so an offset in it is an offset in the frames.
        connection.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n{last}\r\n".encode())
        data = b""
        while most is None or b"\r\n\r\n" not in data or len(data.split(b"\r\n\r\n", 1)[1]) < most:
            received = connection.recv(65536)
            if not received:
                break
            data += received
    head, _, body = data.partition(b"\r\n\r\n")
    assert b" 200 " in head.splitlines()[0] or b" 204 " in head.splitlines()[0], head
    return body if most is None else body[:most]


@pytest.mark.parametrize(
    "body", [body for _, body in RECORDED] or [TALK], ids=[name for name, _ in RECORDED] or ["talk"]
)
def test_a_recorded_answer_reaches_two_clients_whole(
    start_demo: Start, provider: ScriptedProvider, body: bytes
) -> None:
    demo = demo_over(start_demo, provider, body)
    wanted = accumulate_sse(body).choices[0]
    answer = httpx2.post(f"{demo.url}/chat/runs/stream", json={"message": "Hello"}, timeout=30)
    seen = events_of(answer.content)
    assert check_log(parse_event(event) for event in seen) == "over"
    state = fold(parse_event(event) for event in seen)
    assert (state.status, state.text) == ("success", wanted.text)
    assert "".join(p.text for p in state.parts if p.type == "reasoning") == wanted.reasoning
    second = httpx2.get(f"{demo.url}{answer.headers['content-location']}", timeout=30)
    assert events_of(second.content) == seen
    page = httpx2.get(f"{demo.url}/chat/runs/{state.run_id}/events?limit=1000").json()
    assert page["events"] == seen


@pytest.mark.parametrize(
    "body", [body for _, body in RECORDED[:1]] or [TALK], ids=[name for name, _ in RECORDED[:1]] or ["talk"]
)
def test_cut_at_every_byte_and_resumed_a_client_has_exactly_the_log(
    start_demo: Start, provider: ScriptedProvider, body: bytes
) -> None:
    demo = demo_over(start_demo, provider, body)
    answer = httpx2.post(f"{demo.url}/chat/runs/stream", json={"message": "Hello"}, timeout=30)
    path = answer.headers["content-location"]
    log = events_of(answer.content)
    whole = raw_get(demo, path, None)
    assert events_of(whole) == log
    for offset in range(len(whole) + 1):
        decoder = SSEDecoder()
        received = [json.loads(frame.data) for frame in decoder.feed(raw_get(demo, path, None, offset))]
        rest = events_of(raw_get(demo, path, decoder.last_event_id or None))
        assert received + rest == log, offset


def test_a_stream_cut_while_the_answer_is_written_goes_on_where_it_stopped(start_demo: Start) -> None:
    demo = start_demo()
    run = httpx2.post(f"{demo.url}/chat/runs", json={"message": "Tell me"}, timeout=30).json()
    received: list[dict[str, Any]] = []
    cursor: str | None = None
    for most in (50, 500, 700, 900, 1100, 1300):
        decoder = SSEDecoder(last_event_id=cursor or "")
        received += [
            json.loads(frame.data) for frame in decoder.feed(raw_get(demo, run["stream_url"], cursor, most))
        ]
        cursor = decoder.last_event_id or None
    received += events_of(raw_get(demo, run["stream_url"], cursor))
    log = httpx2.get(f"{demo.url}/chat/runs/{run['run_id']}/events?limit=1000").json()["events"]
    assert received == log
    assert check_log(parse_event(event) for event in log) == "over"


def test_killed_in_mid_answer_and_started_again_the_demo_finishes_what_it_began(start_demo: Start) -> None:
    first = start_demo()
    run = httpx2.post(f"{first.url}/chat/runs", json={"message": "Talk to me"}, timeout=30).json()
    decoder = SSEDecoder()
    received = [json.loads(f.data) for f in decoder.feed(raw_get(first, run["stream_url"], None, 1500))]
    first.kill()
    second = start_demo()
    received += events_of(raw_get(second, run["stream_url"], decoder.last_event_id))
    log = httpx2.get(f"{second.url}/chat/runs/{run['run_id']}/events?limit=1000").json()["events"]
    assert received == log
    assert check_log(parse_event(event) for event in log) == "over"
    kinds = [event["type"] for event in log]
    assert (kinds.count("run_resumed"), kinds.count("step_reset")) == (1, 1)
    state = fold(parse_event(event) for event in log)
    assert (state.status, state.takeovers) == ("success", 1)
    assert state.text.count("I am a scripted provider") == 1


@pytest.mark.slow
def test_killed_while_an_idempotent_tool_ran_the_demo_started_again_repeats_the_call(
    start_demo: Start,
) -> None:
    first = start_demo()
    run = httpx2.post(f"{first.url}/chat/runs", json={"message": "Weather in Oslo"}, timeout=30).json()
    with httpx2.stream("GET", f"{first.url}{run['stream_url']}", timeout=30) as stream:
        received = b""
        for chunk in stream.iter_bytes():
            received += chunk
            if b"tool_started" in received:
                first.kill()
                break
    second = start_demo()
    log = events_of(raw_get(second, run["stream_url"], None))
    (call,) = [part for part in fold(parse_event(e) for e in log).parts if part.type == "tool_call"]
    assert (call.name, call.outcome, call.attempts) == ("weather", "ok", 2)


@pytest.mark.parametrize(
    ("arguments", "environment", "model", "key"),
    [
        (["--base-url", "{}"], {}, "gpt-5-mini", "none"),
        (["--base-url", "{}", "--model", "m"], {}, "m", "none"),
        (["--base-url", "{}"], {"OPENAI_API_KEY": "k"}, "gpt-5-mini", "k"),
        ([], {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": "{}"}, "gpt-5-mini", "k"),
        (["--model", "m"], {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": "{}"}, "m", "k"),
    ],
)
def test_a_key_or_a_base_url_alone_is_enough_for_a_real_provider_and_the_demo_says_which(
    start_demo: Start,
    provider: ScriptedProvider,
    arguments: list[str],
    environment: dict[str, str],
    model: str,
    key: str,
) -> None:
    provider.add("Hello")
    url = provider.base_url
    demo = start_demo(
        "--db",
        "memory:",
        *(argument.format(url) for argument in arguments),
        **{name: value.format(url) for name, value in environment.items()},
    )
    answer = httpx2.post(f"{demo.url}/chat/runs/reply", json={"message": "Hello"}, timeout=30).json()
    assert answer["status"] == "success"
    (asked,) = provider.requests
    assert (asked.body["model"], asked.headers["authorization"]) == (model, f"Bearer {key}")
    (line,) = demo.output.splitlines()
    assert f"{model} at {url}" in line


def test_without_key_and_base_url_the_demo_says_that_its_provider_is_scripted(shared_demo: Demo) -> None:
    assert "scripted provider" in shared_demo.output


def test_the_password_in_a_base_url_is_not_shown(start_demo: Start) -> None:
    demo = start_demo("--db", "memory:", "--base-url", "http://ada:secret@127.0.0.1:9/v1?key=hidden")
    assert "127.0.0.1:9/v1" in demo.output
    assert "secret" not in demo.output
    assert "hidden" not in demo.output


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:1", 200),
        ("LOCALHOST:8000", 200),
        ("127.0.0.1", 200),
        ("[::1]:8000", 200),
        ("[::1]", 200),
        ("evil.example", 403),
        ("evil.example:8000", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example:8000", 403),
        ("evil.example:127.0.0.1", 403),
        ("[::1].evil.example", 403),
        ("", 403),
    ],
)
@pytest.mark.parametrize("path", ["/", "/chat/conversations"])
def test_on_loopback_a_name_that_somebody_made_point_here_is_refused(
    shared_demo: Demo, path: str, host: str, status: int
) -> None:
    answer = httpx2.get(f"{shared_demo.url}{path}", headers={"host": host})
    assert answer.status_code == status


def test_the_host_that_was_given_is_a_name_of_the_demo(start_demo: Start) -> None:
    demo = start_demo("--db", "memory:", "--host", "127.0.0.2")
    assert demo.url == f"http://127.0.0.2:{demo.port}"
    assert httpx2.get(f"{demo.url}/").status_code == 200


def test_of_an_ipv6_address_the_demo_prints_a_url_that_can_be_opened(start_demo: Start) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    demo = start_demo("--db", "memory:", "--host", "::1")
    assert demo.url == f"http://[::1]:{demo.port}"
    assert httpx2.get(f"{demo.url}/").status_code == 200


def test_both_apis_run_tools_and_answer(start_demo: Start) -> None:
    for api in ("chat", "responses"):
        demo = start_demo("--api", api, "--db", "memory:")
        answer = httpx2.post(
            f"{demo.url}/chat/runs/reply",
            json={"message": "Weather in Oslo, roll two dice, edit the page, job"},
            timeout=60,
        ).json()
        assert answer["status"] == "success", answer
        calls = [part for part in answer["message"]["content"] if part["type"] == "tool_call"]
        assert [(c["name"], c["outcome"], c["attempts"]) for c in calls] == [
            ("weather", "ok", 1),
            ("roll_dice", "ok", 1),
            ("edit_page", "ok", 1),
            ("flaky_job", "ok", 2),
        ]
        assert demo.stop() == 130  # as shells say of a program that was interrupted


def test_interrupted_the_demo_says_so_ends_open_streams_whole_and_does_not_wait_for_their_runs(
    start_demo: Start,
) -> None:
    demo = start_demo("--db", "memory:")
    run = httpx2.post(f"{demo.url}/chat/runs", json={"message": "render a video"}, timeout=30).json()
    with httpx2.stream("GET", f"{demo.url}{run['stream_url']}", timeout=30) as stream:
        received = b""
        for chunk in stream.iter_bytes():  # (raises where the chunked body has no end)
            if not received:
                demo.interrupt()
            received += chunk
    assert demo.end() == 130  # as shells say of a program that was interrupted
    assert received.endswith(b"\n\n")
    assert check_log(parse_event(event) for event in events_of(received)) != "over"
    assert demo.output.splitlines()[1:] == ["finishing what runs (2 s at most)…"]


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "field"),
    [
        ("POST", "/runs", b'{"message": ', {}, 422, None),
        ("POST", "/runs", b'{"message": 7}', {}, 422, "message"),
        ("POST", "/runs", b"{}", {}, 422, "message"),
        ("POST", "/runs", b'{"message": ""}', {}, 422, "message"),
        ("POST", "/runs", b'{"message": "' + b"x" * 1_000_001 + b'"}', {}, 413, None),
        ("GET", "/runs/nothing", None, {}, 404, None),
        ("GET", "/runs/nothing/stream", None, {}, 404, None),
        ("POST", "/runs/nothing/cancel", None, {}, 404, None),
        ("GET", "/runs/nothing/stream", None, {"last-event-id": "not a cursor"}, 400, "last_event_id"),
        ("GET", "/nowhere", None, {}, 404, None),
        ("PUT", "/runs", b"{}", {}, 405, None),
    ],
)
def test_bad_input_is_answered_clearly_and_nothing_is_written(
    shared_demo: Demo,
    method: str,
    path: str,
    body: bytes | None,
    headers: dict[str, str],
    status: int,
    field: str | None,
) -> None:
    answer = httpx2.request(
        method,
        f"{shared_demo.url}/chat{path}",
        content=body,
        headers={"content-type": "application/json", **headers},
    )
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["code"]
    assert error["message"]
    if field is not None:
        assert error["field"] == field
    assert httpx2.get(f"{shared_demo.url}/chat/conversations").json()["conversations"] == []


@pytest.fixture(scope="module")
def shared_demo() -> Iterator[Demo]:
    demo = Demo(["--db", "memory:"], {})
    yield demo
    demo.kill()


@pytest.mark.parametrize(
    ("arguments", "environment", "says"),
    [
        (["--model", "m"], {}, "OPENAI_API_KEY"),
        (["--model", "m"], {"OPENAI_API_KEY": ""}, "--model"),
        (["--base-url", "localhost:8080/v1"], {}, "http://"),
        (["--base-url", ""], {}, "--base-url"),
        (["--port", "99999"], {}, "--port"),
        (["--host", "192.0.2.1"], {}, "--host"),
        (["--host", "no such host"], {}, "--host"),
        (["--db", "sqlite:////nowhere/at/all/demo.db"], {}, "/nowhere/at/all"),
        (["--db", "mongodb://x"], {}, "mongodb"),
        (["--db", "chat.db"], {}, "sqlite:///"),
    ],
)
def test_a_demo_that_cannot_start_says_what_to_do_in_a_sentence(
    tmp_path: Path, arguments: list[str], environment: dict[str, str], says: str
) -> None:
    refused(tmp_path, ["--port", "0", *arguments], environment, says)


def test_a_port_in_use_is_told_in_a_sentence_and_no_database_is_made(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        refused(tmp_path, ["--port", str(taken.getsockname()[1])], {}, "--port")
    assert not list(tmp_path.iterdir())


def refused(directory: Path, arguments: list[str], environment: dict[str, str], says: str) -> None:
    """A demo started in ``directory``, as people start it, ends with one sentence."""
    run = subprocess.run(
        [sys.executable, "-m", "streamchat.cli", "demo", *arguments],
        env={"PATH": "", **environment},
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert run.returncode == 2
    assert says in run.stderr
    assert len(run.stderr.strip().splitlines()) == 1
    assert run.stdout == ""


def test_a_warning_of_the_sqlite_version_is_one_line_and_only_where_sqlite_is_used(
    tmp_path: Path,
) -> None:
    def said(url: str) -> list[str]:
        """What a demo over ``url`` says on stderr, with an SQLite of a version that has the bug."""
        script = (
            "import sqlite3; sqlite3.sqlite_version_info = (3, 45, 0)\n"
            "from streamchat.cli import main\n"
            f"main(['demo', '--port', '0', '--db', {url!r}])"
        )
        with subprocess.Popen(
            [sys.executable, "-c", script],
            env={"PATH": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as demo:
            assert demo.stdout is not None
            assert demo.stderr is not None
            assert "http://" in demo.stdout.readline()
            demo.send_signal(2)
            return demo.stderr.read().splitlines()

    (line,) = said(f"sqlite:///{tmp_path / 'demo.db'}")
    assert line.startswith("streamchat: warning: SQLite 3.45.0 has the WAL-reset bug")
    assert said("memory:") == []


def test_an_email_is_asked_for_and_sent_once_by_the_demo_that_was_started_again(start_demo: Start) -> None:
    first = start_demo()
    asked = httpx2.post(f"{first.url}/chat/runs/reply", json={"message": "Email bob@example.org"}, timeout=30)
    assert asked.json()["status"] == "suspended"
    run_id, [wait] = asked.json()["run_id"], asked.json()["waits"]
    first.kill()
    second = start_demo()
    decided = httpx2.post(
        f"{second.url}/chat/runs/{run_id}/approvals", json={"call_id": wait["call_id"], "approved": True}
    )
    assert decided.status_code == 202
    log = events_of(raw_get(second, f"/chat/runs/{run_id}/stream", None))
    assert check_log(parse_event(event) for event in log) == "over"
    assert [event["message"] for event in log if event["type"] == "approval_requested"] == [
        "Send this email to bob@example.org?"
    ]
    assert [event["type"] for event in log].count("tool_started") == 1
    state = fold(parse_event(event) for event in log)
    assert state.status == "success"
    assert "sent to bob@example.org" in state.text
