"""Whatever a session's rounds took, what is decided next is a round that can be made."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from specedge.drafting.controller import DraftController
from specedge.drafting.growth_rule import PassRecord
from specedge.drafting.pace import DevicePace
from specedge.drafting.rounds import HostedOutcome, RoundOutcome
from specedge.params import DraftPolicy

# From nothing at all to an hour.
MS = st.sampled_from([0.0, 1e-6, 0.01, 1.0, 10.0, 50.0, 1000.0, 30_000.0, 3.6e6])
ROWS = st.integers(0, 9000)
ROUNDS = st.builds(
    RoundOutcome,
    expected=st.floats(0, 8),
    num_tried=st.integers(0, 32),
    num_accepted=st.integers(0, 8),
    draft_ms=MS,
    round_trip_ms=st.none() | MS,
    queue_ms=MS,
    step_ms=MS,
    step_rows=ROWS,
    gap_ms=st.none() | MS,
)
HOSTED = st.builds(
    HostedOutcome,
    num_tokens=st.integers(1, 200),
    elapsed_ms=st.none() | MS,
    num_tried=st.integers(0, 200),
    queue_ms=MS,
    step_ms=MS,
    step_rows=ROWS,
)


@st.composite
def passes(draw: st.DrawFn) -> PassRecord:
    num_rows, depth = draw(st.integers(1, 8)), draw(st.integers(0, 7))
    share = draw(st.floats(0, 1)) / 3
    return PassRecord(
        num_rows,
        draw(MS),
        np.full((num_rows, 3), share, dtype=np.float32),
        np.full(num_rows, depth, dtype=np.int32),
        draw(st.booleans()),
    )


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(ROUNDS | HOSTED | passes(), st.integers(1, 10)), max_size=12),
    st.builds(DraftPolicy, depth=st.integers(0, 6), budget=st.integers(0, 24)),
    st.integers(0, 64),
    st.sampled_from([0, 1, 64]),
)
def test_every_decision_is_within_bounds_and_every_pace_a_number(
    seen: list[tuple[RoundOutcome | HostedOutcome | PassRecord, int]],
    bounds: DraftPolicy,
    max_nodes: int,
    max_grant: int,
) -> None:
    pace = DevicePace()
    controller = DraftController(pace, bounds, grant_tokens=16)
    for outcome, times in seen:
        for _ in range(times):
            decision = controller.decide(max_nodes, max_grant)
            assert 0 <= decision.run <= max_grant
            assert decision.is_hosted == (decision.run > 0)
            if decision.policy is not None:
                assert decision.policy.depth <= bounds.depth
                assert decision.policy.budget <= min(bounds.budget, max_nodes)
            _observe(controller, outcome)
            assert 0.0 < controller.rate < math.inf
            assert 0.0 <= pace.hosted_ms() < math.inf


def _observe(
    controller: DraftController, outcome: RoundOutcome | HostedOutcome | PassRecord
) -> None:
    match outcome:
        case RoundOutcome():
            controller.observe_verdict(outcome)
        case HostedOutcome():
            controller.observe_hosted(outcome)
        case PassRecord():
            controller.observe_passes((outcome,))
