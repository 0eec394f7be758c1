"""Logs that are larger than what one answer of a store should be."""

from __future__ import annotations

import pytest

from streamchat.buffers.base import NewEvent
from streamchat.testing.buffers import Bench
from streamchat.testing.buffers.suite import deltas
from tests.buffers.backends import Backend, Memory

MOST = 16 * 1024 * 1024
"""Bytes that a page may have."""


@pytest.mark.anyio
async def test_pages_of_large_logs_are_bounded_in_bytes(backend: Backend) -> None:
    async with backend.open() as buffer:
        lease = await Bench(buffer, None, None, 30.0).held()
        for number in range(9):
            large = NewEvent("custom", b"%d" % number * 4_000_000, b"p" if number % 2 else None)
            lease = (await buffer.append(lease, [large, *deltas("small")])).lease
        sizes, seqs, after = [], [], 0
        while after < 19:
            page = await buffer.read(lease.run_id, after)
            sizes.append(sum(len(event.data) for event in page.events))
            seqs += [event.seq for event in page.events]
            after = seqs[-1]
            assert page.last_seq == 19
        assert seqs == list(range(1, 20))
        # A page in memory is what is there already: nothing is copied.
        assert isinstance(backend, Memory) or max(sizes) <= MOST
        (event,) = (await buffer.read(lease.run_id, 3, 1)).events
        assert (event.data, event.private) == (b"1" * 4_000_000, b"p")
