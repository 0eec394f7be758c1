"""What request bodies may hold: typed models, and the reader that says which field was wrong and where."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self, TypeAlias, TypeVar, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, from_json

from streamchat.http.errors import HTTPError
from streamchat.http.limits import read_body
from streamchat.http.requests import Request

__all__ = [
    "ApprovalBody",
    "CancelBody",
    "ConversationId",
    "JobBody",
    "RetryBody",
    "StartBody",
    "ToolResultBody",
    "parse_body",
    "read_json",
]

# No data: of any kind runs in a page or reaches the provider's own network by these.
_URL = r"^(https?://|data:)"

Url: TypeAlias = Annotated[str, StringConstraints(pattern=_URL)]
Name: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=200)]
# It stands in a path as one segment: servers decode %2F before they are asked, clients resolve "." and "..".
_PATH_SEGMENT = r"^([ -\-0-~][ -.0-~]*|\.[ -\-0-~][ -.0-~]*|\.\.[ -.0-~]+)$"
_OF_PATTERNS = {
    _URL: "Addresses begin with http://, https:// or data:",
    _PATH_SEGMENT: "It has to be printable ASCII without '/', and not '.' or '..', as it stands in paths",
}
ConversationId: TypeAlias = Annotated[
    str, StringConstraints(min_length=1, max_length=64, pattern=_PATH_SEGMENT)
]


def _whole(value: Any) -> Any:
    """Take a whole number however it is written: in JSON, and by its schemas, 3.0 is one."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


class _Body(BaseModel):
    # Strict: "no", "off" and 1 decide nothing that a person did not say in so many words.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class TextInput(_Body):
    """Text that the user wrote."""

    type: Literal["text"]
    text: str


class ImageURL(_Body):
    """Where an image is; ``detail`` is for the model."""

    url: Url
    detail: Literal["auto", "low", "high", "original"] | None = None


class ImageInput(_Body):
    """An image, as the Chat Completions API takes it."""

    type: Literal["image_url"]
    image_url: ImageURL


class Audio(_Body):
    """Sound, in base64."""

    data: str
    format: str


class AudioInput(_Body):
    """Sound, as the Chat Completions API takes it."""

    type: Literal["input_audio"]
    input_audio: Audio


class File(_Body):
    """A file by the provider's id, or whole as a ``data:`` URL."""

    file_id: str | None = None
    file_data: str | None = None
    filename: str | None = None


class FileInput(_Body):
    """A file, as the Chat Completions API takes it."""

    type: Literal["file"]
    file: File


UserPart: TypeAlias = Annotated[TextInput | ImageInput | AudioInput | FileInput, Field(discriminator="type")]


def _shape(value: object) -> str:
    return "parts" if isinstance(value, list) else "text"


Message: TypeAlias = Annotated[
    # One shape is judged, not both: an error then names the field that is wrong.
    Annotated[Annotated[str, StringConstraints(min_length=1)], Tag("text")]
    | Annotated[Annotated[list[UserPart], Field(min_length=1, max_length=100)], Tag("parts")],
    Discriminator(_shape),
]


def _finite(value: Any) -> Any:
    """Refuse what Python's JSON reads and JSON has not: NaN, and numbers beyond every bound."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("numbers must be finite")
    if isinstance(value, dict):
        for item in value.values():
            _finite(item)
    elif isinstance(value, list):
        for item in value:
            _finite(item)
    return value


JSONObject: TypeAlias = Annotated[dict[str, Any], AfterValidator(_finite)]


class StartBody(_Body):
    """What starts a run: the user's message, and the conversation that it continues (a new one without).

    ``edits`` is the id of an earlier message of the user's, which this one takes the place of.
    """

    message: Message
    conversation_id: ConversationId | None = None
    client_id: Name | None = None
    metadata: JSONObject | None = None
    system_message: str | None = None
    edits: Name | None = None

    def content(self) -> str | list[dict[str, Any]]:
        """Return the message as the service takes it."""
        if isinstance(self.message, str):
            return self.message
        return [part.model_dump(exclude_none=True) for part in self.message]


class CancelBody(_Body):
    """Why a run is cancelled, for people."""

    reason: Annotated[str, StringConstraints(max_length=1000)] | None = None


class RetryBody(_Body):
    """What of a run is done anew: all of it, the steps from one on, or one call alone."""

    from_step: Annotated[int, Field(ge=1, le=1_000_000), BeforeValidator(_whole)] | None = None
    call_id: Name | None = None


JSONValue: TypeAlias = Annotated[Any, AfterValidator(_finite)]
Words: TypeAlias = Annotated[str, StringConstraints(max_length=10_000)]


class ApprovalBody(_Body):
    """A person's decision on a call; ``arguments`` take the place of the model's."""

    call_id: Name
    approved: bool
    reason: Words | None = None
    arguments: JSONObject | None = None


class ToolResultBody(_Body):
    """What a tool that the page runs came to: ``output``, or ``error`` (text for the model)."""

    call_id: Name
    output: JSONValue = None
    error: Words | None = None

    @model_validator(mode="after")
    def _either(self) -> Self:
        return _refuse_both(self, "output")


class JobBody(_Body):
    """What a background job came to: ``result``, or ``error`` (text for the model)."""

    result: JSONValue = None
    error: Words | None = None

    @model_validator(mode="after")
    def _either(self) -> Self:
        return _refuse_both(self, "result")


B = TypeVar("B", bound=BaseModel)


def _refuse_both(body: B, name: str) -> B:
    if (name in body.model_fields_set) == (getattr(body, "error", None) is not None):
        raise ValueError(f"give either {name} or error")
    return body


async def read_json(
    request: Request, model: type[B], most: int, seconds: float, *, optional: bool = False
) -> B:
    """Read and check a JSON body; with ``optional``, none at all is the model's defaults, whatever type it
    is said to be of (WSGI servers say text/plain where nothing is sent).

    Raises `HTTPError`: 415 for another content type, 413 and 408 as `read_body`, 422 as `parse_body`.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    right = content_type == "application/json" or (
        content_type.startswith("application/") and content_type.endswith("+json")
    )
    # Judged before the body is read, where it is known that there is one. This is also what keeps a form of
    # another site out: it cannot send JSON unasked.
    if not right and not (optional and request.headers.get("content-length", "").strip("0") == ""):
        raise _wrong_type()
    body = await read_body(request, most, seconds)
    if optional and not body.strip():
        return model()
    if not right:
        raise _wrong_type()
    return parse_body(body, model)


def parse_body(body: bytes, model: type[B]) -> B:
    """Check a JSON body. Raises `HTTPError` 422: what is no JSON, with its position; what does not fit, with
    the field."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=True, include_input=False)[0]
    if first["type"] == "json_invalid":
        position = first.get("ctx", {}).get("error", "malformed")
        if not body.strip():
            position = "the body is empty"
        raise HTTPError(422, "invalid_json", f"The body is not valid JSON: {position}.", field="body")
    field = _field(first, from_json(body))
    # pydantic quotes the schema and a tag of what was sent, and the name of a field may be the client's own.
    said = f"{field}: {_message(first)}."
    raise HTTPError(422, "invalid_input", said, field=field, logged=f"the body does not fit: {first['type']}")


def _message(error: ErrorDetails) -> str:
    """Say what is wrong: pydantic's words, but for patterns, which are no words."""
    pattern = error.get("ctx", {}).get("pattern") if error["type"] == "string_pattern_mismatch" else None
    return _OF_PATTERNS.get(pattern or "", error["msg"][:300])


def _field(error: ErrorDetails, body: Any) -> str:
    """Return where in the body an error is: pydantic's location without the names of its own branches."""
    path: list[str] = []
    value = body
    for left, item in enumerate(error["loc"], 1 - len(error["loc"])):
        inside: Any = (
            range(len(value)) if isinstance(value, list) else value if isinstance(value, dict) else ()
        )
        if item in inside:
            value = cast(Any, value)[item]
        elif left or error["type"] != "missing":
            continue  # the name of a branch
        path.append(str(item))
    return ".".join(path)[:200] or "body"


def _wrong_type() -> HTTPError:
    return HTTPError(
        415,
        "unsupported_media_type",
        "The body must be JSON (Content-Type: application/json).",
        field="content-type",
    )
