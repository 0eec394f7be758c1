"""One server over HTTP: who the client says it is, what is asked again, and for how long.

httpx2 is what openai brings along, so this extra adds nothing where a model is used as well.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import anyio
import httpx2

from streamchat.client.errors import ClientError, ServerUnreachable, refusal, unreadable
from streamchat.errors import InvalidInput

__all__ = ["Connection", "Headers", "Patience"]

Headers: TypeAlias = Mapping[str, str] | Callable[[], Mapping[str, str] | Awaitable[Mapping[str, str]]]

# The server itself, or what stands before it, says: not now.
_NOT_NOW = {408, 425, 429, 500, 502, 503, 504}
# A stream has a heartbeat every 15 s; one that is silent for three of them is dead.
_SILENCE = 50.0
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
        if not url.startswith(("http://", "https://")):
            raise InvalidInput(
                f"{url!r} is no URL of a server: it begins with http:// or https://", field="url"
            )
        try:
            httpx2.URL(url)
        except httpx2.InvalidURL as error:
            raise InvalidInput(f"{url!r} is no URL of a server: {error}", field="url") from error
        self._url = url.rstrip("/")
        self._headers = headers
        self._client_id = client_id
        self._patience = patience
        self._own = http is None
        self._http = http or httpx2.AsyncClient(timeout=httpx2.Timeout(10.0, read=_SILENCE))

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
    ) -> Any:
        """Return a request's JSON answer (None without one); asked again until there is one.

        All that is asked here may be asked twice: it is idempotent by itself, or by ``key``. Raises
        `ClientError`, `ServerUnreachable`.
        """
        patience, refreshed = self.patience(), False
        while True:
            headers = await self._who()
            if key is not None:
                headers["idempotency-key"] = key
            wait = httpx2.USE_CLIENT_DEFAULT if timeout is None else httpx2.Timeout(10.0, read=timeout)
            try:
                answer = await self._http.request(
                    method, self._url + path, json=body, params=params, headers=headers, timeout=wait
                )
            except httpx2.TransportError as error:
                await patience.wait(repr(error))
                continue
            if answer.is_success:
                return answer.json() if answer.content else None
            if answer.status_code == 401 and callable(self._headers) and not refreshed:
                refreshed = True
                continue
            failure = refusal(answer.status_code, answer.content)
            if answer.status_code not in _NOT_NOW:
                raise failure
            await patience.wait(failure, _retry_after(answer))

    @asynccontextmanager
    async def stream(self, path: str, cursor: str | None) -> AsyncIterator[httpx2.Response | None]:
        """Open a stream behind ``cursor``; None where there is nothing more (204).

        Raises `ClientError` for a refusal, ``httpx2.TransportError`` where nothing could be reached,
        `NotNow` where it should be tried again.
        """
        headers = {**await self._who(), "accept": "text/event-stream"}
        if cursor:
            headers["last-event-id"] = cursor
        async with self._http.stream("GET", self._url + path, headers=headers) as response:
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
        headers = dict(await given if inspect.isawaitable(given) else given or {})
        if self._client_id is not None:
            headers.setdefault("x-client-id", self._client_id)
        return headers


class NotNow(Exception):
    """The server asks to come back after ``seconds``."""

    def __init__(self, failure: ClientError, seconds: float) -> None:
        super().__init__(str(failure))
        self.failure = failure
        self.seconds = seconds


def _retry_after(response: httpx2.Response) -> float:
    text = response.headers.get("retry-after", "")
    return min(float(text), 3600.0) if text.isdecimal() and len(text) < 9 else 0.0
