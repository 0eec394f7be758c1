"""LangGraph's compiled graphs as models: `from_langgraph`."""

from __future__ import annotations

from streamchat.errors import MissingDependency

try:
    import langgraph.graph  # noqa: F401
except ImportError as error:
    raise MissingDependency("from_langgraph", "langgraph", "langgraph") from error

from streamchat.models.langgraph.model import LangGraphModel, from_langgraph

__all__ = ["LangGraphModel", "from_langgraph"]
