"""Finds what a command is told by name: ``module:name``, imported from where the command is run."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from typing import Any

from streamchat import StreamChat, StreamChatError

__all__ = ["load_chat", "load_name", "made"]


def load_name(name: str) -> Any:
    """Return what ``name`` (``module:name``, dots allowed behind the colon) stands for.

    Raises `StreamChatError` for what is no such name, and for what is not there; what the module itself
    raises goes through.
    """
    module_name, colon, attribute = name.partition(":")
    if not (module_name and colon and attribute):
        raise StreamChatError(f"{name!r}: name a module and what is in it, as in myapp.chat:chat")
    sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise StreamChatError(
            f"there is no module {error.name!r} here or among what is installed: "
            "run this where your application is imported from"
        ) from None
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise StreamChatError(f"{module_name!r} has no {attribute!r}")
        found = getattr(found, part)
    return found


async def made(make: Any) -> Any:
    """Return what the function ``make`` (sync or async, without arguments) makes. Raises `StreamChatError`
    for one that wants some."""
    try:
        inspect.signature(make).bind()
    except TypeError as error:
        name = getattr(make, "__qualname__", type(make).__qualname__)
        raise StreamChatError(f"{name}() is called without arguments: {error}") from None
    except ValueError:  # one that does not say
        pass
    result = make()
    return await result if inspect.isawaitable(result) else result


async def load_chat(name: str) -> StreamChat:
    """Return the `StreamChat` that ``name`` is, or makes. Raises `StreamChatError`."""
    found = load_name(name)
    if not isinstance(found, StreamChat) and callable(found):
        found = await made(found)
    if not isinstance(found, StreamChat):
        raise StreamChatError(
            f"{name} is of type {type(found).__name__}: it must be a StreamChat, or make one"
        )
    return found
