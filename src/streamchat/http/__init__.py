"""The HTTP interface without a framework: a request in, a response (status, headers, bytes or a stream) out.

Adapters translate and nothing more. `Endpoints` answers requests; `bare_response` streams events that no
service stands behind.
"""

from __future__ import annotations

from streamchat.http.ag_ui_options import AGUIOptions
from streamchat.http.bare import bare_response
from streamchat.http.cors import CORS
from streamchat.http.endpoints import Endpoints, PrincipalFunction
from streamchat.http.errors import HTTPError
from streamchat.http.limits import HTTPOptions
from streamchat.http.openai_options import OpenAIOptions
from streamchat.http.requests import ByteStream, ClientGone, Request, Response
from streamchat.http.routing import Call, Handler, Route
from streamchat.http.vercel_options import VercelOptions

__all__ = [
    "CORS",
    "AGUIOptions",
    "ByteStream",
    "Call",
    "ClientGone",
    "Endpoints",
    "HTTPError",
    "HTTPOptions",
    "Handler",
    "OpenAIOptions",
    "PrincipalFunction",
    "Request",
    "Response",
    "Route",
    "VercelOptions",
    "bare_response",
]
