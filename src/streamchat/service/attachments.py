"""What a user's message may bring beside its text: how many images, sounds and files, and how large."""

from __future__ import annotations

import binascii
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote_to_bytes

from streamchat.errors import AttachmentTooLarge, InvalidInput
from streamchat.service.limits import ServiceLimits

__all__ = ["check_attachments"]

_BASE64_LETTERS = 4
_BASE64_BYTES = 3


def check_attachments(
    parts: Sequence[Mapping[str, Any]], limits: ServiceLimits, *, file_ids: bool = False
) -> None:
    """Check the parts of a message that are no text.

    A provider's ``file_id`` is taken with ``file_ids`` only: the provider cannot tell whose file it is, for
    all are the application's there. Raises `InvalidInput` (such an id, too many, or one whose content does
    not read) and `AttachmentTooLarge`, each with the ``field``.
    """
    attached = [(at, part) for at, part in enumerate(parts) if part["type"] != "text"]
    if len(attached) > limits.max_attachments:
        raise InvalidInput(
            f"the message has {len(attached)} attachments; {limits.max_attachments} are allowed "
            "(max_attachments)",
            field="message",
        )
    for at, part in attached:
        if not file_ids and part["type"] == "file" and part["file"].get("file_id") is not None:
            raise InvalidInput(
                "a provider's file id is not taken from clients here (allow_file_ids)",
                field=f"message.{at}.file.file_id",
            )
        field, content = _content(part)
        where = f"message.{at}.{field}"
        if content is None:
            continue
        if not isinstance(content, str):
            raise InvalidInput(f"{where} must be text, not {type(content).__name__}", field=where)
        _check(content, where, limits.max_attachment_bytes, always_whole=part["type"] != "image_url")


def _content(part: Mapping[str, Any]) -> tuple[str, Any]:
    """Where in a part its content stands, and that; None where it is named by an id."""
    inner = part[part["type"]]
    match part["type"]:
        case "image_url":
            return "image_url.url", inner.get("url", 0)
        case "input_audio":
            return "input_audio.data", inner.get("data", 0)
        case _:
            return "file.file_data", inner.get("file_data")


def _check(content: str, where: str, most: int, *, always_whole: bool) -> None:
    """Check one attachment; other URLs than ``data:`` are for the provider to load."""
    is_url = content[:5].lower() == "data:"
    if not is_url and not always_whole:
        return
    head, comma, data = content.partition(",") if is_url else (";base64", ",", content)
    if not comma:
        raise InvalidInput(f"{where} is a data: URL without a comma", field=where)
    is_base64 = head.lower().endswith(";base64")
    least = len(data) // _BASE64_LETTERS * _BASE64_BYTES - 2 if is_base64 else len(data) // 3
    if least > most:  # judged before anything is decoded
        raise _too_large(where, least, most)
    try:
        size = len(binascii.a2b_base64(data, strict_mode=True) if is_base64 else unquote_to_bytes(data))
    except ValueError as error:
        raise InvalidInput(f"{where} is not valid base64: {error}", field=where) from error
    if size > most:
        raise _too_large(where, size, most)


def _too_large(where: str, size: int, most: int) -> AttachmentTooLarge:
    return AttachmentTooLarge(
        f"{where} has some {size} bytes; {most} are allowed (max_attachment_bytes)", field=where
    )
