"""Decides whom the demo asks for answers: a real server where one is meant, else its own scripted one."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

from streamchat.errors import StreamChatError

if TYPE_CHECKING:
    import openai

__all__ = ["DEFAULT_MODEL", "RealProvider", "chosen_provider", "opened_client"]

DEFAULT_MODEL = "gpt-5-mini"


class RealProvider(NamedTuple):
    """A server that was asked for; without ``base_url``, the one that the OpenAI client takes by itself."""

    base_url: str | None
    key: str
    model: str


def chosen_provider(base_url: str | None, model: str | None) -> RealProvider | None:
    """Return the provider that a key in the environment or a base URL means; None for the scripted one.

    Raises `StreamChatError` for a model that nobody could be asked for, and for a base URL that is none.
    """
    key = os.environ.get("OPENAI_API_KEY")
    if base_url is not None and not base_url.startswith(("http://", "https://")):
        raise StreamChatError(f"--base-url {base_url!r}: a base URL begins with http:// or https://")
    if base_url is None and not key:
        if model is not None:
            raise StreamChatError(
                f"--model {model}: there is no server to ask for it; set OPENAI_API_KEY or give --base-url, "
                "or leave out --model for the scripted provider, which needs no key"
            )
        return None
    # Servers that ask for no key take any, and the client sends none only where it is given one.
    return RealProvider(base_url, key or "none", model or DEFAULT_MODEL)


@asynccontextmanager
async def opened_client(
    provider: RealProvider | None,
) -> AsyncGenerator[tuple[openai.AsyncOpenAI, str, str], None]:
    """Give the client, the model's name, and who answers, as it is told to the user."""
    import openai

    from streamchat.cli.demo.script import reply
    from streamchat.testing import ScriptedProvider

    async with AsyncExitStack() as stack:
        if provider is None:
            scripted = await stack.enter_async_context(ScriptedProvider(reply))
            yield await stack.enter_async_context(scripted.client()), "scripted", "a scripted provider"
        else:
            client = openai.AsyncOpenAI(base_url=provider.base_url, api_key=provider.key)
            await stack.enter_async_context(client)
            # Without what may be secret in a URL.
            server = str(client.base_url.copy_with(userinfo=b"", query=None)).rstrip("/")
            yield client, provider.model, f"{provider.model} at {server}"
