"""``streamchat chat`` as people start it: through pipes, in a terminal, interrupted, cut off."""

from __future__ import annotations

import asyncio
import fcntl
import io
import os
import re
import signal
import struct
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from streamchat import RunOptions, ServiceLimits, StoredEvent, StreamChat, ToolRegistry
from streamchat.adapters.asgi import asgi_app
from streamchat.cli import main
from streamchat.cli.chat_rich import RichScreen
from streamchat.cli.chat_view import clean, label, short
from streamchat.client import Reset
from streamchat.core.fold import Folder
from streamchat.events import (
    Finalized,
    ModelCompleted,
    RunStarted,
    StepReset,
    StepStarted,
    TextDelta,
    ToolCallEvent,
    ToolProgress,
    ToolStarted,
)
from streamchat.testing import Call, ScriptedModel, Stall, Step
from tests.adapters.serving import serve
from tests.cli.processes import command, until_said
from tests.client.cutting import cutting

pytestmark = pytest.mark.anyio


def make_tools() -> ToolRegistry:
    registry = ToolRegistry()

    @registry.tool
    async def weather(city: str) -> str:
        return f"sunny in {city}"

    @registry.tool(requires_approval=lambda ctx, arguments: f"Write to {arguments['to']}?")
    async def send(to: str) -> str:
        return f"sent to {to}"

    return registry


def answer(request: Any) -> Step:
    """What the tools said, else what the user asks for."""
    last = request.messages[-1]
    if last.role != "user":
        return Step(f"It is {last.content}.")
    asked = str(last.content)
    if asked.startswith("weather"):
        return Step("Let me see.", calls=[Call("weather", {"city": "Oslo"})])
    if asked.startswith("send"):
        return Step(calls=[Call("send", {"to": "ann"})])
    return Step(f"You said {asked}, as message {len(request.messages)}.")


@asynccontextmanager
async def server(model: Any = answer) -> AsyncIterator[tuple[str, int, StreamChat]]:
    chat = StreamChat(
        model=ScriptedModel(model),
        tools=make_tools(),
        allow_anonymous=True,
        limits=ServiceLimits(drain_seconds=0),
        options=RunOptions(grace=0.2),
    )
    async with serve(asgi_app(chat)) as port:
        yield f"http://127.0.0.1:{port}", port, chat


async def run(*arguments: str, said: str = "", **environment: str) -> tuple[int, str, str]:
    """Run it through pipes; status, standard output and standard error."""
    async with command("chat", *arguments, environment=environment) as process:
        out, err = await process.communicate(said.encode())
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()


async def newest_run(chat: StreamChat) -> str:
    """The run that is at work."""
    while True:
        found = await chat.conversations()
        if found and found[0].active_run_id:
            return found[0].active_run_id
        await asyncio.sleep(0.01)


# ---------------------------------------------------------------------------------------------- through pipes


async def test_the_answer_alone_goes_to_standard_output() -> None:
    async with server() as (url, _, _chat):
        status, out, err = await run(url, "weather", "in", "Oslo")
        assert (status, out) == (0, "Let me see.\nIt is sunny in Oslo.\n")
        assert '[weather(city="Oslo"): ok after' in err


async def test_a_server_without_streams_is_talked_to_all_the_same() -> None:
    chat = StreamChat(
        model=ScriptedModel(answer),
        tools=make_tools(),
        allow_anonymous=True,
        limits=ServiceLimits(drain_seconds=0),
        streaming=lambda principal: False,
    )
    async with serve(asgi_app(chat)) as port:
        status, out, err = await run(f"http://127.0.0.1:{port}", "send", "--approve", "yes")
        assert (status, out) == (0, "It is sent to ann.\n"), err


async def test_lines_are_messages_of_one_conversation_and_answer_what_is_asked() -> None:
    async with server() as (url, _, _chat):
        status, out, err = await run(url, said="one\nsend it\nmaybe\nyes\ntwo\n")
        assert status == 0
        assert out == "You said one, as message 1.\nIt is sent to ann.\nYou said two, as message 7.\n"
        assert '[Write to ann?  send(to="ann")]' in err


async def test_a_run_that_waits_is_left_and_shown_again_from_its_beginning() -> None:
    async with server() as (url, _, _chat):
        status, out, err = await run(url, "send")
        assert (status, out) == (1, "")
        found = re.search(r"--run (\S+)\]", err)
        assert found is not None, err
        assert (await run(url, "--run", found[1], said="no\n"))[0] == 0
        # Its end is there for all, and nobody is asked again.
        status, out, err = await run(url, "--run", found[1])
        assert status == 0
        assert 'send(to="ann"): denied' in err
        assert out.startswith("It is ")


@pytest.mark.parametrize(("say", "outcome"), [("yes", "ok"), ("no", "denied")])
async def test_what_to_say_to_approvals_can_be_given(say: str, outcome: str) -> None:
    async with server() as (url, _, _chat):
        status, _, err = await run(url, "send", "--approve", say)
        assert status == 0
        assert f'send(to="ann"): {outcome}' in err


async def test_a_connection_that_is_cut_is_followed_by_another_one() -> None:
    text = " ".join(f"word{number}" for number in range(100))
    async with server(lambda request: Step(text)) as (_, port, _chat):
        limits = iter([700, 800, 900])
        async with cutting(port, limits) as (proxy_port, proxy):
            status, out, err = await run(f"http://127.0.0.1:{proxy_port}", "hello")
            assert (status, out) == (0, text + "\n"), err
            assert proxy.connections == 4


async def test_headers_and_a_token_are_sent() -> None:
    seen: list[dict[bytes, bytes]] = []
    async with server() as (_, _, chat):
        inner = asgi_app(chat)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                seen.append(dict(scope["headers"]))
            await inner(scope, receive, send)

        async with serve(app) as port:
            await run(
                f"http://127.0.0.1:{port}", "hello", "--header", "X-User:  ann", STREAMCHAT_TOKEN="secret"
            )
    assert {(each[b"x-user"], each[b"authorization"]) for each in seen} == {(b"ann", b"Bearer secret")}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["ftp://nowhere", "hello"], "is no URL of a server"),
        (["http://nowhere:port", "hello"], "is no URL of a server"),
        (["http://127.0.0.1:9", "hello", "--patience", "0"], "no answer for 0 s"),
        (["http://127.0.0.1:9", "hello", "--header", "nothing"], "give a name and a value"),
        (["http://127.0.0.1:9", "hello", "--header", "bad name: x"], "'bad name' cannot be the name"),
        (
            ["http://127.0.0.1:9", "hello", "--header", "x: \N{SNOWMAN}"],
            "'x' has a value that cannot be sent",
        ),
        (["http://127.0.0.1:9", "hello", "--patience", "nan"], "patience=nan"),
        (["http://127.0.0.1:9", "hello", "--patience", "-1"], "patience=-1"),
    ],
)
async def test_what_cannot_be_asked_is_told_in_one_sentence(arguments: list[str], told: str) -> None:
    status, out, err = await run(*arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert told in err


async def test_a_token_that_cannot_be_sent_is_told_and_not_shown() -> None:
    status, out, err = await run("http://127.0.0.1:9", "hello", STREAMCHAT_TOKEN="secret\N{SNOWMAN}")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "'authorization' has a value that cannot be sent" in err
    assert "secret" not in err


@pytest.mark.parametrize("code", [200, 404])
@pytest.mark.parametrize("arguments", [["hello"], ["--run", "x"]])
async def test_a_server_of_pages_is_told_in_one_sentence(code: int, arguments: list[str]) -> None:
    async def pages(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"text/html")]
        await send({"type": "http.response.start", "status": code, "headers": headers})
        await send({"type": "http.response.body", "body": b"<html>\n <b>Welcome\x1b[2J</b>\n</html>\n"})

    async with serve(pages, lifespan="off") as port:
        status, out, err = await run(f"http://127.0.0.1:{port}", *arguments)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert f"the server answered {code}" in err
        assert "\x1b" not in err


async def test_a_refusal_ends_one_question_but_not_a_conversation() -> None:
    async with server() as (url, _, _chat):
        status, _, err = await run(f"{url}/nowhere", "hello")
        assert (status, err.count("\n")) == (2, 1)
        assert "the server answered 404" in err
        status, _, err = await run(f"{url}/nowhere", said="one\ntwo\n")
        assert (status, err.count("the server answered 404")) == (1, 2)


async def test_nobody_who_reads_is_no_reason_for_a_traceback() -> None:
    async with server() as (url, _, _chat):
        reading, writing = os.pipe()
        os.close(reading)
        script = (sys.executable, "-W", "ignore", "-m", "streamchat.cli", "chat", url, "hello")
        process = await asyncio.create_subprocess_exec(
            *script, stdout=writing, stderr=asyncio.subprocess.PIPE
        )
        os.close(writing)
        _, err = await process.communicate()
        assert (process.returncode, err) == (1, b"")


# ----------------------------------------------------------------------------------------------------- Ctrl+C


async def test_an_interrupt_cancels_the_run() -> None:
    stall = Stall()
    async with server(lambda request: Step("One word, and", stall_after=2, stall=stall)) as (url, _, chat):
        async with command("chat", url, "hello") as process:
            await until_said(process.stdout, "One word")
            run_id = await newest_run(chat)
            process.send_signal(signal.SIGINT)
            _, err = await process.communicate()
            assert process.returncode == 1
            assert b"[cancelled]" in err
        assert (await chat.status(run_id)).status == "cancelled"


async def test_a_second_one_leaves_and_tells_how_to_come_back() -> None:
    stall = Stall()
    asked = asyncio.Event()
    async with server(lambda request: Step("One word, and", stall_after=2, stall=stall)) as (_, _, chat):
        inner = asgi_app(chat)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if scope["path"].endswith("/cancel"):
                asked.set()
                while (await receive())["type"] != "http.disconnect":
                    pass
            else:
                await inner(scope, receive, send)

        async with serve(app, lifespan="off") as port:
            async with command("chat", f"http://127.0.0.1:{port}", "hello") as process:
                await until_said(process.stdout, "One word")
                run_id = await newest_run(chat)
                process.send_signal(signal.SIGINT)
                await asked.wait()
                process.send_signal(signal.SIGINT)
                _, err = await process.communicate()
                assert process.returncode == 130
                assert f"--run {run_id}" in err.decode()
            assert (await chat.status(run_id)).status == "running"


# ---------------------------------------------------------------------------------------------- in a terminal


class Terminal:
    """The other end of a terminal that a process runs in."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.said = ""

    def type(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    async def shows(self, text: str) -> None:
        """Wait until it was said; what was said before counts no more."""
        while text not in self.said:
            self.said += await asyncio.to_thread(self._read)
        self.said = self.said.partition(text)[2]

    async def asks(self, prompt: str, process: asyncio.subprocess.Process) -> None:
        """Wait until it waits for what is typed: a signal between the prompt and that is seen by Python only
        with the next key."""
        await self.shows(prompt)
        while not _sleeps(process.pid):
            await asyncio.sleep(0.01)

    async def closed(self) -> str:
        """Wait for the end; what was said since."""
        while block := await asyncio.to_thread(self._read, ""):
            self.said += block
        return self.said

    def _read(self, at_end: str | None = None) -> str:
        try:
            block = os.read(self._fd, 65536)
        except OSError:  # the process has ended
            block = b""
        if not block and at_end is None:
            raise AssertionError(f"it ended: {self.said!r}")
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", block.decode("utf-8", "replace"))


def _sleeps(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def _controlling() -> None:
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@asynccontextmanager
async def terminal(*arguments: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, Terminal]]:
    """``streamchat chat`` in a terminal of 24 lines of 80 columns."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PYTHONASYNCIO")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "ignore", "-m", "streamchat.cli", "chat", *arguments),
        env={**inherited, "TERM": "xterm-256color", "NO_COLOR": "1"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        preexec_fn=_controlling,
    )
    os.close(theirs)
    try:
        yield process, Terminal(ours)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        os.close(ours)


async def test_a_terminal_asks_shows_and_is_asked() -> None:
    async with server() as (url, _, _chat), terminal(url) as (process, screen):
        await screen.shows("> ")
        screen.type("weather\r")
        await screen.shows('✓ weather(city="Oslo")')
        await screen.shows("It is sunny in Oslo.")
        await screen.shows("tokens")
        await screen.shows("> ")
        screen.type("send\r")
        await screen.shows('Write to ann?  send(to="ann")')
        await screen.shows("yes or no? ")
        screen.type("yes\r")
        await screen.shows("It is sent to ann.")
        await screen.shows("> ")
        screen.type("\x04")
        assert "--conversation" in await screen.closed()
        assert await process.wait() == 0


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc to see that it waits")
async def test_ctrl_c_cancels_an_answer_also_where_it_waits_for_somebody_and_leaves_at_the_prompt() -> None:
    async with server() as (url, _, chat), terminal(url) as (process, screen):
        await screen.shows("> ")
        screen.type("send\r")
        await screen.asks("yes or no? ", process)
        run_id = await newest_run(chat)
        screen.type("\x03")
        await screen.shows("cancelled")
        await screen.asks("> ", process)
        assert (await chat.status(run_id)).status == "cancelled"
        screen.type("\x03")
        await screen.closed()
        assert await process.wait() == 130


# ------------------------------------------------------------------------------------------------- the screen


def shown(*events: Any) -> str:
    """What stands on the screen's terminal after these events of a run."""
    file = io.StringIO()
    screen = RichScreen(Console(file=file, width=80, height=10, force_terminal=False))
    with screen:
        for seq, event in enumerate(events, 1):
            screen.show(event if isinstance(event, Reset) else StoredEvent(seq, 0, event, "g"))
            screen.tick()
    return re.sub(r"[ \t]+\n", "\n", file.getvalue())


def test_what_is_withdrawn_does_not_stand() -> None:
    text = shown(
        RunStarted(run_id="r", conversation_id="c", message_id="m"),
        StepStarted(step=1),
        TextDelta(step=1, part=0, text="Wrong."),
        StepReset(step=1, attempt=1, reason="provider"),
        TextDelta(step=1, part=1, text="Right."),
        ModelCompleted(step=1),
        Finalized(status="success", duration=1.0),
    )
    assert "Wrong" not in text
    assert "it is asked for again" in text
    assert text.count("Right.") == 1
    assert "1.0 s" in text


def test_what_was_said_stands_where_the_user_leaves_in_the_middle() -> None:
    text = shown(StepStarted(step=1), TextDelta(step=1, part=0, text="Half of it"))
    assert text.count("Half of it") == 1


def test_a_reset_shows_what_the_run_amounts_to() -> None:
    folder = Folder()
    for event in (
        RunStarted(run_id="r", conversation_id="c", message_id="m"),
        StepStarted(step=1),
        TextDelta(step=1, part=0, text="All of it so far."),
    ):
        folder.add(event)
    text = shown(TextDelta(step=1, part=0, text="Old."), Reset("trimmed", 3, 3, folder.state, "g.3"))
    assert "Old." not in text
    assert "All of it so far." in text


def test_a_tool_at_work_has_its_time_and_progress_and_never_more_lines_than_the_terminal() -> None:
    file = io.StringIO()
    console = Console(file=file, width=80, height=10)
    screen = RichScreen(console)
    screen.show(StoredEvent(1, 0, TextDelta(step=1, part=0, text="line\n" * 200), "g"))
    for number in range(20):
        call_id = f"c{number}"
        for event in (
            ToolCallEvent(step=1, part=number + 1, call_id=call_id, name="work", arguments={"n": number}),
            ToolStarted(step=1, call_id=call_id, idempotency_key=call_id),
            ToolProgress(step=1, call_id=call_id, message="halfway", fraction=0.5),
        ):
            screen.show(StoredEvent(1, 0, event, "g"))
    console.print(screen._render())
    assert re.search(r"work\(n=0\)  \d+\.\d s  50% halfway", file.getvalue())
    assert file.getvalue().count("\n") <= 12


def test_a_models_words_do_not_drive_the_terminal() -> None:
    assert clean("a\x1b[2J\x9b2Jb\r\x07\tc\n") == "a[2J2Jb\tc\n"
    assert short({"text": "x\ny" * 50}, 10) == '{"text": …'
    assert label("work", {"a": "x" * 200}).endswith("…)")
    assert "\x1b" not in shown(TextDelta(step=1, part=0, text="\x1b]0;title\x07"))


def test_without_rich_the_extra_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["chat", "http://127.0.0.1:9", "hello"]) == 2
    assert "streamchat[terminal]" in capsys.readouterr().err
