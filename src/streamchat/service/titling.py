"""A title for a conversation, asked of the application once the first answer is there."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from streamchat.buffers.base import EventBuffer, RunRecord
from streamchat.buffers.titles import titles_of
from streamchat.concurrency import Deadline
from streamchat.core.fold import fold
from streamchat.core.history import messages_of_content
from streamchat.errors import StreamChatError
from streamchat.messages import ModelMessage
from streamchat.orchestration.context import RunContext
from streamchat.service.log import read_log
from streamchat.service.request import RunRequest

__all__ = ["MakeTitle", "Titler"]

log = logging.getLogger("streamchat.service")

_LONGEST = 200
_SECONDS = 60.0

MakeTitle: TypeAlias = Callable[[RunContext, Sequence[ModelMessage]], str | Awaitable[str | None] | None]


class Titler:
    """Gives conversations the titles that ``make(context, messages)`` returns.

    Raises `StreamChatError` for a buffer that cannot keep them.
    """

    def __init__(self, buffer: EventBuffer, make: MakeTitle | None) -> None:
        self._buffer = buffer
        self._make = make
        self._titles = titles_of(buffer)
        if make is not None and self._titles is None:
            raise StreamChatError(
                f"{type(buffer).__name__} cannot keep a title that comes later: give it "
                "`streamchat.buffers.titles.TitleStore.set_title`, or leave title= out"
            )

    async def title(self, run: RunRecord, request: RunRequest, context: RunContext) -> None:
        """Ask for the title, if this run was the conversation's first; what fails is logged.

        A process that dies in this moment leaves the first words of the user's message.
        """
        if (
            self._make is None
            or self._titles is None
            or request.previous_message_id is not None
            or run.parent_run_id is not None
        ):
            return
        try:
            said = messages_of_content(fold(await read_log(self._buffer, run.run_id)).parts)
            title = None
            with Deadline(_SECONDS) as deadline:
                made = self._make(context, [*request.messages, *said])
                title = await made if inspect.isawaitable(made) else made
            if deadline.expired:
                log.warning("run %s: no title came within %g seconds", run.run_id, _SECONDS)
            words = " ".join((title or "").split())
            if words:
                await self._titles.set_title(run.conversation_id, words[:_LONGEST])
        except Exception:
            log.exception("run %s: its conversation got no title", run.run_id)
