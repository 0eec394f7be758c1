"""The endpoints under /conversations: lists by pages, messages as stored, the stream of the active run."""

from __future__ import annotations

from typing import Any

import pytest

from streamchat.testing import ScriptedModel, Stall, Step
from tests.http.asking import ask, serving

pytestmark = pytest.mark.anyio


async def test_conversations_come_by_pages_and_all_of_them() -> None:
    async with serving() as endpoints:
        ids = []
        for number in range(5):
            reply = await ask(endpoints, "POST", "/runs/reply", json={"message": f"No {number}"})
            ids.append(reply.json()["conversation_id"])
        whole = (await ask(endpoints, "GET", "/conversations")).json()
        assert sorted(each["id"] for each in whole["conversations"]) == sorted(ids)
        assert whole["next"] is None
        assert set(whole["conversations"][0]) == {"id", "title", "updated_at", "active_run_id"}
        for limit in (1, 2, 5, 6):
            got: list[Any] = []
            query = f"?limit={limit}"
            while True:
                page = (await ask(endpoints, "GET", f"/conversations{query}")).json()
                got += page["conversations"]
                assert len(page["conversations"]) <= limit
                if page["next"] is None:
                    break
                query = f"?limit={limit}&after={page['next']}"
            assert got == whole["conversations"]


async def test_messages_are_what_was_said_with_content_as_parts() -> None:
    async with serving() as endpoints:
        body = {"message": [{"type": "text", "text": "Hi"}], "conversation_id": "c1"}
        reply = (await ask(endpoints, "POST", "/runs/reply", json=body)).json()
        answer = (await ask(endpoints, "GET", "/conversations/c1/messages")).json()
        assert answer["next"] is None
        user, assistant = answer["messages"]
        assert {"id", "role", "status", "kind", "content", "run_id", "created_at"} <= set(user)
        assert (user["role"], user["status"], user["content"][0]["text"]) == ("user", "complete", "Hi")
        assert assistant["role"] == "assistant"
        assert assistant["id"] == reply["message_id"]
        assert assistant["run_id"] == reply["run_id"]
        assert assistant["content"] == reply["message"]["content"]
        first = (await ask(endpoints, "GET", "/conversations/c1/messages?limit=1")).json()
        assert (first["messages"], first["next"]) == ([user], user["id"])
        second = (
            await ask(endpoints, "GET", f"/conversations/c1/messages?limit=1&after={user['id']}")
        ).json()
        assert (second["messages"], second["next"]) == ([assistant], None)


async def test_an_edited_message_is_answered_in_the_place_of_the_old_one() -> None:
    async with serving() as endpoints:
        for body in ({"message": "one"}, {"message": "two"}):
            await ask(endpoints, "POST", "/runs/reply", json={**body, "conversation_id": "c1"})
        said = (await ask(endpoints, "GET", "/conversations/c1/messages")).json()["messages"]
        body = {"message": "two, edited", "conversation_id": "c1", "edits": said[2]["id"]}
        assert (await ask(endpoints, "POST", "/runs/reply", json=body)).status == 200
        after = (await ask(endpoints, "GET", "/conversations/c1/messages")).json()["messages"]
        assert after[:4] == said
        assert [message["parent_id"] for message in after[3:6:2]] == [said[2]["id"], after[4]["id"]]
        assert after[4]["parent_id"] == said[2]["parent_id"] == said[1]["id"]
        for wrong in ({"edits": said[1]["id"]}, {"edits": "no-such"}, {"conversation_id": None}):
            refused = await ask(endpoints, "POST", "/runs", json={**body, **wrong})
            assert refused.status == 422
            assert refused.json()["error"]["field"] in ("edits", "conversation_id")


async def test_a_message_that_waits_for_its_turn_is_told_so() -> None:
    stall = Stall()
    model = ScriptedModel([Step("One.", stall_after=1, stall=stall), "Two."])
    async with serving(model, on_busy="enqueue") as endpoints:
        body = {"message": "a", "conversation_id": "c1"}
        first = (await ask(endpoints, "POST", "/runs", json=body)).json()
        await stall.reached()
        second = await ask(endpoints, "POST", "/runs", json={**body, "message": "b"})
        assert (second.status, second.json()["enqueued"]) == (201, True)
        assert "enqueued" not in first
        waiting = (await ask(endpoints, "GET", "/conversations/c1/enqueued")).json()["runs"]
        assert [run["run_id"] for run in waiting] == [second.json()["run_id"]]
        assert set(waiting[0]) == {"run_id", "message_id", "created_at"}
        assert (await ask(endpoints, "GET", "/conversations/no-such/enqueued")).status == 404
        waiting = (await ask(endpoints, "GET", "/conversations/c1/enqueued")).json()["runs"]
        assert [run["run_id"] for run in waiting] == [second.json()["run_id"]]
        assert set(waiting[0]) == {"run_id", "message_id", "created_at"}
        assert (await ask(endpoints, "GET", "/conversations/no-such/enqueued")).status == 404
        going_on = await ask(endpoints, "HEAD", "/conversations/c1/stream")
        assert going_on.status == 200
        stall.release()
        stream = await ask(endpoints, "GET", second.json()["stream_url"])
        assert (await ask(endpoints, "GET", "/conversations/c1/enqueued")).json() == {"runs": []}
        assert (await ask(endpoints, "GET", "/conversations/c1/enqueued")).json() == {"runs": []}
        assert b"Two." in stream.body


async def test_the_stream_of_a_conversation_is_that_of_its_active_run() -> None:
    stall = Stall()
    async with serving(ScriptedModel([Step("Hello there.", stall_after=1, stall=stall)])) as endpoints:
        body = {"message": "Hi", "conversation_id": "c1"}
        run_id = (await ask(endpoints, "POST", "/runs", json=body)).json()["run_id"]
        await stall.reached()
        listed = (await ask(endpoints, "GET", "/conversations")).json()["conversations"]
        assert listed[0]["active_run_id"] == run_id
        assert (await ask(endpoints, "HEAD", "/conversations/c1/stream")).status == 200
        stall.release()
        stream = await ask(endpoints, "GET", "/conversations/c1/stream", mount="/m")
        assert stream.status == 200
        assert stream.headers["content-location"] == f"/m/runs/{run_id}/stream"
        assert stream.frames == (await ask(endpoints, "GET", f"/runs/{run_id}/stream")).frames
        # Over now, as in a conversation that nobody knows.
        for path in ("/conversations/c1/stream", "/conversations/unknown/stream"):
            assert (await ask(endpoints, "GET", path)).status == 204
            assert (await ask(endpoints, "HEAD", path)).status == 204


async def test_messages_of_an_unknown_conversation_are_404() -> None:
    async with serving() as endpoints:
        answer = await ask(endpoints, "GET", "/conversations/unknown/messages")
        assert (answer.status, answer.error["code"]) == (404, "conversation_not_found")
