"""Who asks, as the host application knows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Principal"]


@dataclass(frozen=True, slots=True)
class Principal:
    """A user of the host application; stored with the run, so that it survives a take-over.

    ``claims`` must be JSON values.
    """

    id: str
    tenant: str | None = None
    claims: Mapping[str, Any] = field(default_factory=dict)
