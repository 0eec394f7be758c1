"""What `make docs` changes in a page before it is rendered."""

from __future__ import annotations

import re
from typing import Any

_FENCE = re.compile(r"^( *```python) \w+$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Take the word for the tests off code fences: Python-Markdown knows a language and nothing behind it."""
    return _FENCE.sub(r"\1", markdown)
