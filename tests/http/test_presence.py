"""Who is connected, over HTTP; deletion; and what a client must not send."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from streamchat import MemoryEventBuffer
from streamchat.adapters.asgi import asgi_app
from streamchat.service.chat import StreamChat
from streamchat.testing import ScriptedModel, Stall, Step
from tests.adapters.serving import Connection, fetch, read_until, request, serve
from tests.http.asking import ask, serving

pytestmark = pytest.mark.anyio


def talking(**more: Any) -> StreamChat:
    model = ScriptedModel([Step("one two three", stall_after=1)], repeat=True)
    return StreamChat(model=model, allow_anonymous=True, **more)


async def status_of(port: int, run_id: str) -> str:
    return str((await fetch(port, "GET", f"/runs/{run_id}"))[1]["status"])


async def until_over(port: int, run_id: str) -> str:
    while (status := await status_of(port, run_id)) in ("queued", "running"):
        await asyncio.sleep(0.02)
    return status


async def test_presence_tells_who_reads_and_what_they_were_sent_last() -> None:
    async with serve(asgi_app(talking())) as port:
        _, started = await fetch(port, "POST", "/runs", {"message": "Hi"})
        where = f"/runs/{started['run_id']}/presence"
        assert await fetch(port, "GET", where) == (200, {"run_id": started["run_id"], "clients": []})
        async with (
            request(port, "GET", started["stream_url"], X_Client_Id="phone") as first,
            request(port, "GET", started["stream_url"] + "?client_id=laptop") as second,
        ):
            for connection in (first, second):
                await read_until(connection.blocks(), b"text_delta")
            _, answer = await fetch(port, "GET", where)
            assert [client["client_id"] for client in answer["clients"]] == ["phone", "laptop"]
            _, page = await fetch(port, "GET", f"/runs/{started['run_id']}/events")
            ids = {client["last_event_id"].rpartition(".")[2] for client in answer["clients"]}
            assert ids == {str(page["last_seq"])}
            assert all(client["since"] >= page["events"][0]["at"] for client in answer["clients"])
        while (await fetch(port, "GET", where))[1]["clients"]:
            await asyncio.sleep(0.02)
        assert (await fetch(port, "GET", "/runs/unknown/presence"))[0] == 404
        await fetch(port, "POST", f"/runs/{started['run_id']}/cancel")  # or the shutdown would wait for it


@pytest.mark.parametrize("abort", [True, False])
async def test_with_cancel_a_run_ends_when_the_last_connection_does(abort: bool) -> None:
    async with serve(asgi_app(talking(on_disconnect="cancel"))) as port:
        _, started = await fetch(port, "POST", "/runs", {"message": "Hi"})
        first, second = await Connection.open(port), await Connection.open(port)
        for connection in (first, second):
            await connection.send("GET", started["stream_url"])
            await connection.head()
            await read_until(connection.blocks(), b"text_delta")
        await first.close(abort=abort)
        where = f"/runs/{started['run_id']}/presence"
        while len((await fetch(port, "GET", where))[1]["clients"]) == 2:
            await asyncio.sleep(0.02)
        assert await status_of(port, started["run_id"]) == "running"
        await second.close(abort=abort)
        assert await until_over(port, started["run_id"]) == "cancelled"


async def test_a_client_that_leaves_its_own_request_has_left_the_run() -> None:
    chat = talking(on_disconnect="cancel")
    async with serve(asgi_app(chat)) as port:
        async with request(port, "POST", "/runs/stream", {"message": "Hi"}) as connection:
            await read_until(connection.blocks(), b"text_delta")
            run_id = connection.headers["content-location"].split("/")[2]
        assert await until_over(port, run_id) == "cancelled"


async def test_a_farewell_of_the_server_is_no_leaving() -> None:
    buffer = MemoryEventBuffer()
    chat = talking(on_disconnect="cancel", buffer=buffer)
    async with chat:
        async with serve(asgi_app(chat), lifespan="off") as port:
            _, started = await fetch(port, "POST", "/runs", {"message": "Hi"})
            async with request(port, "GET", started["stream_url"], Connection="close") as connection:
                await read_until(connection.blocks(), b"text_delta")
                await chat.drain(0)
                await connection.ended()
        run = await buffer.get(started["run_id"])
        assert (run.status, run.owner) == ("queued", None)
        # It is noted that the reader is to come back, and by when.
        (note,) = await buffer.notes(started["run_id"])
        assert not note.expired


async def test_a_conversation_is_deleted_with_its_run_and_its_streams() -> None:
    async with serve(asgi_app(talking())) as port:
        _, started = await fetch(port, "POST", "/runs", {"message": "Hi"})
        conversation = f"/conversations/{started['conversation_id']}"
        async with request(port, "GET", started["stream_url"]) as connection:
            await read_until(connection.blocks(), b"text_delta")
            assert await fetch(port, "DELETE", conversation) == (204, None)
            rest = await connection.body()
            assert b"history_reset" not in rest
        for method, path in (
            ("DELETE", conversation),
            ("GET", f"{conversation}/messages"),
            ("GET", started["stream_url"]),
            ("GET", f"/runs/{started['run_id']}"),
        ):
            assert (await fetch(port, method, path))[0] == 404
        assert (await fetch(port, "GET", "/conversations"))[1]["conversations"] == []


async def test_what_is_anothers_is_not_deleted_and_not_seen() -> None:
    async with serving(users=True) as endpoints:
        mine = (await ask(endpoints, "POST", "/runs/reply", json={"message": "Hi"}, user="ada")).json()
        theirs = f"/conversations/{mine['conversation_id']}"
        for path in (theirs, "/conversations/unknown"):
            answer = await ask(endpoints, "DELETE", path, user="bob")
            assert (answer.status, answer.error["code"]) == (404, "conversation_not_found")
        assert (await ask(endpoints, "GET", f"/runs/{mine['run_id']}/presence", user="bob")).status == 404
        assert (await ask(endpoints, "DELETE", theirs, user="ada")).status == 204
        assert (await ask(endpoints, "DELETE", theirs, user="ada")).status == 404


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", '{"deep":[1,{"a":NaN}]}'])
async def test_numbers_that_json_does_not_have_are_422(value: str) -> None:
    async with serving() as endpoints:
        body = f'{{"message":"Hi","metadata":{{"a":{value}}}}}'.encode()
        answer = await ask(endpoints, "POST", "/runs", body=body)
        assert (answer.status, answer.error["field"]) == (422, "metadata")
        assert (await ask(endpoints, "GET", "/conversations")).json()["conversations"] == []


async def test_a_list_behind_what_is_not_on_it_is_400() -> None:
    async with serving() as endpoints:
        run = (await ask(endpoints, "POST", "/runs/reply", json={"message": "Hi"})).json()
        for path in ("/conversations", f"/conversations/{run['conversation_id']}/messages"):
            answer = await ask(endpoints, "GET", f"{path}?after=nothing")
            assert answer.status == 400
            assert (answer.error["code"], answer.error["field"]) == ("invalid_query", "after")


async def test_a_request_after_the_service_was_closed_is_503() -> None:
    async with serving() as endpoints:
        run = (await ask(endpoints, "POST", "/runs/reply", json={"message": "Hi"})).json()
    for method, path in (
        ("GET", f"/runs/{run['run_id']}"),
        ("GET", f"/runs/{run['run_id']}/stream"),
        ("GET", "/conversations"),
        ("POST", f"/runs/{run['run_id']}/cancel"),
        ("DELETE", f"/conversations/{run['conversation_id']}"),
    ):
        answer = await ask(endpoints, method, path)
        assert (answer.status, answer.error["code"]) == (503, "busy")
        assert int(answer.headers["retry-after"]) >= 1
    assert (await ask(endpoints, "POST", "/runs", json={"message": "Hi"})).status == 503


async def test_the_key_of_a_run_finds_it_while_the_queue_is_full() -> None:
    stall = Stall()
    model = ScriptedModel([Step("one", stall_after=0, stall=stall)], repeat=True)
    async with serving(model) as endpoints:
        first = await ask(
            endpoints, "POST", "/runs", json={"message": "Hi"}, headers={"Idempotency-Key": "key"}
        )
        await stall.reached()
        await endpoints.chat.drain(0)
        again = await ask(
            endpoints, "POST", "/runs", json={"message": "Hi"}, headers={"Idempotency-Key": "key"}
        )
        assert (again.status, again.json()) == (201, first.json())
        assert again.headers["idempotent-replayed"] == "true"
        assert (await ask(endpoints, "POST", "/runs", json={"message": "Hi"})).status == 503
