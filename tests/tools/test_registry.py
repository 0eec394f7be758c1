from __future__ import annotations

from typing import Any

import pytest

from streamchat.errors import InvalidInput, StreamChatError, ToolDefinitionError
from streamchat.tools import ToolContext, ToolRegistry


def weather(city: str) -> str:
    """Current weather."""
    return city


def news(topic: str = "all") -> str:
    """The news."""
    return topic


def test_the_decorator_works_with_and_without_parentheses_and_leaves_the_function_alone() -> None:
    tools = ToolRegistry()
    assert tools.tool(weather) is weather
    assert tools.tool(name="headlines", description="Short.", timeout=5, idempotent=True)(news) is news
    assert tools.names == ("weather", "headlines")
    assert [tool.name for tool in tools] == ["weather", "headlines"]
    assert len(tools) == 2
    assert "weather" in tools
    headlines = tools.get("headlines")
    assert headlines is not None
    assert (headlines.description, headlines.timeout, headlines.idempotent) == ("Short.", 5, True)
    assert tools.get("nothing") is None
    assert [schema.name for schema in tools.schemas()] == ["weather", "headlines"]


def test_registries_are_combined_and_a_name_stands_for_one_tool() -> None:
    first, second = ToolRegistry(), ToolRegistry()
    first.add(weather)
    second.add(news)
    both = first | second
    assert both.names == ("weather", "news")
    assert list(first.names) == ["weather"]
    first.include(second)
    assert list(first.names) == ["weather", "news"]
    with pytest.raises(ToolDefinitionError, match="'weather' is registered already"):
        first.add(weather)
    third = ToolRegistry()
    third.add(weather, name="other")
    third.add(news)
    with pytest.raises(ToolDefinitionError, match="'news' is in both"):
        first.include(third)
    assert first.names == ("weather", "news")


def test_a_digest_is_asked_for_by_name() -> None:
    tools = ToolRegistry()
    tool = tools.add(weather)
    assert tools.digest("weather") == tool.digest()
    assert len(tool.digest()) == 32
    with pytest.raises(InvalidInput, match="'wether'; there are: weather"):
        tools.digest("wether")


def one_too_many(context: ToolContext, arguments: dict[str, Any], more: int) -> None: ...


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"retries": 2}, "idempotent=True"),
        ({"retries": -1, "idempotent": True}, "retries=-1"),
        ({"timeout": 0}, "timeout=0"),
        ({"timeout": -1.5}, "timeout=-1.5"),
        ({"timeout": "5"}, "timeout='5'"),
        ({"concurrency": 0}, "concurrency=0"),
        ({"concurrency": 1.5}, "concurrency=1.5"),
        ({"max_output_bytes": 0}, "max_output_bytes=0"),
        ({"client_side": True, "deferred": True}, "client_side"),
        ({"client_side": True, "retries": 1, "idempotent": True}, "client_side"),
        ({"reconcile": lambda: None}, "reconcile must take"),
        ({"reconcile": one_too_many}, "reconcile must take"),
        ({"reconcile": 3}, "reconcile must take"),
        ({"name": "has space"}, "letters"),
        ({"name": ""}, "letters"),
        ({"name": "x" * 65}, "letters"),
        ({"name": "wëather"}, "letters"),
        ({"retrys": 3}, "no option retrys"),
    ],
)
def test_options_that_contradict_each_other_are_refused_and_named(
    options: dict[str, Any], words: str
) -> None:
    tools = ToolRegistry()
    with pytest.raises(ToolDefinitionError) as caught:
        tools.add(weather, **options)
    assert words in str(caught.value)
    assert "tool " in str(caught.value)
    assert isinstance(caught.value, StreamChatError)
    assert tools.names == ()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", 5),
        ("name", None),
        ("description", 5),
        ("timeout", True),
        ("timeout", float("nan")),
        ("approval_timeout", "1h"),
        ("retries", "x"),
        ("retries", 1.5),
        ("retries", None),
        ("retry_wait", -1),
        ("retry_wait", "x"),
        ("retry_wait", float("inf")),
        ("idempotent", "yes"),
        ("requires_approval", 5),
        ("requires_approval", None),
        ("concurrency", "2"),
        ("sequential", 1),
        ("max_output_bytes", 1.5),
        ("max_output_bytes", "1k"),
        ("client_side", None),
        ("deferred", "yes"),
        ("wait_for_job", 0),
        ("strict", "yes"),
    ],
    ids=repr,
)
def test_options_of_another_type_are_refused_at_registration(field: str, value: Any) -> None:
    tools = ToolRegistry()
    options: dict[str, Any] = {"idempotent": True, field: value}
    with pytest.raises(InvalidInput) as caught:
        tools.add(weather, **options)
    assert caught.value.field == field
    assert repr(value) in str(caught.value)
    assert tools.names == ()


def test_what_later_versions_act_on_is_kept() -> None:
    def needs(context: ToolContext, arguments: dict[str, Any]) -> bool:
        return True

    tools = ToolRegistry()
    tool = tools.add(weather, requires_approval=needs)
    assert tool.requires_approval is needs
    assert tools.add(news, client_side=True).client_side
    assert tools.add(news, name="job", deferred=True).deferred


def test_the_wait_before_a_retry_doubles_up_to_a_minute_and_varies() -> None:
    tool = ToolRegistry().add(weather, idempotent=True, retries=9, retry_wait=1.0)
    for attempt in range(1, 40):
        longest = min(60.0, 2.0 ** (attempt - 1))
        assert longest / 2 <= tool.wait_before_retry(attempt) <= longest
    exact = ToolRegistry().add(weather, idempotent=True, retries=9, retry_wait=lambda attempt: attempt / 10)
    assert exact.wait_before_retry(3) == 0.3


def test_the_time_limit_is_the_tools_own_or_the_default() -> None:
    tools = ToolRegistry()
    assert tools.add(weather).time_limit(30) == 30
    assert tools.add(weather, name="own", timeout=5).time_limit(30) == 5
    assert tools.add(weather, name="none", timeout=None).time_limit(30) is None
