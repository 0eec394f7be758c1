from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from streamchat.tools import Deferred, Progress, Return, ToolContext, ToolOutcome, run_attempt
from tests.tools.support import LIMIT, Watched, context, make, on_both_loops

pytestmark = [pytest.mark.anyio, on_both_loops]


def in_both_ways(*values: Any) -> list[Callable[..., Any]]:
    def plain() -> Iterator[Any]:
        yield from values

    async def later() -> AsyncIterator[Any]:
        for value in values:
            yield value

    return [plain, later]


@pytest.mark.parametrize(
    ("values", "progress", "result"),
    [
        ([], [], None),
        (
            ["looking", Progress("half", 0.5), {"n": 1}],
            [("looking", None, None), ("half", 0.5, None)],
            {"n": 1},
        ),
        ([{"message": "m", "fraction": 1}, 5, 6], [("m", 1, None)], 6),
        (["one", "two"], [("one", None, None), ("two", None, None)], "two"),
        ([{"message": "sent"}], [("sent", None, None)], {"message": "sent"}),
        ([7, "almost", Progress("done")], [("almost", None, None), ("done", None, None)], 7),
        ([Progress(data=[1])], [(None, None, [1])], None),
        (["a", Return("final"), "never"], [("a", None, None)], "final"),
        ([8, Return(None)], [], None),
        ([{"message": 5}], [], {"message": 5}),
        ([{}], [], {}),
    ],
)
async def test_what_is_yielded_is_progress_or_the_result(
    values: list[Any], progress: list[Any], result: Any
) -> None:
    for function in in_both_ways(*values):
        watched = Watched()
        outcome = await run_attempt(make(function), {}, watched.context())
        assert (outcome.outcome, outcome.output) == ("ok", result)
        assert watched.progress == progress


async def test_a_plain_generator_may_return_its_result() -> None:
    def tool() -> Generator[str, None, dict[str, int]]:
        yield "working"
        return {"n": 1}

    assert (await run_attempt(make(tool), {}, context())).output == {"n": 1}


async def test_progress_is_shown_while_the_tool_goes_on() -> None:
    watched = Watched()
    go_on = anyio.Event()

    async def tool() -> AsyncIterator[Any]:
        yield "begun"
        await go_on.wait()
        yield Return(1)

    async with anyio.create_task_group() as group:
        group.start_soon(run_attempt, make(tool), {}, watched.context())
        while not watched.events:
            await anyio.lowlevel.checkpoint()
        assert watched.progress == [("begun", None, None)]
        go_on.set()


async def test_the_final_word_closes_the_generator_within_the_call() -> None:
    closed = []

    def plain() -> Iterator[Any]:
        try:
            yield Return(1)
        finally:
            closed.append("plain")

    async def later() -> AsyncIterator[Any]:
        try:
            yield Return(1)
        finally:
            await anyio.sleep(0.001)
            closed.append("later")

    for function in (plain, later):
        assert (await run_attempt(make(function), {}, context())).output == 1
    assert closed == ["plain", "later"]


async def test_a_generator_out_of_time_is_closed_where_it_stands() -> None:
    closed = []

    async def later() -> AsyncIterator[str]:
        try:
            yield "begun"
            await anyio.sleep_forever()
        finally:
            closed.append("later")

    def plain(ctx: ToolContext) -> Iterator[str]:
        try:
            while True:
                yield "again"
        finally:
            closed.append("plain")

    for function in (later, plain):
        outcome = await run_attempt(make(function, timeout=LIMIT), {}, context())
        assert (outcome.outcome, outcome.abandoned) == ("timeout", False)
    assert closed == ["later", "plain"]


async def test_a_cancelled_caller_closes_the_generator() -> None:
    closed, begun = [], anyio.Event()

    async def tool() -> AsyncIterator[int]:
        try:
            begun.set()
            yield 1
            await anyio.sleep_forever()
        finally:
            closed.append(True)

    async with anyio.create_task_group() as group:
        group.start_soon(run_attempt, make(tool), {}, context())
        await begun.wait()
        group.cancel_scope.cancel()
    assert closed == [True]


async def test_an_error_in_a_generators_cleanup_is_an_error() -> None:
    async def tool() -> AsyncIterator[Any]:
        try:
            yield Return(1)
        finally:
            raise RuntimeError("could not be undone")

    assert (await run_attempt(make(tool), {}, context())).outcome == "error"


async def test_a_generator_may_end_with_a_job() -> None:
    for function in in_both_ways("queued", Return(Deferred("Rendering."))):
        outcome: ToolOutcome = await run_attempt(make(function, deferred=True), {}, context())
        assert (outcome.outcome, outcome.output) == ("deferred", "Rendering.")
