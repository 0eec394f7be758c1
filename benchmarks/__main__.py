"""The command: ``python -m benchmarks [NAME…] [--quick] [--json FILE] [--page FILE]``."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

from benchmarks import (
    accumulating,
    appending,
    appending_postgres,
    appending_redis,
    consuming,
    idle,
    sse,
    subscribing,
    whole_way,
)
from benchmarks.measure import FULL, QUICK, Row, Scale
from benchmarks.report import as_json, as_page, as_text, machine

Benchmark: TypeAlias = Callable[[Scale], Awaitable[list[Row]]]

# With the loop that it runs on: whoever serves, or reads many streams at once, has the one that servers are
# deployed with; who reads one may have either.
BENCHMARKS: dict[str, tuple[str, str, Benchmark]] = {
    "in-process": ("Consuming a stream, without a network", "asyncio", consuming.in_process),
    "burst": ("Consuming a stream, in a burst", "asyncio", consuming.burst),
    "live": ("Consuming a stream, live", "uvloop", consuming.live),
    "way-burst": ("The whole way, in a burst", "uvloop", whole_way.burst),
    "way-live": ("The whole way, live", "uvloop", whole_way.live),
    "sse": ("Native SSE out", "uvloop", sse.sending),
    "fan-out": ("One more subscriber", "uvloop", subscribing.fanning_out),
    "idle": ("Idle connections", "uvloop", idle.idling),
    "replay": ("Replay", "asyncio", subscribing.replaying),
    "accumulate": ("Accumulating tool calls", "asyncio", accumulating.accumulating),
    "append": ("Appending", "asyncio", appending.appending),
    "append-postgres": (
        "Appending to PostgreSQL",
        "asyncio",
        appending_postgres.appending_postgres,
    ),
    "append-redis": ("Appending to Redis", "asyncio", appending_redis.appending_redis),
}


def main(arguments: list[str] | None = None) -> int:
    """Run what is named (all by default); the status is 1 only if a benchmark failed to run."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="CPU time, as ratios in one run"
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--quick", action="store_true", help="about a minute; less exact")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write the documentation's page")
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), help="instead of each benchmark's own")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}")
    warnings.simplefilter("ignore")
    print(f"{machine()}\n")
    results: dict[str, list[Row]] = {}
    failed = False
    for name in options.names or BENCHMARKS:
        title, loop, benchmark = BENCHMARKS[name]
        began = time.monotonic()
        try:
            results[title] = _run(benchmark, QUICK if options.quick else FULL, options.loop or loop)
        except Exception as error:
            failed = True
            print(f"{name} failed: {type(error).__name__}: {error}", file=sys.stderr)
            continue
        print(as_text(f"{title}  [{name}, {time.monotonic() - began:.0f} s]", results[title]), flush=True)
    if options.json:
        options.json.write_text(as_json(results), encoding="utf-8")
    if options.page:
        options.page.write_text(as_page(results), encoding="utf-8")
    return int(failed)


def _run(benchmark: Benchmark, scale: Scale, loop: str) -> list[Row]:
    with asyncio.Runner(loop_factory=_loops.get(loop)) as runner:
        return runner.run(benchmark(scale))  # type: ignore[arg-type]


_loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {}
try:
    import uvloop

    _loops["uvloop"] = uvloop.new_event_loop
except ImportError:  # not on Windows: asyncio's own it is
    pass


if __name__ == "__main__":
    sys.exit(main())
