"""What a refusal or rejection means to the edge's caller: which error of ours it becomes.

Knows nothing of states; whether to try again is the session's decision.
"""

from typing import Final

from specedge.errors import (
    Busy,
    ContextTooLong,
    FingerprintMismatch,
    InvalidRequest,
    RetryableError,
    SpecEdgeError,
)
from specedge.protocol.codec import VersionRefused
from specedge.protocol.messages import Rejected, SessionParams
from specedge.protocol.opening import RETRYABLE_REASONS, Limits, Opened, Reason, Refused

_MAX_MESSAGE_CHARS: Final = 1000
_MAX_FIELD_CHARS: Final = 100
ANY_WEIGHTS = "0"  # in an edge's params: take whatever weights the verifier has
_CODES = {
    Reason.UNKNOWN_MODEL: "model_not_found",
    Reason.VERSION: "version",
    Reason.OVER_LIMIT: "over_limit",
}


def error_of(answer: Refused | Rejected, own_fingerprint: str) -> SpecEdgeError:
    """The error that ends a session. ``own_fingerprint`` stands in where the answer has none."""
    reason = answer.refused if isinstance(answer, Refused) else answer.rejected
    message = answer.message or f"the round was rejected: {reason.value}"
    if reason in RETRYABLE_REASONS:
        kind = Busy if reason is Reason.BUSY else RetryableError
        return kind(message, retry_ms=answer.retry_ms)
    if reason is Reason.FINGERPRINT:
        return FingerprintMismatch(
            message,
            field=answer.field or "tokenizer",
            ours=answer.theirs or own_fingerprint,
            theirs=answer.ours or "",
        )
    if reason is Reason.TOO_LONG:
        return ContextTooLong(message, field=answer.field or "prompt", code="too_long")
    field = answer.field or ("model" if reason is Reason.UNKNOWN_MODEL else "body")
    return InvalidRequest(message, field=field, code=_CODES.get(reason))


def mismatch_of(opened: Opened, params: SessionParams) -> InvalidRequest | None:
    """Why a session cannot go on with the verifier it was given, or None."""
    for field in ("tokenizer", "weights"):
        ours, theirs = getattr(params, field), getattr(opened.identity, field)
        if ours != theirs and not (field == "weights" and ours == ANY_WEIGHTS):
            message = f"the verifier's {field} is {theirs}, this edge expects {ours}"
            return FingerprintMismatch(message, field=field, ours=ours, theirs=theirs)
    return _too_long(opened.limits, params)


def _too_long(limits: Limits, params: SessionParams) -> ContextTooLong | None:
    wanted = params.prompt + params.max_tokens
    if wanted <= limits.context:
        return None
    message = (
        f"This model's maximum context length is {limits.context} tokens; the prompt's "
        f"{params.prompt} and the {params.max_tokens} to generate make {wanted}"
    )
    return ContextTooLong(message, field="max_tokens", code="too_long")


def rejection_of(error: InvalidRequest, round_: int, try_: int = 0) -> Rejected:
    """What is said about a message that could not be read, in its own words."""
    return Rejected(
        round=round_,
        try_=try_,
        rejected=reason_of(error),
        message=str(error)[:_MAX_MESSAGE_CHARS],
        field=error.field[:_MAX_FIELD_CHARS],
    )


def reason_of(error: InvalidRequest) -> Reason:
    """Why bytes were refused."""
    return Reason.VERSION if isinstance(error, VersionRefused) else Reason.INVALID
