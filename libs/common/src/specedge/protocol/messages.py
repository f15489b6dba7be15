"""Every message of a session that has a place, once; how it gets one is in ``opening``, what
services report of themselves in ``reports``.

Bodies name no session: subject alone does. ``BatchItem`` does, since schedulers are trusted.
Unknown fields are ignored, so that a field can be added within a version. Of what strangers send
by the thousand the first fault is enough: to collect them all costs a tenth of a second.
"""

from typing import Annotated, Final, Literal

from pydantic import Field, ValidationInfo, field_validator

from specedge.params import SamplingParams, StopRule
from specedge.protocol.body import (
    Bias,
    Body,
    Count,
    Fingerprint,
    Hash,
    Logprob,
    Milliseconds,
    Name,
    Part,
    TokenIdField,
)
from specedge.protocol.opening import Limits, Reason

MAX_CHUNK_TOKENS: Final = 8192
MAX_NODES: Final = 1024  # a bound for decoding; a session's own limit is in ``Limits``
MAX_BATCH_BYTES: Final = 65536


class SessionParams(Part):
    """All that a verifier needs to know of a session, beside its tokens.

    prompt      prompt length in tokens
    stop        end-of-text ids of the model and the request's own stop ids, ascending: final when
                chosen; they are also what ``min_tokens`` masks
    logprobs    how many likeliest tokens to report beside the chosen one's; -1: none at all
    """

    model: Name
    weights: Fingerprint
    tokenizer: Fingerprint
    prompt: Annotated[int, Field(ge=1, lt=2**31)]
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)]
    stop: tuple[TokenIdField, ...] = Field(default=(), max_length=256, fail_fast=True)
    seed: Annotated[int, Field(ge=0, lt=2**64)] = 0
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] = 0.0
    top_k: Annotated[int, Field(ge=0, lt=2**31)] = 0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] = 1.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    logit_bias: tuple[tuple[TokenIdField, Bias], ...] = Field(
        default=(), max_length=1024, fail_fast=True
    )
    min_tokens: Count = 0
    logprobs: Annotated[int, Field(ge=-1, le=20)] = -1

    def sampling(self) -> SamplingParams:
        """The part that decides how a token is picked."""
        return SamplingParams(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            logit_bias=self.logit_bias,
            min_tokens=self.min_tokens,
            seed=self.seed,
        )

    def stop_rule(self) -> StopRule:
        """The part that decides when the sequence is final."""
        return StopRule(stop_ids=frozenset(self.stop), max_tokens=self.max_tokens)


class ContextHeader(Body):
    """The JSON line before a chunk's ids.

    round  the round the edge will send when the context is complete
    off    index of the chunk's first token in the context
    total  tokens of the whole context: the base, root included
    hash   over params and the whole context
    """

    round: Count
    off: Count
    total: Annotated[int, Field(ge=1, lt=2**31)]
    hash: Hash
    params: SessionParams


class Draft(Body):
    """Edge → scheduler: one round. Base and hash are those before ``append``.

    at         verifier of the last verdict, "" if none
    append     committed tokens that the verifier has not seen
    token      drafted nodes by falling value, the root not sent
    parent     index into ``token``, -1 for the root
    run        a grant of so many tokens beyond base + append (hosted); 0: verify this draft
    budget_ms  what is left of this try's deadline
    """

    round: Count
    try_: Annotated[int, Field(ge=0, lt=2**31, alias="try")] = 0
    at: str = Field(default="", pattern=r"^[a-z0-9-]{0,32}$")
    base: Annotated[int, Field(ge=1, lt=2**31)]
    hash: Hash
    append: tuple[TokenIdField, ...] = Field(
        default=(), max_length=MAX_CHUNK_TOKENS, fail_fast=True
    )
    token: tuple[TokenIdField, ...] = Field(default=(), max_length=MAX_NODES, fail_fast=True)
    parent: tuple[int, ...] = Field(
        default=(), max_length=MAX_NODES, validate_default=True, fail_fast=True
    )
    run: Count = 0
    budget_ms: Count

    @field_validator("parent")
    @classmethod
    def _parents_precede(cls, parents: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        return _checked(parents, info)


def _checked(parents: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
    tokens = info.data.get("token")
    if tokens is not None and len(parents) != len(tokens):
        raise ValueError("must have as many entries as token")
    for node, parent in enumerate(parents):
        if not -1 <= parent < node:
            raise ValueError(f"entry {node} must be -1 or an earlier node")
    return parents


class Ahead(Body):
    """Edge → scheduler → verifier: what the edge drafted beyond a round that is out, in case that
    the verdict leads into it. A hint: it is used or dropped, and never answered.

    round, base, hash   of the round that is out, as its draft said them
    token, parent       as in a draft, on the same root, what lies between included
    nodes               of the part that the verdict leads to, how many are to be tried at most
    """

    round: Count
    base: Annotated[int, Field(ge=1, lt=2**31)]
    hash: Hash
    token: tuple[TokenIdField, ...] = Field(default=(), max_length=MAX_NODES, fail_fast=True)
    parent: tuple[int, ...] = Field(
        default=(), max_length=MAX_NODES, validate_default=True, fail_fast=True
    )
    nodes: Count

    @field_validator("parent")
    @classmethod
    def _parents_precede(cls, parents: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        return _checked(parents, info)


class BatchItem(Draft):
    """A draft as the scheduler passes it on.

    e, s     the session
    held_ms  how long the scheduler held it, for the edge's account of time
    next_ms  from the end of the step it is in until this session's next draft should be at the
             scheduler, as predicted; 0: as soon as it can
    """

    e: str = Field(pattern=r"^U[A-Z2-7]{55}$")
    s: str = Field(pattern=r"^[0-9a-f]{32}$")
    held_ms: Milliseconds = 0.0
    next_ms: Milliseconds = 0.0


class Batch(Body):
    """Scheduler → verifier: what to run next.

    epoch  (creation time of the lease, revision): the scheduler's term; lower ones are dropped
    seq    numbered by this scheduler for this verifier, from 1
    """

    epoch: tuple[Count | int, Count]
    seq: Count
    items: tuple[BatchItem, ...] = Field(max_length=4096)


class Timing(Part):
    """Where a round's time went, as the cloud saw it. All in milliseconds.

    held   at the scheduler      queue  at the verifier before its step
    step   the step itself       rows   rows of that step, all sessions
    draft  the verifier's own drafting for this round, before the step
    next   from the end of the step until the scheduler forms this session's next batch, as it
           predicted: a draft that arrives before then loses nothing. 0: nothing was predicted
    """

    held: Milliseconds = 0.0
    queue: Milliseconds = 0.0
    draft: Milliseconds = 0.0
    step: Milliseconds = 0.0
    rows: Count = 0
    next: Milliseconds = 0.0

    @property
    def cloud_ms(self) -> float:
        """In the hands of scheduler and verifier: the rest of a round trip is the network's."""
        return self.held + self.queue + self.draft + self.step


class TokenLogprobs(Part):
    """Of one committed token: its own log-probability and the likeliest alternatives'."""

    lp: Logprob
    top: tuple[tuple[TokenIdField, Logprob], ...] = ()


class Answer(Body):
    """What every message on ``se.dn.<e>.v.<s>`` shares: which round and try it answers, and who."""

    round: Count
    try_: Annotated[int, Field(ge=0, lt=2**31, alias="try")] = 0
    at: str = Field(default="", pattern=r"^[a-z0-9-]{0,32}$")


class Verdict(Answer):
    """path + bonus are now committed. Base and hash are those after them.

    path   accepted token ids     bonus  the target's own next token
    kept   how many nodes of the edge's draft were tried
    own    how many nodes of the verifier's own draft were tried instead, in a hosted round
    ahead  the next round is being tried without a draft: with so many nodes of what was sent ahead
    final  why nothing follows, or None
    """

    path: tuple[TokenIdField, ...] = Field(default=(), max_length=MAX_NODES, fail_fast=True)
    bonus: TokenIdField
    kept: Count = 0
    own: Count = 0
    ahead: Count = 0
    base: Annotated[int, Field(ge=1, lt=2**31)]
    hash: Hash
    final: Literal["stop", "length"] | None = None
    lp: tuple[TokenLogprobs, ...] | None = None
    timing: Timing = Timing()


class Progress(Answer):
    """Still at it: (done, in all) of the context, in tokens received while it comes in, and in KV
    rows computed after that."""

    progress: tuple[Count, Count]


class Cold(Answer):
    """The verifier lacks this session's context: send it, then repeat the round."""

    cold: Literal[True] = True


class Rejected(Answer):
    """This round will not be answered as it is. ``field`` names what was wrong, in the words of the
    draft or context header. ``ours`` and ``theirs`` as in ``Refused``."""

    rejected: Annotated[Reason, Field(strict=False)]
    message: str = Field(default="", max_length=1000)
    field: str = Field(default="", max_length=100)
    retry_ms: Count | None = None
    ours: str | None = None
    theirs: str | None = None


DownMessage = Verdict | Progress | Cold | Rejected


class Control(Body):
    """Scheduler → edge, about no session in particular."""

    control: Literal["slow_down", "go_away", "limits"]
    retry_ms: Count | None = None
    limits: Limits | None = None


class Ending(Body):
    """Body of cancel and close: nothing but the version, and the round it was said in."""

    round: Count = 0
