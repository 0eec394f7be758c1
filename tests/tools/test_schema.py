from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional

import pytest
import typing_extensions
from pydantic import AliasChoices, BaseModel, Field

from streamchat.errors import ToolDefinitionError
from streamchat.tools import ToolContext, ToolRegistry
from tests.tools.support import Colour, Options, Point, Tree, context, make

if TYPE_CHECKING:
    from fractions import Fraction as OnlyForTypeCheckers


def test_signature_and_docstring_become_the_schema() -> None:
    async def weather(
        city: str, ctx: ToolContext, unit: Literal["c", "f"] = "c", *, days: Annotated[int, Field(ge=1)]
    ) -> str:
        """Current weather.

        Args:
            city: City name, in English.
            unit: Celsius or
                Fahrenheit.
        """
        return city

    tool = make(weather)
    assert (tool.name, tool.description) == ("weather", "Current weather.")
    assert tool.returns is str
    assert tool.plain == {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "City name, in English."},
            "unit": {
                "type": "string",
                "enum": ["c", "f"],
                "default": "c",
                "description": "Celsius or Fahrenheit.",
            },
            "days": {"type": "integer", "minimum": 1},
        },
        "required": ["city", "days"],
        "additionalProperties": False,
    }


def test_a_function_without_parameters_takes_an_empty_object() -> None:
    def now() -> str:
        return ""

    tool = make(now)
    empty = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
    assert tool.schema.parameters == empty
    assert tool.check({}) is None
    problem = tool.check({"x": 1})
    assert problem is not None
    assert problem.endswith("- x: there is no such parameter (there are: none)")


class Database: ...


class SpecialContext(ToolContext[Database]): ...


def plain(ctx: ToolContext, x: int) -> None: ...
def with_deps(x: int, ctx: ToolContext[Database]) -> None: ...
def maybe(x: int, ctx: ToolContext | None = None) -> None: ...
def old_style(x: int, ctx: Optional[ToolContext[Database]] = None) -> None: ...  # noqa: UP045
def keyword_only(x: int, *, anything: ToolContext) -> None: ...
def positional_only(ctx: ToolContext, x: int, /) -> None: ...
def annotated(x: int, ctx: Annotated[ToolContext[Any], "mine"]) -> None: ...
def subclass(x: int, ctx: SpecialContext) -> None: ...
def two(first: ToolContext, x: int, second: ToolContext) -> None: ...
def not_imported(x: int, ctx: streamchat.ToolContext[OnlyForTypeCheckers]) -> None: ...  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    "function",
    [
        plain,
        with_deps,
        maybe,
        old_style,
        keyword_only,
        positional_only,
        annotated,
        subclass,
        two,
        not_imported,
    ],
    ids=lambda function: function.__name__,
)
def test_a_context_parameter_is_hidden_and_filled(function: Callable[..., Any]) -> None:
    tool = make(function)
    assert list(tool.plain["properties"]) == ["x"]
    given = context()
    bound = tool.validate({"x": 1}, given)
    values = [*bound.args, *bound.kwargs.values()]
    assert sum(value is given for value in values) == (2 if function is two else 1)
    assert values.count(1) == 1


def test_types_that_are_local_to_the_function_around_are_found() -> None:
    class Local(BaseModel):
        x: int

    def outer() -> ToolRegistry:
        class Inner(BaseModel):
            y: int

        tools = ToolRegistry()

        @tools.tool
        def tool(local: Local, inner: Inner) -> None: ...

        return tools

    tool = outer().get("tool")
    assert tool is not None
    values = tool.validate({"local": {"x": 1}, "inner": {"y": 2}}, context()).kwargs
    assert values["local"] == Local(x=1)
    assert values["inner"].y == 2


def test_a_callers_local_names_do_not_shadow_a_modules_types() -> None:
    Point = int  # noqa: F841

    assert make(takes_module_type).check({"x": {"x": 1}}) is None


def takes_module_type(x: Point) -> None: ...


class Service:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    def multiply(self, n: int) -> int:
        """Multiply."""
        return n * self.factor

    async def later(self, n: int) -> int:
        return n

    def __call__(self, text: str) -> str:
        """Say it."""
        return text

    @classmethod
    def of_class(cls, n: int) -> int:
        return n

    @staticmethod
    def static(n: int) -> int:
        return n


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


@pytest.mark.parametrize(
    ("function", "name", "description", "parameters"),
    [
        (Service(3).multiply, "multiply", "Multiply.", ["n"]),
        (Service(3).later, "later", "", ["n"]),
        (Service.of_class, "of_class", "", ["n"]),
        (Service.static, "static", "", ["n"]),
        (Service(3), "Service", "Say it.", ["text"]),
        (logged(Service(3).multiply), "multiply", "Multiply.", ["n"]),
        (functools.partial(Service(3).multiply), "multiply", "Multiply.", ["n"]),
    ],
)
def test_methods_partials_callables_and_wrapped_functions_are_tools(
    function: Any, name: str, description: str, parameters: list[str]
) -> None:
    tool = make(function)
    assert (tool.name, tool.description, list(tool.plain["properties"])) == (name, description, parameters)


def test_what_a_partial_has_bound_is_hidden_from_the_model() -> None:
    def call(api: str, key: str, city: str, unit: str = "c") -> list[str]:
        return [api, key, city, unit]

    tool = make(functools.partial(functools.partial(call, "https://api"), key="secret"))
    assert list(tool.plain["properties"]) == ["city", "unit"]
    assert "secret" not in str(tool.schema)
    assert tool.check({"city": "Rome", "key": "other"}) is not None
    bound = tool.validate({"city": "Rome"}, context())
    assert tool.function(*bound.args, **bound.kwargs) == ["https://api", "secret", "Rome", "c"]


def starred(*names: str) -> None: ...
def double_starred(x: int, **more: int) -> None: ...
def unannotated(x) -> None: ...
def unresolved(x: OnlyForTypeCheckers) -> None: ...
def callback(x: Callable[[], int]) -> None: ...
def of_nothing(x: typing_extensions.Never) -> None: ...
def choices(x: Annotated[int, Field(validation_alias=AliasChoices("a", "b"))]) -> None: ...


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (starred, ["'starred'", "*names"]),
        (double_starred, ["'double_starred'", "**more"]),
        (unannotated, ["'unannotated'", "'x'", "has no type"]),
        (Service.multiply, ["'self'", "method of an instance"]),
        (unresolved, ["'x'", "OnlyForTypeCheckers", "import it at run time"]),
        (callback, ["'x'", "Callable"]),
        (of_nothing, ["'x'"]),
        (choices, ["'x'", "alias"]),
        (Service, ["Service"]),
        (3, ["3"]),
        (lambda: None, ["'<lambda>'", "name="]),
    ],
)
def test_what_a_model_cannot_be_told_of_is_refused_at_registration(function: Any, words: list[str]) -> None:
    with pytest.raises(ToolDefinitionError) as caught:
        make(function)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_definition_used_once_stands_where_it_is_used_and_a_recursive_one_stays() -> None:
    def tool(once: Point, twice: Colour, again: Colour, tree: Tree, options: Options) -> None: ...

    schema = make(tool).plain
    assert schema["properties"]["once"]["properties"]["y"] == {"type": "integer", "default": 0}
    assert schema["properties"]["options"]["type"] == "object"
    assert set(schema["$defs"]) == {"Colour", "Tree"}
    assert "title" not in str(schema)


def test_a_parameter_may_be_called_title_description_or_properties() -> None:
    def tool(title: str, description: str, properties: int, default: int = 1) -> None: ...

    assert list(make(tool).plain["properties"]) == ["title", "description", "properties", "default"]

    def fewer(title: str, properties: int, default: int = 1) -> None: ...

    assert make(tool, name="t").digest() != make(fewer, name="t").digest()


def test_the_digest_changes_with_the_parameters_and_not_with_the_words() -> None:
    def first(city: str, description: str = "") -> None:
        """One.

        Args:
            city: A city.
        """

    def reworded(city: str, description: str = "") -> None:
        """Other."""

    def without(city: str) -> None: ...

    def wider(city: str | None, description: str = "") -> None: ...

    digests = [make(f, name="t").digest() for f in (first, reworded, without, wider)]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    assert make(first, name="other").digest() != digests[0]
    assert make(first, name="t", strict=False).digest() == digests[0]
