"""What the tests of the project's promises share: where things are, what is tracked, which modules exist."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "streamchat"
_NOT_OURS = {".git", ".venv", "build", "dist", "site", "__pycache__"}


@cache
def tracked_files() -> tuple[Path, ...]:
    """The files that git tracks; in a source distribution, which has no git, all that are not built."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout
    if listed:
        paths = [ROOT / name for name in listed.split("\0") if name]
    else:
        paths = [p for p in ROOT.rglob("*") if not _NOT_OURS & set(p.relative_to(ROOT).parts)]
    return tuple(sorted(path for path in paths if path.is_file()))


@dataclass(frozen=True)
class Module:
    """One module of the package, read and not imported."""

    name: str
    path: Path

    def __str__(self) -> str:
        return self.name

    @property
    def is_public(self) -> bool:
        return not any(part.startswith("_") for part in self.name.split("."))

    @property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, str(self.path))

    @property
    def binds_names(self) -> bool:
        """Whether there is more in it than a docstring and the future import."""
        return any(
            not isinstance(node, ast.Expr)
            and not (isinstance(node, ast.ImportFrom) and node.module == "__future__")
            for node in self.tree.body
        )

    def imported_roots(self) -> Iterator[tuple[str, int]]:
        """The top-level names of everything imported anywhere in the module, with the line."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield alias.name.split(".")[0], node.lineno
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                yield node.module.split(".")[0], node.lineno


def modules() -> list[Module]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = list(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        found.append(Module(".".join(parts), path))
    return found


def public_modules() -> list[Module]:
    return [module for module in modules() if module.is_public]
