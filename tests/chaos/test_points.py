"""A worker ends itself at a named point, and another finishes the answer: what each point must come to."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.checks import Findings
from tests.chaos.conftest import MakeStore, brief_on
from tests.chaos.provider import Plan
from tests.chaos.scene import Cast, Scene
from tests.chaos.seams import POINTS

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

TTL = 0.6
TEXT = Plan("plain", (), words=50, delay=0.02)
ONE = Plan("one", (("charge",),), words=8, delay=0.005)
TWO = Plan("two", (("charge", "book"),), words=8, delay=0.005)
# So slow that the fragments of a call are not in one batch with its end.
SLOW = Plan("two", (("charge", "book"),), words=8, delay=0.08)
SPOKEN = Plan("spoken", (("report",),), words=8, delay=0.005)


@dataclass(frozen=True, slots=True)
class Case:
    """Where the first worker dies, over which plan, and what must be known of the first call afterwards.

    ``effects`` is how often the tool took effect: a number, or several that may be. ``first`` is where one
    dies before it: the worker of ``point`` then takes the run over.
    """

    point: str
    plan: Plan
    outcome: str = "ok"
    effects: Sequence[int] = (1,)
    first: str | None = None


def charged(point: str, outcome: str, effects: int) -> Case:
    return Case(point, ONE, outcome, (effects,))


def booked(point: str, effects: int) -> Case:
    return Case(point, Plan("booked", (("book",),), words=8, delay=0.005), "ok", (effects,))


def paid(point: str, outcome: str, effects: int) -> Case:
    return Case(point, Plan("paid", (("pay",),), words=8, delay=0.005), outcome, (effects,))


CASES = [
    # Nothing was promised, or nothing begun.
    *(Case(point, ONE) for point in ("create.before", "create.after")),
    *(Case(point, ONE) for point in ("claim.before@2", "claim.commit", "claim.after")),
    # The model had not finished: the step is withdrawn and asked again.
    *(Case(f"append.{when}:text_delta", TEXT) for when in ("before", "after")),
    *(Case(f"append.{when}:tool_call_delta", SLOW) for when in ("before", "after")),
    Case("model.between_calls", TWO),
    *(Case(f"append.{when}:model_completed", ONE) for when in ("before", "after")),
    # A claim on the call that nobody can see is none.
    charged("append.before:tool_started", "ok", 1),
    charged("append.commit:tool_started", "ok", 1),
    # From its claim to its result nobody knows what became of the call.
    charged("append.after:tool_started", "unknown", 0),
    charged("tool.before_effect", "unknown", 0),
    charged("tool.after_effect", "unknown", 1),
    charged("tool.before_return", "unknown", 1),
    charged("append.before:tool_result", "unknown", 1),
    charged("append.commit:tool_result", "unknown", 1),
    charged("append.after:tool_result", "ok", 1),
    *(Case(f"append.{when}:tool_progress", SPOKEN, "unknown", (0,)) for when in ("before", "after")),
    # An idempotent one runs again, under the same key.
    booked("append.before:tool_started", 1),
    booked("append.after:tool_started", 1),
    booked("tool.after_effect", 2),
    booked("append.before:tool_result", 2),
    booked("append.after:tool_result", 1),
    # One that can be asked is asked.
    paid("tool.before_effect", "unknown", 0),
    paid("tool.after_effect", "ok", 1),
    # Who takes over may die as well.
    *(
        Case(f"append.{when}:run_resumed", ONE, first="append.after:text_delta")
        for when in ("before", "after")
    ),
    *(Case(f"renew.{when}", TEXT) for when in ("before", "after")),
    *(Case(f"append.{when}:finalized", ONE) for when in ("before", "commit", "after")),
]
ESSENTIAL = {
    "claim.before@2",
    "claim.after",
    "append.after:tool_started",
    "tool.after_effect",
    "append.after:tool_result",
    "model.between_calls",
    "append.before:finalized",
}


class Stage:
    """Plays cases, a few at a time, each on a store of its own."""

    def __init__(self, cast: Cast, make_store: MakeStore, folder: Path) -> None:
        self._cast = cast
        self._make_store = make_store
        self._folder = folder
        self._places = asyncio.Semaphore(4)
        self.problems: list[str] = []

    async def play(self, number: int, case: Case) -> None:
        name = f"{self._folder.name}/{number}-{case.point}-{case.plan.tag}"
        async with self._places:
            folder = self._folder / str(number)
            try:
                async with (
                    asyncio.timeout(60),
                    Scene(self._cast, self._make_store(folder), folder, TTL) as scene,
                ):
                    self.problems += [f"{name}: {what}" for what in await self._play(scene, name, case)]
            except (AssertionError, TimeoutError, ExceptionGroup) as error:
                self.problems.append(f"{name}: {error!r}")

    async def _play(self, scene: Scene, name: str, case: Case) -> list[str]:
        chance = random.Random(name)
        points = [*([case.first] if case.first else []), case.point]
        doomed = [await scene.start(f"{name}/1", kill=points[0])]
        await doomed[0].ready.wait()
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(scene.post(case.plan, f"{case.point}:0", chance, to=doomed[0]))
            await doomed[0].exited.wait()
            for point in points[1:]:
                doomed.append(await scene.start(f"{name}/{len(doomed) + 1}", kill=point))
                await doomed[-1].exited.wait()
            await scene.start_ready(f"{name}/heir")
        run = asked.result()
        await scene.read(run, chance)
        await scene.stop_workers()
        findings = Findings()
        events = (await scene.check(findings))[run.run_id]
        problems = [what for _, what in findings.violations]
        problems += [f"{w.name} ended with {w.status}" for w in doomed if w.status != -signal.SIGKILL]
        if case.plan.steps:
            problems += _compare(case, scene, events)
        return problems


def _compare(case: Case, scene: Scene, events: Sequence[Any]) -> list[str]:
    results = [e.event for e in events if e.type == "tool_result"]
    call = results[0].call_id
    if case.plan in (TWO, SLOW):
        (call,) = (e.event.call_id for e in events if e.type == "tool_call" and e.event.name == "charge")
    outcomes = [result.outcome for result in results if result.call_id == call]
    effects = [effect for effect in scene.effects() if effect["call"] == call]
    problems = []
    if outcomes != [case.outcome]:
        problems.append(f"the call came to {outcomes}, not {case.outcome}")
    if len(effects) not in case.effects:
        problems.append(f"{len(effects)} effects in place of {case.effects}")
    return problems


async def play(cases: Sequence[Case], cast: Cast, make_store: MakeStore, folder: Path) -> None:
    stage = Stage(cast, make_store, folder)
    async with asyncio.TaskGroup() as group:
        for number, case in enumerate(cases):
            group.create_task(stage.play(number, case))
    assert not stage.problems, "\n".join(stage.problems)


SHORTEST = {"append.after:tool_started", "append.before:finalized"}


def there(kind: str) -> list[Case]:
    """The cases that the store has seams for."""
    return [case for case in CASES if kind == "sqlite" or ".commit" not in case.point]


@brief_on("sqlite", "postgres", "mariadb", "valkey")
async def test_killed_at_an_essential_point_the_answer_is_finished(
    kind: str, cast: Cast, make_store: MakeStore, tmp_path: Path
) -> None:
    points = ESSENTIAL if kind == "sqlite" else SHORTEST
    essential = [case for case in there(kind) if case.point in points]
    await play(essential, cast, make_store, tmp_path)


@pytest.mark.slow
async def test_killed_at_any_point_the_answer_is_finished(
    kind: str, cast: Cast, make_store: MakeStore, tmp_path: Path
) -> None:
    await play(there(kind), cast, make_store, tmp_path)


def test_there_is_a_case_for_each_point() -> None:
    points = {case.point.partition("@")[0] for case in CASES}
    assert points == set(POINTS)
