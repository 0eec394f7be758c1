"""``python -m tests.chaos --backend sqlite --seconds 600 --seed 7 --workers 2 --kills 1000``: a long attack.

Prints a table, writes JSON (``--json``) and the page of the documentation (``--page``). Exits with 1 where
anything that must hold did not; the files of such a run, its logs among them, are kept in ``--keep``.
"""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import json
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path

from streamchat.service.log import read_log
from tests.chaos.report import as_row, as_text, update_page
from tests.chaos.run import Attack, Options, Outcome
from tests.chaos.stores import DURABLE, private_store

_SAVED_LOGS = 20
_TOLD_EVERY = 30.0


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    default = Options()
    parser.add_argument("--backend", default=default.backend, choices=DURABLE)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--workers", type=int, default=default.workers, help="how many live at once")
    parser.add_argument("--kills", type=int, default=None, help="default: one a second")
    parser.add_argument("--ttl", type=float, default=default.ttl, help="seconds that a lease lasts")
    parser.add_argument("--rate", type=float, default=default.rate, help="runs started a second")
    parser.add_argument("--keep", type=Path, default=None, help="a folder for the files of the attack")
    parser.add_argument("--json", type=Path, default=None, help="where to write the figures")
    parser.add_argument("--page", type=Path, default=None, help="the documentation's page, for its table")
    return parser.parse_args(arguments)


async def tell(outcome: Outcome) -> None:
    """Say now and then how far it is."""
    began = time.monotonic()
    while True:
        await asyncio.sleep(_TOLD_EVERY)
        seconds = time.monotonic() - began
        print(f"{seconds:4.0f} s: {outcome.kills} kills, {outcome.workers} workers", file=sys.stderr)


async def attack(options: Options, folder: Path) -> Outcome:
    """Attack, and save the logs of the runs that broke a promise."""
    async with private_store(options.backend, folder) as store:
        attacking = Attack(options, store, folder)
        telling = asyncio.create_task(tell(attacking.outcome))
        try:
            outcome = await attacking.run()
        finally:
            telling.cancel()
        broken = {run for run, _ in outcome.findings.violations if run}
        buffer = await store.make().open()
        try:
            for run in sorted(broken)[:_SAVED_LOGS]:
                events = await read_log(buffer, run)
                lines = [json.dumps([e.id, e.at, json.loads(e.data)]) for e in events]
                (folder / f"log-{run}.jsonl").write_text("\n".join(lines) + "\n")
        finally:
            await buffer.close()
    return outcome


def main(arguments: list[str]) -> int:
    """Run the attack that the command line asks for."""
    warnings.simplefilter("ignore")
    faulthandler.register(signal.SIGUSR1)
    chosen = parse(arguments)
    options = Options(
        backend=chosen.backend,
        seconds=chosen.seconds,
        seed=chosen.seed,
        workers=chosen.workers,
        kills=round(chosen.seconds) if chosen.kills is None else chosen.kills,
        ttl=chosen.ttl,
        rate=chosen.rate,
    )
    folder = chosen.keep or Path(tempfile.mkdtemp(prefix="streamchat-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    outcome = asyncio.run(attack(options, folder))
    print(as_text(outcome))
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(as_row(outcome), indent=1) + "\n")
    if chosen.page is not None:
        update_page(chosen.page, as_row(outcome))
    if outcome.findings.violations:
        print(f"the files of this attack are in {folder}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
