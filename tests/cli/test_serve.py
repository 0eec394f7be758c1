"""``streamchat serve`` as people start it: what it serves, and how it ends."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from streamchat.cli import main
from tests.adapters.serving import Connection, fetch, read_until, request, stream
from tests.cli.processes import serving, until_said
from tests.service.processes import chat_over

pytestmark = pytest.mark.anyio

APP = "tests.cli.serve_app"


@pytest.mark.parametrize("name", ["chat", "make", "makes_app"])
async def test_the_endpoints_stand_below_the_prefix(name: str) -> None:
    async with serving(f"{APP}:{name}", "--prefix", "/talk/") as (process, port):
        status, started = await fetch(port, "POST", "/talk/runs", {"message": "hello"})
        assert (status, started["stream_url"]) == (201, f"/talk/runs/{started['run_id']}/stream")
        status, frames = await stream(port, started["stream_url"])
        assert (status, frames[-1].event) == (200, "finalized")
        async with request(port, "GET", "/chat/health/ready") as connection:
            assert connection.status == 404
        process.send_signal(signal.SIGTERM)
        await until_said(process.stdout, "streamchat serve: ended")
        assert await process.wait() == 0


async def test_a_function_of_the_scope_says_who_asks() -> None:
    async with serving(f"{APP}:own", "--principal", f"{APP}:user", "--prefix", "") as (_, port):
        assert (await fetch(port, "POST", "/runs", {"message": "hello"}))[0] == 401
        status, started = await fetch(port, "POST", "/runs", {"message": "hello"}, X_User="ann")
        assert status == 201
        assert (await fetch(port, "GET", f"/runs/{started['run_id']}", X_User="bob"))[0] == 404


async def test_a_page_that_makes_its_own_name_point_to_loopback_is_refused() -> None:
    async with serving(f"{APP}:chat", allow="here.example") as (_, port):
        for host, status in (("evil.example", 403), ("localhost", 200), ("HERE.example:80", 200)):
            connection = await Connection.open(port)
            await connection.send_raw(f"GET /chat/conversations HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            await connection.head()
            assert connection.status == status
            await connection.close()


async def test_an_application_of_somebody_elses_is_served_as_it_is() -> None:
    async with serving(f"{APP}:bare") as (process, port), request(port, "GET", "/anything") as connection:
        assert await connection.body() == b"hello"
        process.send_signal(signal.SIGINT)
        await until_said(process.stdout, "streamchat serve: ended")
        assert await process.wait() == 130  # as shells say of a program that was interrupted


async def test_at_sigterm_it_waits_for_runs_and_at_a_second_one_it_hands_over(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'chat.db'}"
    async with serving(f"{APP}:chat", environment={"STREAMCHAT_TEST_SERVE_URL": url}) as (process, port):
        _, started = await fetch(port, "POST", "/chat/runs", {"message": "stand still"})
        async with request(port, "GET", started["stream_url"]) as connection:
            blocks = connection.blocks()
            await read_until(blocks, b"text_delta")
            process.send_signal(signal.SIGTERM)
            await until_said(process.stdout, "finishing what runs (60 s at most)…")
            # Nobody is sent away yet; whoever balances the load sees that there is no more work for it here.
            assert (await fetch(port, "GET", "/chat/health/ready"))[0] == 503
            assert (await fetch(port, "POST", "/chat/runs", {"message": "hello"}))[0] == 503
            process.send_signal(signal.SIGTERM)
            assert b"retry: " in await read_until(blocks, b"retry: ")
            with pytest.raises(StopAsyncIteration):
                await anext(blocks)
        await until_said(process.stdout, "streamchat serve: ended")
        assert await process.wait() == 0
    async with chat_over(url, work=False) as chat:
        run = await chat.buffer.get(started["run_id"])
        assert (run.owner, run.over) == (None, False)


async def test_the_time_to_shut_down_can_be_given() -> None:
    async with serving(f"{APP}:chat", "--shutdown", "0") as (process, port):
        _, started = await fetch(port, "POST", "/chat/runs", {"message": "stand still"})
        async with request(port, "GET", started["stream_url"]) as connection:
            blocks = connection.blocks()
            await read_until(blocks, b"text_delta")
            process.send_signal(signal.SIGTERM)
            await read_until(blocks, b"retry: ")
        await until_said(process.stdout, "streamchat serve: ended")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([f"{APP}"], "name a module"),
        ([f"{APP}:URL"], "is of type str: it must be a StreamChat or an ASGI application"),
        ([f"{APP}:own"], "give --principal MODULE:NAME"),
        ([f"{APP}:user"], "user() is called without arguments: missing a required argument: 'scope'"),
        ([f"{APP}:bare", "--prefix", "/chat"], "--prefix is for a StreamChat"),
        ([f"{APP}:app", "--principal", f"{APP}:user"], "--principal is for a StreamChat"),
        ([f"{APP}:chat", "--principal", f"{APP}:URL"], f"--principal {APP}:URL is of type str: it must be a"),
        ([f"{APP}:chat", "--prefix", "chat"], "a path begins with a slash"),
        ([f"{APP}:chat", "--port", "70000"], "a port is a number"),
        ([f"{APP}:chat", "--shutdown", "-1"], "it must be 0 seconds or more"),
        ([f"{APP}:chat", "--host", "256.0.0.1"], "is no address of this machine"),
    ],
)
def test_what_cannot_be_served_is_told_in_one_sentence(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", sys.path[:])
    assert main(["serve", *arguments]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    assert told in captured.err


def test_without_uvicorn_the_extra_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve", f"{APP}:chat"]) == 2
    assert "streamchat[serve]" in capsys.readouterr().err
