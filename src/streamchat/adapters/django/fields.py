"""Columns in the form that each database needs: keys that compare exactly, and payload of any length."""

from __future__ import annotations

from typing import Any, cast

from django.db import models

__all__ = ["ExactField", "PayloadField"]


class ExactField(models.CharField):
    """Text that equals nothing but itself.

    MySQL's usual collations ignore case and accents, and even its older binary ones spaces at the end.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("max_length", 191)
        super().__init__(*args, **kwargs)

    def db_type(self, connection: Any) -> str | None:
        """Return the column's type."""
        if connection.vendor == "postgresql":
            # By its full name, or Django adds a second index for LIKE to each key.
            return f"character varying({self.max_length})"
        kind: Any = super().db_type(connection)
        if connection.vendor == "mysql" and kind is not None:
            return f"{kind} CHARACTER SET utf8mb4"
        return cast("str | None", kind)

    def db_parameters(self, connection: Any) -> dict[str, Any]:
        """Return the column's type and collation."""
        parameters: dict[str, Any] = super().db_parameters(connection)
        if connection.vendor == "postgresql":
            # A language's order would cost time at every key, and change with the operating system.
            parameters["collation"] = "C"
        elif connection.vendor == "mysql":
            parameters["collation"] = (
                "utf8mb4_nopad_bin" if connection.mysql_is_mariadb else "utf8mb4_0900_bin"
            )
        return parameters


class PayloadField(models.BinaryField):
    """Bytes of any length, as bytes whatever the driver gives."""

    def from_db_value(self, value: Any, expression: object, connection: object) -> bytes | None:
        """Return what is stored."""
        return value if value is None or type(value) is bytes else bytes(value)
