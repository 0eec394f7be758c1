"""The types that a run's answer may be asked to have, by name: the name is stored with the run, and each
process knows the types."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

from pydantic import BaseModel

from streamchat.core.given import check_instance
from streamchat.errors import InvalidInput
from streamchat.orchestration.structured import output_type_of

__all__ = ["named_types", "output_name"]


def named_types(types: Sequence[type[BaseModel]]) -> Mapping[str, type[BaseModel]]:
    """Return the types by their names; raises `InvalidInput` for one whose JSON is no object, and for two of
    one name."""
    named: dict[str, type[BaseModel]] = {}
    check_instance("output_types", types, Collection, "a list of pydantic models")
    for one in types:
        check_instance("output_types", one, type, "pydantic models")
        output_type_of(one)
        if named.setdefault(one.__name__, one) is not one:
            raise InvalidInput(f"two output types are called {one.__name__!r}", field="output_types")
    return MappingProxyType(named)


def output_name(wanted: type[BaseModel] | str | None, named: Mapping[str, type[BaseModel]]) -> str | None:
    """Return the name to store; raises `InvalidInput` for a type that other processes do not know."""
    check_instance("output_type", wanted, (str, type), "a pydantic model, or the name of one", none=True)
    name = wanted if wanted is None or isinstance(wanted, str) else wanted.__name__
    if name is None or (name in named and (isinstance(wanted, str) or named[name] is wanted)):
        return name
    raise InvalidInput(
        f"output_type={name!r:.100} is not one of {', '.join(named) or 'none'}: whoever goes on with the run "
        "must know it, so give it to StreamChat(output_types=[…]) in each process",
        field="output_type",
    )
