"""The entry of the processes on the other side: ``python -m benchmarks.helper MODULE [ARGUMENT…]`` runs
the module's ``serve``."""

from __future__ import annotations

import asyncio
import importlib
import sys

if __name__ == "__main__":
    module, *arguments = sys.argv[1:]
    asyncio.run(importlib.import_module(f"benchmarks.{module}").serve(*arguments))
