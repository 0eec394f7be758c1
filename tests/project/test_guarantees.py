"""What the documentation says of guarantees names the tests that show it, and those tests exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.project.support import ROOT

GUARANTEES = ROOT / "docs" / "explanation" / "guarantees.md"
NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
PAGES = sorted((ROOT / "docs").rglob("*.md"))


@cache
def names_in(path: Path) -> frozenset[str]:
    """The names of the functions and classes of a file."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, kinds))


def tables(text: str) -> list[list[list[str]]]:
    """The rows of each table of a page, without the line under the head."""
    found: list[list[list[str]]] = []
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in block.splitlines()]
        found.append([rows[0], *rows[2:]])
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_each_test_that_a_page_names_exists(page: Path) -> None:
    for path, name in NAMED.findall(page.read_text(encoding="utf-8")):
        file = ROOT / path
        assert file.is_file(), f"{page.name} names {path}"
        assert not name or name in names_in(file), f"{page.name} names {path}::{name}"


def test_each_cell_has_a_test_or_the_word_untested() -> None:
    promised, shown, *_ = tables(GUARANTEES.read_text(encoding="utf-8"))
    columns = promised[0][1:]
    by_cell = {(backend, cell): by for backend, cell, by in shown[1:]}
    for backend, *cells in promised[1:]:
        for column, cell in zip(columns, cells, strict=True):
            by = by_cell.pop((backend.partition(" (one")[0], f"{column}: {cell}"))
            assert NAMED.search(by) or "untested" in by, f"{backend}, {column}: {by}"
    assert not by_cell, f"these rows show no cell: {sorted(by_cell)}"


def test_a_test_that_is_not_there_is_noticed() -> None:
    assert "test_each_test_that_a_page_names_exists" in names_in(Path(__file__))
    assert "test_that_nobody_wrote" not in names_in(Path(__file__))
