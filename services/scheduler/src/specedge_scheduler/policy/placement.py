"""Which verifier a session goes to: the right model, a free slot, the best pace. Pure.

A session stays where it was placed, since its KV is there; see ``decide`` for when it leaves.
"""

from collections.abc import Iterable
from typing import Final

from specedge.ids import VerifierId
from specedge.protocol.opening import Limits
from specedge_scheduler.cluster import Cluster
from specedge_scheduler.policy.dispatch import room_of
from specedge_scheduler.policy.pace import token_ms
from specedge_scheduler.policy.types import SchedulerLimits
from specedge_scheduler.views import ModelKey, Session, Verifier

# Times the best pace that is as good: predictions err by as much, and where a step costs the same
# with more rows, whoever is thought to be quickest would get all sessions.
AS_QUICK: Final = 1.05


def has_free_slot(verifier: Verifier) -> bool:
    """Whether another session finds a place. Counted by what was placed there, not by its report,
    which does not know yet of the session that was closed a moment ago; where the count is wrong
    (this scheduler is new), the verifier itself says busy."""
    return len(verifier.sessions) < verifier.stat.slots[1]


def serves(verifier: Verifier, wants: ModelKey | None) -> bool:
    """Whether it takes new work for that model. A session whose model is not known (only its drafts
    were seen) may go anywhere: it answers cold, and the context names the model."""
    return not verifier.stat.draining and (wants is None or wants.admits(verifier.model))


def allows(verifier: Verifier, needs: Limits) -> bool:
    """Whether a session may ask there for what it was promised elsewhere."""
    theirs = verifier.stat.limits
    return all(getattr(theirs, name) >= wanted for name, wanted in needs)


def place(
    verifiers: Iterable[Verifier],
    wants: ModelKey | None,
    limits: SchedulerLimits,
    *,
    prefer: str = "",
    needs: Limits | None = None,
) -> VerifierId | None:
    """The best verifier for a session: where its tokens would come fastest. ``prefer`` is where its
    KV was last; ``needs`` what it was promised, which others break only where all would. None:
    there is none.

    One without a free slot is taken only if all are full: the session was admitted before, so it is
    better told "busy" by the verifier than lost.
    """
    alive = [verifier for verifier in verifiers if not verifier.stat.draining]
    candidates = [verifier for verifier in alive if serves(verifier, wants)]
    if not candidates and wants is not None:
        # Other weights under the same name: there the context is refused, naming both.
        candidates = [verifier for verifier in alive if verifier.model.name == wants.name]
    if needs is not None:
        candidates = [one for one in candidates if allows(one, needs)] or candidates
    for verifier in candidates:
        if verifier.name == prefer:
            return verifier.name
    best = _quickest(candidates, limits)
    return None if best is None else best.name


def home(
    cluster: Cluster, session: Session, limits: SchedulerLimits, now_s: float
) -> VerifierId | None:
    """Where the session lives; it is placed now if it has no home. None: nobody serves it, or the
    verifier where it was is likely to turn up, and holds its KV."""
    if session.verifier is None and not cluster.may_turn_up(session.at, now_s):
        verifiers = cluster.verifiers.values()
        name = place(verifiers, session.wants, limits, prefer=session.at, needs=session.needs)
        cluster.move(session, name)
    return session.verifier


def better_place(cluster: Cluster, session: Session, limits: SchedulerLimits) -> VerifierId | None:
    """Where a session finds a slot that got none at home, which has more sessions than slots; None:
    nowhere, or it has one."""
    if session.verifier is None or not session.is_filling:
        return None
    home = cluster.verifiers[session.verifier]
    if len(home.sessions) <= home.stat.slots[1]:
        return None
    needs = session.needs
    free = [
        other
        for other in cluster.verifiers.values()
        if has_free_slot(other) and (needs is None or allows(other, needs))
    ]
    wants = session.wants or home.model
    return place([other for other in free if serves(other, wants)], wants, limits)


def _quickest(candidates: Iterable[Verifier], limits: SchedulerLimits) -> Verifier | None:
    """Of those with a free slot, if any has one: of those about as quick as the best the one with
    most of its slots free."""
    all_of_them = list(candidates)
    free = [verifier for verifier in all_of_them if has_free_slot(verifier)] or all_of_them
    pace_ms = {verifier.name: _pace_ms(verifier, limits) for verifier in free}
    enough_ms = AS_QUICK * min(pace_ms.values(), default=0.0)
    quick = [verifier for verifier in free if pace_ms[verifier.name] <= enough_ms]
    return min(quick, key=lambda verifier: (_load(verifier), verifier.name), default=None)


def _pace_ms(verifier: Verifier, limits: SchedulerLimits) -> float:
    return token_ms(verifier, room_of(verifier, limits), len(verifier.sessions) + 1)


def _load(verifier: Verifier) -> float:
    return len(verifier.sessions) / max(verifier.stat.slots[1], 1)
