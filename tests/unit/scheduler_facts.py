"""Reports, drafts and keys as a scheduler sees them. For tests."""

from collections.abc import Sequence

from specedge.ids import EdgeId, SessionId, SessionKey
from specedge.protocol.messages import Ahead, Draft
from specedge.protocol.opening import Identity, Limits
from specedge.protocol.reports import AheadReport, SessionReport, Stat, StepReport

IDENTITY = Identity(
    model="big", weights="aa", tokenizer="bb", vocab_size=100, stop=(2,), max_context=1000
)
LIMITS = Limits(nodes=32, append=8, context=1000, grant=16, ahead=6)


def key(letter: str = "A", number: int = 1) -> SessionKey:
    return SessionKey(EdgeId("U" + letter * 55), SessionId(f"{number:032x}"))


def draft(
    round_: int = 0, *, try_: int = 0, nodes: int = 3, at: str = "", budget_ms: int = 1000
) -> Draft:
    return Draft(
        round=round_,
        try_=try_,
        at=at,
        base=5,
        hash="0" * 16,
        token=tuple(range(nodes)),
        parent=tuple(range(-1, nodes - 1)),
        budget_ms=budget_ms,
    )


def ahead(round_: int = 0, *, nodes: int = 3) -> Ahead:
    sent = draft(round_, nodes=nodes)
    same = {"base": sent.base, "hash": sent.hash, "token": sent.token, "parent": sent.parent}
    return Ahead(round=round_, nodes=4, **same)


def stat(
    seq: int = 0,
    *,
    inc: str = "one",
    epoch: tuple[int, int] = (1, 0),
    batches: Sequence[int] = (),
    last: int = 0,
    slots: int = 4,
    step_rows: int = 0,
    draining: bool = False,
    identity: Identity = IDENTITY,
    sessions: tuple[SessionReport, ...] | None = None,
    steps: tuple[StepReport, ...] = (),
    running: int = 0,
    ahead: Sequence[SessionKey] = (),
    limits: Limits = LIMITS,
) -> Stat:
    return Stat(
        inc=inc,
        seq=seq,
        identity=identity,
        limits=limits,
        slots=(0, slots),
        step_rows=step_rows,
        epoch=epoch,
        batches=tuple(batches),
        last=last,
        draining=draining,
        sessions=sessions,
        steps=steps,
        running=running,
        ahead=tuple(AheadReport(e=key.edge, s=key.session, rows=4) for key in ahead),
    )
