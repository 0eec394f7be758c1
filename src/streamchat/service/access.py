"""Who may do what: the application's `authorize`, asked on every verb."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from streamchat.principal import Principal

__all__ = ["Action", "Authorize", "Resource", "allowed", "owns"]

Action: TypeAlias = Literal["start", "read", "cancel", "list", "delete"]


@dataclass(frozen=True, slots=True)
class Resource:
    """What is asked for. ``owner`` and ``tenant`` are those of the conversation or run."""

    owner: str | None
    tenant: str | None
    run_id: str | None = None
    conversation_id: str | None = None


Authorize: TypeAlias = Callable[[Principal | None, Action, Resource], bool | Awaitable[bool]]


def owns(principal: Principal | None, action: Action, resource: Resource) -> bool:
    """An `Authorize` for the usual case: everybody may do everything with what is theirs, within their
    tenant."""
    if principal is None:
        return resource.owner is None
    return resource.owner == principal.id and resource.tenant == principal.tenant


async def allowed(
    authorize: Authorize, principal: Principal | None, action: Action, resource: Resource
) -> bool:
    """Ask, and wait for the answer where it is async. Only True is a yes."""
    answer = authorize(principal, action, resource)
    if inspect.isawaitable(answer):
        answer = await answer
    return answer is True
