"""OpenAI's client for Python in the scenarios of ``openai.mjs``: the same answers, in the same form."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import httpx2
import openai
from openai import AsyncOpenAI

from tests.npm.backend import Backend

__all__ = ["come_back", "run_scenarios"]

_TOOLS: Any = [
    {"type": "function", "function": {"name": "locate", "parameters": {"type": "object", "properties": {}}}}
]
_WhenBegun = Callable[[dict[str, Any], Any], Awaitable[None]]


def _empty() -> dict[str, Any]:
    return {
        "text": "",
        "reasoning": "",
        "calls": [],
        "finish": None,
        "usage": None,
        "error": None,
        "runId": None,
    }


def _told(error: openai.OpenAIError) -> dict[str, Any]:
    return {
        "code": getattr(error, "code", None),
        "status": getattr(error, "status_code", None),
        "message": str(error),
    }


def _user(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


class _CutOff(httpx2.AsyncBaseTransport):
    """A connection that breaks after so many frames of a response; ``cut`` says that it did."""

    def __init__(self, frames: int) -> None:
        self.cut = False
        self._below = httpx2.AsyncHTTPTransport()
        self._frames = frames

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await self._below.handle_async_request(request)
        response.stream = _Cut(response.stream, self._frames, self)
        return response

    async def aclose(self) -> None:
        await self._below.aclose()


class _Cut(httpx2.AsyncByteStream):
    def __init__(self, stream: Any, frames: int, whose: _CutOff) -> None:
        self._stream = stream
        self._left = frames
        self._whose = whose

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for block in self._stream:
            for frame in block.split(b"\n\n"):
                if frame:
                    if not self._left:
                        self._whose.cut = True
                        raise httpx2.ReadError("the connection broke")
                    self._left -= 1
                    yield frame + b"\n\n"

    async def aclose(self) -> None:
        await self._stream.aclose()


class _Scenarios:
    def __init__(self, server: Backend, client: AsyncOpenAI) -> None:
        self.server = server
        self.client = client

    async def read(
        self, client: AsyncOpenAI | None = None, when_begun: _WhenBegun | None = None, **request: Any
    ) -> dict[str, Any]:
        got = _empty()
        try:
            raw = await (client or self.client).chat.completions.with_raw_response.create(
                model="agent", stream=True, stream_options={"include_usage": True}, **request
            )
            stream: Any = raw.parse()
            got["runId"] = raw.headers["x-run-id"]
            if when_begun is not None:
                await when_begun(got, stream)
            async for chunk in stream:
                if chunk.usage is not None:
                    got["usage"] = chunk.usage.model_dump()
                for choice in chunk.choices:
                    got["text"] += choice.delta.content or ""
                    got["reasoning"] += getattr(choice.delta, "reasoning_content", None) or ""
                    got["finish"] = choice.finish_reason or got["finish"]
        except openai.OpenAIError as error:
            got["error"] = _told(error)
        except (httpx2.TransportError, httpx2.StreamError) as error:
            got["error"] = {"code": None, "status": None, "message": str(error)}
        return got

    async def whole(self, **request: Any) -> dict[str, Any]:
        got = _empty()
        try:
            raw = await self.client.chat.completions.with_raw_response.create(model="agent", **request)
            answer: Any = raw.parse()
            message = answer.choices[0].message
            got |= {"runId": raw.headers["x-run-id"], "text": message.content}
            got["reasoning"] = getattr(message, "reasoning_content", "")
            got["calls"] = [call.model_dump() for call in message.tool_calls or ()]
            got["finish"] = answer.choices[0].finish_reason
            got["usage"] = answer.usage.model_dump()
            got["message"] = message.model_dump(exclude_none=True)
        except openai.OpenAIError as error:
            got["error"] = _told(error)
        return got

    async def both(self, text: str) -> dict[str, Any]:
        return {"stream": await self.read(**_user(text)), "whole": await self.whole(**_user(text))}

    async def results(self, call_id: str | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the client is asked for, and the request that brings it (under another id, if given one)."""
        first = await self.whole(**_user("client-tool"), tools=_TOOLS)
        messages = [*_user("client-tool")["messages"], first["message"]]
        messages += [
            {"role": "tool", "tool_call_id": call_id or call["id"], "content": '{"latitude":1.5}'}
            for call in first["calls"]
        ]
        return first, {"messages": messages, "tools": _TOOLS}

    async def answered(self, call_id: str | None = None) -> dict[str, Any]:
        first, request = await self.results(call_id)
        return {"first": first, "stream": await self.read(**request), "whole": await self.whole(**request)}

    async def approval(self, approved: bool, **decision: Any) -> dict[str, Any]:
        async def decide(got: dict[str, Any], _: Any) -> None:
            chat = self.server.chat
            async for event in chat.attach(got["runId"]):
                if event.type == "suspended":
                    break
            (wait,) = (await chat.status(got["runId"])).state.waits
            await chat.resolve_approval(got["runId"], wait.call_id, approved, **decision)

        return {"stream": await self.read(when_begun=decide, **_user("approval"))}

    async def cancel(self) -> dict[str, Any]:
        async def cancel(got: dict[str, Any], _: Any) -> None:
            await self.server.stalls["cancel"].reached()
            await self.server.chat.cancel(got["runId"])

        return {"stream": await self.read(when_begun=cancel, **_user("hold:cancel"))}

    async def leaves(self) -> dict[str, Any]:
        async def leave(_: dict[str, Any], stream: Any) -> None:
            await self.server.stalls["leaves"].reached()
            await stream.close()
            self.server.stalls["leaves"].release()

        return {"stream": await self.read(when_begun=leave, **_user("hold:leaves"))}

    async def busy(self) -> dict[str, Any]:
        headers = {"X-Conversation-Id": "py-busy"}
        result: dict[str, Any] = {}

        async def ask_again(*_: Any) -> None:
            await self.server.stalls["busy"].reached()
            result["whole"] = await self.whole(**_user("hello"), extra_headers=headers)
            self.server.stalls["busy"].release()

        result["stream"] = await self.read(when_begun=ask_again, **_user("hold:busy"), extra_headers=headers)
        return result

    async def two_turns(self) -> dict[str, Any]:
        headers = {"X-Conversation-Id": "py-two"}
        first = await self.whole(**_user("hello"), extra_headers=headers)
        return {"first": first, "stream": await self.read(**_user("hello"), extra_headers=headers)}

    async def comes_back(self, every: int, cut: Sequence[str]) -> list[dict[str, Any]]:
        ends = []
        for scenario in cut:
            for frames in range(0, 1000, every):
                name = f"py-{scenario}-{frames}".replace("*", "x")
                request = _user(scenario.replace("*", name))
                if scenario == "client-tool":
                    _, request = await self.results()
                request["extra_headers"] = {"Idempotency-Key": name}
                breaking = _CutOff(frames)
                transport = httpx2.AsyncClient(transport=breaking)
                async with self.client.with_options(http_client=transport) as client:
                    half = await self.read(client, **request)
                # Where something was withdrawn that had been said, the response ends by itself.
                if breaking.cut or (half["error"] or {}).get("code") == "step_reset":
                    end = await self.read(**request)
                    ends.append({"scenario": scenario, "frames": frames, **end})
                if not breaking.cut:
                    break
        return ends


async def come_back(server: Backend, cut: Sequence[str]) -> list[dict[str, Any]]:
    """Cut each scenario off after each frame, ask again, and tell what came."""
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="key", max_retries=0) as client:
        return await _Scenarios(server, client).comes_back(1, cut)


async def run_scenarios(server: Backend, *, every: int) -> dict[str, Any]:
    """Run all scenarios of the matrix, one after the other."""
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="key", max_retries=0) as client:
        run = _Scenarios(server, client)
        plain = {
            "text": "hello",
            "reasoning": "reasoning",
            "parallel": "parallel",
            "toolError": "tool-error",
            "unknownTool": "unknown-tool",
            "invalidJson": "invalid-json",
            "progress": "progress",
            "errorBefore": "error-before",
            "errorMid": "error-mid",
        }
        got: dict[str, Any] = {name: await run.both(text) for name, text in plain.items()}
        got["clientTool"] = await run.answered()
        got["forgedResult"] = await run.answered("call_1")
        got["approvalYes"] = await run.approval(True)
        got["approvalNo"] = await run.approval(False, reason="Not that one.")
        got["approvalEdited"] = await run.approval(True, arguments={"path": "b.txt"})
        got["cancel"] = await run.cancel()
        got["leaves"] = await run.leaves()
        got["busy"] = await run.busy()
        got["twoTurns"] = await run.two_turns()
        got["reset"] = {
            "stream": await run.read(**_user("reset:py")),
            "whole": await run.whole(**_user("reset:py-whole")),
        }
        got["comesBack"] = await run.comes_back(every, ["parallel"])
    return got
