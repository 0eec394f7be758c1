"""The difference of two JSON values as a JSON Patch (RFC 6902): `add`, `remove` and `replace`."""

from __future__ import annotations

from typing import Any

__all__ = ["json_patch"]


def json_patch(old: Any, new: Any, path: str = "") -> list[dict[str, Any]]:
    """Return the operations that turn ``old`` into ``new``, in order; none where they are equal.

    Lists are compared place by place: what was added or removed in the middle replaces all that follows it.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        return _objects(old, new, path)
    if isinstance(old, list) and isinstance(new, list):
        return _lists(old, new, path)
    # (1, 1.0 and True are equal to Python, and not to a reader)
    return [] if type(old) is type(new) and old == new else [{"op": "replace", "path": path, "value": new}]


def _objects(old: dict[str, Any], new: dict[str, Any], path: str) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = [
        {"op": "remove", "path": f"{path}/{_token(key)}"} for key in old if key not in new
    ]
    for key, value in new.items():
        place = f"{path}/{_token(key)}"
        if key in old:
            out += json_patch(old[key], value, place)
        else:
            out.append({"op": "add", "path": place, "value": value})
    return out


def _lists(old: list[Any], new: list[Any], path: str) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    for place, (before, after) in enumerate(zip(old, new, strict=False)):
        out += json_patch(before, after, f"{path}/{place}")
    out += [{"op": "remove", "path": f"{path}/{place}"} for place in range(len(old) - 1, len(new) - 1, -1)]
    out += [{"op": "add", "path": f"{path}/-", "value": value} for value in new[len(old) :]]
    return out


def _token(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
