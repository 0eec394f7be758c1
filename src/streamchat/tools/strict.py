"""Schemas as strict mode wants them, for those that can be said in it.

What strict mode takes is OpenAI's "Structured outputs" guide, section "Supported schemas": objects are closed
and all their fields required, so an optional field becomes a nullable one. Limits on a value that strict mode
has no word for are moved into the description; our own validation holds them all the same.
"""

from __future__ import annotations

from typing import Any

from streamchat.core.jsontext import encode_json
from streamchat.tools.jsonschema import Schema, admits_null

__all__ = ["NotExpressible", "strict_schema"]

_FORMATS = {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"}
_AS_THEY_ARE = {
    "type", "enum", "const", "description", "multipleOf", "minimum", "maximum", "exclusiveMinimum",
    "exclusiveMaximum", "minItems", "maxItems",
}  # fmt: skip
_NOTED = {"minLength", "maxLength", "pattern", "format", "uniqueItems"}
_IMPOSSIBLE = (
    "prefixItems", "patternProperties", "propertyNames", "not", "if", "then", "else", "dependentRequired",
    "dependentSchemas", "contains", "unevaluatedProperties", "unevaluatedItems",
)  # fmt: skip
_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}

MOST_PROPERTIES = 5000
MOST_LEVELS = 10
MOST_ENUM_VALUES = 1000
MOST_NAME_CHARACTERS = 120_000
MOST_LONG_ENUM_CHARACTERS = 15_000  # of the texts of one enum with more than 250 values


class NotExpressible(Exception):
    """Strict mode has no form for a part of the schema; the text says which part, and why."""


def strict_schema(schema: Schema) -> Schema:
    """Return the strict form of a tidied schema. Raises `NotExpressible`."""
    writer = _Writer(schema.get("$defs", {}))
    result = writer.object({key: value for key, value in schema.items() if key != "$defs"}, "arguments", 1)
    if writer.defs:
        result["$defs"] = {name: writer.any(part, name, 2) for name, part in writer.defs.items()}
    writer.check_limits()
    return result


class _Writer:
    def __init__(self, defs: dict[str, Schema]) -> None:
        self.defs = defs
        self.properties = 0
        self.enum_values = 0
        self.characters = sum(map(len, defs))

    def any(self, schema: Schema, path: str, level: int) -> Schema:
        for key in _IMPOSSIBLE:
            if key in schema:
                raise NotExpressible(f"{path}: strict mode has no {key}")
        if len(schema.get("allOf", ())) == 1:
            schema = {**schema["allOf"][0], **{key: value for key, value in schema.items() if key != "allOf"}}
        if "allOf" in schema:
            raise NotExpressible(f"{path}: strict mode has no allOf")
        if "$ref" in schema:
            return self._reference(schema)
        branches = schema.get("anyOf") or schema.get("oneOf")
        if branches:
            parts = [self.any(part, f"{path}[{at}]", level) for at, part in enumerate(branches)]
            return _described({"anyOf": parts}, schema)
        if "enum" in schema or "const" in schema:
            return self._enum(schema)
        if schema.get("type") == "object" or "properties" in schema:
            return self.object(schema, path, level)
        if schema.get("type") == "array":
            return self._array(schema, path, level)
        if "type" not in schema:
            raise NotExpressible(f"{path}: a value of any type")
        return _scalar(schema)

    def object(self, schema: Schema, path: str, level: int) -> Schema:
        if level > MOST_LEVELS:
            raise NotExpressible(f"{path}: nested more than {MOST_LEVELS} levels deep")
        properties: dict[str, Schema] = schema.get("properties", {})
        # pydantic leaves the key out for models that ignore what they do not know; those may as well be
        # closed.
        if schema.get("additionalProperties", not properties and "properties" not in schema) is not False:
            raise NotExpressible(f"{path}: an object with keys of any name")
        self.properties += len(properties)
        self.characters += sum(map(len, properties))
        required = schema.get("required", ())
        written = {
            name: self._field(part, name in required, f"{path}.{name}", level)
            for name, part in properties.items()
        }
        result: Schema = {
            "type": "object",
            "properties": written,
            "required": list(properties),
            "additionalProperties": False,
        }
        return _described(result, schema)

    def _field(self, schema: Schema, required: bool, path: str, level: int) -> Schema:
        written = self.any(schema, path, level + 1)
        if required:
            return written
        note = ""
        if not admits_null(schema, self.defs):
            written = _nullable(written)
            note = "null: use the default"
            if "default" in schema:
                note += f", {encode_json(schema['default'])}"
        elif schema.get("default") is not None:
            note = f"default: {encode_json(schema['default'])}"
        return _noted(written, [note] if note else [])

    def _reference(self, schema: Schema) -> Schema:
        # Siblings of a $ref are refused; a union of one is not.
        reference = {"$ref": schema["$ref"]}
        return _described({"anyOf": [reference]}, schema) if "description" in schema else reference

    def _enum(self, schema: Schema) -> Schema:
        values: list[Any] = schema["enum"] if "enum" in schema else [schema["const"]]
        texts = [value for value in values if isinstance(value, str)]
        self.enum_values += len(values)
        self.characters += sum(map(len, texts))
        if len(values) > 250 and sum(map(len, texts)) > MOST_LONG_ENUM_CHARACTERS:
            raise NotExpressible(f"an enum of more than {MOST_LONG_ENUM_CHARACTERS} characters")
        if "type" not in schema:
            types = list(dict.fromkeys(_TYPES[type(value)] for value in values))
            schema = {"type": types[0] if len(types) == 1 else types, **schema}
        return _scalar(schema)

    def _array(self, schema: Schema, path: str, level: int) -> Schema:
        if not isinstance(schema.get("items"), dict):
            raise NotExpressible(f"{path}: a list with items of any type")
        return {**_scalar(schema), "items": self.any(schema["items"], f"{path}[]", level)}

    def check_limits(self) -> None:
        for what, have, most in (
            ("fields", self.properties, MOST_PROPERTIES),
            ("enum values", self.enum_values, MOST_ENUM_VALUES),
            ("characters in names and enum values", self.characters, MOST_NAME_CHARACTERS),
        ):
            if have > most:
                raise NotExpressible(f"{have} {what}, and strict mode takes {most}")


def _scalar(schema: Schema) -> Schema:
    written = {key: value for key, value in schema.items() if key in _AS_THEY_ARE}
    notes = []
    for key in sorted(_NOTED & schema.keys()):
        if (key == "format" and schema[key] in _FORMATS) or (key == "pattern" and "(?" not in schema[key]):
            written[key] = schema[key]
        else:
            value = schema[key]
            notes.append(f"{key}: {value if isinstance(value, str) else encode_json(value)}")
    return _noted(written, notes)


def _nullable(schema: Schema) -> Schema:
    if set(schema) <= {"anyOf", "description"}:
        return {**schema, "anyOf": [*schema["anyOf"], {"type": "null"}]}
    inner = {key: value for key, value in schema.items() if key != "description"}
    return _described({"anyOf": [inner, {"type": "null"}]}, schema)


def _described(schema: Schema, source: Schema) -> Schema:
    return {**schema, "description": source["description"]} if "description" in source else schema


def _noted(schema: Schema, notes: list[str]) -> Schema:
    if not notes:
        return schema
    text = f"({'; '.join(notes)})"
    if set(schema) == {"$ref"}:
        return {"anyOf": [schema], "description": text}
    return {**schema, "description": f"{schema['description']} {text}" if "description" in schema else text}
