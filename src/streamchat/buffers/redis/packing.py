"""One batch of events as the bytes of one stream entry, and back.

Little-endian: a version byte, the numbers of types and of events (4 bytes each), the length of each type's
name, then for each event the index of its type, the length of its data, and one more than the length of its
private data (0: there is none); behind these 4-byte numbers all names, all data, all private data.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from streamchat.errors import BufferError

__all__ = ["PackedEvent", "pack", "unpack"]

PackedEvent = tuple[str, bytes, bytes | None]
"""Type, data and private data, as they are stored."""

_VERSION = 1
_HEAD = struct.Struct("<BII")


def pack(events: Sequence[PackedEvent]) -> bytes:
    """Return the entry of a batch, which has at least one event."""
    kinds, data, private = zip(*events, strict=True)
    types = dict.fromkeys(kinds)
    for index, kind in enumerate(types):
        types[kind] = index
    names = [name.encode("utf-8", "surrogatepass") for name in types]
    numbers = [*map(len, names), *map(types.__getitem__, kinds), *map(len, data)]
    if any(private):
        numbers += [0 if one is None else len(one) + 1 for one in private]
        data += tuple(filter(None, private))
    else:
        numbers += [int(one is not None) for one in private]
    head = _HEAD.pack(_VERSION, len(names), len(kinds))
    return b"".join((head, struct.pack(f"<{len(numbers)}I", *numbers), *names, *data))


def unpack(packed: bytes) -> list[PackedEvent]:
    """Return the batch of an entry; raises `BufferError` for what is none."""
    try:
        version, kinds, count = _HEAD.unpack_from(packed)
        if version == _VERSION:
            numbers = struct.unpack_from(f"<{kinds + 3 * count}I", packed, _HEAD.size)
            return _events(packed, kinds, count, numbers)
    except (struct.error, LookupError, ValueError) as error:
        raise BufferError(f"{len(packed)} stored bytes are no batch of events: {error}") from error
    raise BufferError(
        f"a batch is stored in form {version}, but this streamchat reads form {_VERSION}: "
        f"take the version that wrote it"
    )


def _events(packed: bytes, kinds: int, count: int, numbers: Sequence[int]) -> list[PackedEvent]:
    at = _HEAD.size + 4 * len(numbers)
    names = []
    for length in numbers[:kinds]:
        names.append(packed[at : at + length].decode("utf-8", "surrogatepass"))
        at += length
    data = []
    for length in numbers[kinds + count : kinds + 2 * count]:
        data.append(packed[at : at + length])
        at += length
    private: list[bytes | None] = []
    for length in numbers[kinds + 2 * count :]:
        private.append(packed[at : at + length - 1] if length else None)
        at += max(length - 1, 0)
    if at != len(packed):
        raise ValueError(f"{at} bytes were written")
    types = [names[index] for index in numbers[kinds : kinds + count]]
    return list(zip(types, data, private, strict=True))
