"""What `orchestrate()` is given: what cannot be meant is refused before the model is asked."""

from __future__ import annotations

from typing import Any

import pytest

from streamchat import orchestrate
from streamchat.errors import InvalidInput
from streamchat.service.limits import ServiceLimits
from streamchat.testing import ScriptedModel

MODEL = ScriptedModel.text("Hello.", repeat=True)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("model", {"model": None}),
        ("model", {"model": "gpt-5"}),
        ("messages", {"messages": None}),
        ("messages", {"messages": []}),
        ("messages", {"messages": ()}),
        ("messages", {"messages": 5}),
        ("messages", {"messages": b"Hello."}),
        ("messages", {"messages": {"role": "user", "content": "Hello."}}),
        ("messages.0", {"messages": [None]}),
        ("tools", {"tools": [print]}),
        ("tools", {"tools": print}),
        ("context", {"context": {}}),
        ("history", {"history": None}),
        ("options", {"options": ServiceLimits()}),
        ("options", {"options": {}}),
    ],
    ids=repr,
)
async def test_what_cannot_be_meant_is_refused_at_the_first_event(field: str, given: dict[str, Any]) -> None:
    events = orchestrate(**{"model": MODEL, "messages": "Hello.", **given})
    with pytest.raises(InvalidInput) as refusal:
        await anext(events)
    assert refusal.value.field == field
