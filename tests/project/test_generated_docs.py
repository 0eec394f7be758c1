"""Pages that are written from the code are what the code says."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import pytest

from tests.project.support import ROOT

GENERATOR = ROOT / "docs" / "_generate.py"


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", GENERATOR)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_parts_of_the_pages_are_fresh(generator: ModuleType) -> None:
    stale = [str(path.relative_to(ROOT)) for path in generator.stale()]
    assert not stale, f"{', '.join(stale)}: run `{generator.COMMAND}`"


def test_each_part_that_can_be_generated_stands_on_a_page(generator: ModuleType) -> None:
    pages = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").rglob("*.md"))
    assert not [name for name in generator.PARTS if f"<!-- generated: {name} -->" not in pages]


def test_a_stale_page_is_noticed_and_made_fresh(generator: ModuleType) -> None:
    page = "before\n<!-- generated: run-diagram -->\nold\n<!-- /generated -->\nafter\n"
    fresh = generator.filled(page)
    assert "old" not in fresh
    assert "[*] --> start" in fresh
    assert (fresh[:7], fresh[-6:]) == ("before\n", "after\n")
    assert generator.filled(fresh) == fresh


def test_a_part_that_nobody_can_generate_is_an_error(generator: ModuleType) -> None:
    with pytest.raises(KeyError, match="horoscope"):
        generator.filled("<!-- generated: horoscope -->\n<!-- /generated -->\n")
