"""A process that works on a store: ``python -m tests.buffers.worker COMMAND ARGUMENT STORE…``."""

from __future__ import annotations

import asyncio
import sys
import warnings

from streamchat.buffers.base import EventBuffer, Lease
from streamchat.testing.buffers.suite import deltas, ending
from tests.buffers.backends import found


async def stream_for_ever(buffer: EventBuffer, run_id: str) -> None:
    """Append to a run, and say after each acknowledgement where the log is."""
    claim = await buffer.claim("child", 0.5, run_id)
    assert claim is not None
    lease, number = claim.lease, 0
    while True:
        lease = (await buffer.append(lease, deltas(f"{number}a", f"{number}b"))).lease
        number += 1
        print(lease.head_seq, flush=True)


async def stream_to_the_end(buffer: EventBuffer, prefix: str) -> None:
    """Claim what there is, several runs at a time, and write each to its end."""

    async def write(lease: Lease) -> None:
        for number in range(20):
            lease = (await buffer.append(lease, deltas(f"{prefix}{number}"))).lease
        await buffer.append(lease, ending(), then="over")

    taken = 0
    async with asyncio.TaskGroup() as group:
        while (claim := await buffer.claim(prefix, 60.0)) is not None:
            taken += 1
            group.create_task(write(claim.lease))
    print(taken, flush=True)


async def main(command: str, argument: str, *store: str) -> None:
    warnings.simplefilter("ignore")
    buffer = await found(*store).make().open()
    try:
        await {"for-ever": stream_for_ever, "to-the-end": stream_to_the_end}[command](buffer, argument)
    finally:
        await buffer.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
