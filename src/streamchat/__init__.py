"""A chat backend in which every answer is a run: an append-only log of events that outlives connections."""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
