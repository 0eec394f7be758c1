"""What buffers over a database with transactions share: jobs, group commit, appending, and the methods of
`EventBuffer` in terms of them. Statements, connections and dialects are each buffer's own."""

from __future__ import annotations

__all__: list[str] = []
