"""Where a random walk's decisions come from: a protocol for hypothesis to fill, and a seeded generator."""

from __future__ import annotations

import random
from typing import Any, Protocol

__all__ = ["Choices", "SeededChoices"]


class Choices(Protocol):
    """Where a walk's decisions come from."""

    def below(self, bound: int) -> int:
        """Return a number from 0 to ``bound``, exclusive; smaller is simpler."""
        ...

    def text(self) -> str:
        """Return any text."""
        ...

    def value(self) -> Any:
        """Return any JSON value."""
        ...


class SeededChoices:
    """Choices that a seed decides; texts and values are few, and safe for readers with 53-bit numbers."""

    _TEXTS = ("Hello", " wörld", "", "a\nb", "\N{WAVING HAND SIGN}", "nul \0 nul", '"quoted\\"', "\u2028")
    _VALUES: tuple[Any, ...] = (None, True, 0, -1.5, 2**53 - 1, "", "text", [], [1, [None]], {}, {"a": {}})

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def below(self, bound: int) -> int:
        """Return a number from 0 to ``bound``, exclusive."""
        return self._random.randrange(bound)

    def text(self) -> str:
        """Return one of a few texts."""
        return self._random.choice(self._TEXTS)

    def value(self) -> Any:
        """Return one of a few JSON values."""
        return self._random.choice(self._VALUES)
