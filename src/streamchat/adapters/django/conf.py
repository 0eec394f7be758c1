"""The setting ``STREAMCHAT``, and the endpoints that it describes.

::

    STREAMCHAT = {
        "CHAT": "mysite.chat.chat",             # a StreamChat, or a function that makes it
        "PRINCIPAL": "mysite.chat.principal",   # request -> Principal or None (sync or async);
                                                # without it, the session's user
        "HTTP": {"heartbeat": 15.0},            # fields of HTTPOptions; {"vercel": {…}} those of a wire
        "CORS": {"origins": ["https://…"]},     # arguments of CORS
        "DATABASE": "default",                  # where DjangoEventBuffer keeps runs, and the admin looks
        "ADMIN_SHOWS_CONTENT": False,           # whether the admin shows what people and models have said
    }
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import MISSING, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from streamchat.adapters.django.auth import session_user
from streamchat.buffers.codec import Payloads
from streamchat.errors import InvalidInput
from streamchat.http import CORS, AGUIOptions, Endpoints, HTTPOptions, OpenAIOptions, VercelOptions
from streamchat.service.chat import StreamChat

if TYPE_CHECKING:
    from streamchat.adapters.django.buffer import DjangoEventBuffer

T = TypeVar("T")

__all__ = [
    "alias",
    "asks_the_session",
    "chat",
    "database",
    "endpoints",
    "keeps_runs",
    "payloads",
    "session_user",
    "shows_content",
]

_KEYS = {"CHAT", "PRINCIPAL", "HTTP", "CORS", "DATABASE", "ADMIN_SHOWS_CONTENT"}
_WIRES = {"openai": OpenAIOptions, "ag_ui": AGUIOptions, "vercel": VercelOptions}


def _setting() -> Mapping[str, Any]:
    given = getattr(settings, "STREAMCHAT", None)
    if not isinstance(given, Mapping) or "CHAT" not in given:
        raise ImproperlyConfigured('set STREAMCHAT = {"CHAT": "mysite.chat.chat"}: the path of a StreamChat')
    unknown = given.keys() - _KEYS
    if unknown:
        raise ImproperlyConfigured(
            f"STREAMCHAT knows {', '.join(sorted(_KEYS))}, not {', '.join(sorted(map(str, unknown)))}"
        )
    shows = given.get("ADMIN_SHOWS_CONTENT", False)
    if not isinstance(shows, bool):
        raise ImproperlyConfigured(f"STREAMCHAT['ADMIN_SHOWS_CONTENT'] is {shows!r:.100}: give True or False")
    database()
    return given


def _value(key: str, default: Any) -> Any:
    given = getattr(settings, "STREAMCHAT", None)
    return given.get(key, default) if isinstance(given, Mapping) else default


def alias(field: str, given: object) -> str:
    """Return the name of a database. Raises `InvalidInput` for what is no text."""
    if not isinstance(given, str):
        raise InvalidInput(
            f"{field}={given!r:.100} is of type {type(given).__name__}: give a name in DATABASES",
            field=field,
        )
    return given


def database() -> str:
    """Return the name, among ``DATABASES``, of the one that holds runs. Raises `InvalidInput`."""
    return alias("STREAMCHAT['DATABASE']", _value("DATABASE", "default"))


def shows_content() -> bool:
    """Return whether the admin shows what people and models have said."""
    return _value("ADMIN_SHOWS_CONTENT", False) is True


def _imported(key: str, value: Any) -> Any:
    try:
        return import_string(value) if isinstance(value, str) else value
    except ImportError as error:
        raise ImproperlyConfigured(f"STREAMCHAT[{key!r}] = {value!r} cannot be imported: {error}") from error


@functools.cache
def chat() -> StreamChat:
    """Return the project's service, made once. Raises ``ImproperlyConfigured``."""
    found = _imported("CHAT", _setting()["CHAT"])
    made = found if isinstance(found, StreamChat) else found() if callable(found) else found
    if not isinstance(made, StreamChat):
        raise ImproperlyConfigured(
            f"STREAMCHAT['CHAT'] is {made!r:.200}: it must be, or return, a StreamChat"
        )
    return made


def asks_the_session() -> bool:
    """Return whether it is the session's user who asks."""
    return _value("PRINCIPAL", None) is None


def _own_buffer() -> DjangoEventBuffer | None:
    # Its models cannot be imported before the applications are loaded; by now they are.
    from streamchat.adapters.django.buffer import DjangoEventBuffer

    buffer = chat().buffer
    return buffer if isinstance(buffer, DjangoEventBuffer) else None


def keeps_runs(alias: str) -> bool:
    """Return whether a `DjangoEventBuffer` keeps runs in that database; False where no chat can be made."""
    try:
        buffer = _own_buffer()
    except Exception:
        return False
    return buffer is not None and buffer.using == alias


def payloads() -> Payloads:
    """Return how stored payload is read: by the codecs of the chat's buffer."""
    buffer = _own_buffer()
    return Payloads() if buffer is None else buffer.payloads


@functools.cache
def endpoints() -> Endpoints:
    """Return the project's endpoints, made once. Raises ``ImproperlyConfigured``."""
    given = _setting()
    principal = _imported("PRINCIPAL", given.get("PRINCIPAL") or session_user)
    if not callable(principal):
        raise ImproperlyConfigured(
            f"STREAMCHAT['PRINCIPAL'] is {principal!r:.200}: it must be a function of the request that "
            "returns a Principal, or None for nobody"
        )
    function: Any = principal
    return Endpoints(
        chat(),
        principal=lambda request: function(request.native),
        options=_http_options(given.get("HTTP", {})),
        cors=None if given.get("CORS") is None else _with_csrf(_made("CORS", CORS, given["CORS"])),
    )


def _with_csrf(cors: CORS) -> CORS:
    """Let pages of other origins send the CSRF token, where it is the session's user who asks."""
    if not asks_the_session():
        return cors
    header = str(settings.CSRF_HEADER_NAME).removeprefix("HTTP_").replace("_", "-").title()
    return replace(cors, headers=(*cors.headers, header))


def _http_options(given: object) -> HTTPOptions:
    """Return the options; those of a wire may be a dict in the dict."""
    if isinstance(given, HTTPOptions):
        return given
    if isinstance(given, Mapping):
        wires: dict[str, Any] = {
            name: _made(f"HTTP']['{name}", _WIRES[name], value)
            for name, value in given.items()
            if name in _WIRES and isinstance(value, Mapping)
        }
        given = {**given, **wires}
    return _made("HTTP", HTTPOptions, given)


def _made(key: str, kind: type[T], given: object) -> T:
    """Return ``kind`` made of a part of the setting. Raises ``ImproperlyConfigured`` for what is in it and
    should not be, `InvalidInput` for a value."""
    where = f"STREAMCHAT['{key}']"
    if isinstance(given, kind):
        return given
    known = {each.name: each for each in fields(cast(Any, kind))}
    if not isinstance(given, Mapping):
        raise ImproperlyConfigured(
            f"{where} is {given!r:.100}, of type {type(given).__name__}: give a dict with any of "
            f"{', '.join(known)}"
        )
    unknown = [str(name) for name in given if name not in known]
    if unknown:
        raise ImproperlyConfigured(f"{where} knows {', '.join(known)}, not {', '.join(sorted(unknown))}")
    missing = [
        name
        for name, each in known.items()
        if name not in given and each.default is MISSING and each.default_factory is MISSING
    ]
    if missing:
        raise ImproperlyConfigured(f"{where} lacks {', '.join(missing)}")
    return kind(**given)


def _forget(*, setting: str, **_: Any) -> None:
    if setting == "STREAMCHAT":  # a test has changed it
        chat.cache_clear()
        endpoints.cache_clear()


setting_changed.connect(_forget)
