"""What a session drafts, or that it does not, by what it was shown."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from specedge.drafting.averages import Allowance
from specedge.drafting.controller import DraftController
from specedge.drafting.growth_rule import PassRecord
from specedge.drafting.pace import EXPERIMENTS, DevicePace
from specedge.drafting.rounds import Decision, HostedOutcome, RoundOutcome
from specedge.params import DraftPolicy

BOUNDS = DraftPolicy(depth=6, budget=24)
MAX_GRANT = 64
STEP_MS = 50.0
EXPECTED = 0.8  # accepted nodes of a tree of NODES
NODES = 6
PAUSE_MS = 10_000.0


@dataclass
class Surroundings:
    """A verifier, a link and a drafter that answer what the controller decides. Every tree has
    the same worth; only the times differ."""

    pace: DevicePace = field(default_factory=DevicePace)
    round_trip_ms: float = 0.0
    pass_ms: float = 10.0
    hosted_token_ms: float = STEP_MS
    num_under_way: int = 0  # tokens of a grant that still come when drafting begins
    cold_ms: float = 0.0  # more, for a first round: of all, or after a grant
    paused_at: int = 0  # of all hosted tokens, before which one its reader pauses; 0: never
    spent_ms: float = 0.0
    num_tokens: int = 0
    num_trees: int = 0

    def __post_init__(self) -> None:
        self.controller = DraftController(self.pace, BOUNDS, grant_tokens=16)
        self._num_to_come = self._num_hosted = 0
        self._is_cold = True

    def play(self, num_decisions: int, max_grant: int = MAX_GRANT) -> list[Decision]:
        decisions = [self.controller.decide(32, max_grant)]
        self.answer(decisions[0])
        while len(decisions) < num_decisions:
            decisions.append(self.controller.decide(32, max_grant))
            self.answer(decisions[-1])
        return decisions

    def answer(self, decision: Decision) -> None:
        if decision.is_hosted:
            self._run(decision.run // 2 or 1)
            self._num_to_come = self.num_under_way
            self._is_cold = True
        elif self._num_to_come > 0:  # a token of the grant answers the round
            self._num_to_come -= 1
            self._run(1)
        else:
            self._verify(self._draft(decision))

    def _run(self, num_tokens: int) -> None:
        for number in range(num_tokens):
            self._num_hosted += 1
            pause_ms = PAUSE_MS if self._num_hosted == self.paused_at else 0.0
            elapsed_ms = self.hosted_token_ms + pause_ms if number else None
            timing = {"step_ms": STEP_MS, "step_rows": 1}
            self.controller.observe_hosted(HostedOutcome(1, elapsed_ms, **timing))
            self.spent_ms += self.hosted_token_ms
            self.num_tokens += 1

    def _draft(self, decision: Decision) -> bool:
        assert decision.policy is not None
        root = np.ones(1, dtype=np.float32)
        rule = decision.rule
        wants = rule is None or rule.num_expanded(root[:0], root, np.zeros(1, dtype=np.float32))
        if not wants or decision.policy.depth == 0:
            self.controller.observe_passes(())
            return False
        accept = np.array([[EXPECTED / 2, EXPECTED / 4, EXPECTED / 4]], dtype=np.float32)
        record = PassRecord(1, self.pass_ms, accept, np.zeros(1, dtype=np.int32))
        self.controller.observe_passes((record,))
        return True

    def _verify(self, has_tree: bool) -> None:
        expected = EXPECTED if has_tree else 0.0
        draft_ms = self.pass_ms if has_tree else 0.0
        round_trip_ms = self.round_trip_ms + self.cold_ms * self._is_cold
        self._is_cold = False
        self.spent_ms += draft_ms + round_trip_ms + STEP_MS
        accepted = self._num_accepted() if has_tree else 0
        self.num_tokens += 1 + accepted
        self.controller.observe_verdict(
            RoundOutcome(
                expected=expected,
                num_tried=NODES if has_tree else 0,
                num_accepted=accepted,
                draft_ms=draft_ms,
                round_trip_ms=round_trip_ms + STEP_MS,
                step_ms=STEP_MS,
                step_rows=1 + (NODES if has_tree else 0),
            )
        )

    def _num_accepted(self) -> int:
        """0 or 1, on average as expected."""
        self.num_trees += 1
        return int(EXPECTED * self.num_trees) - int(EXPECTED * (self.num_trees - 1))


def hosted_share(decisions: list[Decision]) -> float:
    return sum(decision.is_hosted for decision in decisions) / len(decisions)


def test_the_first_round_is_drafted_within_the_operators_bounds() -> None:
    decision = DraftController(DevicePace(), DraftPolicy(depth=1, budget=4), 16).decide(32, 64)

    assert decision.policy is not None and decision.run == 0
    assert (decision.policy.depth, decision.policy.budget) == (1, 4)


def test_where_drafting_pays_it_is_drafted() -> None:
    world = Surroundings(round_trip_ms=5.0)

    decisions = world.play(60)

    assert hosted_share(decisions) < 0.1
    assert all(d.rule is not None for d in decisions[1:] if not d.is_hosted)


def test_where_the_link_is_too_long_it_is_left_to_the_verifier() -> None:
    world = Surroundings(round_trip_ms=150.0)

    decisions = world.play(60)

    assert hosted_share(decisions[20:]) > 0.9


def test_where_the_drafter_is_too_slow_it_is_left_to_the_verifier() -> None:
    world = Surroundings(round_trip_ms=10.0, pass_ms=80.0)

    assert hosted_share(world.play(80)[40:]) > 0.8


def test_where_grants_are_not_offered_nothing_is_ever_granted() -> None:
    world = Surroundings(round_trip_ms=150.0)

    assert not any(decision.is_hosted for decision in world.play(60, max_grant=0))


def test_where_neither_grants_nor_trees_pay_drafts_are_empty() -> None:
    """The drafter needs longer for a tree than the verifier for all that the tree may bring."""
    world = Surroundings(pass_ms=300.0)

    world.play(80, max_grant=0)

    [rule] = [d.rule for d in world.play(1, max_grant=0)]
    root = np.ones(1, dtype=np.float32)
    assert rule is not None
    assert rule.num_expanded(root[:0], root, np.zeros(1, dtype=np.float32)) == 0


def test_a_link_that_got_better_is_noticed() -> None:
    world = Surroundings(round_trip_ms=150.0)
    world.play(40)

    world.round_trip_ms = 2.0

    assert hosted_share(world.play(300)[-40:]) < 0.1


@pytest.mark.parametrize("round_trip_ms", [0.0, 2.0])
def test_a_link_that_got_worse_is_noticed(round_trip_ms: float) -> None:
    world = Surroundings(round_trip_ms=round_trip_ms)
    world.play(100)

    world.round_trip_ms = 200.0

    assert hosted_share(world.play(60)[-30:]) > 0.8


def test_tokens_of_a_grant_that_come_while_drafting_is_tried_are_not_taken_for_the_trial() -> None:
    pace = DevicePace()
    Surroundings(pace, round_trip_ms=400.0).play(60)
    world = Surroundings(pace, round_trip_ms=0.0, num_under_way=8)
    world.play(2000)

    assert hosted_share(world.play(100)) < 0.1


def test_a_verifier_with_a_good_drafter_of_its_own_is_found_out() -> None:
    """Nothing says so but the time of hosted tokens, so they must have been tried."""
    world = Surroundings(round_trip_ms=5.0, hosted_token_ms=20.0)

    assert hosted_share(world.play(200)[-80:]) > 0.9


@pytest.mark.parametrize(
    ("round_trip_ms", "pass_ms"), [(150.0, 10.0), (40.0, 10.0), (0.0, 80.0), (0.0, 10.0)]
)
def test_little_is_lost_to_experiments(round_trip_ms: float, pass_ms: float) -> None:
    world = Surroundings(round_trip_ms=round_trip_ms, pass_ms=pass_ms)
    world.play(40)
    spent_ms, num_tokens = world.spent_ms, world.num_tokens

    world.play(250)

    per_token_ms = (world.spent_ms - spent_ms) / (world.num_tokens - num_tokens)
    drafted_ms = (pass_ms + round_trip_ms + STEP_MS) / (1 + EXPECTED)
    assert per_token_ms <= min(STEP_MS, drafted_ms) * (1 + 2 * EXPERIMENTS)


def test_a_trial_of_drafting_that_takes_longer_than_was_feared_is_paid_for_in_full() -> None:
    """Its first round is slow: the drafter has to catch up with all that was said meanwhile."""
    world = Surroundings(round_trip_ms=40.0, cold_ms=300.0)
    world.play(40)
    spent_ms, num_tokens = world.spent_ms, world.num_tokens

    decisions = world.play(2500)

    per_token_ms = (world.spent_ms - spent_ms) / (world.num_tokens - num_tokens)
    assert 0.9 < hosted_share(decisions) < 1.0, "it is tried, and does not pay"
    assert per_token_ms <= STEP_MS * (1 + 2 * EXPERIMENTS)


def test_a_long_first_round_does_not_keep_drafting_from_being_tried_again() -> None:
    """A prompt of minutes, or a stall in a trial, passes for a long link otherwise."""
    world = Surroundings(round_trip_ms=40.0, cold_ms=60_000.0)
    world.play(600)
    world.cold_ms, world.round_trip_ms = 0.0, 2.0

    assert hosted_share(world.play(600)[-40:]) < 0.1


def test_a_first_prompt_of_a_minute_does_not_pass_for_a_link_of_one() -> None:
    world = Surroundings(round_trip_ms=2.0, cold_ms=60_000.0)
    world.play(1)
    world.cold_ms = 0.0

    assert hosted_share(world.play(60)) < 0.1


def test_however_bad_drafting_once_was_it_is_tried_again_some_day() -> None:
    world = Surroundings(round_trip_ms=2000.0)
    world.play(60)
    world.round_trip_ms = 2.0

    assert hosted_share(world.play(1000)[-40:]) < 0.1


@pytest.mark.parametrize("round_trip_ms", [60.0, 150.0])
@pytest.mark.parametrize("paused_at", [2, 5])
def test_a_pause_among_the_first_hosted_tokens_of_all_does_not_end_them_for_good(
    round_trip_ms: float, paused_at: int
) -> None:
    world = Surroundings(round_trip_ms=round_trip_ms, paused_at=paused_at)

    assert hosted_share(world.play(1000)[-200:]) > 0.8


@pytest.mark.parametrize("stalled", [1, 2, 4])
def test_a_stall_among_the_first_rounds_of_all_is_soon_forgotten(stalled: int) -> None:
    controller = DraftController(DevicePace(), BOUNDS, grant_tokens=16)
    for number in range(24):
        controller.decide(32, 0)
        usual = a_round(network_ms=14.0, step_ms=50.0, is_ahead=False)
        stall_ms = 30_000.0 if number == stalled else 0.0
        controller.observe_verdict(
            replace(usual, step_ms=50.0 + stall_ms, round_trip_ms=64.0 + stall_ms)
        )

    assert controller.rate == pytest.approx(1.8 / 74.0, rel=0.4)


def test_more_tokens_at_once_than_are_remembered_are_believed_and_no_more_than_that() -> None:
    pace = DevicePace()
    controller = DraftController(pace, BOUNDS, grant_tokens=16)
    for num_tokens, each_ms in ((1, 50.0), (200, 25.0)):
        elapsed_ms = each_ms * num_tokens
        controller.observe_hosted(HostedOutcome(num_tokens, elapsed_ms, step_ms=50.0, step_rows=1))

    assert pace.hosted_ms() == pytest.approx(25.0, rel=0.01)


def test_small_experiments_leave_something_for_a_dear_one_that_waits() -> None:
    allowance = Allowance(share=0.01, saved_ms=0.0, most_ms=4000.0)
    num_small = 0
    for _ in range(100):
        allowance.earn(1000.0)
        is_tried = allowance.try_spend(200.0)
        num_small += not is_tried and allowance.try_spend_little(10.0)
        if is_tried:
            break

    assert is_tried, "all that was earned went to small ones"
    assert num_small >= 10, "they go on meanwhile"
    assert allowance.put_by_ms == 0.0 and allowance.saved_ms >= 0.0


def test_passes_beside_the_verifiers_step_do_not_make_those_a_draft_waits_for_look_dear() -> None:
    pace = DevicePace()
    accept, depth = np.full((1, 2), 0.4, dtype=np.float32), np.zeros(1, dtype=np.int32)

    for _ in range(40):
        pace.learn_pass(PassRecord(1, 11.0, accept, depth, is_ahead=True))
        pace.learn_pass(PassRecord(1, 5.0, accept, depth))

    assert sum(pace.draft_ms()) == pytest.approx(5.0, abs=0.3)


@pytest.mark.parametrize(("round_trip_ms", "share"), [(0.0, 0.0), (22.0, 0.05)])
def test_hosted_tokens_are_tried_again_only_where_they_may_have_become_the_better_way(
    round_trip_ms: float, share: float
) -> None:
    """They take 50 ms, as they were seen to; drafted ones 29 and 41 ms."""
    world = Surroundings(pass_ms=2.0, round_trip_ms=round_trip_ms)
    world.play(40)
    world.pace.allowance.saved_ms = 4000.0  # it could be paid

    seen = hosted_share(world.play(400))

    assert (seen > 0.0) == (share > 0.0)
    assert seen <= share


def test_what_was_seen_of_hosted_tokens_is_worth_less_the_longer_ago_it_was() -> None:
    world = Surroundings(pass_ms=2.0, round_trip_ms=10.0)
    world.play(40)
    world.pace.allowance.saved_ms = 4000.0

    decisions = world.play(4000)

    first = next(number for number, each in enumerate(decisions) if each.is_hosted)
    assert first > 400
    assert hosted_share(decisions) < 0.02


@pytest.mark.parametrize("factor", [0.6, 1.6])
def test_a_machine_that_changes_its_pace_does_so_for_what_was_not_tried_lately_too(
    factor: float,
) -> None:
    pace = DevicePace()
    world = Surroundings(pace)
    world.play(60)
    rate, usual_ms = world.controller.rate, pace.usual.own_ms.mean

    for _ in range(200):  # hosted all the time
        pace.learn_step(1, 1, factor * STEP_MS, 0.0)

    assert pace.usual.own_ms.mean == usual_ms
    assert world.controller.rate == pytest.approx(rate / factor, rel=0.1)


def test_a_prompts_rows_do_not_pass_for_those_of_other_sessions() -> None:
    pace = DevicePace()
    for _ in range(8):
        controller = DraftController(pace, BOUNDS, grant_tokens=16)
        controller.decide(32, MAX_GRANT)
        first, second = (RoundOutcome(0.8, 4, 1, 5.0, 80.0, 0.0, 50.0, rows) for rows in (70, 8))
        controller.observe_verdict(first)
        assert pace.other_rows.mean in (0.0, 3.0)
        controller.observe_verdict(second)

    assert pace.other_rows.mean == 3.0


def test_a_session_starts_with_what_others_learned() -> None:
    pace = DevicePace()
    Surroundings(pace, round_trip_ms=150.0).play(60)

    assert Surroundings(pace, round_trip_ms=150.0).play(1)[0].is_hosted


def test_no_more_nodes_are_allowed_than_the_session_may_send() -> None:
    world = Surroundings()
    world.play(10)

    decision = world.controller.decide(3, MAX_GRANT)

    assert decision.policy is not None and decision.rule is not None
    assert decision.policy.budget == 3
    assert decision.rule.budget == 3


def test_a_grant_covers_the_time_of_its_renewal() -> None:
    near, far = Surroundings(round_trip_ms=150.0), Surroundings(round_trip_ms=1500.0)

    grants = [world.play(60)[-1].run for world in (near, far)]

    assert grants[0] == 16, "what the operator asked for"
    assert grants[1] * STEP_MS / 2 > 1500.0


def test_a_resend_does_not_pass_for_a_long_link() -> None:
    world = Surroundings(round_trip_ms=2.0)
    world.play(60)

    world.round_trip_ms = 5000.0
    world.play(1)
    world.round_trip_ms = 2.0

    assert hosted_share(world.play(20)) < 0.5


@pytest.mark.parametrize(("network_ms", "step_ms"), [(14, 56), (50, 20), (120, 56), (150, 8)])
def test_rounds_begun_ahead_on_a_long_link_tell_the_pace_as_it_is(
    network_ms: float, step_ms: float
) -> None:
    pace = DevicePace()
    controller = DraftController(pace, BOUNDS, grant_tokens=16)
    for number in range(400):
        controller.decide(32, 0)
        is_ahead = number % 5 in (1, 3)
        controller.observe_verdict(a_round(network_ms, step_ms, is_ahead=is_ahead))

    round_ms = 0.6 * (10.0 + network_ms + step_ms) + 0.4 * (step_ms + 1.0)
    assert controller.rate == pytest.approx(1.8 / round_ms, rel=0.35)
    fresh = DraftController(pace, BOUNDS, grant_tokens=16)
    fresh.decide(32, 0)
    assert fresh.rate == pytest.approx(1.8 / round_ms, rel=0.35)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((60.0, 8.0, 0.7), (15.0, 8.0, 0.0)),  # the link gets shorter, and nothing is begun ahead
        ((150.0, 8.0, 0.9), (150.0, 24.0, 0.9)),  # the verifier gets slower
    ],
)
def test_whatever_changes_the_pace_is_found_again(
    before: tuple[float, float, float], after: tuple[float, float, float]
) -> None:
    pace = DevicePace()
    controller = DraftController(pace, BOUNDS, grant_tokens=16)
    for network_ms, step_ms, ahead in (before, after):
        for number in range(400):
            controller.decide(32, 0)
            is_ahead = int(number * ahead) != int((number + 1) * ahead)
            controller.observe_verdict(a_round(network_ms, step_ms, is_ahead=is_ahead))

    network_ms, step_ms, ahead = after
    round_ms = (1 - ahead) * (10.0 + network_ms + step_ms) + ahead * (step_ms + 1.0)
    assert controller.rate == pytest.approx(1.8 / round_ms, rel=0.5)


def test_a_link_that_became_short_makes_no_round_look_quicker_than_its_step() -> None:
    """Rounds begun ahead spared a long way, which the others do not have to go any more. Taken for
    rounds of no time at all they made every node too dear, and drafts stayed empty for long."""
    controller = DraftController(DevicePace(), BOUNDS, grant_tokens=16)
    step_ms, rates = 50.0, list[float]()
    for network_ms in (150.0, 5.0):
        for number in range(200):
            controller.decide(32, 0)
            outcome = a_round(network_ms, step_ms, is_ahead=number % 10 > 2)
            controller.observe_verdict(outcome)
            rates.append(controller.rate)

    assert max(rates[200:]) < 1.1 * 2.0 / step_ms


def a_round(network_ms: float, step_ms: float, *, is_ahead: bool) -> RoundOutcome:
    return RoundOutcome(
        expected=0.8,
        num_tried=NODES,
        num_accepted=1,
        draft_ms=10.0,
        round_trip_ms=None if is_ahead else network_ms + step_ms,
        queue_ms=0.0,
        step_ms=step_ms,
        step_rows=1 + NODES,
        gap_ms=step_ms + 1.0 if is_ahead else None,
    )


def test_a_pause_of_whoever_reads_is_not_the_verifiers() -> None:
    pace = DevicePace()
    controller = DraftController(pace, BOUNDS, grant_tokens=16)
    usual = HostedOutcome(
        num_tokens=1, num_tried=0, elapsed_ms=20.0, queue_ms=0.0, step_ms=20.0, step_rows=1
    )
    for _ in range(40):
        controller.observe_hosted(usual)
    controller.observe_hosted(replace(usual, elapsed_ms=10_000.0))

    assert pace.hosted_ms() < 25.0
