"""No sequence of events leaves a waiting draft unscheduled for ever, whatever the policy."""

import itertools
from typing import Literal

from hypothesis import given, settings
from hypothesis import strategies as st

from specedge.ids import EdgeId, GroupId, SessionId, SessionKey, VerifierId
from specedge.protocol.reports import StepReport
from specedge_scheduler.pipeline import PendingDraft
from specedge_scheduler.policy.batching import BatchPlanner, BatchRoom
from specedge_scheduler.policy.decide import SchedulerPolicy
from specedge_scheduler.policy.types import (
    AnswerSession,
    ByeArrived,
    DraftArrived,
    EndingArrived,
    Event,
    LoopStalled,
    PolicyName,
    SchedulerLimits,
    SendBatch,
    StatArrived,
    TurnEnded,
)
from tests.unit.scheduler_facts import draft, key, stat

KEYS = [key("A", 1), key("A", 2), key("A", 3), key("B", 1), key("C", 1), key("D", 1)]
NAMES = [VerifierId("v1"), VerifierId("v2")]
STEP_S = 0.05
BUDGET_MS = 20_000
BATCH_ROWS = 32
# A barrier waits for half of a round's time; the others for a few steps.
SOON_S: dict[PolicyName, float] = {"static": 11.0, "greedy": 1.0, "jit": 1.0}

Kind = Literal["draft", "hosted", "end", "report", "beat", "bye", "restart", "stall", "wait"]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["draft"] * 6 + ["report"] * 4 + ["hosted", "end", "beat", "bye", "restart"]
            + ["stall", "wait", "wait"]
        ),
        st.integers(0, 5),
        st.floats(0.0, 0.2),
    ),
    max_size=60,
)  # fmt: skip


class Pool:
    """A policy, and verifiers that hold what they are sent until they report it done."""

    def __init__(self, policy: PolicyName) -> None:
        limits = SchedulerLimits(policy=policy, max_batch_sessions=2)
        self.policy = SchedulerPolicy(GroupId("main"), (1, 0), limits)
        self.now_s = 100.0
        self.held: dict[VerifierId, list[int]] = {}
        self.incarnation = dict.fromkeys(NAMES, 0)
        self.last: dict[VerifierId, int] = {}
        self.rounds = dict.fromkeys(KEYS, -1)
        self.answered: list[SessionKey] = []
        self._seq = self._num_steps = 0

    def tell(self, *events: Event) -> None:
        for event in (*events, TurnEnded()):
            for effect in self.policy.on(event, self.now_s):
                if isinstance(effect, SendBatch):
                    self.held.setdefault(effect.verifier, []).append(effect.batch.seq)
                    self.last[effect.verifier] = effect.batch.seq
                elif isinstance(effect, AnswerSession):
                    self.answered.append(effect.key)

    def draft(self, session: SessionKey, run: int = 0) -> None:
        self.rounds[session] += 1
        sent = draft(self.rounds[session], budget_ms=BUDGET_MS)
        self.tell(DraftArrived(session, sent.model_copy(update={"run": run})))

    def report(self, name: VerifierId, *, has_stepped: bool) -> None:
        """A heartbeat, or the end of a step with everything that is there."""
        steps: tuple[StepReport, ...] = ()
        if has_stepped:
            steps = (
                StepReport(
                    seq=self._num_steps, rows=8, prefill=0, context=40, sessions=2, ms=1000 * STEP_S
                ),
            )
            self._num_steps += 1
            self.held[name] = []
        held, last = self.held.get(name, []), self.last.get(name, 0)
        self._seq += 1
        told = stat(
            self._seq, inc=f"i{self.incarnation[name]}", batches=held, last=last, steps=steps
        )
        running = 8 if held else 0
        self.tell(StatArrived(name, told.model_copy(update={"running": running, "begun": last})))

    def lose(self, name: VerifierId) -> None:
        self.held[name] = []

    def wait(self, seconds: float) -> None:
        """Time passes, and the policy is woken when it asked to be."""
        end_s = self.now_s + seconds
        while (due_s := self.policy.next_due_s()) < end_s:
            self.now_s = max(due_s, self.now_s + 1e-4)
            self.tell()
        self.now_s = end_s

    def settle(self, seconds: float) -> None:
        """Nothing new comes; verifiers step as long as they have something."""
        for _ in range(int(seconds / STEP_S)):
            for name in NAMES:
                self.report(name, has_stepped=bool(self.held.get(name)))
            self.wait(STEP_S)
            if not self.policy.cluster.waiting:
                return


@settings(max_examples=60, deadline=None)
@given(policy=st.sampled_from(["static", "greedy", "jit"]), steps=STEPS)
def test_every_waiting_draft_is_sent_soon_once_verifiers_work(
    policy: PolicyName, steps: list[tuple[Kind, int, float]]
) -> None:
    pool = Pool(policy)
    for kind, number, seconds in steps:
        name, session = NAMES[number % 2], KEYS[number]
        match kind:
            case "draft":
                pool.draft(session)
            case "hosted":
                pool.draft(session, run=4)
            case "end":
                pool.tell(EndingArrived(session, "close", b""))
            case "report" | "beat":
                pool.report(name, has_stepped=kind == "report")
            case "bye":
                pool.lose(name)
                pool.tell(ByeArrived(name))
            case "restart":
                pool.lose(name)
                pool.incarnation[name] += 1
                pool.report(name, has_stepped=False)
            case "stall":
                pool.tell(LoopStalled(seconds))
            case "wait":
                pool.wait(seconds)

    pool.answered.clear()
    pool.settle(SOON_S[policy])

    assert not pool.policy.cluster.waiting
    assert not pool.answered  # sent, not expired


@given(
    large=st.integers(18, BATCH_ROWS - 1),
    sizes=st.lists(st.integers(3, 6), min_size=80, max_size=80),
)
def test_a_large_round_goes_soon_while_new_edges_bring_small_ones(
    large: int, sizes: list[int]
) -> None:
    """Each edge has one round, so their order is made once for a batch. What is new takes half of
    a batch at most, so nobody has to wait for long."""
    planner, victim, waiting = BatchPlanner(), key("L"), dict[SessionKey, PendingDraft]()
    drafts = enumerate(sizes)
    num_waited = 0
    for _ in range(len(sizes) // 2):
        waiting.setdefault(victim, _pending(large))
        for number, size in itertools.islice(drafts, 2):
            waiting[only_session_of(number)] = _pending(size)
        chosen = dict(planner.plan(waiting, BatchRoom(BATCH_ROWS)))
        waiting = {session: one for session, one in waiting.items() if session not in chosen}
        num_waited = 0 if victim in chosen else num_waited + 1

        assert num_waited <= 4


def _pending(nodes: int) -> PendingDraft:
    return PendingDraft(draft(nodes=nodes), 0.0, 1.0)


def only_session_of(edge: int) -> SessionKey:
    """Of one edge among many."""
    return SessionKey(EdgeId(f"U{edge:055}"), SessionId(f"{edge:032x}"))
