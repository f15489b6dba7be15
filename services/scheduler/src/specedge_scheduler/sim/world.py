"""A whole world in virtual time: the real policy between emulated edges and emulated verifiers.

``simulate`` runs one scenario (its sweep not looked at) and returns its figures. Deterministic:
the same scenario gives the same figures.
"""

from typing import Final

from specedge.ids import SessionId, SessionKey, VerifierId
from specedge.protocol.codec import decode, decode_context_header
from specedge.protocol.effects import Ended
from specedge.protocol.messages import DownMessage, Draft
from specedge.protocol.opening import Opened, OpenRequest, Refused
from specedge.protocol.reports import Stat
from specedge.protocol.subjects import Up
from specedge_scheduler.policy.types import (
    ContextArrived,
    DraftArrived,
    EndingArrived,
    Event,
    OpenAsked,
    StatArrived,
)
from specedge_scheduler.sim.drafts import accepted_levels
from specedge_scheduler.sim.draws import Stream, mixed
from specedge_scheduler.sim.edge import SimEdge, next_arrival_s
from specedge_scheduler.sim.edge_session import EdgePorts, SimSession
from specedge_scheduler.sim.events import VirtualTime
from specedge_scheduler.sim.measures import Figures, Measures
from specedge_scheduler.sim.scenario import FailureSpec, Scenario, VerifierSpec
from specedge_scheduler.sim.scheduler import SchedulerPorts, SimScheduler
from specedge_scheduler.sim.verifier import SimVerifier, VerifierPorts
from specedge_scheduler.sim.verifier_steps import VerifierTally
from specedge_scheduler.sim.waiting import NOBODY, Watcher

NUM_STRETCHES: Final = 50  # after each of which whoever waits is told


def simulate(scenario: Scenario, watcher: Watcher = NOBODY) -> Figures:
    """Let it happen."""
    world = World(scenario)
    world.run(watcher)
    return world.figures()


class World:
    """Everything there is. ``run`` once, then read ``figures``."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.time = VirtualTime()
        self.measures = Measures(self.time, scenario.warmup_s)
        self.verifiers: dict[VerifierId, SimVerifier] = {}
        self.sessions: dict[SessionKey, SimSession] = {}
        self._edge_of: dict[SessionKey, SimEdge] = {}
        self._specs: list[VerifierSpec] = []
        self._tallies: list[VerifierTally] = []  # of verifiers that died and are back
        self.scheduler = SimScheduler(
            scenario.scheduler,
            SchedulerPorts(self.time, self.verifiers, self._say_down, self._answer_open),
        )
        self._ports = EdgePorts(
            self.time, self.measures, self._ask_open, self._send_up, self._on_end
        )
        self._replies: dict[str, SimSession] = {}
        self._edges: list[SimEdge] = []

    def run(self, watcher: Watcher = NOBODY) -> None:
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
                edge = SimEdge(edges, len(self._edges), scenario.seed)
                self._edges.append(edge)
                self._start_edge(edge)
        self.time.call_at(scenario.warmup_s, self._forget_warmup)
        for stretch in range(1, NUM_STRETCHES + 1):
            self.time.run_until(scenario.duration_s * stretch / NUM_STRETCHES)
            watcher.passed(self.time.now_s, scenario.duration_s)

    def figures(self) -> Figures:
        """What came of it."""
        tallies = [*self._tallies, *(verifier.tally for verifier in self.verifiers.values())]
        error, reasons = self.scheduler.estimate_error, dict(self.scheduler.reasons)
        return self.measures.sum_up(self.scenario, tallies, error, reasons)

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
        self.scheduler.tell(self.scheduler.cluster_s, StatArrived(name, stat))

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

    def _start_edge(self, edge: SimEdge) -> None:
        load = edge.spec.load
        for _ in range(edge.spec.sessions if load.kind == "closed" else 1):
            start_s = edge.draw() * edge.spec.starts_s
            if load.kind == "closed":
                self.time.call_at(start_s, self._open_session, edge)
            else:
                self._await_arrival(edge)
        if edge.spec.leaves_s is not None:
            self.time.call_at(edge.spec.leaves_s, self._leave, edge)

    def _leave(self, edge: SimEdge) -> None:
        edge.is_gone = True
        for key, session in self.sessions.items():
            if self._edge_of[key] is edge:
                session.fall_silent()

    def _await_arrival(self, edge: SimEdge) -> None:
        self.time.call_at(next_arrival_s(edge.spec, edge.draw, self.time.now_s), self._arrive, edge)

    def _arrive(self, edge: SimEdge) -> None:
        self._open_session(edge)
        self._await_arrival(edge)

    def _open_session(self, edge: SimEdge) -> None:
        if edge.is_gone:
            return
        number, edge.num_sessions = edge.num_sessions, edge.num_sessions + 1
        key = SessionKey(edge.id, SessionId(f"{edge.number:016x}{number:016x}"))
        text = mixed(self.scenario.seed, edge.number, number, 4)
        session = SimSession(key, edge, text, self._ports)
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
        self.scheduler.tell(delay_s, OpenAsked(session.key, decode(OpenRequest, payload), reply_to))

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
        self.scheduler.tell(delay_s, event)

    # ------------------------------------------------------------ down

    def _say_down(self, key: SessionKey, message: DownMessage) -> None:
        edge = self._edge_of.get(key)
        delay_s = edge.delay_s() if edge is not None else None
        if delay_s is not None:
            self.time.call_at(self.time.now_s + delay_s, self.sessions[key].hear, message)

    def _answer_open(self, reply_to: str, reply: Opened | Refused) -> None:
        session = self._replies.pop(reply_to, None)
        edge = session and self._edge_of.get(session.key)
        delay_s = edge.delay_s() if edge else None
        if session is not None and delay_s is not None:
            self.time.call_at(self.time.now_s + delay_s, session.hear_open, reply)
