"""Stopping a run from outside and waiting until it is over: for a deletion, or a message that interrupts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal, TypeAlias, get_args

from streamchat.buffers.base import EventBuffer, Input
from streamchat.errors import InvalidInput, RunNotFound

__all__ = ["OnBusy", "Stopper", "known_policy"]

OnBusy: TypeAlias = Literal["reject", "enqueue", "interrupt"]
"""What becomes of a message to a conversation that is being answered."""

_LOOK_EVERY = 0.5


def known_policy(on_busy: OnBusy) -> OnBusy:
    """Return it; raises `InvalidInput` for what is none."""
    if on_busy not in get_args(OnBusy):
        raise InvalidInput(
            f"on_busy={on_busy!r}: it must be one of {', '.join(get_args(OnBusy))}", field="on_busy"
        )
    return on_busy


class Stopper:
    """Cancels runs, wherever they are worked on; ``cancel`` posts the cancel and has it heard."""

    def __init__(self, buffer: EventBuffer, cancel: Callable[[str, Input], Awaitable[None]]) -> None:
        self._buffer = buffer
        self._cancel = cancel

    async def stop(self, run_id: str, reason: str, by: str | None, seconds: float) -> bool:
        """Cancel a run and wait for its end; False where it did not come within ``seconds``.

        A run that is gone has ended. Raises `BufferUnavailable`.
        """
        follower = await self._buffer.follow(run_id)
        try:
            async with asyncio.timeout(seconds):
                await self._cancel(run_id, Input("cancel", body={"reason": reason}, by=by))
                while not (await self._buffer.get(run_id)).over:
                    await follower.wait(_LOOK_EVERY)
        except TimeoutError:
            return False
        except RunNotFound:
            pass
        finally:
            await follower.close()
        return True
