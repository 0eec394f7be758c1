"""What stored payload looks like: as it is, or through a `Codec` that compresses or encrypts it.

Payload is everything whose content is the users': events, requests, messages, posted answers, a principal's
claims. A coded payload names its codec's key, so that keys can change and uncoded rows stay readable: it is
stored as a NUL, the key id, a NUL and the codec's bytes. Our own JSON never begins with a NUL; other payload
that does is marked by an empty key id.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from streamchat.errors import BufferError, InvalidInput

__all__ = ["Codec", "Payloads"]


class Codec(Protocol):
    """Turns payload into what is stored and back; pure, and safe to call from any thread."""

    @property
    def key_id(self) -> str:
        """Which key (or method) this codec uses: ASCII, not empty, never used again for another."""
        ...

    def encode(self, plain: bytes) -> bytes:
        """Return what is to be stored."""
        ...

    def decode(self, coded: bytes) -> bytes:
        """Return what was given to `encode`; raises whatever it likes where that is not possible."""
        ...


class Payloads:
    """Writes with one codec (None: as it is), reads with all that are given."""

    def __init__(self, codec: Codec | None = None, older: Iterable[Codec] = ()) -> None:
        """``older`` are codecs of former keys. Raises `InvalidInput` for a key id that cannot be stored."""
        older = tuple(older)
        for given in (*older, *([codec] if codec is not None else [])):
            if not isinstance(getattr(given, "key_id", None), str):
                raise InvalidInput(
                    f"codec={given!r:.100} is of type {type(given).__name__}: give a Codec, with key_id, "
                    f"encode and decode",
                    field="codec",
                )
        self._codec = codec
        self._by_key = {known.key_id: known for known in (*older, *([codec] if codec is not None else []))}
        for key_id in self._by_key:
            if not key_id or not key_id.isascii() or "\0" in key_id:
                raise InvalidInput(f"the codec's key id {key_id!r} must be ASCII, not empty, without NUL")
        self._prefix = b"" if codec is None else b"\0%b\0" % codec.key_id.encode("ascii")

    def put(self, plain: bytes) -> bytes:
        """Return what to store for ``plain``."""
        if self._codec is not None:
            return self._prefix + self._codec.encode(plain)
        return b"\0\0" + plain if plain[:1] == b"\0" else plain

    def get(self, stored: bytes) -> bytes:
        """Return what was given to `put`; raises `BufferError` where no codec of that key is there, or it
        fails."""
        if stored[:1] != b"\0":
            return stored
        key, _, coded = stored[1:].partition(b"\0")
        if not key:
            return coded
        key_id = key.decode("ascii", "replace")
        codec = self._by_key.get(key_id)
        if codec is None:
            raise BufferError(f"payload was stored with the key {key_id!r}: add its codec to `older_codecs`")
        try:
            return codec.decode(coded)
        except Exception as error:
            raise BufferError(
                f"the codec of key {key_id!r} could not read {len(coded)} bytes: {error}"
            ) from error

    def put_events(
        self, events: Sequence[tuple[str, bytes, bytes | None]]
    ) -> Sequence[tuple[str, bytes, bytes | None]]:
        """Return (type, data, private) of events with what to store for both: they themselves, nearly
        always."""
        if self._codec is None:
            for _, data, private in events:
                if data[:1] == b"\0" or private is not None:
                    break
            else:
                return events
        return [(kind, self.put(data), self.put_optional(private)) for kind, data, private in events]

    def put_optional(self, plain: bytes | None) -> bytes | None:
        """The same as `put`, for what may be missing."""
        return None if plain is None else self.put(plain)

    def get_optional(self, stored: bytes | None) -> bytes | None:
        """The same as `get`, for what may be missing."""
        return None if stored is None else self.get(stored)
