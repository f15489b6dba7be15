"""A scheduler in virtual time: the real policy, and the turns in which the service lets it act.

Sends what it decides to verifiers itself, a fixed time away; knows nothing of edges but ``say`` and
``answer_open``.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from specedge.ids import GroupId, SessionKey, VerifierId
from specedge.protocol.messages import DownMessage
from specedge.protocol.opening import Opened, Refused
from specedge_scheduler.policy.decide import SchedulerPolicy
from specedge_scheduler.policy.types import (
    AnswerOpen,
    AnswerSession,
    Effect,
    Event,
    Forward,
    SendBatch,
    TurnEnded,
)
from specedge_scheduler.sim.events import VirtualTime
from specedge_scheduler.sim.scenario import SchedulerSpec
from specedge_scheduler.sim.verifier import SimVerifier

SHORTEST_WAIT_S: Final = 0.0005  # between two of the scheduler's own wake-ups
EPOCH: Final = (1, 0)


@dataclass(frozen=True, slots=True)
class SchedulerPorts:
    """What a scheduler meets: time, the verifiers that there are at present, and edges."""

    time: VirtualTime
    verifiers: Mapping[VerifierId, SimVerifier]
    say: Callable[[SessionKey, DownMessage], None]
    answer_open: Callable[[str, Opened | Refused], None]


class SimScheduler:
    """The only one there is. ``reasons`` counts why batches were sent when they were."""

    def __init__(self, spec: SchedulerSpec, ports: SchedulerPorts) -> None:
        self.policy = SchedulerPolicy(GroupId("main"), EPOCH, spec.limits())
        self.reasons: Counter[str] = Counter()
        self.cluster_s = spec.cluster_ms / 1000
        self._time = ports.time
        self._verifiers = ports.verifiers
        self._say = ports.say
        self._answer_open = ports.answer_open
        self._is_turn_due = False
        self._wakes_s = math.inf

    @property
    def estimate_error(self) -> float:
        """Of its predictions of steps, relative, on average over the verifiers it knows."""
        known = [one.estimator.error_ratio for one in self.policy.cluster.verifiers.values()]
        return sum(known) / len(known) if known else 0.0

    def tell(self, delay_s: float, event: Event) -> None:
        """The event is on its way for ``delay_s``."""
        self._time.call_at(self._time.now_s + delay_s, self._on_event, event)

    def _on_event(self, event: Event) -> None:
        self._perform(self.policy.on(event, self._time.now_s))
        if not self._is_turn_due:
            self._is_turn_due = True
            self._time.call_at(self._time.now_s, self._end_turn)

    def _end_turn(self) -> None:
        self._is_turn_due = False
        now_s = self._time.now_s
        self._perform(self.policy.on(TurnEnded(), now_s))
        due_s = max(self.policy.next_due_s(), now_s + SHORTEST_WAIT_S)
        if due_s < self._wakes_s or self._wakes_s <= now_s:
            self._wakes_s = due_s
            self._time.call_at(due_s, self._wake, due_s)

    def _wake(self, due_s: float) -> None:
        if due_s == self._wakes_s and not self._is_turn_due:
            self._end_turn()

    def _perform(self, effects: list[Effect]) -> None:
        there_s, call_at = self._time.now_s + self.cluster_s, self._time.call_at
        for effect in effects:
            match effect:
                case SendBatch():
                    self.reasons[effect.reason] += 1
                    verifier = self._verifiers[effect.verifier]
                    call_at(there_s, verifier.on_batch, effect.batch)
                case Forward(kind, name, key, payload):
                    verifier = self._verifiers[name]
                    if kind == "ctx":
                        call_at(there_s, verifier.on_context, key, payload)
                    else:
                        call_at(there_s, verifier.on_ending, key)
                case AnswerSession(key, message):
                    self._say(key, message)
                case AnswerOpen(reply_to, reply):
                    self._answer_open(reply_to, reply)
                case _:
                    pass  # facts for logs
