"""The endpoints under /runs: what is started, streamed, read, cancelled, and how mistakes are answered."""

from __future__ import annotations

import json
from typing import Any

import pytest

from streamchat.http import HTTPOptions
from streamchat.http.endpoints import Endpoints
from streamchat.http.openapi import openapi_document
from streamchat.service.chat import ServiceLimits
from streamchat.testing import ScriptedModel, Stall, Step
from tests.http.asking import Answer, ask, make_request, serving

pytestmark = pytest.mark.anyio


async def start(endpoints: Endpoints, message: str = "Hi", **request: Any) -> dict[str, Any]:
    answer = await ask(endpoints, "POST", "/runs", json={"message": message}, **request)
    assert answer.status == 201, answer.body
    started: dict[str, Any] = answer.json()
    return started


async def test_a_run_is_started_and_its_stream_is_the_log() -> None:
    async with serving() as endpoints:
        answer = await ask(endpoints, "POST", "/runs", json={"message": "Hi"}, mount="/chat")
        started = answer.json()
        assert answer.status == 201
        assert set(started) == {"run_id", "message_id", "conversation_id", "stream_url"}
        assert started["stream_url"] == f"/chat/runs/{started['run_id']}/stream"
        assert answer.headers["location"] == f"/chat/runs/{started['run_id']}"
        stream = await ask(endpoints, "GET", f"/runs/{started['run_id']}/stream")
        assert stream.status == 200
        assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert stream.headers["cache-control"] == "no-cache, no-transform"
        assert stream.headers["content-encoding"] == "identity"
        assert stream.headers["x-accel-buffering"] == "no"
        log = await ask(endpoints, "GET", f"/runs/{started['run_id']}/events")
        assert [json.loads(frame.data) for frame in stream.frames] == log.json()["events"]
        assert [frame.event for frame in stream.frames][0::100] == ["run_started"]
        assert stream.frames[-1].event == "finalized"


async def test_the_stream_begins_with_an_id_line_alone() -> None:
    async with serving() as endpoints:
        run_id = (await start(endpoints))["run_id"]
        whole = await ask(endpoints, "GET", f"/runs/{run_id}/stream")
        first = whole.body.split(b"\n\n")[0]
        generation = whole.frames[0].id.partition(".")[0]
        assert first == f"id: {generation}.0".encode()
        cursor = whole.frames[2].id
        again = await ask(endpoints, "GET", f"/runs/{run_id}/stream", headers={"Last-Event-ID": cursor})
        assert again.body.startswith(f"id: {cursor}\n\n".encode())
        assert again.frames == whole.frames[3:]


async def test_starting_and_streaming_in_one_request_says_where_to_go_on() -> None:
    async with serving() as endpoints:
        answer = await ask(endpoints, "POST", "/runs/stream", json={"message": "Hi"}, mount="/chat")
        run_id = json.loads(answer.frames[0].data)["run_id"]
        assert answer.status == 200
        assert answer.headers["content-location"] == f"/chat/runs/{run_id}/stream"
        assert answer.frames == (await ask(endpoints, "GET", f"/runs/{run_id}/stream")).frames


async def test_a_reply_is_the_whole_answer_as_json() -> None:
    async with serving() as endpoints:
        answer = await ask(endpoints, "POST", "/runs/reply", json={"message": "Hi"})
        assert answer.status == 200
        reply = answer.json()
        assert reply["status"] == "success"
        assert [part["text"] for part in reply["message"]["content"]] == ["Hello there."]
        again = (await ask(endpoints, "GET", f"/runs/{reply['run_id']}")).json()
        assert again == reply
        assert {"run_id", "status", "waits", "usage", "timings", "message"} <= set(again)


async def test_204_only_after_the_end_and_with_everything() -> None:
    async with serving() as endpoints:
        run_id = (await start(endpoints))["run_id"]
        frames = (await ask(endpoints, "GET", f"/runs/{run_id}/stream")).frames
        for number, frame in enumerate(frames, 1):
            answer = await ask(
                endpoints, "GET", f"/runs/{run_id}/stream", headers={"last-event-id": frame.id}
            )
            assert answer.status == (204 if number == len(frames) else 200)
            assert answer.frames == frames[number:]
        # Told without a cursor, the whole log comes once more.
        assert (await ask(endpoints, "GET", f"/runs/{run_id}/stream")).frames == frames


async def test_the_header_wins_over_the_query() -> None:
    async with serving() as endpoints:
        run_id = (await start(endpoints))["run_id"]
        frames = (await ask(endpoints, "GET", f"/runs/{run_id}/stream")).frames
        path = f"/runs/{run_id}/stream?last_event_id={frames[0].id}"
        assert (await ask(endpoints, "GET", path)).frames == frames[1:]
        header = {"Last-Event-ID": frames[3].id}
        assert (await ask(endpoints, "GET", path, headers=header)).frames == frames[4:]


async def test_a_cursor_of_another_run_counts_as_none() -> None:
    async with serving() as endpoints:
        one, other = await start(endpoints), await start(endpoints)
        theirs = (await ask(endpoints, "GET", f"/runs/{other['run_id']}/stream")).frames
        mine = (await ask(endpoints, "GET", f"/runs/{one['run_id']}/stream")).frames
        header = {"Last-Event-ID": theirs[-1].id}
        assert (await ask(endpoints, "GET", f"/runs/{one['run_id']}/stream", headers=header)).frames == mine


async def test_a_cursor_that_the_log_never_reached_gets_a_reset() -> None:
    async with serving() as endpoints:
        run_id = (await start(endpoints))["run_id"]
        last = (await ask(endpoints, "GET", f"/runs/{run_id}/stream")).frames[-1]
        generation = last.id.partition(".")[0]
        answer = await ask(
            endpoints, "GET", f"/runs/{run_id}/stream", headers={"Last-Event-ID": f"{generation}.999"}
        )
        (frame,) = answer.frames
        assert (frame.event, frame.id) == ("history_reset", last.id)
        assert json.loads(frame.data)["snapshot"]["status"] == "success"


@pytest.mark.parametrize(
    "cursor", ["x", "1", "gen.", ".1", "gen.-1", "gen.1.2x", "GEN.1", "gen.01", "a" * 5000]
)
async def test_a_malformed_cursor_is_400(cursor: str) -> None:
    async with serving() as endpoints:
        run_id = (await start(endpoints))["run_id"]
        for request in (
            {"method": "GET", "target": f"/runs/{run_id}/stream", "headers": {"Last-Event-ID": cursor}},
            {"method": "GET", "target": f"/runs/{run_id}/stream?last_event_id={cursor}"},
            {"method": "HEAD", "target": f"/runs/{run_id}/stream?last_event_id={cursor}"},
            {"method": "GET", "target": f"/conversations/c/stream?last_event_id={cursor}"},
        ):
            answer = await ask(endpoints, **request)  # type: ignore[arg-type]
            assert answer.status == 400
            if request["method"] == "GET":
                assert (answer.error["code"], answer.error["field"]) == ("invalid_cursor", "last_event_id")


async def test_a_malformed_cursor_starts_nothing() -> None:
    async with serving() as endpoints:
        header = {"Last-Event-ID": "nonsense"}
        answer = await ask(endpoints, "POST", "/runs/stream", json={"message": "Hi"}, headers=header)
        assert answer.status == 400
        assert (await ask(endpoints, "GET", "/conversations")).json()["conversations"] == []


# Idempotency.


async def test_the_same_key_and_body_is_the_same_run() -> None:
    async with serving() as endpoints:
        key = {"Idempotency-Key": "k1"}
        first = await ask(endpoints, "POST", "/runs", json={"message": "Hi"}, headers=key)
        second = await ask(endpoints, "POST", "/runs", json={"message": "Hi"}, headers=key)
        assert (first.status, second.status) == (201, 201)
        assert first.json() == second.json()
        assert "idempotent-replayed" not in first.headers
        assert second.headers["idempotent-replayed"] == "true"
        streamed = await ask(endpoints, "POST", "/runs/stream", json={"message": "Hi"}, headers=key)
        assert json.loads(streamed.frames[0].data)["run_id"] == first.json()["run_id"]
        cursor = {**key, "Last-Event-ID": streamed.frames[1].id}
        resumed = await ask(endpoints, "POST", "/runs/stream", json={"message": "Hi"}, headers=cursor)
        assert resumed.frames == streamed.frames[2:]


async def test_the_same_key_with_another_body_is_422() -> None:
    async with serving() as endpoints:
        key = {"Idempotency-Key": "k1"}
        await start(endpoints, headers=key)
        answer = await ask(endpoints, "POST", "/runs", json={"message": "Other"}, headers=key)
        assert (answer.status, answer.error["code"]) == (422, "idempotency_conflict")


@pytest.mark.parametrize("key", ["", "x" * 256, "ä", "a\x01"])
async def test_an_unusable_key_is_400(key: str) -> None:
    async with serving() as endpoints:
        answer = await ask(
            endpoints, "POST", "/runs", json={"message": "Hi"}, headers={"Idempotency-Key": key}
        )
        assert (answer.status, answer.error["field"]) == (400, "idempotency-key")


# What is refused.

BAD_BODIES: list[tuple[bytes, str, str]] = [
    (b"", "invalid_json", "body"),
    (b"{", "invalid_json", "body"),
    (b'{"message": "a"} x', "invalid_json", "body"),
    (b"\xff\xfe", "invalid_json", "body"),
    (b'{"message": "\xff"}', "invalid_json", "body"),
    (b"[" * 50_000, "invalid_json", "body"),
    (b"[]", "invalid_input", "body"),
    (b"null", "invalid_input", "body"),
    (b"{}", "invalid_input", "message"),
    (b'{"message": null}', "invalid_input", "message"),
    (b'{"message": 5}', "invalid_input", "message"),
    (b'{"message": ""}', "invalid_input", "message"),
    (b'{"message": []}', "invalid_input", "message"),
    (b'{"message": [5]}', "invalid_input", "message.0"),
    (b'{"message": [{"type": "text"}]}', "invalid_input", "message.0.text"),
    (
        b'{"message": [{"type": "text", "text": "a"}, {"type": "text", "text": 1}]}',
        "invalid_input",
        "message.1.text",
    ),
    (b'{"message": [{"type": "magic"}]}', "invalid_input", "message.0"),
    (
        b'{"message": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}',
        "invalid_input",
        "message.0.image_url.url",
    ),
    (b'{"message": "a", "mesage": "b"}', "invalid_input", "mesage"),
    (b'{"message": "a", "metadata": []}', "invalid_input", "metadata"),
    (b'{"message": "a", "conversation_id": ""}', "invalid_input", "conversation_id"),
    (b'{"message": "a", "conversation_id": "team/42"}', "invalid_input", "conversation_id"),
    (b'{"message": "a", "conversation_id": "."}', "invalid_input", "conversation_id"),
    (b'{"message": "a", "conversation_id": "\xc3\xa4"}', "invalid_input", "conversation_id"),
    (b'{"message": "a", "system_message": "obey"}', "invalid_input", "system_message"),
]


@pytest.mark.parametrize("path", ["/runs", "/runs/stream", "/runs/reply"])
async def test_a_bad_body_is_422_with_the_field_and_nothing_is_written(path: str) -> None:
    async with serving() as endpoints:
        for body, code, field in BAD_BODIES:
            answer = await ask(endpoints, "POST", path, body=body)
            assert (answer.status, answer.error["code"], answer.error["field"]) == (422, code, field), body
            assert set(answer.error) == {"code", "message", "field", "correlation_id"}
        assert (await ask(endpoints, "GET", "/conversations")).json()["conversations"] == []


async def test_malformed_json_is_answered_with_its_position() -> None:
    async with serving() as endpoints:
        answer = await ask(endpoints, "POST", "/runs", body=b'{"message":\n  oops}')
        assert "line 2 column 3" in answer.error["message"]


@pytest.mark.parametrize("content_type", ["text/plain", "", "application/x-www-form-urlencoded", "text/json"])
async def test_another_content_type_is_415(content_type: str) -> None:
    async with serving() as endpoints:
        headers = {"content-type": content_type}
        answer = await ask(endpoints, "POST", "/runs", body=b'{"message": "Hi"}', headers=headers)
        assert (answer.status, answer.error["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/x+json"]
)
async def test_json_by_any_of_its_names_is_taken(content_type: str) -> None:
    async with serving() as endpoints:
        headers = {"content-type": content_type}
        assert (await ask(endpoints, "POST", "/runs", json={"message": "Hi"}, headers=headers)).status == 201


async def test_a_body_is_refused_while_it_is_read_not_after() -> None:
    async with serving(limits=ServiceLimits(max_body_bytes=1000)) as endpoints:
        taken = 0

        async def endless() -> Any:
            nonlocal taken
            while True:
                taken += 1
                yield b" " * 100

        request = make_request("POST", "/runs", json={})
        request.body = body = endless()
        response = await endpoints.handle(request)
        assert response.status == 413
        assert taken == 11
        await body.aclose()


async def test_a_body_that_says_it_is_too_large_is_not_read_at_all() -> None:
    async with serving() as endpoints:
        for length in ("1000001", "9" * 500):
            request = make_request(
                "POST", "/runs", json={"message": "Hi"}, headers={"content-length": length}
            )
            response = await endpoints.handle(request)
            assert response.status == 413
            assert [block async for block in request.body] != []


async def test_a_body_of_the_largest_size_is_taken() -> None:
    body = json.dumps({"message": "x" * 500}).encode()
    async with serving(limits=ServiceLimits(max_body_bytes=len(body))) as endpoints:
        assert (await ask(endpoints, "POST", "/runs", body=[body[:7], body[7:]])).status == 201
        assert (await ask(endpoints, "POST", "/runs", body=[body, b" "])).status == 413


async def test_a_body_that_never_ends_is_given_up() -> None:
    async with serving(options=HTTPOptions(body_timeout=0.01)) as endpoints:
        request = make_request("POST", "/runs", json={})

        async def stuck() -> Any:
            yield b"{"
            await request.disconnected()

        request.body = stuck()
        assert (await endpoints.handle(request)).status == 408


async def test_a_message_of_too_many_characters_is_422() -> None:
    async with serving(limits=ServiceLimits(max_message_chars=10)) as endpoints:
        answer = await ask(endpoints, "POST", "/runs", json={"message": "x" * 11})
        assert (answer.status, answer.error["field"]) == (422, "message")


# Busy.


async def test_a_second_message_while_a_run_is_active_is_409_and_names_the_run() -> None:
    stall = Stall()
    model = ScriptedModel([Step("Hello there.", stall_after=1, stall=stall)])
    async with serving(model) as endpoints:
        body = {"message": "Hi", "conversation_id": "c1"}
        started = (await ask(endpoints, "POST", "/runs", json=body)).json()
        await stall.reached()
        for path in ("/runs", "/runs/stream", "/runs/reply"):
            answer = await ask(endpoints, "POST", path, json=body)
            assert (answer.status, answer.error["code"]) == (409, "conversation_busy")
            assert answer.error["active_run_id"] == started["run_id"]
        stall.release()
        assert (await ask(endpoints, "GET", f"/runs/{started['run_id']}/stream")).status == 200


async def test_a_full_queue_is_503_with_retry_after() -> None:
    async with serving(limits=ServiceLimits(max_queue=0)) as endpoints:
        answer = await ask(endpoints, "POST", "/runs", json={"message": "Hi"})
        assert (answer.status, answer.error["code"]) == (503, "busy")
        assert int(answer.headers["retry-after"]) >= 1


async def test_a_draining_service_is_not_ready_and_takes_no_runs_but_shows_what_it_has() -> None:
    async with serving() as endpoints:
        run_id = (await start(endpoints))["run_id"]
        frames = (await ask(endpoints, "GET", f"/runs/{run_id}/stream")).frames
        assert (await ask(endpoints, "GET", "/health/ready")).status == 200
        await endpoints.chat.drain()
        ready = await ask(endpoints, "GET", "/health/ready")
        assert (ready.status, ready.json(), ready.headers["retry-after"]) == (
            503,
            {"status": "draining"},
            "1",
        )
        assert (await ask(endpoints, "GET", "/health/live")).status == 200
        answer = await ask(endpoints, "POST", "/runs", json={"message": "Hi"})
        assert answer.status == 503
        assert "retry-after" in answer.headers
        assert (await ask(endpoints, "GET", f"/runs/{run_id}/stream")).frames == frames


async def test_with_streaming_off_streams_are_409_and_replies_work() -> None:
    stall = Stall()
    model = ScriptedModel(["Hello there.", Step("Hello there.", stall_after=1, stall=stall)])
    async with serving(model, streaming=lambda principal: False) as endpoints:
        reply = await ask(endpoints, "POST", "/runs/reply", json={"message": "Hi"})
        assert reply.status == 200
        active = await start(endpoints)
        await stall.reached()
        for answer in (
            await ask(endpoints, "POST", "/runs/stream", json={"message": "Hi"}),
            await ask(endpoints, "GET", f"/runs/{reply.json()['run_id']}/stream"),
            await ask(endpoints, "GET", f"/conversations/{active['conversation_id']}/stream"),
        ):
            assert (answer.status, answer.error["code"]) == (409, "streaming_off")
        stall.release()


async def test_streams_are_bounded_and_their_places_come_back() -> None:
    options = HTTPOptions(max_streams=2, max_streams_per_principal=1)
    async with serving(options=options, users=True) as endpoints:
        path = f"/runs/{(await start(endpoints, user='ann'))['run_id']}/stream"
        one = await endpoints.handle(make_request("GET", path, user="ann"))
        assert (one.status, endpoints.open_streams) == (200, 1)
        second = await ask(endpoints, "GET", path, user="ann")
        assert (second.status, second.headers["retry-after"]) == (429, "5")
        refused = await ask(endpoints, "POST", "/runs/stream", json={"message": "Hi"}, user="ann")
        assert refused.status == 429
        await one.body.aclose()  # type: ignore[union-attr]
        await one.body.aclose()  # type: ignore[union-attr]
        assert endpoints.open_streams == 0
        assert (await ask(endpoints, "GET", path, user="ann")).status == 200
        assert (await ask(endpoints, "GET", path, user="bob")).status == 404
        assert endpoints.open_streams == 0
        assert len((await ask(endpoints, "GET", "/conversations", user="ann")).json()["conversations"]) == 1


# Reading the log by pages.


async def test_pages_of_any_size_make_up_the_log() -> None:
    async with serving() as endpoints:
        run_id = (await start(endpoints))["run_id"]
        frames = (await ask(endpoints, "GET", f"/runs/{run_id}/stream")).frames
        for limit in range(1, len(frames) + 2):
            got: list[Any] = []
            after: int | None = 0
            while after is not None:
                page = (
                    await ask(endpoints, "GET", f"/runs/{run_id}/events?after={after}&limit={limit}")
                ).json()
                got += page["events"]
                after = page["next"]
            assert got == [json.loads(frame.data) for frame in frames]
        behind = (await ask(endpoints, "GET", f"/runs/{run_id}/events?after={len(frames)}")).json()
        assert (behind["events"], behind["next"]) == ([], None)
        assert (behind["first_seq"], behind["last_seq"]) == (1, len(frames))


async def test_a_page_of_a_run_at_work_says_where_to_look_next() -> None:
    stall = Stall()
    async with serving(ScriptedModel([Step("Hello there.", stall_after=1, stall=stall)])) as endpoints:
        run_id = (await start(endpoints))["run_id"]
        await stall.reached()
        page = (await ask(endpoints, "GET", f"/runs/{run_id}/events")).json()
        assert page["next"] == page["events"][-1]["seq"]
        ahead = (await ask(endpoints, "GET", f"/runs/{run_id}/events?after=1000")).json()
        assert ahead["events"] == []
        assert ahead["next"] is not None
        stall.release()
        await ask(endpoints, "GET", f"/runs/{run_id}/stream")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("after=x", "after"),
        ("after=-1", "after"),
        ("after=1.5", "after"),
        ("after=" + "9" * 30, "after"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=%C2%B2", "limit"),
        ("limit=x", "limit"),
    ],
)
async def test_a_malformed_query_is_400_with_the_field(query: str, field: str) -> None:
    async with serving() as endpoints:
        run_id = (await start(endpoints))["run_id"]
        answer = await ask(endpoints, "GET", f"/runs/{run_id}/events?{query}")
        assert (answer.status, answer.error["code"], answer.error["field"]) == (400, "invalid_query", field)


# Cancelling.


@pytest.mark.parametrize("request_", [{}, {"json": {}}, {"json": {"reason": "bored"}}, {"body": b"  "}])
async def test_a_cancel_ends_the_run_and_may_be_repeated(request_: dict[str, Any]) -> None:
    stall = Stall()
    async with serving(ScriptedModel([Step("Hello there.", stall_after=1, stall=stall)])) as endpoints:
        run_id = (await start(endpoints))["run_id"]
        await stall.reached()
        for _ in range(2):
            answer = await ask(endpoints, "POST", f"/runs/{run_id}/cancel", **request_)
            assert answer.status == 202
        frames = (await ask(endpoints, "GET", f"/runs/{run_id}/stream")).frames
        assert json.loads(frames[-1].data)["status"] == "cancelled"
        (cancelled,) = [json.loads(frame.data) for frame in frames if frame.event == "cancelled"]
        assert cancelled.get("reason") == request_.get("json", {}).get("reason")
        assert (await ask(endpoints, "POST", f"/runs/{run_id}/cancel")).status == 202
        stall.release()


async def test_a_cancel_with_a_bad_body_cancels_nothing() -> None:
    async with serving() as endpoints:
        run_id = (await start(endpoints))["run_id"]
        await ask(endpoints, "GET", f"/runs/{run_id}/stream")
        for body, field in ((b"{", "body"), (b'{"reason": 1}', "reason"), (b'{"why": ""}', "why")):
            answer = await ask(endpoints, "POST", f"/runs/{run_id}/cancel", body=body)
            assert (answer.status, answer.error["field"]) == (422, field)


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_where_a_body_may_be_left_out_none_is_right_of_any_type(content_type: str) -> None:
    async with serving() as endpoints:
        run_id = (await start(endpoints))["run_id"]
        await ask(endpoints, "GET", f"/runs/{run_id}/stream")
        paths = openapi_document(endpoints.routes)["paths"]
        optional = [
            path.replace("{id}", run_id)
            for path, methods in paths.items()
            if not methods.get("post", {}).get("requestBody", {"required": True})["required"]
        ]
        assert f"/runs/{run_id}/cancel" in optional
        for path in optional:
            for length in ({}, {"content-length": "0"}, {"content-length": ""}):  # "" is wsgiref's
                headers = {"content-type": content_type, **length}
                answer = await ask(endpoints, "POST", path, body=b"", headers=headers)
                assert answer.status in (201, 202, 409), (path, headers)
                evil = {**headers, "origin": "https://evil.example"}
                assert (await ask(endpoints, "POST", path, body=b"", headers=evil)).status == 403
            for length in ({}, {"content-length": "2"}):
                headers = {"content-type": content_type, **length}
                answer = await ask(endpoints, "POST", path, body=b"{}", headers=headers)
                assert (answer.status, answer.error["field"]) == (415, "content-type")


# Whose it is.


async def test_what_belongs_to_somebody_else_looks_like_what_does_not_exist() -> None:
    async with serving(users=True) as endpoints:
        started = await start(endpoints, user="ann")

        async def seen(run_id: str, conversation_id: str) -> list[tuple[int, Any]]:
            requests: list[dict[str, Any]] = [
                {"method": "GET", "target": f"/runs/{run_id}"},
                {"method": "GET", "target": f"/runs/{run_id}/stream"},
                {"method": "HEAD", "target": f"/runs/{run_id}/stream"},
                {"method": "GET", "target": f"/runs/{run_id}/events"},
                {"method": "POST", "target": f"/runs/{run_id}/cancel"},
                {"method": "GET", "target": f"/conversations/{conversation_id}/messages"},
                {"method": "GET", "target": f"/conversations/{conversation_id}/stream"},
                {"method": "HEAD", "target": f"/conversations/{conversation_id}/stream"},
            ]
            return [plain(await ask(endpoints, user="bob", **request)) for request in requests]

        def plain(answer: Answer) -> tuple[int, Any]:
            body = answer.json() if answer.body else None
            if body is not None:
                body["error"].pop("correlation_id")
            return answer.status, body

        foreign = await seen(started["run_id"], started["conversation_id"])
        assert foreign == await seen("unknown", "unknown")
        assert [status for status, _ in foreign] == [404, 404, 404, 404, 404, 404, 204, 204]
        body = {"message": "Mine now", "conversation_id": started["conversation_id"]}
        assert (await ask(endpoints, "POST", "/runs", json=body, user="bob")).status == 404
        assert (await ask(endpoints, "GET", "/conversations", user="bob")).json()["conversations"] == []


async def test_nobody_is_401_with_a_challenge_but_health_is_for_all() -> None:
    async with serving(users=True) as endpoints:
        answer = await ask(endpoints, "GET", "/conversations")
        assert (answer.status, answer.error["code"]) == (401, "unauthenticated")
        assert answer.headers["www-authenticate"]
        assert (await ask(endpoints, "GET", "/health/ready")).status == 200


async def test_who_may_not_start_is_403() -> None:
    async with serving(authorize=lambda principal, action, resource: action != "start") as endpoints:
        answer = await ask(endpoints, "POST", "/runs", json={"message": "Hi"})
        assert (answer.status, answer.error["code"]) == (403, "not_authorized")
