"""Who asks, as the host application knows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Principal"]


@dataclass(frozen=True, slots=True)
class Principal:
    """A user of the host application; stored with the run, so that it survives a take-over.

    ``claims`` must be JSON values; logs never show them. ``expires_at`` is when what proved the identity ends
    (seconds since the epoch; None: not known), from then on the HTTP endpoints answer 401 and end streams; it
    belongs to one request, and is neither stored nor compared.
    """

    id: str
    tenant: str | None = None
    claims: Mapping[str, Any] = field(default_factory=dict, repr=False)
    expires_at: float | None = field(default=None, compare=False, repr=False)
