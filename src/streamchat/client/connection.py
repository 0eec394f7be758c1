"""One server over HTTP: who the client says it is, what is asked again, and for how long.

httpx2 is what openai brings along, so this extra adds nothing where a model is used as well.
"""

from __future__ import annotations

import inspect
import json
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import anyio
import httpx2

from streamchat.client.errors import ClientError, ServerUnreachable, refusal, unreadable
from streamchat.client.given import check_headers, check_url
from streamchat.errors import InvalidInput, StreamChatError

__all__ = ["Connection", "Headers", "Patience"]

Headers: TypeAlias = Mapping[str, str] | Callable[[], Mapping[str, str] | Awaitable[Mapping[str, str]]]

# The server itself, or what stands before it, says: not now.
_NOT_NOW = {408, 425, 429, 500, 502, 503, 504}
# A stream has a heartbeat every 15 s; one that is silent for three of them is dead.
_SILENCE = 50.0
# What a header is made of (RFC 9110, sections 5.1 and 5.5).
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 20.0


class Patience:
    """How long to try: pauses double, spread by half, until ``seconds`` went by without progress."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.progress()

    def progress(self) -> None:
        """Something worked: begin anew."""
        self._pause = _FIRST_PAUSE
        self._since: float | None = None

    async def wait(self, reason: object, least: float = 0.0) -> None:
        """Pause before the next try, for ``least`` seconds or more; raises `ServerUnreachable` at the end."""
        now = anyio.current_time()
        if self._since is None:
            self._since = now
        # All at once would be a storm on a server that has just come back.
        pause = max(least * random.uniform(1.0, 1.5), self._pause * random.uniform(0.5, 1.5))
        if now + pause - self._since > self._seconds:
            raise ServerUnreachable(
                f"no answer for {now - self._since:.0f} s (patience={self._seconds:g}): {reason}"
            )
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        await anyio.sleep(pause)


class Connection:
    """Requests to the endpoints at ``url``; headers are asked for each time, and again after a 401."""

    def __init__(
        self,
        url: str,
        headers: Headers | None,
        client_id: str | None,
        patience: float,
        http: httpx2.AsyncClient | None,
    ) -> None:
        self._url = check_url(url)
        # At once, not at the first request.
        sendable({} if headers is None or callable(headers) else headers)
        sendable({} if client_id is None else {"x-client-id": client_id})
        self._headers = headers
        self._client_id = client_id
        self._patience = patience
        self._own = http is None
        # Many streams must leave room for what cancels and answers them.
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=20)
        self._http = http or httpx2.AsyncClient(timeout=httpx2.Timeout(10.0, read=_SILENCE), limits=limits)

    async def close(self) -> None:
        """Close the connections, unless the HTTP client is the caller's."""
        if self._own:
            await self._http.aclose()

    def patience(self) -> Patience:
        """Return how long one piece of work may go without progress."""
        return Patience(self._patience)

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        params: Mapping[str, Any] | None = None,
        key: str | None = None,
        timeout: float | None = None,
        needs: tuple[str, ...] = (),
    ) -> Any:
        """Return a request's JSON answer (None without one); asked again until there is one.

        All that is asked here may be asked twice: it is idempotent by itself, or by ``key``. ``timeout`` is
        how many seconds the server may think; ``needs`` is what the answer must hold. Raises `ClientError`,
        `ServerUnreachable`, and `InvalidInput` for what cannot be sent.
        """
        patience, refreshed, content = self.patience(), False, _encoded(body)
        more = {} if body is None else {"content-type": "application/json"}
        if key is not None:
            more["idempotency-key"] = key
        wait = httpx2.USE_CLIENT_DEFAULT if timeout is None else self._timeout(timeout)
        while True:
            headers = sendable({**await self._who(), **more})
            try:
                async with self._open(
                    method, path, content=content, params=params, headers=headers, timeout=wait
                ) as answer:
                    try:
                        said = await answer.aread()
                    except httpx2.DecodingError as error:
                        raise unreadable(answer.status_code, f"its body cannot be read ({error})") from error
            except httpx2.TransportError as error:
                await patience.wait(repr(error))
                continue
            if answer.is_success:
                return _decoded(answer.status_code, said, needs)
            if answer.status_code == 401 and callable(self._headers) and not refreshed:
                refreshed = True
                continue
            failure = refusal(answer.status_code, said)
            if answer.status_code not in _NOT_NOW:
                raise failure
            await patience.wait(failure, _retry_after(answer))

    @asynccontextmanager
    async def _open(self, method: str, path: str, **options: Any) -> AsyncIterator[httpx2.Response]:
        """Send a request; raises `StreamChatError` for what is neither an answer nor a broken connection."""
        if self._http.is_closed:
            raise StreamChatError("the client was closed")
        try:
            async with self._http.stream(method, self._url + path, **options) as response:
                yield response
        except httpx2.TransportError:
            raise
        except httpx2.RequestError as error:  # (a caller's client may follow redirects, without end)
            raise unreadable(200, f"the answer cannot be read ({error})") from error

    def _timeout(self, read: float) -> httpx2.Timeout:
        """The timeouts of the HTTP client, with another one for reading."""
        given = self._http.timeout
        return httpx2.Timeout(connect=given.connect, read=read, write=given.write, pool=given.pool)

    @asynccontextmanager
    async def stream(self, path: str, cursor: str | None) -> AsyncIterator[httpx2.Response | None]:
        """Open a stream behind ``cursor``; None where there is nothing more (204).

        Raises `ClientError` for a refusal, ``httpx2.TransportError`` where nothing could be reached,
        `NotNow` where it should be tried again.
        """
        headers = {**await self._who(), "accept": "text/event-stream"}
        if cursor:
            headers["last-event-id"] = cursor
        async with self._open(
            "GET", path, headers=sendable(headers), timeout=self._timeout(_SILENCE)
        ) as response:
            if response.status_code == 204:
                yield None
            elif response.is_success:
                kind = response.headers.get("content-type", "")
                if kind.partition(";")[0].strip().lower() != "text/event-stream":
                    raise unreadable(response.status_code, f"no stream of events came, but {kind!r:.100}")
                yield response
            else:
                failure = refusal(response.status_code, await response.aread())
                if response.status_code in _NOT_NOW:
                    raise NotNow(failure, _retry_after(response))
                raise failure

    @property
    def can_refresh(self) -> bool:
        """Whether asking for headers again may give other ones."""
        return callable(self._headers)

    async def _who(self) -> dict[str, str]:
        given = self._headers() if callable(self._headers) else self._headers
        given = await given if inspect.isawaitable(given) else given
        check_headers(given)
        headers = dict(given or {})
        if self._client_id is not None:
            headers.setdefault("x-client-id", self._client_id)
        return headers


class NotNow(Exception):
    """The server asks to come back after ``seconds``."""

    def __init__(self, failure: ClientError, seconds: float) -> None:
        super().__init__(str(failure))
        self.failure = failure
        self.seconds = seconds


def sendable(headers: Mapping[Any, Any]) -> dict[bytes, bytes]:
    """Return headers as they are sent; raises `InvalidInput` for one that HTTP cannot carry.

    Its value is not told: it may be a secret. RFC 9110, section 5.
    """
    sent = {}
    for name, value in headers.items():
        if not (isinstance(name, str) and _NAME.fullmatch(name)):
            raise InvalidInput(f"{name!r} cannot be the name of a header", field="headers")
        if not (isinstance(value, str) and _VALUE.fullmatch(value)):
            raise InvalidInput(
                f"the header {name!r} has a value that cannot be sent: give text of Latin-1 without control "
                "characters",
                field="headers",
            )
        sent[name.lower().encode()] = value.strip().encode("latin-1")
    return sent


def _encoded(body: Any) -> bytes | None:
    try:
        return None if body is None else json.dumps(body, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"what is to be sent is no JSON: {error}") from error


def _decoded(status: int, body: bytes, needs: tuple[str, ...]) -> Any:
    try:
        answer = json.loads(body) if body else None
    except (ValueError, RecursionError) as error:
        text = body[:100].decode("utf-8", "replace")
        raise unreadable(status, f"the answer is no JSON, but {text!r}") from error
    if needs and not (isinstance(answer, dict) and all(name in answer for name in needs)):
        raise unreadable(status, f"the answer has not all of {', '.join(needs)}")
    return answer


def _retry_after(response: httpx2.Response) -> float:
    text = response.headers.get("retry-after", "")
    return min(float(text), 3600.0) if text.isdecimal() and len(text) < 9 else 0.0
