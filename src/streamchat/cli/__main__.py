"""``python -m streamchat.cli``."""

from __future__ import annotations

import sys

from streamchat.cli import main

__all__: list[str] = []

sys.exit(main())
