"""Questions of a workflow to a person: the tool that stands for them, and what was decided."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from streamchat.messages import ToolCallPart
from streamchat.models.base import WorkflowStep
from streamchat.tools import ToolContext, ToolRegistry

__all__ = ["AskingModel", "Decision", "decisions"]

_QUESTIONS = ("question", "message", "description")


@dataclass(frozen=True, slots=True)
class Decision:
    """What a person decided on a question.

    ``value`` is what they were asked about, as they edited it where ``edited`` says so; ``reason`` and ``by``
    are theirs. Where the time to decide ran out, ``approved`` is False and ``by`` None.
    """

    approved: bool
    value: Any = None
    edited: bool = False
    reason: str | None = None
    by: str | None = None


class AskingModel:
    """What workflows have in common: a name, a tool that asks people, and whether the rest of a run can be
    had later."""

    def __init__(self, name: str, *, resumable: bool, ask_tool: str) -> None:
        self._name = name
        self._resumable = resumable
        self._ask_tool = ask_tool
        self._tools = _asking_tools(ask_tool)

    @property
    def name(self) -> str:
        """The workflow's own name, unless another was given."""
        return self._name

    @property
    def resumable(self) -> bool:
        """Whether a run that was left in the middle can go on from there."""
        return self._resumable

    @property
    def takes_kept_steps(self) -> bool:
        """Whether it can go on behind the steps of another run: what it is told of them is all it needs."""
        return self._resumable

    @property
    def workflow_tools(self) -> ToolRegistry:
        """The tool that stands for what the workflow asks people."""
        return self._tools


def _asking_tools(name: str) -> ToolRegistry:
    """Return the tool whose calls are a workflow's questions: it needs an approval, and does nothing more.

    Its one argument is ``value``; editing it is how a person answers with more than yes or no.
    """

    async def ask(value: Any = None) -> Any:
        return value

    def again(context: ToolContext[Any], arguments: dict[str, Any]) -> Any:
        return arguments.get("value")

    tools = ToolRegistry()
    description = "Asks a person."
    # Nothing happens in it, so who finds it cut off needs not wait, as for a tool that may run twice.
    tools.add(
        ask, name=name, description=description, requires_approval=_question, reconcile=again, strict=False
    )
    return tools


def _question(context: ToolContext[Any], arguments: dict[str, Any]) -> bool | str:
    """The words in which the value asks, where it has any."""
    value = arguments.get("value")
    if isinstance(value, dict):
        value = next((value[key] for key in _QUESTIONS if isinstance(value.get(key), str)), None)
    return value if isinstance(value, str) and value else True


def decisions(steps: Iterable[WorkflowStep], tool: str) -> dict[str, Decision]:
    """Return what was decided, by the id under which it was asked; the newest where an id was used again."""
    return {
        call.provider_call_id or call.call_id: _decision(call, step)
        for step in steps
        for call in step.calls
        if call.name == tool and call.state == "done" and call.executed_by != "provider"
    }


def _decision(call: ToolCallPart, step: WorkflowStep) -> Decision:
    approval = call.approval
    approved = call.outcome == "ok" and approval is not None and approval.approved is True
    reason = approval.reason if approval is not None and approval.reason is not None else call.error
    value = (call.arguments or {}).get("value")
    asked = step.kept.get("asked", {}).get(call.provider_call_id)
    by = approval.by if approval is not None else None
    return Decision(approved, value, edited=value != asked, reason=reason, by=by)
