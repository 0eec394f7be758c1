"""Random tokens for scripts, which must be given one before it is known whether they will need it."""

from __future__ import annotations

from collections import deque

from streamchat.buffers.shared import Token

__all__ = ["Tokens"]


class Tokens:
    """Gives tokens; those that certainly were not used are given again first, so that tests get theirs in
    order."""

    def __init__(self, make: Token) -> None:
        self._make = make
        self._spare: deque[str] = deque()

    def take(self) -> str:
        """Return a token."""
        return self._spare.popleft() if self._spare else self._make()

    def give_back(self, *tokens: str) -> None:
        """Take tokens back that the store has never seen."""
        self._spare.extendleft(reversed(tokens))
