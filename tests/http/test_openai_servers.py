"""``/v1`` through each adapter under each server: OpenAI's client streams, asks for it whole, and leaves."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from tests.adapters.servers.running import COMBINATIONS, served

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.mark.parametrize(("adapter", "server"), COMBINATIONS)
async def test_openais_client_through_an_adapter_under_a_server(adapter: str, server: str) -> None:
    async with (
        served(adapter, server) as on,
        AsyncOpenAI(
            base_url=f"http://127.0.0.1:{on.port}{on.base}/v1", api_key="key", max_retries=0
        ) as client,
    ):
        (model,) = [model.id async for model in client.models.list()]
        create = client.chat.completions.create

        async def ask(text: str, **options: Any) -> Any:
            return await create(model=model, messages=[{"role": "user", "content": text}], **options)

        stream = await ask("Hi", stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "Hello there."
        assert (await ask("Hi")).choices[0].message.content == "Hello there."
        with pytest.raises(openai.NotFoundError) as refused:
            await client.models.retrieve("other")
        assert refused.value.type == "not_found_error"
        leaving = await ask("stall here", stream=True)
        run_id = leaving.response.headers["x-run-id"]
        async for chunk in leaving:
            if chunk.choices[0].delta.content:
                break
        await leaving.close()
        while (await on.fetch("GET", f"/runs/{run_id}/presence"))[1]["clients"]:
            await asyncio.sleep(0.05)
        await on.release("here")
        while (await on.fetch("GET", f"/runs/{run_id}"))[1]["status"] != "success":
            await asyncio.sleep(0.05)
