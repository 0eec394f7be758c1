"""What a server's refusal is to the client: one class for each answer that a program treats differently."""

from __future__ import annotations

import json
from typing import Any

from streamchat.errors import StreamChatError

__all__ = ["ClientError", "ServerUnreachable", "refusal", "unreadable"]


class ClientError(StreamChatError):
    """The server refused a request; asking again as it is would be of no use.

    ``status`` is the HTTP status, ``code`` the server's word for it, ``field`` what was wrong in the request.
    ``correlation_id`` leads to the server's log. ``detail`` is the whole error object.
    """

    def __init__(self, status: int, detail: dict[str, Any]) -> None:
        self.status = status
        self.code = str(detail.get("code", "http_error"))
        self.field: str | None = detail.get("field")
        self.correlation_id: str | None = detail.get("correlation_id")
        self.detail = detail
        where = f" (correlation id {self.correlation_id})" if self.correlation_id else ""
        super().__init__(f"the server answered {status} {self.code}: {detail.get('message', '')}{where}")

    @property
    def no_streams(self) -> bool:
        """Whether the server gives this client no streams, or nobody."""
        return self.code in ("streaming_off", "streaming_unavailable")


class ServerUnreachable(StreamChatError):
    """The server could not be reached, or had no room, for longer than the client's ``patience``."""

    code = "server_unreachable"


def refusal(status: int, body: bytes) -> ClientError:
    """Return the error that an answer of ``status`` stands for, whatever its body is."""
    try:
        detail = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        detail = None
    if not isinstance(detail, dict):
        # Somebody on the way answered, or the URL is not that of a streamchat server.
        words = " ".join(body[:400].decode("utf-8", "replace").split())[:200]
        detail = {"message": "".join(each for each in words if each.isprintable())}
    return ClientError(status, detail)


def unreadable(status: int, message: str) -> ClientError:
    """Return the error for an answer that no streamchat server gives."""
    advice = "is the URL that of a streamchat server, with its prefix?"
    return ClientError(status, {"code": "unreadable_answer", "message": f"{message}; {advice}"})
