"""What a model is told of a tool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["ToolSchema"]


@dataclass(frozen=True, slots=True)
class ToolSchema:
    """A tool as the model is told of it: ``parameters`` is a JSON Schema; ``strict`` asks for strict mode."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    strict: bool = False
