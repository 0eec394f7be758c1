"""The README's promises: the quick start is short, and it streams from a real provider to a real client."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx2
import pytest
import uvicorn

from streamchat.testing import Call, ScriptedProvider, Step
from tests.project.documents import Block, python_blocks
from tests.project.support import ROOT

README = ROOT / "README.md"


def quick_start() -> Block:
    (block,) = [block for block in python_blocks(README) if "quickstart" in block.info]
    return block


def test_the_quick_start_has_at_most_15_lines_of_code() -> None:
    assert len([line for line in quick_start().code.splitlines() if line.strip()]) <= 15


@pytest.mark.anyio
async def test_the_quick_start_streams_a_tool_call_over_http(monkeypatch: pytest.MonkeyPatch) -> None:
    script = [Step(calls=[Call("weather", {"city": "Oslo"})]), Step("It is sunny.")]
    async with ScriptedProvider(script) as provider:
        monkeypatch.setenv("OPENAI_BASE_URL", provider.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "scripted")
        names: dict[str, object] = {"__name__": "app"}
        await quick_start().run(names)
        config = uvicorn.Config(names["app"], port=0, log_level="warning")  # type: ignore[arg-type]
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            answer = await client.post("/runs/stream", json={"message": "Weather in Oslo?"})
        server.should_exit = True
        await serving
        await names["model"]._client.close()  # type: ignore[attr-defined]
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
    kinds = [event["type"] for event in events]
    assert kinds[0] == "run_started"
    assert kinds[-1] == "finalized"
    assert [e["output"] for e in events if e["type"] == "tool_result"] == ["Sunny in Oslo"]
    assert "".join(e["text"] for e in events if e["type"] == "text_delta") == "It is sunny."


def test_the_readme_names_the_two_commands_and_they_are_targets_of_the_makefile() -> None:
    makefile = Path(ROOT / "Makefile").read_text()
    for command in ("make demo", "make test"):
        assert command in README.read_text()
        assert f"\n{command.split()[1]}:" in makefile
