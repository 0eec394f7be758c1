"""Within the bounds no promise is broken, each rule is needed, and the page says so."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.project.support import ROOT
from tests.protocol.explore import explore
from tests.protocol.model import Model, World
from tests.protocol.mutations import MUTATIONS, SECOND_LINES, Mutation
from tests.protocol.page import COMMAND, PARTS, filled, part, world_row
from tests.protocol.state import Left
from tests.protocol.worlds import LARGE, SMALL

PAGE = ROOT / "docs" / "explanation" / "protocol.md"
STALE = f"docs/explanation/protocol.md is not what a run says: `{COMMAND}`"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("world", SMALL.values(), ids=lambda world: world.name)
def test_no_promise_is_broken_and_the_page_says_how_many_states_were_seen(world: World) -> None:
    explored = explore(world)
    assert explored.whole, f"after {explored.states} states:\n{explored.found}"
    assert world_row(world, explored) in PAGE.read_text(encoding="utf-8"), STALE


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("world", LARGE.values(), ids=lambda world: world.name)
def test_no_promise_is_broken_within_large_bounds(world: World) -> None:
    explored = explore(world)
    assert explored.whole, f"after {explored.states} states:\n{explored.found}"
    assert world_row(world, explored, "large") in PAGE.read_text(encoding="utf-8"), STALE


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_rule_that_is_taken_away_is_missed(mutation: Mutation) -> None:
    explored = explore(mutation.world, mutation.rules)
    assert explored.found is not None, f"nobody needs the rule that {mutation.name}"


@pytest.mark.parametrize("mutation", SECOND_LINES, ids=lambda mutation: mutation.name)
def test_a_second_line_alone_is_not_missed(mutation: Mutation) -> None:
    explored = explore(mutation.world, mutation.rules)
    assert explored.whole, f"it is needed after all:\n{explored.found}"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", PARTS)
def test_the_page_shows_each_promise_and_mutation_as_a_run_finds_them(name: str) -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert f"<!-- explored: {name} -->\n\n{part(name)}\n<!-- /explored -->" in page, STALE


def test_a_stale_page_is_filled_in_anew() -> None:
    page = "before\n<!-- explored: promises -->\nstale words\n<!-- /explored -->\nafter\n"
    fresh = filled(page, {}, {})
    assert "stale words" not in fresh
    assert "a prefix of the log" in fresh
    assert (fresh[:7], fresh[-6:]) == ("before\n", "after\n")
    assert filled(fresh, {}, {}) == fresh


def test_what_is_found_first_is_shortest_and_ends_where_the_promise_breaks() -> None:
    mutation = next(one for one in MUTATIONS if one.instead == "what runs may be claimed at any time")
    found = explore(mutation.world, mutation.rules).found
    assert found is not None
    assert found.steps == ("worker 1 claims run 0, whose head is 1", "worker 2 claims run 0, whose head is 1")
    assert "lease" in found.broken


def test_a_search_that_is_stopped_says_so() -> None:
    explored = explore(SMALL["log"], most=100)
    assert not explored.whole
    assert explored.found is None


def test_what_is_to_be_seen_can_be_reached() -> None:
    """A model in which nothing happens keeps every promise."""
    seen: set[object] = set()
    world = replace(SMALL["approval"], left=Left(claims=2, unacknowledged=1))
    model = Model(world)
    level = [model.start()]
    known = set(level)
    while level:
        found = [step for state in level for step in model.steps(state)]
        seen |= {step.answer for step in found}
        level = list({step.state for step in found} - known)
        known |= set(level)
        seen |= {row.status for state in level for row in state.store.rows}
        seen |= {("effects", *state.effects) for state in level}
    expected = {"written", "recovered", "lease lost", "inputs pending", "new"}
    expected |= {"queued", "running", "suspended", "success", "cancelled"}
    assert expected | {("effects", 1)} <= seen
