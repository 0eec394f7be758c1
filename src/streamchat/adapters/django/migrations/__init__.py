"""The tables' history, for ``manage.py migrate``."""

from __future__ import annotations

__all__: list[str] = []
