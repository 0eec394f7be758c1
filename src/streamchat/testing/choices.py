"""Where a random walk's decisions come from: a protocol, and a generator with a seed that fills it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Protocol

__all__ = ["Choices", "SeededChoices"]


class Choices(Protocol):
    """Where a walk's decisions come from."""

    def below(self, bound: int) -> int:
        """Return a number from 0 to ``bound``, exclusive."""
        ...

    def text(self) -> str:
        """Return any text."""
        ...

    def value(self) -> Any:
        """Return any JSON value."""
        ...


_TEXTS = ("Hello", " wörld", "", "a\nb", "\N{WAVING HAND SIGN}", "nul \0 nul", '"quoted\\"', "\u2028")
_VALUES: tuple[Any, ...] = (None, True, 0, -1.5, 2**53 - 1, "", "text", [], [1, [None]], {}, {"a": {"b": []}})


class SeededChoices:
    """Choices that a seed decides: each as likely as any other, and the same for the same seed.

    Without ``texts`` and ``values`` there are few, all safe for readers with 53-bit numbers.
    """

    def __init__(self, seed: int, texts: Sequence[str] = _TEXTS, values: Sequence[Any] = _VALUES) -> None:
        self._random = random.Random(seed)
        self._texts = texts
        self._values = values

    def below(self, bound: int) -> int:
        """Return a number from 0 to ``bound``, exclusive."""
        return self._random.randrange(bound)

    def text(self) -> str:
        """Return one of the texts."""
        return self._random.choice(self._texts)

    def value(self) -> Any:
        """Return one of the values."""
        return self._random.choice(self._values)
