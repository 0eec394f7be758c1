"""What the scripts stand on: the rule of appends in Lua, and a batch as the bytes of one entry."""

from __future__ import annotations

import contextlib
import itertools

import hypothesis.strategies as st
import pytest
import redis
from hypothesis import given

from streamchat.buffers.redis.packing import pack, unpack
from streamchat.buffers.redis.scripts import part
from streamchat.buffers.redis.tokens import Tokens
from streamchat.core.append_rule import decide_append
from streamchat.errors import BufferError


@pytest.mark.parametrize("server", ["redis_url", "valkey_url"])
def test_lua_decides_about_every_append_as_the_core_does(server: str, request: pytest.FixtureRequest) -> None:
    rule = part("rule").decode()
    # All cases in one call: the arguments of each on one line, its decision on the other.
    program = rule + (
        "\nlocal found = {}\n"
        "for i = 1, #ARGV, 7 do\n"
        "  found[#found + 1] = decide(ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2] == '1', ARGV[i + 3],\n"
        "    tonumber(ARGV[i + 4]), tonumber(ARGV[i + 5]), ARGV[i + 6] == '1')\n"
        "end\n"
        "return found\n"
    )
    small = range(4)
    cases = list(itertools.product("ab", small, [True, False], "ab", small, small, [True, False]))
    arguments = [int(value) if isinstance(value, bool) else value for case in cases for value in case]
    with redis.Redis.from_url(request.getfixturevalue(server)) as client:
        found = client.eval(program, 0, *arguments)
    expected = [
        decide_append(
            stored_generation=stored,
            stored_head=head,
            stored_held=held,
            lease_generation=generation,
            lease_head=lease_head,
            batch=batch,
            keeps=keeps,
        ).encode()
        for stored, head, held, generation, lease_head, batch, keeps in cases
    ]
    assert found == expected
    assert set(expected) == {b"write", b"recovered", b"lost"}


EVENTS = st.tuples(
    st.text(max_size=12) | st.sampled_from(["text_delta", "\ud800", ""]),
    st.binary(max_size=40),
    st.none() | st.binary(max_size=20),
)


@given(st.lists(EVENTS, min_size=1, max_size=30))
def test_a_batch_comes_back_as_it_was_packed(events: list[tuple[str, bytes, bytes | None]]) -> None:
    assert unpack(pack(events)) == events


@given(st.lists(EVENTS, min_size=1, max_size=3), st.data())
def test_bytes_that_were_cut_or_changed_are_no_batch_or_another_one(
    events: list[tuple[str, bytes, bytes | None]], data: st.DataObject
) -> None:
    packed = pack(events)
    at = data.draw(st.integers(0, len(packed) - 1))
    with pytest.raises(BufferError, match="batch"):
        unpack(packed[:at])
    byte = data.draw(st.integers(0, 255))
    changed = packed[:at] + bytes([byte]) + packed[at + 1 :]
    with contextlib.suppress(BufferError):
        assert (unpack(changed) == events) == (changed == packed)


def test_a_batch_of_another_form_says_so() -> None:
    with pytest.raises(BufferError, match="form 2"):
        unpack(b"\x02" + pack([("a", b"", None)])[1:])


def test_tokens_that_were_not_used_are_the_next_ones() -> None:
    made = iter("abcdef")
    tokens = Tokens(lambda: next(made))
    assert [tokens.take() for _ in range(3)] == ["a", "b", "c"]
    tokens.give_back("b", "c")
    tokens.give_back("a")
    assert [tokens.take() for _ in range(4)] == ["a", "b", "c", "d"]
