"""What a docstring says of a function and its parameters: Google's, NumPy's and Sphinx's styles."""

from __future__ import annotations

import inspect
import re
from typing import NamedTuple

__all__ = ["Docstring", "parse_docstring"]

_PARAMETERS = "args|arguments|parameters|params|keyword args|keyword arguments|other parameters"
# What these say is for who reads the code; the other sections (notes, examples) help a model too.
_FOR_PROGRAMMERS = "returns?|yields?|receives?|raises|warns|see also|references|attributes"
_GOOGLE = re.compile(rf"(?:(?P<args>{_PARAMETERS})|{_FOR_PROGRAMMERS})\s*:\s*", re.IGNORECASE)
_NUMPY = re.compile(rf"(?:(?P<args>{_PARAMETERS})|{_FOR_PROGRAMMERS})\s*", re.IGNORECASE)
_UNDERLINE = re.compile(r"[-=]{3,}\s*")
_GOOGLE_ITEM = re.compile(r"\*{0,2}(?P<name>\w+)\s*(?:\(.*?\))?\s*:(?:\s+(?P<text>.*))?")
_NUMPY_ITEM = re.compile(r"(?P<names>\*{0,2}\w+(?:\s*,\s*\*{0,2}\w+)*)\s*(?::.*)?")
_SPHINX = re.compile(r":(?P<field>[a-z]+)(?:\s+(?P<words>[^:]*))?:(?:\s+(?P<text>.*))?", re.IGNORECASE)
_SPHINX_PARAMETER = {"param", "parameter", "arg", "argument", "key", "keyword"}
_SPHINX_OTHER = {
    "type",
    "return",
    "returns",
    "rtype",
    "raises",
    "raise",
    "except",
    "exception",
    "yield",
    "yields",
}


class Docstring(NamedTuple):
    """The text about the function, and that about its parameters by their names."""

    description: str
    parameters: dict[str, str]


def parse_docstring(text: str | None) -> Docstring:
    """Split a docstring, without its sections on returns and exceptions; odd text is description."""
    reader = _Reader(inspect.cleandoc(text or "").splitlines())
    while reader.at < len(reader.lines):
        if not (_google(reader) or _numpy(reader) or _sphinx(reader)):
            reader.description.append(reader.lines[reader.at])
            reader.at += 1
    description = re.sub(r"\n{3,}", "\n\n", "\n".join(reader.description)).strip()
    parameters = {name: " ".join(" ".join(said).split()) for name, said in reader.parameters.items()}
    return Docstring(description, {name: said for name, said in parameters.items() if said})


class _Reader:
    def __init__(self, lines: list[str]) -> None:
        self.lines = lines
        self.at = 0
        self.description: list[str] = []
        self.parameters: dict[str, list[str]] = {}

    def line(self, ahead: int = 0) -> str:
        at = self.at + ahead
        return self.lines[at] if at < len(self.lines) else ""


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _google(reader: _Reader) -> bool:
    header = _GOOGLE.fullmatch(reader.line())
    if header is None:
        return False
    reader.at += 1
    while reader.at < len(reader.lines) and not reader.line().strip():
        reader.at += 1
    base = _indent(reader.line())
    item: list[str] = []
    while reader.at < len(reader.lines):
        line = reader.line()
        if line.strip() and (not base or _indent(line) < base):
            break
        match = _GOOGLE_ITEM.fullmatch(line.strip()) if line.strip() and _indent(line) == base else None
        if match and header["args"]:
            item = reader.parameters.setdefault(match["name"], [])
            item.append(match["text"] or "")
        else:
            item.append(line.strip())
        reader.at += 1
    return True


def _numpy(reader: _Reader) -> bool:
    header = _NUMPY.fullmatch(reader.line())
    if header is None or not _UNDERLINE.fullmatch(reader.line(1)):
        return False
    reader.at += 2
    items: list[list[str]] = []
    while reader.at < len(reader.lines):
        line = reader.line()
        if line.strip() and not _indent(line):
            if _UNDERLINE.fullmatch(reader.line(1)):
                break  # the next section
            match = _NUMPY_ITEM.fullmatch(line)
            if header["args"] and match is None:
                break
            names = re.findall(r"\w+", match["names"]) if match and header["args"] else []
            items = [reader.parameters.setdefault(name, []) for name in names]
        else:
            for item in items:
                item.append(line.strip())
        reader.at += 1
    return True


def _sphinx(reader: _Reader) -> bool:
    match = _SPHINX.fullmatch(reader.line())
    if match is None or match["field"].lower() not in _SPHINX_PARAMETER | _SPHINX_OTHER:
        return False
    words = (match["words"] or "").split()
    item: list[str] = []
    if match["field"].lower() in _SPHINX_PARAMETER and words:
        item = reader.parameters.setdefault(words[-1].lstrip("*"), [])
    item.append(match["text"] or "")
    reader.at += 1
    while reader.at < len(reader.lines) and reader.line().strip() and _indent(reader.line()):
        item.append(reader.line().strip())
        reader.at += 1
    return True
