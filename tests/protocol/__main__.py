"""Explores the protocol and fills in its page: ``python -m tests.protocol [--small] [--page PATH]``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from tests.protocol.explore import Explored, explore
from tests.protocol.model import World
from tests.protocol.page import filled
from tests.protocol.worlds import LARGE, SMALL


def _all(worlds: Mapping[str, World]) -> dict[str, Explored]:
    out = {}
    for name, world in worlds.items():
        began = time.monotonic()
        explored = out[name] = explore(world)
        seconds = time.monotonic() - began
        print(f"{name}: {explored.states:,} states, {explored.steps:,} steps, {seconds:.0f} s", flush=True)
        if explored.found is not None:
            sys.exit(str(explored.found))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.protocol", description=__doc__)
    parser.add_argument("--small", action="store_true", help="only the small bounds")
    parser.add_argument("--page", type=Path, help="the page of the documentation to fill in")
    given = parser.parse_args()
    small = _all(SMALL)
    large = {} if given.small else _all(LARGE)
    if given.page is not None:
        page = given.page.read_text(encoding="utf-8")
        given.page.write_text(filled(page, small, large), encoding="utf-8")


if __name__ == "__main__":
    main()
