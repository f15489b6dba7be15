"""Whatever verifiers report, a scheduler goes on, and what it sends can be read."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from specedge.ids import GroupId, VerifierId
from specedge.protocol.codec import decode, encode
from specedge.protocol.messages import Batch
from specedge.protocol.opening import Limits
from specedge.protocol.reports import AheadReport, SessionReport, Stat, StepReport
from specedge_scheduler.policy.decide import SchedulerPolicy
from specedge_scheduler.policy.types import (
    ByeArrived,
    DraftArrived,
    Event,
    LoopStalled,
    PolicyName,
    SchedulerLimits,
    SendBatch,
    StatArrived,
    TurnEnded,
)
from tests.unit.scheduler_facts import IDENTITY, draft, key

KEYS = [key(letter, number) for letter in "ABC" for number in (1, 2)]
COUNTS = st.sampled_from([0, 1, 2, 8, 24, 1000, 2**31 - 1])
MS = st.sampled_from([0.0, 1e-3, 50.0, 3.6e6, 1e9])
SEQS = st.integers(0, 30)
STEPS = st.builds(
    StepReport, seq=SEQS, rows=COUNTS, prefill=COUNTS, context=COUNTS, sessions=COUNTS, ms=MS,
    hosted=COUNTS, draft_ms=MS, slack_ms=MS,
)  # fmt: skip
SESSIONS = st.builds(
    lambda of, number, state: SessionReport(e=of.edge, s=of.session, round=number, state=state),
    st.sampled_from(KEYS), st.integers(-1, 30), st.sampled_from(["filling", "running", "ready"]),
)  # fmt: skip
AHEAD = st.builds(
    lambda of, rows: AheadReport(e=of.edge, s=of.session, rows=rows), st.sampled_from(KEYS), COUNTS
)
STATS = st.builds(
    Stat,
    inc=st.sampled_from(["a", "a", "a", "b"]),
    seq=st.integers(0, 200),
    identity=st.just(IDENTITY),
    limits=st.builds(
        Limits, nodes=st.sampled_from([0, 4, 32]), append=st.just(8), context=st.just(1000),
        grant=st.just(16), ahead=st.just(6),
    ),
    slots=st.tuples(st.just(0), st.sampled_from([0, 1, 64])),
    sessions=st.none() | st.lists(SESSIONS, max_size=3).map(tuple),
    epoch=st.sampled_from([(1, 0), (1, 0), (5, 0)]),
    batches=st.lists(SEQS, max_size=3).map(tuple),
    last=SEQS, begun=SEQS, queued=COUNTS, running=COUNTS, step_rows=COUNTS, hosted=COUNTS,
    ahead=st.lists(AHEAD, max_size=2).map(tuple),
    steps=st.lists(STEPS, max_size=3).map(tuple),
    draining=st.sampled_from([False] * 5 + [True]),
)  # fmt: skip
NAMES = st.sampled_from([VerifierId("v1"), VerifierId("v2")])
REPORTED = st.builds(StatArrived, NAMES, STATS)
DRAFTED = st.builds(
    DraftArrived,
    st.sampled_from(KEYS),
    st.builds(draft, st.integers(0, 30), nodes=st.sampled_from([0, 1, 3, 32])),
)
OTHERS = st.builds(ByeArrived, NAMES) | st.just(LoopStalled(0.3))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["jit", "greedy", "static"]),
    st.lists(
        st.tuples(REPORTED | REPORTED | DRAFTED | DRAFTED | OTHERS, st.floats(0.0, 0.5)),
        max_size=60,
    ),
)
def test_no_report_stops_a_scheduler_or_spoils_its_batches(
    policy: PolicyName, events: list[tuple[Event, float]]
) -> None:
    limits = SchedulerLimits(policy=policy, max_batch_sessions=2)
    scheduler, now_s = SchedulerPolicy(GroupId("main"), (1, 0), limits), 100.0
    for event, pause_s in events:
        for one in (event, TurnEnded()):
            for effect in scheduler.on(one, now_s):
                if isinstance(effect, SendBatch):
                    assert decode(Batch, encode(effect.batch)).items
        assert not math.isnan(scheduler.next_due_s())
        for verifier in scheduler.cluster.verifiers.values():
            assert 0.0 <= verifier.estimator.predict_ms(24, 1000, 256) < math.inf
        now_s += pause_s
