"""The bounds within which the protocol is explored: small ones at each `make test`, large ones at length."""

from __future__ import annotations

from dataclasses import replace

from tests.protocol.model import World
from tests.protocol.state import Left

__all__ = ["LARGE", "SMALL"]

ANSWERS = ((0, "approval", "yes"), (0, "approval", "no"))
JOBS = ((0, "job_result", "ok"), (1, "job_result", "ok"))

SMALL = {
    world.name: world
    for world in (
        World(
            "log",
            "An answer of text: lost acknowledgements, late appends, stale holders, a reader, a trim.",
            texts=2,
            readers=1,
            piecewise=True,
            left=Left(claims=2, unacknowledged=1, late=1, releases=1, trims=1),
        ),
        World(
            "failover",
            "The same, and the store goes back to an earlier copy of itself, under a holder and a reader.",
            texts=2,
            readers=1,
            left=Left(claims=2, unacknowledged=1, failovers=1),
        ),
        World(
            "tool",
            "A tool that is not idempotent, its effects counted outside the store.",
            script="pay",
            texts=0,
            left=Left(claims=2, unacknowledged=1, late=1, renewals=1),
        ),
        World(
            "approval",
            "A run that is suspended until a person answers, while two answers and a cancel are posted.",
            script="pay",
            texts=0,
            approve=True,
            posts=(*ANSWERS, (0, "cancel", "")),
            left=Left(claims=2, unacknowledged=1, late=1),
        ),
        World(
            "approval, failover",
            "The same with a store that goes back in time.",
            script="pay",
            texts=0,
            approve=True,
            readers=1,
            posts=ANSWERS[:1],
            left=Left(claims=2, unacknowledged=1, failovers=1),
        ),
        World(
            "conversation",
            "Two runs of one conversation, each with a background job, for which it gives up the slot.",
            script="job",
            texts=0,
            creates=(0, 1),
            posts=JOBS,
            left=Left(claims=3, unacknowledged=1, late=1),
        ),
        World(
            "line",
            "Three runs of one conversation, which stand in line; the second may be cancelled.",
            texts=0,
            creates=(0, 1, 2),
            enqueues=True,
            posts=((1, "cancel", ""),),
            left=Left(claims=2, unacknowledged=1),
        ),
    )
}

LARGE = {
    world.name: world
    for world in (
        replace(
            SMALL["log"],
            piecewise=False,
            left=Left(claims=3, unacknowledged=1, late=1, renewals=1, releases=1, trims=1),
        ),
        replace(SMALL["failover"], left=Left(claims=2, unacknowledged=1, late=1, releases=1, failovers=1)),
        replace(
            SMALL["failover"],
            name="two failovers",
            about="One after the other, under three holders.",
            texts=1,
            left=Left(claims=3, unacknowledged=1, failovers=2),
        ),
        replace(SMALL["tool"], left=Left(claims=3, unacknowledged=2, late=1, renewals=1, releases=1)),
        replace(
            SMALL["tool"],
            name="tool that is idempotent",
            about="One that may run twice, and a reader.",
            idempotent=True,
            readers=1,
            left=Left(claims=3, unacknowledged=1, late=1),
        ),
        replace(SMALL["approval"], left=Left(claims=3, unacknowledged=1, late=1, releases=1)),
        replace(
            SMALL["approval, failover"],
            about="A suspended run, a store that goes back in time, and waits that run out.",
            expires=True,
            left=Left(claims=2, unacknowledged=1, late=1, failovers=1),
        ),
        replace(SMALL["conversation"], left=Left(claims=3, unacknowledged=1, failovers=1)),
    )
}
