"""Which sessions move from a verifier that is slower than another, and when. Pure.

Moving costs a context computed anew. So nobody moves unless the other place was better for longer
than that takes, and only who has no round under way.
"""

import math
from typing import Final

from specedge.ids import VerifierId
from specedge.protocol.codec import encode
from specedge.protocol.messages import Ending
from specedge_scheduler.cluster import Cluster
from specedge_scheduler.policy.dispatch import room_of
from specedge_scheduler.policy.pace import OVERLOADED, prefill_ms, token_ms
from specedge_scheduler.policy.placement import allows, has_free_slot
from specedge_scheduler.policy.types import Effect, Forward, SchedulerLimits
from specedge_scheduler.views import Session, Verifier

MOST_MOVES: Final = 4  # at once: what is known of both places is old after that


class Migration:
    """Watches for how long which verifier is overloaded. Shares the cluster with its policy."""

    def __init__(self, cluster: Cluster, limits: SchedulerLimits) -> None:
        self._cluster = cluster
        self._limits = limits
        self._since_s: dict[VerifierId, float] = {}
        self._one_more_ms: dict[VerifierId, float] = {}  # per token, with a session more; for now

    def rebalance(self, now_s: float) -> list[Effect]:
        """Move a few sessions, if that pays. To be asked about once a second."""
        effects: list[Effect] = []
        overloaded: dict[VerifierId, float] = {}
        self._one_more_ms.clear()
        for verifier in list(self._cluster.verifiers.values()):
            other = self._better_than(verifier)
            if other is None:
                continue
            since_s = self._since_s.get(verifier.name, now_s)
            overloaded[verifier.name] = since_s
            if (now_s - since_s) * 1000 > prefill_ms(other):
                effects += self._move_some(verifier, other)
        self._since_s = overloaded
        return effects

    def _better_than(self, verifier: Verifier) -> Verifier | None:
        """Where one more session would go much faster than those here; None: nowhere."""
        here_ms = token_ms(verifier, room_of(verifier, self._limits), len(verifier.sessions))
        best, best_ms = None, here_ms / OVERLOADED
        for other in self._cluster.verifiers.values():
            if other is verifier or other.stat.draining or other.model != verifier.model:
                continue
            there_ms = self._with_one_more_ms(other)
            if there_ms == 0.0 and len(verifier.sessions) > 1 and not other.sessions:
                there_ms = here_ms / 2  # it is new and empty
            if not 0.0 < there_ms < best_ms or not has_free_slot(other):
                continue
            if allows(other, verifier.stat.limits):  # else it refuses what sessions were promised
                best, best_ms = other, there_ms
        return best

    def _with_one_more_ms(self, verifier: Verifier) -> float:
        """Found once, until sessions move: each verifier is compared with all others."""
        found_ms = self._one_more_ms.get(verifier.name)
        if found_ms is None:
            num = len(verifier.sessions) + 1
            found_ms = token_ms(verifier, room_of(verifier, self._limits), num)
            self._one_more_ms[verifier.name] = found_ms
        return found_ms

    def _move_some(self, verifier: Verifier, other: Verifier) -> list[Effect]:
        free = other.stat.slots[1] - len(other.sessions)
        surplus = math.ceil((len(verifier.sessions) - len(other.sessions)) / 2)
        idle = [one for one in verifier.sessions.values() if _may_move(one)]
        idle.sort(key=lambda session: session.rhythm.context)
        effects: list[Effect] = []
        self._one_more_ms.clear()
        for session in idle[: max(0, min(MOST_MOVES, free, surplus))]:
            self._cluster.move(session, other.name)
            effects.append(Forward("close", verifier.name, session.key, encode(Ending())))
        return effects


def _may_move(session: Session) -> bool:
    """Nothing of it is under way: no round, and no context that would be computed in vain."""
    return not (session.is_out or session.is_hosted or session.is_filling)
