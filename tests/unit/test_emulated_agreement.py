"""How often emulated drafters agree: by level exactly as dialled, or as a real pair did."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from specedge.drafting.tree_drafter import TreeDrafter
from specedge.engine.emulated import (
    EmulatedDrafter,
    EmulatedText,
    LevelAgreement,
    TraceAgreement,
    read_agreement,
)
from specedge.engine.emulated_agreement import NEVER
from specedge.errors import InvalidRequest
from specedge.pairs import tokens_per_round
from specedge.params import DraftPolicy, SamplingParams

GREEDY = SamplingParams()
RECORDED = Path(__file__).parents[2] / "benchmarks" / "traces" / "smollm2-135m.npz"


def mean_tokens(drafter: EmulatedDrafter, policy: DraftPolicy, rounds: int) -> float:
    """Tokens of a round, over ``rounds`` verdicts of the drafter's own target."""
    text, prompt = drafter.text, np.arange(8, dtype=np.int32)
    grown, prefix, total = TreeDrafter(drafter), text.fold_all(prompt), 0
    grown.start(prompt, GREEDY)
    for _ in range(rounds):
        tree = grown.draft(policy)
        children = {
            (int(parent), int(token)): node
            for node, (parent, token) in enumerate(zip(tree.parent, tree.token, strict=True))
        }
        node: int | None = 0
        path: list[int] = []
        while node is not None:
            choice = text.choice(prefix, GREEDY)
            prefix = text.fold(prefix, choice)
            node = children.get((node, choice))
            path.append(choice)
        total += len(path)
        grown.on_verdict(path[:-1], path[-1])
    return total / rounds


@pytest.mark.parametrize("depth", [2, 5])
def test_a_tree_is_accepted_level_by_level_as_the_dial_says(depth: int) -> None:
    acceptance, rounds = 0.75, 400
    drafter = EmulatedDrafter(EmulatedText(), agreement=LevelAgreement([acceptance]), branch=4)

    tokens = mean_tokens(drafter, DraftPolicy(depth, budget=16, beams=4, branch=4), rounds)

    # A path's length deviates by less than the depth from its mean.
    assert tokens == pytest.approx(tokens_per_round(acceptance, depth), abs=3 * depth / rounds**0.5)


def test_the_dial_may_differ_by_depth_and_by_rank() -> None:
    agreement = LevelAgreement([1.0, 0.5], shares=[0.5, 0.5])

    assert agreement.rank(0.25, 1, 0) == 0
    assert agreement.rank(0.75, 1, 0) == 1
    assert agreement.rank(0.3, 2, 0) == 1
    assert agreement.rank(0.5, 2, 0) == NEVER
    assert agreement.rank(0.5, 9, 0) == NEVER


@pytest.mark.parametrize("kept", [0, 1, 300, -30])
def test_a_broken_trace_is_refused(kept: int, tmp_path: Path) -> None:
    path = tmp_path / "trace.npz"
    path.write_bytes(RECORDED.read_bytes()[:kept])

    with pytest.raises(InvalidRequest, match="no trace"):
        read_agreement(str(path))


def test_a_trace_is_replayed_position_by_position_and_goes_around() -> None:
    agreement = TraceAgreement.load(RECORDED)
    length, branch = len(agreement.ranks), agreement.logprobs.shape[1]

    for position in (0, 7, length - 1):
        recorded = int(agreement.ranks[position])
        rank = agreement.rank(0.5, 1, position + length)

        assert rank == (recorded if recorded < branch else NEVER)
    scores = agreement.scores(branch + 2, 1, 7)
    assert scores[:branch] == agreement.logprobs[7].tolist()
    assert all(later < earlier for earlier, later in pairwise(scores))


def test_a_session_meets_the_trace_where_its_text_is() -> None:
    ranks = np.array([0, 3, 0, 0], dtype=np.int16)
    trace = TraceAgreement(ranks, np.tile(np.log([0.5, 0.2, 0.1, 0.05]), (4, 1)))
    drafter = EmulatedDrafter(EmulatedText(), agreement=trace, branch=4)

    for base in range(1, 9):  # the child of the root is at position ``base``
        prefix = drafter.text.fold_all(range(base))
        token, _ = drafter.propose(prefix, 1, GREEDY, base)

        assert token.index(drafter.text.choice(prefix, GREEDY)) == ranks[base % 4]


@pytest.mark.parametrize("text", ["", "high", "1.2", "0.8,-1", "nowhere.npz"])
def test_what_is_no_agreement_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        read_agreement(text)


def test_several_sessions_share_a_pass() -> None:
    from specedge.engine.ports import ExpandAsked
    from specedge.profiles import DeviceProfile
    from specedge.tree.token_tree import TokenTree

    slept: list[float] = []
    profile = DeviceProfile("d", "test", draft_pass_ms=5.0, draft_row_ms=1.0)
    drafter = EmulatedDrafter(EmulatedText(), profile=profile, sleep=slept.append)
    roots = np.zeros(1, dtype=np.int32)
    asked = []
    for token in (3, 4):
        session = drafter.open(np.array([token], dtype=np.int32), GREEDY)
        asked.append(ExpandAsked(session, TokenTree.root_only(token), roots))

    together = drafter.expand_together(asked)

    alone = [one.session.propose(one.tree, one.nodes) for one in _again(drafter)]  # type: ignore[attr-defined]
    assert slept == [pytest.approx(0.007)]
    for one, other in zip(together, alone, strict=True):
        assert one is not None
        assert np.array_equal(one.token, other.token)


def _again(drafter: EmulatedDrafter) -> list:  # type: ignore[type-arg]
    from specedge.engine.ports import ExpandAsked
    from specedge.tree.token_tree import TokenTree

    return [
        ExpandAsked(
            drafter.open(np.array([token], dtype=np.int32), GREEDY),
            TokenTree.root_only(token),
            np.zeros(1, dtype=np.int32),
        )
        for token in (3, 4)
    ]
