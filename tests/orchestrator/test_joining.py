"""What one read of the network brought of one part is one event: fewer of them, and the same answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamchat import fold, orchestrate
from streamchat.events import TextDelta, ToolCallDelta
from streamchat.models.base import CallDelta, ContentDelta, ModelOutput
from streamchat.orchestration.model_step import _joined
from streamchat.testing import Call, ScriptedModel, Step

WORDS = " ".join(f"word{n}" for n in range(30))


@st.composite
def batches(draw: st.DrawFn) -> list[ModelOutput]:
    """Deltas of some parts, as a read may bring them; the first of a call names it."""
    out: list[ModelOutput] = []
    named: set[int] = set()
    for part in draw(st.lists(st.integers(0, 3), min_size=1, max_size=20)):
        text = draw(st.text(max_size=3))
        if part % 2:
            name = None if part in named else "tool"
            named.add(part)
            out.append(CallDelta(part, part // 2, f"c{part}", name, text))
        else:
            out.append(ContentDelta("text" if part else "reasoning", part, text))
    return out


@given(batches())
def test_joining_keeps_each_parts_text_and_the_order_in_which_parts_come(batch: list[ModelOutput]) -> None:
    joined = _joined(batch)

    def text_of(outputs: list[ModelOutput], part: int) -> str:
        return "".join(
            output.text if isinstance(output, ContentDelta) else output.arguments
            for output in outputs
            if isinstance(output, ContentDelta | CallDelta) and output.part == part
        )

    def parts(outputs: list[ModelOutput]) -> list[int]:
        numbers = [o.part for o in outputs if isinstance(o, ContentDelta | CallDelta)]
        return [n for i, n in enumerate(numbers) if i == 0 or numbers[i - 1] != n]

    assert parts(joined) == parts(batch)
    assert [text_of(joined, part) for part in range(4)] == [text_of(batch, part) for part in range(4)]
    assert [o.name for o in joined if isinstance(o, CallDelta) and o.name] == [
        o.name for o in batch if isinstance(o, CallDelta) and o.name
    ]


@pytest.mark.anyio
@pytest.mark.parametrize("batch", [1, 7, 1000])
async def test_an_answer_is_the_same_however_many_chunks_a_read_brings(batch: int) -> None:
    model = ScriptedModel(
        [Step(WORDS, calls=[Call("nope", {"a": 1}, fragments=5)]), Step("Done.")], batch=batch
    )
    events = [event async for event in orchestrate(model, "go")]
    assert fold(events).text == f"{WORDS}Done."
    texts = [event for event in events if isinstance(event, TextDelta) and event.step == 1]
    assert len(texts) == -(-30 // batch)
    fragments = [event.arguments for event in events if isinstance(event, ToolCallDelta)]
    assert "".join(fragments) == '{"a":1}'
