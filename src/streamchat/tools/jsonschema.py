"""JSON Schemas as pydantic writes them: walked, tidied for a model's eyes, and asked what they allow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

__all__ = ["Schema", "admits_null", "children", "drop_default_nulls", "map_children", "resolve", "tidy"]

Schema: TypeAlias = dict[str, Any]

_OF_NAMES = ("properties", "$defs", "patternProperties", "dependentSchemas")
_OF_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")
_DEFS = "#/$defs/"


def map_children(schema: Schema, change: Callable[[Schema], Schema]) -> Schema:
    """Return a copy of ``schema`` with ``change`` applied to each schema that stands directly in it."""
    copy = dict(schema)
    for key in _OF_NAMES:
        if key in copy:
            copy[key] = {
                name: change(child) if isinstance(child, dict) else child for name, child in copy[key].items()
            }
    for key in _OF_LISTS:
        if key in copy:
            copy[key] = [change(child) if isinstance(child, dict) else child for child in copy[key]]
    for key in _SINGLE:
        if isinstance(copy.get(key), dict):
            copy[key] = change(copy[key])
    return copy


def children(schema: Schema) -> Iterator[Schema]:
    """Yield each schema that stands directly in ``schema``."""
    found: list[Schema] = []

    def note(child: Schema) -> Schema:
        found.append(child)
        return child

    map_children(schema, note)
    yield from found


def tidy(schema: Schema) -> Schema:
    """Drop generated titles, and put each definition that is used once, and not by itself, into its place."""
    schema = _without_titles(schema)
    defs: dict[str, Schema] = schema.pop("$defs", {})
    uses: Counter[str] = Counter()
    for part in (schema, *defs.values()):
        _count(part, uses)
    once = {name for name in defs if uses[_DEFS + name] == 1 and not _reaches_itself(name, defs)}

    def inline(part: Schema) -> Schema:
        name = part.get("$ref", "").removeprefix(_DEFS)
        if name in once:
            part = {**defs[name], **{key: value for key, value in part.items() if key != "$ref"}}
        return map_children(part, inline)

    result = inline(schema)
    kept = {name: inline(part) for name, part in defs.items() if name not in once and uses[_DEFS + name]}
    return {**result, "$defs": kept} if kept else result


def _without_titles(schema: Schema) -> Schema:
    return map_children({key: value for key, value in schema.items() if key != "title"}, _without_titles)


def _count(schema: Schema, uses: Counter[str]) -> None:
    if "$ref" in schema:
        uses[schema["$ref"]] += 1
    for child in children(schema):
        _count(child, uses)


def _reaches_itself(name: str, defs: Mapping[str, Schema]) -> bool:
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        uses: Counter[str] = Counter()
        _count(defs[waiting.pop()], uses)
        for ref in uses:
            target = ref.removeprefix(_DEFS)
            if target == name:
                return True
            if target in defs and target not in seen:
                seen.add(target)
                waiting.append(target)
    return False


def resolve(schema: Schema, defs: Mapping[str, Schema]) -> Schema:
    """Follow ``$ref`` until a schema stands there."""
    for _ in range(len(defs) + 1):
        if "$ref" not in schema:
            break
        schema = defs.get(schema["$ref"].removeprefix(_DEFS), {})
    return schema


def admits_null(schema: Schema, defs: Mapping[str, Schema], depth: int = 0) -> bool:
    """Say whether null is among the values that ``schema`` allows."""
    schema = resolve(schema, defs)
    if depth > 20:
        return True
    if "const" in schema:
        return schema["const"] is None
    if "enum" in schema:
        return None in schema["enum"]
    kind = schema.get("type")
    if kind is not None:
        return kind == "null" or (isinstance(kind, list) and "null" in kind)
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return any(admits_null(branch, defs, depth + 1) for branch in schema[key])
    return all(admits_null(part, defs, depth + 1) for part in schema.get("allOf", ()))


def drop_default_nulls(value: Any, schema: Schema, defs: Mapping[str, Schema]) -> Any:
    """Return ``value`` without the nulls that stand for "use the default".

    Strict mode has a model send every field; for one that may be left out and cannot be null, null is how it
    leaves it out. Where null is a value of its own, and where a field is required, null stays.
    """
    schema = resolve(schema, defs)
    branches = schema.get("anyOf") or schema.get("oneOf")
    if branches and isinstance(value, dict | list):
        schema = _branch(value, [resolve(branch, defs) for branch in branches], defs)
    if isinstance(value, list):
        first = schema.get("prefixItems", ())
        rest = schema.get("items") or {}
        rest = rest if isinstance(rest, dict) else {}
        return [
            drop_default_nulls(item, first[at] if at < len(first) else rest, defs)
            for at, item in enumerate(value)
        ]
    if not isinstance(value, dict):
        return value
    properties = schema.get("properties", {})
    others = schema.get("additionalProperties")
    others = others if isinstance(others, dict) else {}
    return {
        key: drop_default_nulls(item, properties.get(key, others), defs)
        for key, item in value.items()
        if item is not None or not _is_default(key, schema, defs)
    }


def _is_default(key: str, schema: Schema, defs: Mapping[str, Schema]) -> bool:
    properties = schema.get("properties", {})
    return (
        key in properties and key not in schema.get("required", ()) and not admits_null(properties[key], defs)
    )


def _branch(value: Any, branches: list[Schema], defs: Mapping[str, Schema]) -> Schema:
    """The member of a union that ``value`` is for: constants fit, nothing is missing, most keys are known."""
    if isinstance(value, list):
        return next((branch for branch in branches if branch.get("type") == "array"), {})
    best: tuple[int, Schema] = (-1, {})
    for branch in branches:
        properties = branch.get("properties", {})
        if branch.get("type", "object") != "object" or not set(branch.get("required", ())) <= set(value):
            continue
        if all(
            _may_be(value[key], resolve(child, defs)) for key, child in properties.items() if key in value
        ):
            best = max(best, (len(set(properties) & set(value)), branch), key=lambda pair: pair[0])
    return best[1]


def _may_be(value: Any, schema: Schema) -> bool:
    if "const" in schema:
        return bool(value == schema["const"])
    return value in schema["enum"] if "enum" in schema and value is not None else True
