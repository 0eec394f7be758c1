from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamchat.tools.docstrings import parse_docstring

GOOGLE = """Current weather.

    In more words.

    Args:
        city (str, optional): City name,
            in English: no others.

            Really.
        *unit: Celsius or Fahrenheit.
        ctx:

    Note:
        Use it sparingly.

    Returns:
        The weather.

    Raises:
        ValueError: never.
    """
NUMPY = """Current weather.

    In more words.

    Parameters
    ----------
    city : str, optional
        City name,
        in English: no others.

        Really.
    unit, other : {'c', 'f'}
        Celsius or Fahrenheit.
    ctx

    Note
    ----
    Use it sparingly.

    Returns
    -------
    Weather
        The weather.
    """
SPHINX = """Current weather.

    In more words.

    :param str city: City name,
        in English: no others.
        Really.
    :type city: str
    :param unit: Celsius or Fahrenheit.
    :param ctx:
    :returns: the weather
    :raises ValueError: never
    """


@pytest.mark.parametrize("text", [GOOGLE, NUMPY, SPHINX], ids=["google", "numpy", "sphinx"])
def test_a_docstring_of_each_style_tells_of_its_parameters(text: str) -> None:
    description, parameters = parse_docstring(text)
    assert description.startswith("Current weather.\n\nIn more words.")
    assert parameters["city"] == "City name, in English: no others. Really."
    assert parameters["unit"] == "Celsius or Fahrenheit."
    assert "ctx" not in parameters
    for left_out in ("The weather", "the weather", "ValueError", "City name"):
        assert left_out not in description


@pytest.mark.parametrize("text", [GOOGLE, NUMPY], ids=["google", "numpy"])
def test_notes_stay_in_the_description(text: str) -> None:
    assert "Use it sparingly." in parse_docstring(text).description


@pytest.mark.parametrize("text", [None, "", "  \n "])
def test_no_docstring_is_no_description(text: str | None) -> None:
    assert parse_docstring(text) == ("", {})


def test_colons_and_dashes_in_prose_are_prose() -> None:
    text = "Convert: a to b.\n\nRemember: this is text.\n\nTitle\n-----\nMore.\n:note: kept"
    assert parse_docstring(text) == (text, {})


def test_text_right_after_a_section_is_description_again() -> None:
    text = "First.\n\nArgs:\n    a: One.\nLast."
    assert parse_docstring(text) == ("First.\n\nLast.", {"a": "One."})


_lines = st.sampled_from(
    [
        "",
        "Args:",
        "  a: b",
        "    deeper",
        "Parameters",
        "----------",
        "a : int",
        ":param a: b",
        "Returns:",
        "text: x",
    ]
)


@given(st.lists(_lines | st.text(max_size=10), max_size=12))
def test_any_text_is_read_without_an_error(lines: list[str]) -> None:
    description, parameters = parse_docstring("\n".join(lines))
    assert all(name and said == " ".join(said.split()) for name, said in parameters.items())
    assert description == description.strip()
