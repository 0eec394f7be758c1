"""What a generator tool yields, sorted into progress and result (rule: `streamchat.tools.execution`)."""

from __future__ import annotations

from typing import Any

from streamchat.tools.context import ToolContext
from streamchat.tools.values import Progress, Return

__all__ = ["Yielded"]

_NOTHING: Any = object()
_KEYS = {"message", "fraction", "data"}


class Yielded:
    """Takes the values of one generator in their order."""

    def __init__(self, context: ToolContext[Any]) -> None:
        self._context = context
        self._result = _NOTHING
        self._shown = _NOTHING

    def take(self, value: Any) -> bool:
        """Take the next value; True says that it was the final word."""
        if isinstance(value, Return):
            self._result = value.value
            return True
        if isinstance(value, Progress):
            self._context.progress(value.message, value.fraction, value.data)
        elif isinstance(value, str):
            self._context.progress(value)
            self._shown = value
        elif _is_progress(value):
            self._context.progress(**value)
            self._shown = value
        else:
            self._result = value
        return False

    def result(self, returned: Any = None) -> Any:
        """The result; ``returned`` is what a plain generator returned."""
        if returned is not None:
            return returned.value if isinstance(returned, Return) else returned
        for value in (self._result, self._shown):
            if value is not _NOTHING:
                return value
        return None


def _is_progress(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and value.keys() <= _KEYS
        and isinstance(value.get("message"), str | None)
        and isinstance(value.get("fraction"), int | float | None)
    )
