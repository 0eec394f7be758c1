"""Where events are kept: the `EventBuffer` protocol (`base`) and its implementations.

`memory.MemoryEventBuffer` keeps them in the process, `sql.SQLEventBuffer` (extra ``sqlite``) in a database.
Each is imported from its own module, so that none needs the dependencies of another.
"""

from __future__ import annotations

__all__: list[str] = []
