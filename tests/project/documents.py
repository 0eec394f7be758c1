"""Python code blocks of the documentation that are marked to be run.

A fence opened with ``` ```python run ``` is run by the tests; those of one page share a namespace, in order,
so that a page can be written as a story. Blocks may use ``await`` at top level. A block that needs a server
or a key is not marked, and a test that wants one (the README's quick start) takes it from `python_blocks`.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

FENCE = re.compile(
    r"^(?P<indent> *)```python(?P<info>[^\n]*)\n(?P<body>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """One fenced block: its code, the words after ``python``, and the line where its code starts (from 1)."""

    page: Path
    line: int
    info: tuple[str, ...]
    code: str

    def compiled(self) -> CodeType:
        # Padded, so that a traceback names the line of the page.
        source = "\n" * (self.line - 1) + self.code
        compiled: CodeType = compile(source, str(self.page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        return compiled

    async def run(self, namespace: dict[str, Any]) -> None:
        """Runs the block in `namespace`, which it changes; what it raises is raised."""
        result = eval(self.compiled(), namespace)
        if inspect.iscoroutine(result):
            await result


def python_blocks(page: Path) -> list[Block]:
    """Every Python block of `page`, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        indent = len(match["indent"])
        code = "".join(
            line[indent:] if line.strip() else "\n" for line in match["body"].splitlines(keepends=True)
        )
        line = text.count("\n", 0, match.start("body")) + 1
        found.append(Block(page, line, tuple(match["info"].split()), code))
    return found


def run_page(blocks: list[Block]) -> dict[str, Any]:
    """Runs blocks of one page one after the other in one namespace, and returns that."""
    namespace: dict[str, Any] = {"__name__": "__docs__"}

    async def story() -> None:
        for block in blocks:
            await block.run(namespace)

    coroutine: Coroutine[Any, Any, None] = story()
    asyncio.run(coroutine)
    return namespace
