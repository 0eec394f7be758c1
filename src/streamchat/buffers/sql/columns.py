"""Column types in the form that each database needs: keys that compare exactly, and payload of any length."""

from __future__ import annotations

from typing import Any

from sqlalchemy import LargeBinary, String
from sqlalchemy.dialects.mysql import LONGBLOB
from sqlalchemy.ext.compiler import compiles

__all__ = ["PAYLOAD", "Exact"]

PAYLOAD = LargeBinary().with_variant(LONGBLOB(), "mysql", "mariadb")
"""Bytes of any length; MySQL's plain BLOB ends at 64 KiB."""


class Exact(String):
    """Text of at most ``length`` characters that equals nothing but itself.

    MySQL's usual collations ignore case and accents, and even its older binary ones ignore spaces at the end.
    """

    # Only how it is declared differs from `String`, never what is sent or received.
    cache_ok = True


@compiles(Exact, "postgresql")
def _by_bytes(kind: Exact, compiler: Any, **_: Any) -> str:
    # A language's order would cost time at every key, and change with the operating system.
    return f'VARCHAR({kind.length}) COLLATE "C"'


@compiles(Exact, "mysql")
@compiles(Exact, "mariadb")
def _declared(kind: Exact, compiler: Any, **_: Any) -> str:
    collation = "utf8mb4_nopad_bin" if compiler.dialect.is_mariadb else "utf8mb4_0900_bin"
    return f"VARCHAR({kind.length}) CHARACTER SET utf8mb4 COLLATE {collation}"
