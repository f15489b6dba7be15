"""Errors as the OpenAI API spells them: one place decides status, type, code and headers.

Messages are bounded and carry no paths, addresses or tracebacks: what is not an error of ours said
on purpose becomes a plain internal error, and the log has the rest.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Final

from fastapi.exceptions import RequestValidationError
from starlette.responses import JSONResponse

from specedge.errors import (
    AuthenticationFailed,
    Busy,
    ContextTooLong,
    FingerprintMismatch,
    InvalidRequest,
    LinkDown,
    LinkTimeout,
    NoResponders,
    RetryableError,
    SpecEdgeError,
)
from specedge_edge.served import spell_out

MAX_MESSAGE_CHARS: Final = 1000
MAX_PARAM_CHARS: Final = 200
DEFAULT_RETRY_MS: Final = 1000


class UnknownModel(InvalidRequest):
    """The model asked for is not the one served here."""


@dataclass(frozen=True, slots=True)
class ApiError:
    """An error as it leaves the server."""

    status: int
    message: str
    type: str
    param: str | None = None
    code: str | None = None
    retry_ms: int | None = None

    def body(self) -> dict[str, Any]:
        """The JSON body, which is also what a broken-off stream carries."""
        return {
            "error": {
                "message": _sayable(self.message)[:MAX_MESSAGE_CHARS],
                "type": self.type,
                "param": None if self.param is None else _sayable(self.param)[:MAX_PARAM_CHARS],
                "code": self.code,
            }
        }

    def headers(self) -> dict[str, str]:
        """When to come back, in seconds and, for clients that know it, milliseconds."""
        if self.retry_ms is None:
            return {}
        return {
            "Retry-After": str(max(1, math.ceil(self.retry_ms / 1000))),
            "retry-after-ms": str(self.retry_ms),
        }

    def response(self) -> JSONResponse:
        """The whole answer."""
        return JSONResponse(self.body(), status_code=self.status, headers=self.headers())


NOT_AN_OBJECT: Final = "the body must be a JSON object, sent as Content-Type: application/json"
INTERNAL: Final = ApiError(500, "internal error; the server's log has it", "server_error")
MISSING_KEY: Final = ApiError(
    401,
    "a valid API key is needed: Authorization: Bearer KEY",
    "invalid_request_error",
    code="invalid_api_key",
)


def from_exception(error: BaseException) -> ApiError:
    """How an exception is told to the client."""
    match error:
        case UnknownModel():
            return ApiError(
                404, str(error), "invalid_request_error", error.field, "model_not_found"
            )
        case ContextTooLong():
            return ApiError(
                400, str(error), "invalid_request_error", error.field, "context_length_exceeded"
            )
        case FingerprintMismatch():
            # Nothing the client sent: this edge cannot work with these verifiers.
            return ApiError(503, spell_out(error), "server_error", code="fingerprint_mismatch")
        case InvalidRequest():
            return ApiError(400, str(error), "invalid_request_error", error.field, error.code)
        case Busy():
            return ApiError(
                429,
                str(error),
                "rate_limit_error",
                code="rate_limit_exceeded",
                retry_ms=error.retry_ms or DEFAULT_RETRY_MS,
            )
        case RetryableError():
            return ApiError(
                503,
                _who_is_away(error) or str(error),
                "server_error",
                code="service_unavailable",
                retry_ms=error.retry_ms or DEFAULT_RETRY_MS,
            )
        case AuthenticationFailed():
            return ApiError(503, "this edge is not admitted by its broker", "server_error")
        case SpecEdgeError():
            return ApiError(500, str(error), "server_error")
    return INTERNAL


def from_session(error: BaseException) -> ApiError:
    """How the failure of a session is told: a refusal that names a field of a message names none
    of the client's."""
    match error:
        case ContextTooLong():
            return replace(from_exception(error), param=None)
        case InvalidRequest() if not isinstance(error, FingerprintMismatch):
            return ApiError(500, f"the verifier refused this request: {error}", "server_error")
    return from_exception(error)


def from_validation(error: RequestValidationError) -> ApiError:
    """The first thing that is wrong with a body, named as the client wrote it."""
    problems = error.errors()
    if not problems:
        return ApiError(400, "invalid request", "invalid_request_error")
    first = _most_telling(problems)
    if first["type"] == "json_invalid":
        reason = first.get("ctx", {}).get("error", "")
        return ApiError(400, f"the body is not valid JSON: {reason}", "invalid_request_error")
    if first["loc"] == ("body",):
        return ApiError(400, NOT_AN_OBJECT, "invalid_request_error")
    param = _param(first["loc"])
    said = str(first["msg"])[:200]
    message = f"{param}: {said}" if param else said
    return ApiError(400, message, "invalid_request_error", param)


def _who_is_away(error: RetryableError) -> str | None:
    """Links say what fails in words of subjects and addresses; None: it was no link."""
    match error:
        case LinkDown():
            return "this edge has no connection to its broker"
        case LinkTimeout() | NoResponders():
            return "no scheduler answers"
    return None


def _sayable(text: str) -> str:
    """Without lone surrogates, which a client may send and nobody can encode."""
    return text.encode(errors="replace").decode()


def _most_telling(problems: Any) -> Any:
    """Of a union's complaints, one about a size if there is any, since only the right kind of value
    comes so far; else the one that got furthest into the body."""
    field = problems[0]["loc"][:2]
    same = [problem for problem in problems if problem["loc"][:2] == field]
    return max(same, key=lambda one: (one["type"] in _OF_SIZE, len(_path(one["loc"]))))


def _path(loc: tuple[int | str, ...]) -> list[int | str]:
    """A location without the names that pydantic gives to the members of a union."""
    steps = [step for step in loc if step != "body"]
    return [
        step
        for step in steps
        if isinstance(step, int) or (step.isidentifier() and step not in _TYPE_NAMES)
    ]


_OF_SIZE: Final = frozenset(
    {"too_long", "too_short", "string_too_long", "string_too_short"}
    | {"greater_than_equal", "less_than"}
)
_TYPE_NAMES: Final = frozenset({"str", "int", "float", "bool", "list", "dict", "constrained"})


def _param(loc: tuple[int | str, ...]) -> str | None:
    spelled = ""
    for step in _path(loc):
        spelled += f"[{step}]" if isinstance(step, int) else f".{step}"
    return spelled.removeprefix(".") or None
