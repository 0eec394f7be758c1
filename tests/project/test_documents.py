"""The code in README and docs runs: blocks marked ``python run`` are executed, all others must compile."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.project.documents import Block, python_blocks, run_page
from tests.project.support import ROOT, tracked_files

BLOCKS = [block for path in tracked_files() if path.suffix == ".md" for block in python_blocks(path)]
PAGES = sorted({block.page for block in BLOCKS if "run" in block.info})


def _name(thing: Path | Block) -> str:
    if isinstance(thing, Block):
        return f"{thing.page.relative_to(ROOT)}:{thing.line}"
    return str(thing.relative_to(ROOT))


@pytest.mark.parametrize("block", BLOCKS, ids=_name)
def test_every_python_block_compiles(block: Block) -> None:
    block.compiled()


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_the_blocks_of_a_page_that_are_marked_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run_page([block for block in BLOCKS if block.page == page and "run" in block.info])


def test_a_block_of_a_page_knows_its_line_and_may_await(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# Title\n\n```python run\nimport asyncio\nx = await asyncio.sleep(0, 2)\n```\n\n"
        "- item\n\n  ```python run\n  y = x + 1\n\n  z = y\n  ```\n\n```python\nnot run\n```\n"
    )
    first, second, third = python_blocks(page)
    assert (first.line, second.line, third.info) == (4, 11, ())
    assert run_page([first, second])["z"] == 3


def test_a_failing_block_is_reported_with_the_line_of_its_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("text\n\n```python run\na = 1\nb = a / 0\n```\n")
    with pytest.raises(ZeroDivisionError) as raised:
        run_page(python_blocks(page))
    assert raised.traceback[-1].lineno == 4  # counted from 0: line 5 of the page
