"""What the two OpenAI models share: the client, retries, timeouts, and what a server refused before."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from inspect import isawaitable
from typing import Any, ClassVar
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import anyio
import openai

from streamchat.core.accumulator import Completion
from streamchat.core.given import check_instance, check_number
from streamchat.core.reader import Api
from streamchat.errors import InvalidInput
from streamchat.models.answers import Answer, ByteSource, ChunkSource, Source
from streamchat.models.base import ModelOutput, ModelRequest, ModelResult, ModelRetry
from streamchat.models.failures import message_of
from streamchat.models.retry import RetryPolicy

__all__ = ["OpenAIModel"]

# What the SDK's methods take for themselves; all else is the request's body.
_SDK_OPTIONS = ("extra_headers", "extra_query", "timeout")

# What servers behind a client refused, so that they are not asked for it again.
_refused: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()


class OpenAIModel:
    """The base of `OpenAIChatModel` and `OpenAIResponsesModel`; see there."""

    _api: ClassVar[Api]
    _reserved: ClassVar[frozenset[str]]

    def __init__(
        self,
        client: Any,
        model: str,
        *,
        provider: str | None = None,
        retry: RetryPolicy | None = None,
        first_token_timeout: float | None = 120.0,
        idle_timeout: float | None = 60.0,
        **options: Any,
    ) -> None:
        if isinstance(client, openai.OpenAI):
            raise InvalidInput(f"{client!r} is a synchronous client; give an AsyncOpenAI", field="client")
        if client is None or isinstance(client, str):  # it may well be a key
            text = f"client is of type {type(client).__name__}: give an AsyncOpenAI"
            raise InvalidInput(text, field="client")
        check_instance("model", model, str, "the model's name")
        check_instance("retry", retry, RetryPolicy, "a RetryPolicy", none=True)
        for name, seconds in (
            ("first_token_timeout", first_token_timeout),
            ("idle_timeout", idle_timeout),
        ):
            check_number(name, seconds, above=0, none=True)
        self._client = client
        self._name = model
        self._provider = provider if provider is not None else _host(client)
        self._retry = retry or RetryPolicy()
        self._first_token_timeout = first_token_timeout
        self._idle_timeout = idle_timeout
        self._options = self._checked(options)

    @property
    def name(self) -> str:
        """The model's name."""
        return self._name

    @property
    def provider(self) -> str | None:
        """Whom the client talks to: the host of its base URL, unless named otherwise."""
        return self._provider

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelOutput], None]:
        """Ask the model; yields a list for all that was read at once, the result last of all.

        Raises `ModelError` as the `Model` protocol says, and `InvalidInput` for options that cannot be
        served. Closed or cancelled, the response is closed before this returns.
        """
        body = self._body(request, {**self._options, **self._checked(request.options)})
        notices: list[ModelRetry] = []
        answer: Answer | None = None
        batch: Sequence[ModelOutput] = ()
        async for attempt in self._retry.start(notices):
            if notices:
                notice = notices.pop()
                yield [notice]
                await anyio.sleep(notice.seconds)
            with attempt:
                answer = Answer(
                    self._api, first_token_timeout=self._first_token_timeout, idle_timeout=self._idle_timeout
                )
                batch = await answer.start(lambda: self._send(body))
        assert answer is not None  # or the last attempt's error was raised
        try:
            while not answer.over:
                yield batch
                batch = await answer.batch()
            if answer.failed and batch:
                yield batch
            yield [*batch, self._result(answer.completion())]
        finally:
            await answer.aclose()

    # -------------------------------------------------------------------------------- what the APIs differ in

    def _body(self, request: ModelRequest, options: dict[str, Any]) -> dict[str, Any]:
        """The request's body, with the SDK's own options beside it."""
        raise NotImplementedError

    def _result(self, completion: Completion) -> ModelResult:
        raise NotImplementedError

    def _method(self, client: Any) -> Any:
        """The resource of the client whose ``create`` is called."""
        raise NotImplementedError

    def _relent(self, body: dict[str, Any], complaint: str, known: set[str]) -> dict[str, Any] | None:
        """The body without what a server just refused, which is put into ``known``; None if nothing was."""
        raise NotImplementedError

    def _without(self, body: dict[str, Any], known: set[str]) -> dict[str, Any]:
        """The body without what the servers behind this client refused before."""
        raise NotImplementedError

    # ---------------------------------------------------------------------------------------------- a request

    def _checked(self, options: Mapping[str, Any]) -> dict[str, Any]:
        for n in (options.get("n"), (options.get("extra_body") or {}).get("n")):
            if n is not None and n != 1:
                raise InvalidInput(f"n={n!r}: a run has one answer; start a run for each", field="n")
        taken = sorted(self._reserved & options.keys())
        if taken:
            raise InvalidInput(f"{taken[0]!r} is set by the model itself and is no option", field=taken[0])
        return dict(options)

    async def _send(self, body: dict[str, Any]) -> Source:
        known = _known_of(self._client)
        body = self._without(body, known)
        try:
            return await self._post(body)
        except openai.APIStatusError as error:
            if error.status_code not in (400, 422):
                raise
            milder = self._relent(body, f"{message_of(error.body)} {error.message}".lower(), known)
            if milder is None:
                raise
        return await self._post(milder)

    async def _post(self, body: dict[str, Any]) -> Source:
        if not isinstance(self._client, openai.AsyncOpenAI):
            return ChunkSource(await self._chunks(body))
        # The client's own retries would multiply ours.
        create = self._method(self._client.with_options(max_retries=0)).with_streaming_response.create
        # In `extra_body` all goes as it is: the SDK knows neither a server's own options nor, in an older
        # version, the newest; and it would walk through all messages by their declared types (50 ms for 200
        # of them).
        own = {key: body[key] for key in ("model", "stream", *_SDK_OPTIONS) if key in body}
        rest = {key: value for key, value in body.items() if key not in own and key != "extra_body"}
        required = {"messages": ()} if "messages" in rest else {}
        manager = create(**own, **required, extra_body={**rest, **(body.get("extra_body") or {})})
        return ByteSource(await manager.__aenter__())

    async def _chunks(self, body: dict[str, Any]) -> Any:
        """The stream of a client that is not the SDK's, or of a function of the request's fields."""
        try:
            create: Callable[..., Any] = self._method(self._client).create
        except AttributeError:
            create = self._client
        stream: Any | Awaitable[Any] = create(**body)
        return await stream if isawaitable(stream) else stream


def _known_of(client: Any) -> set[str]:
    try:
        return _refused.setdefault(client, set())
    except TypeError:  # it cannot be referred to weakly, or not be hashed: nothing is remembered of it
        return set()


def _host(client: Any) -> str | None:
    url = getattr(client, "base_url", None)
    return urlsplit(str(url)).hostname if url else None
