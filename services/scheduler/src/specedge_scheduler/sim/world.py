"""A whole world in virtual time: the real policy between emulated edges and emulated verifiers.

``simulate`` runs one scenario (its sweep not looked at) and returns its figures. Deterministic:
the same scenario gives the same figures.
"""

import math
from collections import Counter
from collections.abc import Callable
from typing import Final

from specedge.ids import EdgeId, GroupId, SessionId, SessionKey, VerifierId
from specedge.protocol.codec import decode, decode_context_header
from specedge.protocol.effects import Ended
from specedge.protocol.messages import DownMessage, Draft, OpenRequest
from specedge.protocol.reports import Stat
from specedge.protocol.subjects import Up
from specedge_scheduler.policy.decide import SchedulerPolicy
from specedge_scheduler.policy.types import (
    AnswerOpen,
    AnswerSession,
    ContextArrived,
    DraftArrived,
    Effect,
    EndingArrived,
    Event,
    Forward,
    OpenAsked,
    SendBatch,
    StatArrived,
    TurnEnded,
)
from specedge_scheduler.sim.drafts import accepted_levels
from specedge_scheduler.sim.draws import Stream, mixed
from specedge_scheduler.sim.edge import EdgePorts, SimSession
from specedge_scheduler.sim.events import VirtualTime
from specedge_scheduler.sim.measures import Figures, Measures
from specedge_scheduler.sim.scenario import EdgeSpec, FailureSpec, Scenario, VerifierSpec
from specedge_scheduler.sim.verifier import SimVerifier, VerifierPorts, VerifierTally

SHORTEST_WAIT_S: Final = 0.0005  # between two of the scheduler's own wake-ups
EPOCH: Final = (1, 0)
_BASE32: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"


def simulate(scenario: Scenario) -> Figures:
    """Let it happen."""
    world = World(scenario)
    world.run()
    return world.figures()


class _Edge:
    """One edge: its link, and the sessions that it opens."""

    def __init__(self, world: "World", spec: EdgeSpec, number: int) -> None:
        self.spec = spec
        self.number = number
        self.id = edge_id(number)
        self.is_gone = False
        self._link = spec.link_spec
        self._delays = Stream(world.scenario.seed, number, 1)
        self._arrivals = Stream(world.scenario.seed, number, 2)
        self.host = Stream(world.scenario.seed, number, 5)
        self.num_sessions = 0

    def delay_s(self) -> float | None:
        """How long one message takes one way; None: it is lost."""
        link = self._link
        if link.loss and self._delays.uniform() < link.loss:
            return None
        one_way_ms = link.round_trip_ms / 2
        if link.jitter_ms:
            one_way_ms = max(0.0, one_way_ms + link.jitter_ms * self._delays.normal())
        return one_way_ms / 1000

    def draw(self) -> float:
        """For its arrivals."""
        return self._arrivals.uniform()


class World:
    """Everything there is. ``run`` once, then read ``figures``."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.time = VirtualTime()
        self.measures = Measures(self.time, scenario.warmup_s)
        self.policy = SchedulerPolicy(GroupId("main"), EPOCH, scenario.scheduler.limits())
        self.verifiers: dict[VerifierId, SimVerifier] = {}
        self.sessions: dict[SessionKey, SimSession] = {}
        self.reasons: Counter[str] = Counter()
        self._edge_of: dict[SessionKey, _Edge] = {}
        self._specs: list[VerifierSpec] = []
        self._tallies: list[VerifierTally] = []  # of verifiers that died and are back
        self._cluster_s = scenario.scheduler.cluster_ms / 1000
        self._ports = EdgePorts(
            self.time, self.measures, self._ask_open, self._send_up, self._on_end
        )
        self._is_turn_due = False
        self._wakes_s = math.inf
        self._replies: dict[str, SimSession] = {}
        self._edges: list[_Edge] = []

    def run(self) -> None:
        """From nothing to the end of the scenario."""
        scenario = self.scenario
        for spec in scenario.verifiers:
            for _ in range(spec.count):
                self._specs.append(spec)
                self._start_verifier(len(self._specs) - 1, 0)
        for failure in scenario.failures:
            self.time.call_at(failure.at_s, self._kill, failure)
        for edges in scenario.edges:
            for _ in range(edges.count):
                edge = _Edge(self, edges, len(self._edges))
                self._edges.append(edge)
                self._start_edge(edge)
        self.time.call_at(scenario.warmup_s, self._forget_warmup)
        self.time.run_until(scenario.duration_s)

    def figures(self) -> Figures:
        """What came of it."""
        tallies = [*self._tallies, *(verifier.tally for verifier in self.verifiers.values())]
        known = [one.estimator.error_ratio for one in self.policy.cluster.verifiers.values()]
        error = sum(known) / len(known) if known else 0.0
        return self.measures.sum_up(self.scenario, tallies, error, dict(self.reasons))

    # ------------------------------------------------------------ verifiers

    def _start_verifier(self, number: int, incarnation: int) -> None:
        spec, name = self._specs[number], VerifierId(f"v{number}")
        before = self.verifiers.get(name)
        if before is not None:
            self._tallies.append(before.tally)
        host = Stream(self.scenario.seed, number, 6)
        ports = VerifierPorts(self.time, self._judge, self._say_down, self._report, host)
        verifier = SimVerifier(name, incarnation, spec, ports)
        self.verifiers[name] = verifier
        # Heartbeats of many verifiers do not fall on one moment.
        phase_s = 0.1 * (mixed(self.scenario.seed, number, 3) % 1000) / 1000
        self.time.call_at(self.time.now_s + (0.0 if not incarnation else phase_s), verifier.start)

    def _kill(self, failure: FailureSpec) -> None:
        verifier = self.verifiers[VerifierId(f"v{failure.verifier}")]
        verifier.die()
        if failure.for_s is not None:
            back_s = self.time.now_s + failure.for_s
            incarnation = int(self.time.now_s * 1e6)
            self.time.call_at(back_s, self._start_verifier, failure.verifier, incarnation)

    def _report(self, name: VerifierId, stat: Stat) -> None:
        self._to_scheduler(self._cluster_s, StatArrived(name, stat))

    def _judge(self, key: SessionKey, base: int, num_levels: int) -> int:
        session = self.sessions.get(key)
        if session is None:
            return 0
        self.measures.note_judged(session.yields[num_levels])
        return accepted_levels(session.luck, base, session.spec.acceptance, num_levels)

    def _forget_warmup(self) -> None:
        self._tallies.clear()
        for verifier in self.verifiers.values():
            verifier.tally = VerifierTally(gaps_s=[])

    # ------------------------------------------------------------ edges

    def _start_edge(self, edge: _Edge) -> None:
        load = edge.spec.load
        for _ in range(edge.spec.sessions if load.kind == "closed" else 1):
            start_s = edge.draw() * edge.spec.starts_s
            if load.kind == "closed":
                self.time.call_at(start_s, self._open_session, edge)
            else:
                self._await_arrival(edge)
        if edge.spec.leaves_s is not None:
            self.time.call_at(edge.spec.leaves_s, self._leave, edge)

    def _leave(self, edge: _Edge) -> None:
        edge.is_gone = True
        for key, session in self.sessions.items():
            if self._edge_of[key] is edge:
                session.fall_silent()

    def _await_arrival(self, edge: _Edge) -> None:
        self.time.call_at(next_arrival_s(edge.spec, edge.draw, self.time.now_s), self._arrive, edge)

    def _arrive(self, edge: _Edge) -> None:
        self._open_session(edge)
        self._await_arrival(edge)

    def _open_session(self, edge: _Edge) -> None:
        if edge.is_gone:
            return
        number, edge.num_sessions = edge.num_sessions, edge.num_sessions + 1
        key = SessionKey(edge.id, SessionId(f"{edge.number:016x}{number:016x}"))
        text = mixed(self.scenario.seed, edge.number, number, 4)
        session = SimSession(key, edge.spec, text, self._ports)
        self.sessions[key] = session
        self._edge_of[key] = edge
        session.start()

    def _on_end(self, session: SimSession, ended: Ended) -> None:
        edge = self._edge_of.pop(session.key)
        del self.sessions[session.key]
        if edge.spec.load.kind != "closed" or edge.is_gone:
            return
        think_s = edge.spec.load.think_s
        retry_ms = getattr(ended.error, "retry_ms", None)
        wait_s = think_s if ended.error is None else max(think_s, (retry_ms or 100) / 1000)
        self.time.call_at(self.time.now_s + wait_s, self._open_session, edge)

    # ------------------------------------------------------------ up

    def _ask_open(self, session: SimSession, payload: bytes) -> None:
        delay_s = self._edge_of[session.key].delay_s()
        if delay_s is None:
            return
        reply_to = f"{session.key.edge}.{session.key.session}"
        self._replies[reply_to] = session
        self._to_scheduler(delay_s, OpenAsked(session.key, decode(OpenRequest, payload), reply_to))

    def _send_up(self, session: SimSession, kind: Up, payload: bytes) -> None:
        edge = self._edge_of[session.key]
        delay_s = edge.delay_s()
        if delay_s is None:
            return
        key = session.key
        event: Event
        if kind is Up.DRAFT:
            delay_s += edge.host.host_s(edge.spec.draft_ms)
            event = DraftArrived(key, decode(Draft, payload))
        elif kind is Up.CONTEXT:
            event = ContextArrived(key, decode_context_header(payload), payload)
        else:
            event = EndingArrived(key, "cancel" if kind is Up.CANCEL else "close", payload)
        self._to_scheduler(delay_s, event)

    # ------------------------------------------------------------ the scheduler

    def _to_scheduler(self, delay_s: float, event: Event) -> None:
        self.time.call_at(self.time.now_s + delay_s, self._at_scheduler, event)

    def _at_scheduler(self, event: Event) -> None:
        self._perform(self.policy.on(event, self.time.now_s))
        if not self._is_turn_due:
            self._is_turn_due = True
            self.time.call_at(self.time.now_s, self._end_turn)

    def _end_turn(self) -> None:
        self._is_turn_due = False
        now_s = self.time.now_s
        self._perform(self.policy.on(TurnEnded(), now_s))
        due_s = max(self.policy.next_due_s(), now_s + SHORTEST_WAIT_S)
        if due_s < self._wakes_s or self._wakes_s <= now_s:
            self._wakes_s = due_s
            self.time.call_at(due_s, self._wake, due_s)

    def _wake(self, due_s: float) -> None:
        if due_s == self._wakes_s and not self._is_turn_due:
            self._end_turn()

    def _perform(self, effects: list[Effect]) -> None:
        now_s, call_at = self.time.now_s, self.time.call_at
        for effect in effects:
            match effect:
                case SendBatch():
                    self.reasons[effect.reason] += 1
                    verifier = self.verifiers[effect.verifier]
                    call_at(now_s + self._cluster_s, verifier.on_batch, effect.batch)
                case Forward(kind, name, key, payload):
                    verifier = self.verifiers[name]
                    if kind == "ctx":
                        call_at(now_s + self._cluster_s, verifier.on_context, key, payload)
                    else:
                        call_at(now_s + self._cluster_s, verifier.on_ending, key)
                case AnswerSession(key, message):
                    self._say_down(key, message)
                case AnswerOpen(reply_to, reply):
                    session = self._replies.pop(reply_to, None)
                    edge = session and self._edge_of.get(session.key)
                    delay_s = edge.delay_s() if edge else None
                    if session is not None and delay_s is not None:
                        call_at(now_s + delay_s, session.hear_open, reply)
                case _:
                    pass  # facts for logs

    def _say_down(self, key: SessionKey, message: DownMessage) -> None:
        edge = self._edge_of.get(key)
        delay_s = edge.delay_s() if edge is not None else None
        if delay_s is not None:
            self.time.call_at(self.time.now_s + delay_s, self.sessions[key].hear, message)


def next_arrival_s(spec: EdgeSpec, draw: Callable[[], float], now_s: float) -> float:
    """When a session after ``now_s`` begins, if sessions come by themselves."""
    load = spec.load
    if load.kind == "poisson":
        return now_s - math.log(draw()) / load.per_s
    # In a burst sessions come faster by as much as it is shorter than its period; time between
    # bursts does not count.
    burst_s = load.period_s * load.burst_share
    in_bursts_s = (now_s // load.period_s) * burst_s + min(now_s % load.period_s, burst_s)
    in_bursts_s -= math.log(draw()) / (load.per_s / load.burst_share)
    return (in_bursts_s // burst_s) * load.period_s + in_bursts_s % burst_s


def edge_id(number: int) -> EdgeId:
    """A well-formed public key that nobody holds."""
    digits = ""
    while number or not digits:
        number, digit = divmod(number, 32)
        digits = _BASE32[digit] + digits
    return EdgeId("U" + "A" * (55 - len(digits)) + digits)
