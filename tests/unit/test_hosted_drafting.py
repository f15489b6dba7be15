"""The verifier's own drafter, by itself: a seat, its rounds, and what becomes of them."""

from collections.abc import Sequence

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from specedge.drafting.reading import PIECE_TOKENS
from specedge.engine.emulated import EmulatedDrafter, EmulatedText
from specedge.engine.failing_drafter import FailingDrafter
from specedge.engine.ports import ExpandAsked, Expansion
from specedge.params import DraftPolicy, SamplingParams, StopRule
from specedge.protocol.messages import Verdict
from specedge.tree.token_tree import TokenTree
from specedge_verifier.hosted_drafting import (
    ROUNDS_WITHOUT_ROOM,
    DraftSeat,
    HostedDrafter,
    HostedRound,
    LeaveCall,
)
from specedge_verifier.metrics import VerifierMetrics
from tests.unit.reading_drafter import ReadingDrafter

TEXT = EmulatedText()
POLICY = DraftPolicy(depth=4, budget=12, beams=4, branch=3, floor=0.0)
PROMPT = [3, 1, 4, 1, 5]


def truth(committed: Sequence[int], num_tokens: int) -> list[int]:
    tokens = list(committed)
    for _ in range(num_tokens):
        tokens.append(TEXT.choice(TEXT.fold_all(tokens), SamplingParams()))
    return tokens


def a_round(prompt: Sequence[int]) -> HostedRound:
    """The first of a session that may draft as it likes."""
    return HostedRound(
        DraftSeat(),
        np.array(prompt, dtype=np.int32),
        SamplingParams(),
        StopRule(max_tokens=99),
        max_nodes=99,
        max_depth=99,
    )


class Bench:
    """One seat at a drafter that is always right; ``counts.num_passes`` are its passes."""

    def __init__(self, *, max_sessions: int = 8, fails_at: int = -1) -> None:
        inner = EmulatedDrafter(TEXT, agreement=(1.0,), max_sessions=max_sessions)
        self.counts = FailingDrafter(
            inner, lambda number: ArithmeticError("broke") if number == fails_at else None
        )
        self.drafter = HostedDrafter(self.counts, POLICY)
        self.seat = DraftSeat()
        self.errors: list[Exception] = []

    def draft(
        self,
        committed: Sequence[int],
        *,
        max_nodes: int = 99,
        max_depth: int = 99,
        left: int = 99,
        seat: DraftSeat | None = None,
    ) -> TokenTree | None:
        wanted = HostedRound(
            seat=seat or self.seat,
            committed=np.array(committed, dtype=np.int32),
            params=SamplingParams(),
            stop=StopRule(max_tokens=left),
            max_nodes=max_nodes,
            max_depth=max_depth,
        )
        made = self.drafter.draft([wanted])
        self.errors += made.errors
        return made.trees[0]


def is_right(tree: TokenTree | None, committed: Sequence[int], depth: int) -> bool:
    """Whether the tree stands on the root and holds the target's path of that depth, no more."""
    if tree is None or tree.token[0] != committed[-1] or int(tree.depth.max()) != depth:
        return False
    path = truth(committed, depth)[len(committed) :]
    return set(path) <= set(tree.token.tolist())


@pytest.mark.parametrize(
    ("bounds", "depth"),
    [({}, 4), ({"max_depth": 2}, 2), ({"left": 2}, 1), ({"max_nodes": 3}, 3)],
    ids=["the policy", "the grant", "max_tokens", "the step's room"],
)
def test_a_draft_is_as_deep_as_the_least_of_its_bounds(bounds: dict[str, int], depth: int) -> None:
    tree = Bench().draft(PROMPT, **bounds)

    assert is_right(tree, PROMPT, depth)
    assert tree.num_drafted <= bounds.get("max_nodes", POLICY.budget)


@pytest.mark.parametrize("bounds", [{"max_depth": 0}, {"left": 1}, {"max_nodes": 0}])
def test_where_one_token_is_left_nothing_is_drafted(bounds: dict[str, int]) -> None:
    assert Bench().draft(PROMPT, **bounds) is None


def test_rounds_follow_each_other_on_what_was_committed_between() -> None:
    bench = Bench()
    committed = PROMPT

    for num_committed in (5, 1, 3, 9):  # a whole path, a miss, a part, a plain round in between
        assert is_right(bench.draft(committed), committed, 4)
        committed = truth(committed, num_committed)

    assert bench.counts.num_open == 1


def test_a_round_asked_for_again_is_drafted_the_same_without_another_pass() -> None:
    bench = Bench()
    first = bench.draft(PROMPT)
    passes = bench.counts.num_passes

    again = bench.draft(PROMPT)

    assert np.array_equal(again.token, first.token)
    assert bench.counts.num_passes == passes


def test_a_session_that_goes_back_or_elsewhere_is_taken_up_anew() -> None:
    bench = Bench()
    bench.draft(truth(PROMPT, 8))

    for committed in (truth(PROMPT, 2), [9, 9, 9]):
        assert is_right(bench.draft(committed), committed, 4)

    assert bench.counts.num_open == 1


def test_without_room_a_session_goes_plainly_for_a_while_and_tries_again() -> None:
    bench = Bench(max_sessions=1)
    bench.draft(PROMPT)
    other = DraftSeat()

    answers = [bench.draft([7], seat=other) for _ in range(ROUNDS_WITHOUT_ROOM)]
    LeaveCall(bench.seat).make(engine=None)  # type: ignore[arg-type]
    answers += [bench.draft([7], seat=other) for _ in range(2)]

    assert [answer is None for answer in answers] == [True] * (ROUNDS_WITHOUT_ROOM + 1) + [False]


def test_a_drafter_that_raises_breaks_its_seat_and_no_other() -> None:
    bench = Bench(fails_at=1)
    other = DraftSeat()

    answers = [bench.draft(PROMPT) for _ in range(3)]

    assert answers == [None, None, None]
    assert [type(error) for error in bench.errors] == [ArithmeticError]
    assert is_right(bench.draft(PROMPT, seat=other), PROMPT, 4)
    assert bench.counts.num_open == 1, "the broken one was closed"


def test_long_contexts_are_read_a_piece_before_each_step_one_after_the_other() -> None:
    drafter = ReadingDrafter()
    hosted = HostedDrafter(drafter, POLICY)
    prompts = [[number] * (PIECE_TOKENS + 1) for number in (1, 2)] + [[3]]
    rounds = [a_round(prompt) for prompt in prompts]

    drafted, pieces = [], []
    for _ in range(3):
        drafted.append([tree is not None for tree in hosted.draft(rounds).trees])
        pieces.append(len(drafter.read))

    assert drafted == [[False, False, True], [True, False, True], [True, True, True]]
    assert pieces == [1, 2, 2], "no step waits for two"


class Together(EmulatedDrafter):
    """Runs a pass for all its sessions; breaks in pass ``fails_at``, and has no memory for the last
    session in pass ``full_at``."""

    def __init__(self, *, fails_at: int = -1, full_at: int = -1) -> None:
        super().__init__(TEXT, agreement=(1.0,))
        self.sizes: list[int] = []
        self._fails_at, self._full_at = fails_at, full_at

    def expand_together(self, asked: Sequence[ExpandAsked]) -> list[Expansion | None]:
        self.sizes.append(len(asked))
        if len(self.sizes) - 1 == self._fails_at:
            raise ArithmeticError("broke")
        given: list[Expansion | None] = [one.session.expand(one.tree, one.nodes) for one in asked]
        return [*given[:-1], None] if len(self.sizes) - 1 == self._full_at else given


PROMPTS = ([3, 1, 4], [1, 5, 9, 2], [6, 5])


def three_rounds() -> list[HostedRound]:
    return [a_round(prompt) for prompt in PROMPTS]


def test_a_drafter_that_can_runs_each_pass_for_all_sessions() -> None:
    drafter = Together()

    made = HostedDrafter(drafter, POLICY).draft(three_rounds())

    assert drafter.sizes == [3] * POLICY.depth
    assert made.errors == ()
    for tree, prompt in zip(made.trees, PROMPTS, strict=True):
        assert is_right(tree, prompt, POLICY.depth)


def test_a_common_pass_that_fails_is_one_failure_of_all_its_sessions() -> None:
    rounds = three_rounds()
    drafter = HostedDrafter(Together(fails_at=1), POLICY)

    made = drafter.draft(rounds)
    again = drafter.draft(rounds)

    assert made.trees == again.trees == (None, None, None)
    assert [type(error) for error in made.errors + again.errors] == [ArithmeticError]


def test_a_session_without_memory_in_a_common_pass_tries_what_it_has() -> None:
    made = HostedDrafter(Together(full_at=2), POLICY).draft(three_rounds())

    for tree, prompt, depth in zip(made.trees, PROMPTS, (4, 4, 2), strict=True):
        assert is_right(tree, prompt, depth)


def test_a_session_without_memory_for_its_root_leaves_its_seat() -> None:
    rounds = three_rounds()

    made = HostedDrafter(Together(full_at=0), POLICY).draft(rounds)

    assert made.trees[-1] is None
    assert rounds[-1].seat.drafter is None
    assert not rounds[-1].seat.is_broken


def test_leaving_is_idempotent_and_survives_a_drafter_that_cannot_close() -> None:
    class Stubborn(FailingDrafter):
        def open(self, committed, params):
            session = super().open(committed, params)

            def close() -> None:
                raise OSError("no")

            session.close = close
            return session

    bench = Bench()
    bench.drafter = HostedDrafter(Stubborn(EmulatedDrafter(TEXT), lambda _: None), POLICY)
    bench.draft(PROMPT)

    bench.seat.leave()
    bench.seat.leave()

    assert bench.seat.drafter is None


def test_metrics_tell_own_drafts_from_edges_drafts() -> None:
    registry = CollectorRegistry()
    metrics = VerifierMetrics(registry)
    hash_ = "0" * 16

    metrics.note_verdict(Verdict(round=0, path=(1, 2), bonus=3, kept=7, base=9, hash=hash_), 3)
    metrics.note_verdict(Verdict(round=1, path=(1,), bonus=3, own=5, base=9, hash=hash_), 2)
    metrics.note_verdict(Verdict(round=2, bonus=3, base=9, hash=hash_), 1)
    metrics.note_turn(busy_s=0.5, draft_s=0.2, num_failed_drafts=1)
    metrics.note_turn(busy_s=0.25, draft_s=0.0, num_failed_drafts=0)

    counts = {
        "specedge_generation_tokens_total": 6,
        "specedge_spec_decode_num_draft_tokens_total": 12,
        "specedge_spec_decode_num_accepted_tokens_total": 3,
        "specedge_hosted_drafts_total": 1,
        "specedge_hosted_draft_tokens_total": 5,
        "specedge_hosted_accepted_tokens_total": 1,
        "specedge_hosted_draft_failures_total": 1,
        "specedge_hosted_draft_seconds_count": 1,
        "specedge_verifier_busy_seconds_total": 0.75,
    }
    assert {name: registry.get_sample_value(name) for name in counts} == counts
