"""The hand-written tables of the reference name what the code has: endpoints, statuses and codes."""

from __future__ import annotations

import ast
import re

from streamchat.errors import ModelError
from streamchat.http.openapi import OPERATIONS
from streamchat.orchestration.limits import Reached
from tests.project.support import PACKAGE, ROOT, Module

REFERENCE = ROOT / "docs" / "reference"


def page(name: str) -> str:
    return (REFERENCE / name).read_text(encoding="utf-8")


def calls_of(path: str, function: str) -> list[ast.Call]:
    return [
        node
        for file in sorted((PACKAGE / path).rglob("*.py"))
        for node in ast.walk(Module(file.stem, file).tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == function
    ]


def constants(node: ast.Call) -> list[object]:
    return [argument.value for argument in node.args if isinstance(argument, ast.Constant)]


def test_every_endpoint_has_a_section_and_no_other_does() -> None:
    served = set(OPERATIONS)  # which tests/http/test_openapi.py holds against the routes
    told = re.findall(r"^### (GET|POST|DELETE|PUT) (/\S*)$", page("http.md"), flags=re.MULTILINE)
    assert set(told) == served
    assert len(told) == len(served)


def test_every_answer_of_the_endpoints_is_in_the_table() -> None:
    raised = {tuple(constants(node)[:2]) for node in calls_of("http", "HTTPError")}
    told = set()
    for status, codes in re.findall(r"^\| (\d{3}) \| (`[^|]*`) \|", page("errors.md"), flags=re.MULTILINE):
        told |= {(int(status), code) for code in re.findall(r"`(\w+)`", codes)}
    assert len(raised) > 10
    assert raised == told


def test_every_limit_and_every_code_of_a_models_failure_is_named() -> None:
    limits = {constants(node)[0] for node in calls_of("orchestration", Reached.__name__)}
    codes = set(re.findall(r"``(\w+)``", (ModelError.__doc__ or "").split("retryable")[0])) - {"code"}
    assert "max_steps" in limits
    assert "idle_timeout" in codes
    told = set(re.findall(r"`(\w+)`", page("errors.md").split("## Codes inside a run")[1]))
    assert limits | codes <= told


def test_every_test_that_the_documentation_names_is_there() -> None:
    named = {
        match
        for path in (ROOT / "docs").rglob("*.md")
        for match in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", path.read_text(encoding="utf-8"))
    }
    assert len(named) > 5
    for file, test in named:
        assert (ROOT / file).exists(), file
        assert not test or f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{test}"
