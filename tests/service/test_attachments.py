"""Images, sound and files in a user's message: how many, how large, and what the model is given of them."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from streamchat import EventBuffer, ServiceLimits, StreamChat
from streamchat.errors import AttachmentTooLarge, InvalidInput
from streamchat.http.errors import error_response
from streamchat.service.attachments import check_attachments
from streamchat.testing import ScriptedModel

LIMITS = ServiceLimits(max_attachments=2, max_attachment_bytes=30)


@pytest.fixture
def buffer(any_store: EventBuffer) -> EventBuffer:
    """One of each sort: what is counted, kept and taken over is the store's doing."""
    return any_store


def data(size: int) -> str:
    return base64.b64encode(b"x" * size).decode()


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


TEXT = {"type": "text", "text": "See:"}


@pytest.mark.parametrize(
    ("part", "field"),
    [
        (image(f"data:image/png;base64,{data(31)}"), "image_url.url"),
        (image("data:text/plain," + "%20" * 31), "image_url.url"),
        ({"type": "input_audio", "input_audio": {"data": data(31), "format": "wav"}}, "input_audio.data"),
        ({"type": "file", "file": {"file_data": data(31)}}, "file.file_data"),
        ({"type": "file", "file": {"file_data": f"data:;base64,{data(10_000)}"}}, "file.file_data"),
    ],
)
def test_an_attachment_that_is_too_large_is_named(part: dict[str, Any], field: str) -> None:
    with pytest.raises(AttachmentTooLarge, match="max_attachment_bytes") as refused:
        check_attachments([TEXT, part], LIMITS)
    assert refused.value.field == f"message.1.{field}"
    answer = error_response(refused.value, "POST /runs")
    assert answer.status == 413
    assert f'"field":"message.1.{field}"' in answer.body.decode().replace(" ", "")


@pytest.mark.parametrize(
    "part",
    [
        image(f"data:image/png;base64,{data(30)}"),
        image("https://example.org/a.png?" + "x" * 100),
        {"type": "input_audio", "input_audio": {"data": data(30), "format": "wav"}},
    ],
)
def test_what_is_within_the_limit_or_stands_elsewhere_is_taken(part: dict[str, Any]) -> None:
    check_attachments([TEXT, part], LIMITS)


@pytest.mark.parametrize(
    "part",
    [
        image("data:image/png;base64"),
        image("data:image/png;base64,%%%%"),
        {"type": "image_url", "image_url": {"url": 7}},
        {"type": "input_audio", "input_audio": {}},
        {"type": "file", "file": {"file_data": "no base64!"}},
    ],
)
def test_an_attachment_that_does_not_read_is_named(part: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_attachments([part], LIMITS)
    assert str(refused.value.field).startswith("message.0.")
    assert error_response(refused.value, "POST /runs").status == 422


@pytest.mark.anyio
async def test_a_providers_file_id_is_taken_only_where_the_application_allows_it(buffer: EventBuffer) -> None:
    """All users' files lie in the application's one account there: an id of another's would be theirs."""
    parts: list[dict[str, Any]] = [TEXT, {"type": "file", "file": {"file_id": "file-1"}}]
    model = ScriptedModel(["A contract."])
    async with StreamChat(model=model, buffer=buffer, allow_anonymous=True) as chat:
        with pytest.raises(InvalidInput, match="allow_file_ids") as refused:
            await chat.start(None, parts)
        assert await chat.conversations() == []
    assert refused.value.field == "message.1.file.file_id"
    async with StreamChat(model=model, buffer=buffer, allow_anonymous=True, allow_file_ids=True) as chat:
        await chat.reply(None, parts)
    assert [request.messages[0].content for request in model.requests] == [parts]


def test_too_many_attachments_are_refused() -> None:
    with pytest.raises(InvalidInput, match="max_attachments") as refused:
        check_attachments([image("https://example.org/a.png")] * 3, LIMITS)
    assert refused.value.field == "message"


@pytest.mark.anyio
async def test_an_image_reaches_the_model_in_this_turn_and_the_next(buffer: EventBuffer) -> None:
    parts = [TEXT, image(f"data:image/png;base64,{data(20)}")]
    model = ScriptedModel(["A cat.", "Yes."])
    async with StreamChat(model=model, buffer=buffer, allow_anonymous=True, limits=LIMITS) as chat:
        first = await chat.reply(None, parts)
        await chat.reply(first.conversation_id, "Sure?")
        with pytest.raises(AttachmentTooLarge):
            await chat.start(first.conversation_id, [image(f"data:image/png;base64,{data(99)}")])
    for request in model.requests:
        assert request.messages[0].content == parts
