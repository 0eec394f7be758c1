"""The browser folds as the server does: both are checked against the same vectors."""

from __future__ import annotations

import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
VECTORS = sorted((TESTS / "core" / "vectors").glob("*.json"))


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed: the browser's fold is not checked")
def test_the_browsers_fold_agrees_with_ours_on_every_vector() -> None:
    assert VECTORS
    module = files("streamchat.web") / "streamchat.js"
    run = subprocess.run(
        ["node", str(TESTS / "web" / "fold_vectors.mjs"), str(module), *map(str, VECTORS)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
