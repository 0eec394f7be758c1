"""Five core dependencies; everything else is an extra that has one home and is imported only there."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, requires

import pytest
from packaging.requirements import Requirement

from tests.project.support import ROOT, Module, modules

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

CORE = {"openai", "anyio", "pydantic", "tenacity", "typing-extensions"}

# import name -> the core dependency that brings it, checked against that distribution's own metadata
CARRIED = {
    "pydantic_core": "pydantic",
    "httpx2": "openai",
    "jiter": "openai",
    "sniffio": "openai",
}

# import name of an optional dependency -> (extra, the only places that may import it)
HOMES = {
    "sqlalchemy": ("sqlite", ["streamchat.buffers"]),
    "asyncpg": ("postgres", ["streamchat.buffers"]),
    "asyncmy": ("mysql", ["streamchat.buffers"]),
    "redis": ("redis", ["streamchat.buffers"]),
    "fastapi": ("fastapi", ["streamchat.adapters.fastapi"]),
    "starlette": ("fastapi", ["streamchat.adapters.fastapi"]),
    "django": ("django", ["streamchat.adapters.django"]),
    "asgiref": ("django", ["streamchat.adapters.django"]),
    "opentelemetry": ("otel", ["streamchat.observe"]),
    "prometheus_client": ("prometheus", ["streamchat.observe"]),
    "taskiq": ("taskiq", ["streamchat.service"]),
    "langgraph": ("langgraph", ["streamchat.models"]),
    "langchain_core": ("langgraph", ["streamchat.models"]),
    "aiohttp": ("aiohttp", ["streamchat.models"]),
    "hypothesis": ("testing", ["streamchat.testing"]),
    "pytest": ("testing", ["streamchat.testing"]),
    "uvicorn": ("serve", ["streamchat.cli", "streamchat.testing"]),
    "rich": ("terminal", ["streamchat.cli"]),
}


# What only an application brings, because it runs on it.
HOSTS = {"trio": ["streamchat.concurrency"]}

OPTIONAL = set(HOMES) | set(HOSTS)


def _inside(name: str, homes: list[str]) -> bool:
    return any(name == home or name.startswith(home + ".") for home in homes)


@pytest.mark.parametrize("module", modules(), ids=str)
def test_a_module_imports_only_what_is_declared_and_where_it_lives(module: Module) -> None:
    core = {name.replace("-", "_") for name in CORE}
    wrong = []
    for root, line in module.imported_roots():
        if root in sys.stdlib_module_names or root in core or root in CARRIED or root == "streamchat":
            continue
        homes = HOSTS.get(root) or HOMES.get(root, ("", []))[1]
        if not homes:
            wrong.append(f"line {line}: {root} is no declared dependency")
        elif not _inside(module.name, homes):
            wrong.append(f"line {line}: {root} is imported outside of {homes}")
    assert not wrong, f"{module.path}: {wrong}"


def test_the_core_dependencies_are_the_five() -> None:
    assert {Requirement(text).name for text in PROJECT["dependencies"]} == CORE


@pytest.mark.parametrize(("carried", "by"), CARRIED.items())
def test_what_is_imported_without_being_declared_comes_with_a_core_dependency(carried: str, by: str) -> None:
    names = {Requirement(text).name.replace("-", "_") for text in requires(by) or ()}
    assert carried in names, f"{by} no longer brings {carried}: it must be declared, or not imported"


def test_the_extra_all_is_all_of_them() -> None:
    extras = set(PROJECT["optional-dependencies"])
    named: set[str] = set()
    for text in PROJECT["optional-dependencies"]["all"]:
        requirement = Requirement(text)
        assert requirement.name == "streamchat"
        named |= requirement.extras
    assert named == extras - {"all"}


def test_every_optional_dependency_belongs_to_an_extra_that_exists() -> None:
    assert {extra for extra, _ in HOMES.values()} <= set(PROJECT["optional-dependencies"])


def _run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _loaded_by(imports: str) -> set[str]:
    code = f"import json, sys, {imports}; print(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    return set(json.loads(_run(code)))


def test_importing_streamchat_brings_no_optional_dependency() -> None:
    # openai loads aiohttp where it finds it; that is not ours to change.
    by_others = _loaded_by(", ".join(name.replace("-", "_") for name in sorted(CORE)))
    ours = _loaded_by("streamchat") - by_others
    assert "streamchat" in ours
    assert not ours & OPTIONAL


def test_streamchat_imports_where_no_optional_dependency_is_installed() -> None:
    _run(f"import sys; sys.modules |= dict.fromkeys({sorted(OPTIONAL)}); from streamchat import *")


def test_the_version_of_the_metadata_is_the_one_in_the_code() -> None:
    from importlib.metadata import version

    import streamchat

    try:
        assert version("streamchat") == streamchat.__version__
    except PackageNotFoundError:
        pytest.fail("streamchat is not installed; `make test` installs it")
