"""Awaiting something with a function that is called when it turns out to wait."""

from __future__ import annotations

import types
from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeVar

__all__ = ["when_it_waits"]

T = TypeVar("T")


@types.coroutine
def when_it_waits(awaitable: Awaitable[T], then: Callable[[], None]) -> Generator[Any, Any, T]:
    """Await ``awaitable`` on asyncio; call ``then`` once, before the first time that it really waits.

    ``then`` runs in the same turn of the loop, after all that could be done without waiting; it must not
    raise. Cancellation goes to what is awaited, as with a plain ``await``.
    """
    steps = awaitable.__await__()
    try:
        waits_for = steps.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    then()
    while True:
        try:
            yield waits_for
        except GeneratorExit:
            steps.close()
            raise
        except BaseException as error:
            try:
                waits_for = steps.throw(error)
            except StopIteration as done:
                return done.value  # type: ignore[no-any-return]
        else:
            return (yield from steps)
