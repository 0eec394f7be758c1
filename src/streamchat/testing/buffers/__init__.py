"""What every `EventBuffer` must do, as named behaviours that run without pytest: ours pass them, and so must
yours.

::

    suite = BufferSuite(open_my_buffer)          # an async context manager that gives an empty, opened buffer
    await suite.run("a_stale_holder_is_refused")
    await suite.run_all()

Under pytest, `streamchat.testing.buffers.with_pytest.conformance_test` makes one test of each behaviour.
"""

from __future__ import annotations

from streamchat.testing.buffers import (
    appending,
    cancelling,
    claiming,
    conversing,
    creating,
    crowding,
    deleting,
    ending,
    enqueuing,
    naming,
    noting,
    posting,
    reading,
    trimming,
)
from streamchat.testing.buffers.suite import BEHAVIOURS, Bench, BufferSuite

__all__ = ["BEHAVIOURS", "Bench", "BufferSuite"]

# Importing a module of behaviours enters them.
_ = (
    appending,
    cancelling,
    claiming,
    conversing,
    creating,
    crowding,
    deleting,
    ending,
    enqueuing,
    naming,
    noting,
    posting,
    reading,
    trimming,
)
