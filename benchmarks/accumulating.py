"""What a fragment costs the accumulator, with few and with many open calls, in short and in long streams."""

from __future__ import annotations

from benchmarks.measure import Case, Clock, Row, Scale, in_turns
from streamchat.core.accumulator import ChatCompletionAccumulator

__all__ = ["accumulating"]


def _calls(fragments: int, open_calls: int) -> list[dict[str, object]]:
    """Chunks whose fragments go round all calls."""
    opening = [
        {
            "index": i,
            "id": f"call_{i}",
            "type": "function",
            "function": {"name": "edit", "arguments": '{"text": "'},
        }
        for i in range(open_calls)
    ]
    chunks = [_chunk({"tool_calls": [call]}) for call in opening]
    chunks += [
        _chunk({"tool_calls": [{"index": i % open_calls, "function": {"arguments": " word"}}]})
        for i in range(fragments)
    ]
    return chunks


def _chunk(delta: dict[str, object]) -> dict[str, object]:
    return {"id": "c", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}


def _accumulate(chunks: list[dict[str, object]], times: int = 1) -> Case:
    async def case(clock: Clock) -> float:
        with clock.running():
            for _ in range(times):
                accumulator = ChatCompletionAccumulator()
                for chunk in chunks:
                    accumulator.add(chunk)
                accumulator.finish()
        return len(chunks) * times

    return case


async def accumulating(scale: Scale) -> list[Row]:
    """Fragments that arrive in turns for 1, 20 and 100 calls; and ten times as many."""
    n = scale.events
    cases = {str(calls): _accumulate(_calls(n, calls)) for calls in (1, 20, 100)}
    cases["short"] = _accumulate(_calls(n // 10, 20), 10)
    cases["text"] = _accumulate([_chunk({"content": " word"})] * n)
    cases["short text"] = _accumulate([_chunk({"content": " word"})] * (n // 10), 10)
    samples = await in_turns(cases, scale.rounds * 2)
    return [
        samples.row("a fragment with 20 open calls, beside 1", "20", "1", 1.25),
        samples.row("a fragment with 100 open calls, beside 1", "100", "1", 1.25),
        samples.row(f"a fragment of {n:,}, beside one of {n // 10:,}", "20", "short", 1.25),
        samples.row(f"a piece of text of {n:,}, beside one of {n // 10:,}", "text", "short text", 1.25),
    ]
