"""``/ws`` of each adapter under each server: start, cancel, come back, and leave."""

from __future__ import annotations

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidHandshake

from tests.adapters.servers.running import COMBINATIONS, served
from tests.http.test_websocket import Socket

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.mark.parametrize(("adapter", "server"), COMBINATIONS)
async def test_a_websocket_of_an_adapter_under_a_server(adapter: str, server: str) -> None:
    async with served(adapter, server) as on:
        url = f"ws://127.0.0.1:{on.port}{on.base}/ws"
        async with connect(url, proxy=None) as connection:
            socket = Socket(connection)
            await socket.say("start", message="Hi")
            run_id = (await socket.until(type="started"))["run_id"]
            await socket.until(type="end", reason="finished")
            assert socket.state(run_id).text == "Hello there."
            await socket.say("start", message="stall here")
            stalled = (await socket.until(type="started"))["run_id"]
            await socket.until_event(stalled, "text_delta")
            await socket.say("cancel", run_id=stalled)
            await socket.until(type="end", run_id=stalled)
            assert socket.state(stalled).status == "cancelled"
            await socket.say("start", message="stall there")
            left = (await socket.until(type="started"))["run_id"]
            await socket.until_event(left, "text_delta")
        # Closed by the client: its reader is gone.
        while (await on.fetch("GET", f"/runs/{left}/presence"))[1]["clients"]:
            pass
        await on.release("there")
        async with connect(url, proxy=None) as connection:
            again = Socket(connection)
            again.events = socket.events
            await again.say("attach", run_id=left, last_event_id=list(socket.events[left])[-1])
            await again.until(type="end", run_id=left, reason="finished")
            assert again.twice == 0
            assert again.state(left).text == "One two three."
        with pytest.raises(InvalidHandshake):
            async with connect(url, proxy=None, origin="https://evil.example"):  # type: ignore[arg-type]
                pass
        status, answer = await on.fetch("GET", f"/runs/{left}")
        assert (status, answer["status"]) == (200, "success")
