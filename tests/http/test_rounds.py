"""One timer for many streams: each is visited in its own time, for as long as it is a member."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from streamchat.http.rounds import Rounds, rounds

pytestmark = pytest.mark.anyio


class Member:
    def __init__(self, enough: int, then: Any = None) -> None:
        self.visits: list[float] = []
        self.enough = asyncio.Event()
        self._left = enough
        self._then = then

    def visit(self) -> None:
        self.visits.append(asyncio.get_running_loop().time())
        self._left -= 1
        if self._left == 0:
            self.enough.set()
            if self._then is not None:
                self._then(self)


async def test_members_are_visited_again_and_again_and_never_before_their_time() -> None:
    every = Rounds(0.02)
    start = asyncio.get_running_loop().time()
    first, second = Member(3), Member(3)
    every.join(first)
    await asyncio.sleep(0.01)
    every.join(second)
    await first.enough.wait()
    await second.enough.wait()
    for member in (first, second):
        every.leave(member)
        for nth, at in enumerate(member.visits, 1):
            assert at - start >= nth * 0.02 * 63 / 64 - 0.001


async def test_whoever_leaves_is_visited_no_more_even_if_another_makes_it_leave() -> None:
    every = Rounds(0.01)
    others: list[Member] = []

    def clear(member: Member) -> None:
        for each in others:
            every.leave(each)

    others += [Member(1, clear), Member(1, clear)]
    for member in others:
        every.join(member)
    last = Member(2)
    every.join(last)
    await last.enough.wait()
    assert [len(member.visits) for member in others] == [1, 0]
    every.leave(last)
    every.leave(last)
    assert every._timer is None
    again = Member(1)
    every.join(again)
    await again.enough.wait()
    every.leave(again)


async def test_a_loop_has_one_for_each_length() -> None:
    assert rounds(5.0) is rounds(5.0)
    assert rounds(5.0) is not rounds(6.0)
