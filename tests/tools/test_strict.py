from __future__ import annotations

import contextlib
import enum
import json
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AnyUrl, BaseModel, ConfigDict, Field, Json

from streamchat.errors import ToolDefinitionError
from streamchat.tools.jsonschema import tidy
from streamchat.tools.strict import NotExpressible, strict_schema
from tests.tools.support import Case, Options, Point, Tree, cases, make

# Written down from OpenAI's guide once more, on purpose not imported.
KEYWORDS = {
    "$defs", "$ref", "type", "enum", "const", "description", "anyOf", "properties", "required", "items",
    "additionalProperties", "pattern", "format", "multipleOf", "minimum", "maximum", "exclusiveMinimum",
    "exclusiveMaximum", "minItems", "maxItems",
}  # fmt: skip
FORMATS = {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"}


def assert_strict(schema: Any, root: Any = None) -> None:
    if root is None:
        root = schema
        assert schema["type"] == "object"
        assert "anyOf" not in schema
        for part in schema.get("$defs", {}).values():
            assert_strict(part, root)
    assert isinstance(schema, dict)
    assert schema.keys() <= KEYWORDS, schema.keys() - KEYWORDS
    if "$ref" in schema:
        assert schema == {"$ref": schema["$ref"]}
        assert schema["$ref"].removeprefix("#/$defs/") in root["$defs"]
        return
    assert "type" in schema or "anyOf" in schema, schema
    assert schema.get("format", "date") in FORMATS
    assert "(?" not in schema.get("pattern", "")
    if schema.get("type") == "object":
        assert schema["additionalProperties"] is False
        assert schema["required"] == list(schema["properties"])
        for part in schema["properties"].values():
            assert_strict(part, root)
    if schema.get("type") == "array":
        assert_strict(schema["items"], root)
    for part in schema.get("anyOf", ()):
        assert_strict(part, root)


def tool_of(annotations: dict[str, Any], optional: bool = False, **options: Any) -> Any:
    def tool() -> None: ...

    import inspect

    tool.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                annotation=annotation,
                default=None if optional else inspect.Parameter.empty,
            )
            for name, annotation in annotations.items()
        ]
    )
    return make(tool, **options)


@given(st.lists(cases, max_size=4), st.booleans())
def test_a_schema_that_calls_itself_strict_keeps_the_rules_of_strict_mode(
    drawn: list[Case], optional: bool
) -> None:
    tool = tool_of({f"p{n}": case.annotation for n, case in enumerate(drawn)}, optional)
    if tool.schema.strict:
        assert_strict(tool.schema.parameters)
    else:
        assert tool.schema.parameters == tool.plain
        assert "prefixItems" in str(tool.plain) or "'additionalProperties': {" in str(tool.plain)
    json.dumps(tool.schema.parameters)


@given(st.lists(cases, max_size=4))
def test_writing_the_strict_schema_leaves_the_plain_one_alone(drawn: list[Case]) -> None:
    plain = tool_of({f"p{n}": case.annotation for n, case in enumerate(drawn)}, strict=False).plain
    before = json.dumps(plain)
    with contextlib.suppress(NotExpressible):
        strict_schema(plain)
    assert json.dumps(plain) == before
    assert tidy(plain) == plain


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]
    friend: Dog | None = None


class Short(BaseModel):
    """A short text."""

    text: Annotated[str, Field(min_length=1, max_length=5, pattern="^a+$")]
    tags: Annotated[set[str], Field(max_length=3)] = set()


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: int


EXPRESSIBLE = {
    "recursive": Tree,
    "nullable recursive": Tree | None,
    "dataclass": Point,
    "typed dict": Options,
    "union": Annotated[Cat | Dog, Field(discriminator="kind")],
    "limits": Short,
    "int enum": Level,
    "mixed literal": Literal["a", 1, None],
    "decimal": Decimal,
    "date and time": datetime,
    "duration": timedelta,
    "uuid": UUID,
    "url": AnyUrl,
    "path": Path,
    "bytes": bytes,
    "json text": Json[list[int]],
    "described reference": Annotated[Tree, Field(description="A tree.")],
}
INEXPRESSIBLE = {
    "dict": dict[str, int],
    "bare dict": dict,
    "bare list": list,
    "anything": Any,
    "object": object,
    "tuple": tuple[int, str],
    "open model": Open,
    "deep inside": list[list[Open | None]],
}


@pytest.mark.parametrize("annotation", EXPRESSIBLE.values(), ids=EXPRESSIBLE)
def test_these_types_have_a_strict_schema(annotation: Any) -> None:
    for optional in (False, True):
        tool = tool_of({"x": annotation, "y": annotation}, optional)
        assert tool.schema.strict
        assert_strict(tool.schema.parameters)


@pytest.mark.parametrize("annotation", INEXPRESSIBLE.values(), ids=INEXPRESSIBLE)
def test_these_types_have_none_and_asking_for_it_is_an_error(annotation: Any) -> None:
    assert tool_of({"x": annotation}).schema.strict is False
    with pytest.raises(ToolDefinitionError, match=r"'tool': strict=True, but arguments\.x"):
        tool_of({"x": annotation}, strict=True)


def test_strict_false_leaves_the_schema_plain() -> None:
    tool = tool_of({"x": int}, optional=True, strict=False)
    assert (tool.schema.strict, tool.schema.parameters) == (False, tool.plain)
    assert "required" not in tool.plain


def test_an_optional_parameter_becomes_nullable_and_says_what_null_does() -> None:
    def tool(a: int = 3, b: int | None = 4, c: str | None = None, d: Tree = Tree(label="x")) -> None:  # noqa: B008
        """Tool.

        Args:
            a: A number.
        """

    properties = make(tool).schema.parameters["properties"]
    assert properties["a"] == {
        "anyOf": [{"type": "integer"}, {"type": "null"}],
        "description": "A number. (null: use the default, 3)",
    }
    assert properties["b"]["description"] == "(default: 4)"
    assert "description" not in properties["c"]
    assert properties["d"]["anyOf"] == [{"$ref": "#/$defs/Tree"}, {"type": "null"}]


def test_limits_that_strict_mode_has_no_word_for_are_told_in_the_description() -> None:
    schema = tool_of({"short": Short}).schema.parameters["properties"]["short"]
    assert schema["description"] == "A short text."
    assert schema["properties"]["text"] == {
        "type": "string",
        "pattern": "^a+$",
        "description": "(maxLength: 5; minLength: 1)",
    }


def nest(levels: int) -> type[BaseModel]:
    from pydantic import create_model

    kind: Any = int
    for _ in range(levels):
        kind = create_model("Level", inner=(kind, ...))
    return kind


BIG: dict[str, Callable[[], dict[str, Any]]] = {
    "nesting": lambda: {"x": nest(10)},
    "enum values": lambda: {"x": Literal[tuple(range(1001))]},
    "long enum": lambda: {"x": Literal[tuple(f"{n:070}" for n in range(251))]},
    "properties": lambda: {f"p{n}": int for n in range(5001)},
}


@pytest.mark.parametrize("size", BIG)
def test_what_is_too_large_for_strict_mode_is_plain(size: str) -> None:
    if size == "properties":  # 5,000 pydantic types take long to build
        schema = {"type": "object", "properties": {f"p{n}": {"type": "null"} for n in range(5001)}}
        with pytest.raises(NotExpressible, match="5001 fields"):
            strict_schema(schema)
    else:
        assert tool_of(BIG[size]()).schema.strict is False
    assert tool_of({"x": nest(9)}).schema.strict


@pytest.mark.parametrize(
    "part",
    [
        {"type": "string", "not": {"const": "a"}},
        {"allOf": [{"type": "string"}, {"type": "integer"}]},
        {"if": {}, "then": {}},
        {"type": "object", "properties": {}, "patternProperties": {}},
    ],
)
def test_schemas_of_the_applications_own_that_strict_mode_lacks_are_not_expressible(part: Any) -> None:
    with pytest.raises(NotExpressible, match=r"arguments\.x: strict mode has no"):
        strict_schema(
            {"type": "object", "properties": {"x": part}, "required": ["x"], "additionalProperties": False}
        )
