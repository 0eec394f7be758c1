"""Tools: functions that a model may call, described to it by their signatures and docstrings.

`ToolRegistry` holds them, `ToolContext` is what they are given of the run. `run_attempt` runs one call once;
the orchestrator decides when, holding a permit of `RunPermits`.
"""

from __future__ import annotations

from streamchat.tools.abandoned import AbandonedCall, abandoned, settle
from streamchat.tools.arguments import ArgumentsInvalid
from streamchat.tools.context import ToolContext
from streamchat.tools.declared import ClientTool, check_client_tools, with_client_tools
from streamchat.tools.deferred import Deferred
from streamchat.tools.definition import Approval, Reconcile, Tool, ToolOptions
from streamchat.tools.execution import ToolOutcome, run_attempt, run_reconcile
from streamchat.tools.output import OutputUnusable
from streamchat.tools.permits import RunPermits
from streamchat.tools.registry import ToolRegistry
from streamchat.tools.results import ResultInvalid
from streamchat.tools.signature import BoundArguments
from streamchat.tools.values import OutcomeUnknown, Progress, Return, ToolError

__all__ = [
    "AbandonedCall",
    "Approval",
    "ArgumentsInvalid",
    "BoundArguments",
    "ClientTool",
    "Deferred",
    "OutcomeUnknown",
    "OutputUnusable",
    "Progress",
    "Reconcile",
    "ResultInvalid",
    "Return",
    "RunPermits",
    "Tool",
    "ToolContext",
    "ToolError",
    "ToolOptions",
    "ToolOutcome",
    "ToolRegistry",
    "abandoned",
    "check_client_tools",
    "run_attempt",
    "run_reconcile",
    "settle",
    "with_client_tools",
]
