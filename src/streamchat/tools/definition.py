"""A tool: a function with what a model is told of it, and how it may be run."""

from __future__ import annotations

import hashlib
import inspect
import json
import random
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypedDict

from streamchat.core.given import Refuse, check_flag, check_instance, check_number
from streamchat.errors import ToolDefinitionError
from streamchat.tools.arguments import ArgumentsInvalid, ArgumentsValidator
from streamchat.tools.context import ToolContext
from streamchat.tools.docstrings import parse_docstring
from streamchat.tools.jsonschema import Schema
from streamchat.tools.results import ResultValidator
from streamchat.tools.schema import ToolSchema
from streamchat.tools.signature import BoundArguments, Signature, innermost, positional_count, read_signature
from streamchat.tools.slots import Slots
from streamchat.tools.strict import NotExpressible, strict_schema
from streamchat.tools.values import LONGEST_WAIT

__all__ = ["Approval", "Kind", "Reconcile", "Tool", "ToolOptions", "define_tool", "kind_of"]

Reconcile: TypeAlias = Callable[..., Any]
"""A function (sync or async) of the context, or of the context and the arguments as a dict."""

Approval: TypeAlias = (
    bool | str | Callable[[ToolContext[Any], dict[str, Any]], bool | str | Awaitable[bool | str]]
)
"""Whether a person must agree before a call runs: always, or as the predicate says. Text is the question."""

AfterJob: TypeAlias = Literal["model", "end"]
"""What a job's result leads to."""

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")  # what the OpenAI API takes for a function's name
_LONGEST_WAIT = 60.0


class ToolOptions(TypedDict, total=False):
    """What a tool may be registered with; each is optional.

    ``name`` (default: the function's), ``description`` (default: its docstring's).
    ``timeout``: seconds for one attempt; None is no limit; left out, that of the run holds.
    ``idempotent``: the same call may run twice; it gets the same ``idempotency_key`` each time.
    ``retries``: how often a failed attempt is repeated; only with ``idempotent``. ``retry_wait``: seconds
    before the first repetition, doubled for each further one up to a minute, with jitter; or a function from
    the number of the failed attempt (from 1) to seconds.
    ``reconcile``: asked what came of a call that was cut off, when it is not known; see `run_reconcile`.
    ``requires_approval``: True, or a predicate (sync or async) of the context, which has the principal, and
    the arguments; text instead of True is shown to who decides. Only False lets a call run unasked: a
    predicate that raises, or returns None or anything else, counts as True.
    ``approval_timeout``: seconds until a call that nobody decided on is denied; left out, the run's holds.
    ``concurrency``: how many calls run at once in this process, over all runs. ``sequential``: while a call
    runs, no other tool call of the same run does.
    ``max_output_bytes``: UTF-8 bytes of the output; text is cut there, any other value becomes an error.
    ``client_side``: the browser runs it, the function only describes it; ``timeout`` is then how long the
    client has. ``deferred``: it may return `Deferred`. ``wait_for_job``: whether the model is asked again
    only when the job is over (the default), or at once. ``after_job``: whether a job's result is told to the
    ``model`` (the default), or is the ``end`` of the run, unless there is something else to tell.
    ``result_type``: what a client's or a job's result is checked by; for a client's the function's return
    type is the default.
    ``strict``: True wants a strict-mode schema, or an error; None takes it where it can be had.
    """

    name: str
    description: str
    timeout: float | None
    retries: int
    retry_wait: float | Callable[[int], float]
    idempotent: bool
    reconcile: Reconcile | None
    requires_approval: Approval
    approval_timeout: float | None
    concurrency: int | None
    sequential: bool
    max_output_bytes: int | None
    client_side: bool
    deferred: bool
    wait_for_job: bool
    after_job: AfterJob
    result_type: Any
    strict: bool | None


Kind: TypeAlias = Literal["coroutine", "async_generator", "thread"]


@dataclass(frozen=True, slots=True, eq=False)
class Tool:
    """Made by `ToolRegistry`, shared by all runs of the process; the fields are those of `ToolOptions`.

    ``timeout`` is meaningful only where ``own_timeout`` says that it was given: ask `time_limit`, and
    `time_to_decide` of ``approval_timeout``. ``returns`` is the annotated type of the result. ``plain`` is
    the schema before strict mode changed it.
    """

    name: str
    description: str
    schema: ToolSchema
    function: Callable[..., Any]
    kind: Kind
    signature: Signature
    plain: Schema
    returns: Any
    timeout: float | None = None
    own_timeout: bool = False
    retries: int = 0
    retry_wait: float | Callable[[int], float] = 0.5
    idempotent: bool = False
    reconcile: Reconcile | None = None
    requires_approval: Approval = False
    concurrency: int | None = None
    sequential: bool = False
    max_output_bytes: int | None = None
    client_side: bool = False
    deferred: bool = False
    approval_timeout: float | None = None
    own_approval_timeout: bool = False
    wait_for_job: bool = True
    after_job: AfterJob = "model"
    slots: Slots | None = None
    _validator: ArgumentsValidator = field(kw_only=True, repr=False)
    _results: ResultValidator | None = field(kw_only=True, repr=False, default=None)

    def check(self, arguments: Mapping[str, Any]) -> str | None:
        """Return what is wrong with the arguments, in words for the model; None if they fit."""
        problem = self.misfit(arguments)
        return None if problem is None else str(problem)

    def misfit(self, arguments: Mapping[str, Any]) -> ArgumentsInvalid | None:
        """Return what is wrong with the arguments; ``field`` of it is the first place, dotted, if any."""
        try:
            self._validator.validate(arguments)
        except ArgumentsInvalid as problem:
            return problem
        return None

    def validate(self, arguments: Mapping[str, Any], context: ToolContext[Any]) -> BoundArguments:
        """Return what to call the function with. Raises `ArgumentsInvalid`, whose text is for the model.

        Validators see the context as ``info.context``.
        """
        return self.signature.bind(self._validator.validate(arguments, context), context)

    def result(self, output: Any) -> Any:
        """Return what a client or a job brought, as JSON of the declared type where there is one.

        Raises `ResultInvalid`, whose text is for the model.
        """
        return output if self._results is None else self._results.validate(output)

    def time_to_decide(self, default: float | None) -> float | None:
        """Return the seconds for an approval: the tool's own, else ``default``; None is no limit."""
        return self.approval_timeout if self.own_approval_timeout else default

    def time_limit(self, default: float | None) -> float | None:
        """Return the seconds for one attempt: the tool's own, else ``default``; None is no limit."""
        return self.timeout if self.own_timeout else default

    def wait_before_retry(self, attempt: int) -> float:
        """Return the seconds to wait after the failed attempt of that number (from 1)."""
        if callable(self.retry_wait):
            return max(0.0, self.retry_wait(attempt))
        longest = min(_LONGEST_WAIT, self.retry_wait * 2.0 ** min(attempt - 1, 30))
        return longest * random.uniform(0.5, 1.0)

    def digest(self) -> str:
        """Return 32 hex digits that change when the name or the parameters do.

        A run that was begun elsewhere has its pending calls validated again where they differ.
        """
        text = json.dumps([self.name, _without_descriptions(self.plain)], sort_keys=True)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def define_tool(function: Callable[..., Any], options: ToolOptions) -> Tool:
    """Make a tool of a function. Raises `ToolDefinitionError` that names the tool and what to change."""
    source = innermost(function)
    name: str = options["name"] if "name" in options else getattr(source, "__name__", "")
    if not _is_callable_tool(function):
        raise ToolDefinitionError(
            f"a tool must be a function, a method or a callable object, not {function!r}"
        )
    is_object = getattr(source, "__name__", "") == "__call__"
    if is_object and "name" not in options:
        name = type(function).__name__
    check_instance("name", name, str, "the tool's name", error=ToolDefinitionError)
    if not _NAME.fullmatch(name):
        raise ToolDefinitionError(
            f"tool {name!r}: a name has 1 to 64 letters, digits, _ or - (ASCII); give one with name=…",
            field="name",
        )
    _check_options(name, options)
    signature = read_signature(function, name)
    docstring = parse_docstring(source.__doc__ or (type(function).__doc__ if is_object else None))
    validator = ArgumentsValidator(name, signature.visible, docstring.parameters)
    description = options.get("description", docstring.description)
    concurrency = options.get("concurrency")
    return Tool(
        name=name,
        description=description,
        schema=_schema(name, description, validator.schema, options.get("strict")),
        function=function,
        kind=kind_of(function),
        signature=signature,
        plain=validator.schema,
        returns=signature.returns,
        timeout=options.get("timeout"),
        own_timeout="timeout" in options,
        retries=options.get("retries", 0),
        retry_wait=options.get("retry_wait", 0.5),
        idempotent=options.get("idempotent", False),
        reconcile=options.get("reconcile"),
        requires_approval=options.get("requires_approval", False),
        concurrency=concurrency,
        sequential=options.get("sequential", False),
        max_output_bytes=options.get("max_output_bytes"),
        client_side=options.get("client_side", False),
        deferred=options.get("deferred", False),
        approval_timeout=options.get("approval_timeout"),
        own_approval_timeout="approval_timeout" in options,
        wait_for_job=options.get("wait_for_job", True),
        after_job=options.get("after_job", "model"),
        slots=None if concurrency is None else Slots(concurrency),
        _validator=validator,
        _results=_results(name, options, signature.returns),
    )


def _results(name: str, options: ToolOptions, returns: Any) -> ResultValidator | None:
    if "result_type" in options:
        return ResultValidator(name, options["result_type"])
    return ResultValidator(name, returns) if options.get("client_side") else None


def _is_callable_tool(function: Any) -> bool:
    return callable(function) and not isinstance(function, type)


def kind_of(function: Any) -> Kind:
    """How the outermost callable is called; a wrapper may well have another kind than what it wraps."""
    while hasattr(function, "func") and hasattr(function, "keywords"):  # functools.partial
        function = function.func
    call = function if inspect.isroutine(function) else type(function).__call__
    if inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(function):
        return "coroutine"
    return "async_generator" if inspect.isasyncgenfunction(call) else "thread"


def _schema(name: str, description: str, plain: Schema, strict: bool | None) -> ToolSchema:
    if strict is not False:
        try:
            return ToolSchema(name, description, strict_schema(plain), strict=True)
        except NotExpressible as reason:
            if strict:
                raise ToolDefinitionError(
                    f"tool {name!r}: strict=True, but {reason}; change the type or leave strict out"
                ) from reason
    return ToolSchema(name, description, plain, strict=False)


def _check_options(name: str, options: ToolOptions) -> None:
    def refuse(problem: str, field: str | None = None) -> ToolDefinitionError:
        return ToolDefinitionError(f"tool {name!r}: {problem}", field=field)

    unknown = sorted(options.keys() - ToolOptions.__annotations__.keys())
    if unknown:
        raise refuse(f"there is no option {', '.join(unknown)}")
    _check_types(options, refuse)
    retries = options.get("retries", 0)
    if retries and not options.get("idempotent"):
        raise refuse(
            f"retries={retries} may carry out a call twice; "
            "say idempotent=True if that does no harm, or leave retries out",
            "retries",
        )
    _check_who_runs_it(options, refuse)
    reconcile = options.get("reconcile")
    if reconcile is not None and not 1 <= positional_count(reconcile) <= 2:
        raise refuse(
            "reconcile must take the context, or the context and the arguments (a dict)", "reconcile"
        )


def _check_types(options: ToolOptions, refuse: Refuse) -> None:
    given = dict(options)
    outside = LONGEST_WAIT if given.get("client_side") else None
    check_number("timeout", given.get("timeout"), above=0, most=outside, none=True, error=refuse)
    longest = given.get("approval_timeout")
    check_number("approval_timeout", longest, above=0, most=LONGEST_WAIT, none=True, error=refuse)
    for key in ("concurrency", "max_output_bytes"):
        check_number(key, given.get(key), above=0, whole=True, none=True, error=refuse)
    check_number("retries", given.get("retries", 0), least=0, whole=True, error=refuse)
    if not callable(given.get("retry_wait")):
        check_number("retry_wait", given.get("retry_wait", 0.5), least=0, finite=True, error=refuse)
    for key in ("idempotent", "sequential", "client_side", "deferred", "wait_for_job"):
        check_flag(key, given.get(key, False), error=refuse)
    check_instance("strict", given.get("strict"), bool, "True, False or None", none=True, error=refuse)
    check_instance("description", given.get("description", ""), str, "text", error=refuse)
    asks = given.get("requires_approval", False)
    if not callable(asks):
        check_instance(
            "requires_approval", asks, (bool, str), "a bool, a question or a function", error=refuse
        )


def _check_who_runs_it(options: ToolOptions, refuse: Refuse) -> None:
    client, deferred = options.get("client_side"), options.get("deferred")
    if client and (options.get("retries") or deferred or options.get("reconcile")):
        raise refuse(
            "client_side=True: the client runs it, so retries, deferred and reconcile have no meaning"
        )
    if client and options.get("requires_approval"):
        raise refuse("client_side=True: the client asks before it runs it; leave requires_approval out")
    if not deferred and ("wait_for_job" in options or "after_job" in options):
        raise refuse("wait_for_job and after_job are about jobs: say deferred=True, or leave them out")
    if options.get("after_job", "model") not in ("model", "end"):
        raise refuse(f"after_job={options.get('after_job')!r} must be 'model' or 'end'")
    if not (client or deferred) and "result_type" in options:
        raise refuse("result_type is for results that come from outside: client_side or deferred")
    if not options.get("requires_approval") and "approval_timeout" in options:
        raise refuse("approval_timeout has no meaning without requires_approval")


def _without_descriptions(value: Any, names: bool = False) -> Any:
    """The schema without its texts; a property may be called description, so names of properties are kept."""
    if isinstance(value, dict):
        return {
            key: _without_descriptions(item, names=key in ("properties", "$defs") and not names)
            for key, item in value.items()
            if names or key != "description"
        }
    return [_without_descriptions(item) for item in value] if isinstance(value, list) else value
