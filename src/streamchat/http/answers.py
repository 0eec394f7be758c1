"""The endpoints that answer what a run waits for: approvals, results of the page's own tools, jobs."""

from __future__ import annotations

from streamchat.http.bodies import ApprovalBody, JobBody, ToolResultBody
from streamchat.http.errors import HTTPError
from streamchat.http.requests import Response, json_response
from streamchat.http.routing import Call, Route

__all__ = ["ROUTES"]


async def _approve(call: Call) -> Response:
    body = await call.endpoints.read_json(call.request, ApprovalBody)
    await call.endpoints.chat.resolve_approval(
        call.id,
        body.call_id,
        body.approved,
        reason=body.reason,
        arguments=body.arguments,
        principal=call.principal,
    )
    return json_response(202, {"run_id": call.id})


async def _tool_result(call: Call) -> Response:
    body = await call.endpoints.read_json(call.request, ToolResultBody)
    await call.endpoints.chat.submit_tool_result(
        call.id, body.call_id, body.output, error=body.error, principal=call.principal
    )
    return json_response(202, {"run_id": call.id})


async def _job(call: Call) -> Response:
    chat = call.endpoints.chat
    # Judged before the body is read: whoever has no secret is told nothing.
    if not chat.knows_job_secret(call.id, call.request.headers.get("x-job-secret", "")):
        raise HTTPError(404, "job_not_found", "There is no such job.")
    body = await call.endpoints.read_json(call.request, JobBody)
    await chat.complete_job(call.id, body.result, error=body.error)
    return json_response(202, {"job_id": call.id})


ROUTES = (
    Route("POST", "/runs/{id}/approvals", _approve),
    Route("POST", "/runs/{id}/tool-results", _tool_result),
    Route("POST", "/jobs/{id}", _job, public=True),
)
