"""What a verifier checks before anything from an edge reaches a device: pure questions about one
message. Sizes first, then every id; base and hash are the session's own question.

Parent order and the ranges of numbers were checked when the bytes came in.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from specedge.protocol.messages import Ahead, ContextHeader, Draft, Rejected, SessionParams
from specedge.protocol.opening import Identity, Limits, Reason
from specedge.protocol.wire_tree import levels_of
from specedge.tree.token_tree import IntArray


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a message is rejected, with the field in the message's own words."""

    reason: Reason
    message: str
    field: str
    ours: str | None = None
    theirs: str | None = None

    def as_rejected(self, round_: int, try_: int, at: str, retry_ms: int | None) -> Rejected:
        """The message that says so."""
        return Rejected(
            round=round_,
            try_=try_,
            at=at,
            rejected=self.reason,
            message=self.message,
            field=self.field,
            retry_ms=retry_ms,
            ours=self.ours,
            theirs=self.theirs,
        )


EXPIRED: Final = Fault(
    Reason.EXPIRED, "the round's time was over before it could start", "budget_ms"
)


def find_size_fault(work: Draft, limits: Limits) -> Fault | None:
    """Where a draft or grant is over what its session may ask for, or None. For schedulers too:
    they count on what drafts say of themselves."""
    if len(work.token) > limits.nodes:
        return _over("token", len(work.token), limits.nodes)
    if len(work.append) > limits.append:
        return _over("append", len(work.append), limits.append)
    if work.run > limits.grant:
        return _over("run", work.run, limits.grant)
    if work.base + len(work.append) > limits.context:
        return _over("base", work.base + len(work.append), limits.context)
    # Each round commits a token at least. A grant counts on from the number it came with, which
    # must not end where a message's numbers do.
    if work.round > limits.context:
        return _over("round", work.round, limits.context)
    return None


def _over(field: str, size: int, limit: int) -> Fault:
    message = f"{field} is {size}, over this session's limit of {limit}"
    return Fault(Reason.OVER_LIMIT, message, field)


def find_work_fault(work: Draft, limits: Limits, vocab_size: int) -> Fault | None:
    """The first fault of a draft or grant, or None."""
    return (
        find_size_fault(work, limits)
        or _find_outside("append", work.append, vocab_size)
        or _find_outside("token", work.token, vocab_size)
    )


def is_sound_ahead(ahead: Ahead, limits: Limits, vocab_size: int) -> bool:
    """Whether a draft sent ahead may be looked at: its size, and every id."""
    return len(ahead.token) <= limits.ahead and max(ahead.token, default=0) < vocab_size


def find_place_fault(work: Draft, params: SessionParams, max_context: int) -> Fault | None:
    """Whether work that agrees in base and hash starts where nothing may be generated, inside the
    prompt or past the last token, or leads past the model's last position: a step that it cannot
    run fails for all who are in it."""
    first, end = params.prompt, params.prompt + params.max_tokens
    start = work.base + len(work.append)
    if not (first <= work.base and start < end):
        message = f"base {work.base} with {len(work.append)} appended is outside [{first}, {end})"
        return Fault(Reason.INVALID, message, "base")
    left = max_context - start
    if len(work.parent) > left and (depth := max(levels_of(work.parent))) > left:
        message = f"parent leads {depth} levels down, where {left} positions are left"
        return Fault(Reason.INVALID, message, "parent")
    return None


def find_context_fault(
    header: ContextHeader, ids: IntArray, identity: Identity, limits: Limits
) -> Fault | None:
    """The first fault of a chunk of context, or None."""
    params = header.params
    if header.off + len(ids) > header.total:
        message = f"{len(ids)} ids from {header.off} are past the total of {header.total}"
        return Fault(Reason.INVALID, message, "off")
    outside = (ids < 0) | (ids >= identity.vocab_size)
    if outside.any():
        index = int(outside.argmax())
        return _outside(f"ids[{index}]", int(ids[index]), identity.vocab_size)
    return (
        _identity_fault(params, identity)
        or _length_fault(header, limits)
        or _find_outside("params.stop", params.stop, identity.vocab_size)
        or _find_outside("params.logit_bias", _biased(params), identity.vocab_size)
    )


def _biased(params: SessionParams) -> tuple[int, ...]:
    return tuple(token for token, _ in params.logit_bias)


def _identity_fault(params: SessionParams, identity: Identity) -> Fault | None:
    for field in ("tokenizer", "weights", "model"):
        ours, theirs = getattr(identity, field), getattr(params, field)
        if ours != theirs:
            message = f"{field} differs: this verifier's is {ours}, the session's is {theirs}"
            return Fault(Reason.FINGERPRINT, message, f"params.{field}", ours, theirs)
    return None


def _length_fault(header: ContextHeader, limits: Limits) -> Fault | None:
    params = header.params
    longest = params.prompt + params.max_tokens
    if longest > limits.context:
        message = f"prompt and max_tokens make {longest} tokens, over the limit of {limits.context}"
        return Fault(Reason.TOO_LONG, message, "params.max_tokens")
    if not params.prompt <= header.total < longest:
        message = f"total is {header.total}, but the prompt has {params.prompt} tokens"
        message += f" and at most {params.max_tokens} follow it"
        return Fault(Reason.INVALID, message, "total")
    return None


def _find_outside(field: str, ids: Sequence[int], vocab_size: int) -> Fault | None:
    """The first id that is in no vocabulary of that size."""
    if max(ids, default=0) < vocab_size:
        return None
    index = next(index for index, token in enumerate(ids) if token >= vocab_size)
    return _outside(f"{field}[{index}]", ids[index], vocab_size)


def _outside(field: str, token: int, vocab_size: int) -> Fault:
    message = f"{field} is {token}, outside the vocabulary of {vocab_size}"
    return Fault(Reason.INVALID, message, field)
