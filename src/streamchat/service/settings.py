"""What `StreamChat` and its `start` are given, checked before anything is done."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from streamchat.core.given import check_callable, check_flag, check_instance, check_json, check_number
from streamchat.core.ids import check_id
from streamchat.errors import InvalidInput
from streamchat.messages import ModelMessage
from streamchat.models.base import Model
from streamchat.orchestration.options import RunOptions
from streamchat.service.access import check_principal
from streamchat.service.limits import ServiceLimits
from streamchat.tools import ToolRegistry

__all__ = ["check_settings", "check_start"]

_FLAGS = (
    "allow_anonymous",
    "allow_system_message",
    "allow_file_ids",
    "client_conversation_ids",
    "work",
)
_FUNCTIONS = ("authorize", "prepare_messages", "title", "deps", "on_run_finished")
_BUFFER = ("open", "close", "create", "claim", "append", "read", "get")


def check_settings(given: Mapping[str, Any]) -> None:
    """Raise `InvalidInput`, with ``field``, for an argument of `StreamChat` that is of another type."""
    check_instance("model", given["model"], Model, "a model, such as OpenAIChatModel(client, name)")
    check_instance(
        "tools", given["tools"], ToolRegistry, "a ToolRegistry, as ToolRegistry().add(…) fills it", none=True
    )
    _check_buffer(given["buffer"])
    for name in _FUNCTIONS:
        check_callable(name, given[name], "a function, or leave it out", none=True)
    for name in ("instructions", "streaming"):
        if not callable(given[name]):
            kind, give = (str, "text") if name == "instructions" else (bool, "True, False")
            check_instance(name, given[name], kind, f"{give} or a function", none=kind is str)
    check_instance("options", given["options"], RunOptions, "RunOptions(…)", none=True)
    check_instance(
        "limits",
        given["limits"],
        ServiceLimits,
        "ServiceLimits here; the limits of one run go into options=RunOptions(limits=Limits(…))",
        none=True,
    )
    if given["message_store"] is not None and not callable(getattr(given["message_store"], "save", None)):
        raise InvalidInput(
            f"message_store={given['message_store']!r:.100} has no save(messages): give a MessageStore",
            field="message_store",
        )
    for name in _FLAGS:
        check_flag(name, given[name])
    if given["worker"] is not None:
        check_id("worker", given["worker"])
    check_instance(
        "job_secret", given["job_secret"], str, "text, the same in all processes", none=True, secret=True
    )
    check_number("lease_ttl", given["lease_ttl"], above=0, finite=True)


def _check_buffer(buffer: object) -> None:
    if buffer is None or (
        not isinstance(buffer, type) and all(callable(getattr(buffer, name, None)) for name in _BUFFER)
    ):
        return
    # Text would be a URL, which may hold a password.
    raise InvalidInput(
        f"buffer is of type {type(buffer).__name__}: give an EventBuffer; "
        f"streamchat.buffers.buffer_for(url) makes one of a URL",
        field="buffer",
    )


def check_start(given: Mapping[str, Any]) -> None:
    """Raise `InvalidInput`, with ``field``, for an argument of `StreamChat.start` that cannot be used."""
    conversation_id = given["conversation_id"]
    check_instance("conversation_id", conversation_id, str, "text, or None for a new one", none=True)
    if conversation_id is not None and not _usable_id(conversation_id):
        raise InvalidInput(
            f"a conversation id has 1 to 64 printable ASCII characters, not {conversation_id[:80]!r}",
            field="conversation_id",
        )
    check_principal(given["principal"])
    for name in ("idempotency_key", "system_message", "client_id", "branch_at", "edits"):
        check_instance(name, given[name], str, "text, or leave it out", none=True)
    for name in ("history", "client_tools"):
        check_instance(name, given[name], Collection, "a list")
    for position, message in enumerate(given["history"]):
        check_instance(f"history.{position}", message, ModelMessage, "a ModelMessage")
    if not isinstance(given["message"], str):
        check_json("message", given["message"])
    if given["metadata"] is not None:
        check_instance("metadata", given["metadata"], Mapping, "a dict of JSON values")
        for key in given["metadata"]:
            check_instance("metadata", key, str, "a dict whose keys are text")
        check_json("metadata", dict(given["metadata"]))


def _usable_id(conversation_id: str) -> bool:
    return conversation_id.isascii() and conversation_id.isprintable() and 0 < len(conversation_id) <= 64
