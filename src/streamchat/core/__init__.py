"""The pure part: accumulating, ordering rules, folding, cursors and SSE, all functions over data.

Nothing here knows sockets, a clock, ids or randomness; shells around it do I/O and pass these in.
"""
