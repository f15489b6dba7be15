"""The emulated drafter: its dial, and its strictness about how it is asked."""

import numpy as np
import pytest

from specedge.engine.emulated import EmulatedDrafter, EmulatedDraftSession, EmulatedText
from specedge.engine.ports import ExpandAsked, Expansion
from specedge.errors import Busy, ProtocolViolation
from specedge.params import SamplingParams
from specedge.profiles import DeviceProfile
from specedge.tree.path import Rerooting, reroot
from specedge.tree.token_tree import TokenTree

TEXT = EmulatedText(vocab_size=1000)
GREEDY = SamplingParams()
ROOT = np.array([0], dtype=np.int32)


def ids(*tokens: int) -> np.ndarray:
    return np.array(tokens, dtype=np.int32)


def opened(agreement: tuple[float, ...] = (0.8,), branch: int = 3) -> EmulatedDraftSession:
    return EmulatedDrafter(TEXT, agreement=agreement, branch=branch).open(ids(4, 5), GREEDY)


def ranks_of_the_truth(agreement: float, trials: int) -> np.ndarray:
    """How often the target's token was the child of each rank; the last entry: none was."""
    drafter = EmulatedDrafter(TEXT, agreement=(agreement,), branch=3)
    counts = np.zeros(4)
    for start in range(trials):
        prefix = TEXT.fold_all([start])
        token, _ = drafter.propose(prefix, 1, GREEDY)
        found = np.flatnonzero(np.array(token) == TEXT.choice(prefix, GREEDY))
        counts[found[0] if len(found) else 3] += 1
    return counts


@pytest.mark.parametrize("agreement", [0.0, 0.3, 0.8, 1.0])
def test_each_child_is_the_targets_token_as_often_as_the_dial_says(agreement: float) -> None:
    trials = 3000
    ranks = np.arange(3)
    share = np.append(agreement * (1 - agreement) ** ranks, (1 - agreement) ** 3)

    counts = ranks_of_the_truth(agreement, trials)

    deviation = np.sqrt(trials * share * (1 - share))
    assert (np.abs(counts - trials * share) <= 4.5 * deviation).all()


def test_agreement_may_differ_by_depth() -> None:
    drafter = EmulatedDrafter(TEXT, agreement=(1.0, 0.0))
    prefix = TEXT.fold_all([1])
    truth = TEXT.choice(prefix, GREEDY)

    assert drafter.propose(prefix, 1, GREEDY)[0][0] == truth
    for depth in (2, 3, 9):
        assert truth not in drafter.propose(prefix, depth, GREEDY)[0]


@pytest.mark.parametrize("agreement", [0.0, 0.5, 1.0])
def test_children_are_distinct_and_their_scores_fall(agreement: float) -> None:
    out = opened((agreement,), branch=8).expand(TokenTree.root_only(5), ROOT)

    assert out.token.dtype == np.int32
    assert out.logprob.dtype == np.float32
    assert len(set(out.token[0].tolist())) == 8
    assert (np.diff(out.logprob[0]) < 0).all()
    assert np.isfinite(out.logprob).all()


def test_the_sampled_text_is_drafted_with_its_seed() -> None:
    params = SamplingParams(temperature=1.0, seed=3)
    session = EmulatedDrafter(TEXT, agreement=(1.0,)).open(ids(4, 5), params)

    out = session.expand(TokenTree.root_only(5), ROOT)

    assert out.token[0, 0] == TEXT.choice(TEXT.fold_all([4, 5]), params)


def test_a_pass_takes_the_time_its_profile_says() -> None:
    slept: list[float] = []
    profile = DeviceProfile("d", "test", draft_pass_ms=7.0)
    drafter = EmulatedDrafter(TEXT, profile=profile, sleep=slept.append)

    drafter.open(ids(5), GREEDY).expand(TokenTree.root_only(5), ROOT)

    assert slept == [pytest.approx(0.007)]


def test_a_pass_for_several_sessions_takes_the_time_of_one() -> None:
    slept: list[float] = []
    profile = DeviceProfile("d", "test", draft_pass_ms=7.0)
    drafter = EmulatedDrafter(TEXT, profile=profile, sleep=slept.append)
    sessions = [drafter.open(ids(token), GREEDY) for token in (5, 6)]
    trees = [TokenTree.root_only(token) for token in (5, 6)]

    drafter.expand_together(
        [ExpandAsked(one, tree, ROOT) for one, tree in zip(sessions, trees, strict=True)]
    )

    assert slept == [pytest.approx(0.007)]


def test_sessions_run_out_and_come_back() -> None:
    drafter = EmulatedDrafter(TEXT, max_sessions=1)
    session = drafter.open(ids(1), GREEDY)

    with pytest.raises(Busy):
        drafter.open(ids(1), GREEDY)
    session.close()
    session.close()

    drafter.open(ids(1), GREEDY)
    with pytest.raises(Busy):
        drafter.open(ids(1), GREEDY)


def test_an_agreement_that_is_no_probability_is_refused() -> None:
    with pytest.raises(ValueError, match="probability"):
        EmulatedDrafter(TEXT, agreement=(1.2,))


def after_one_pass(session: EmulatedDraftSession) -> tuple[TokenTree, Expansion]:
    out = session.expand(TokenTree.root_only(5), ROOT)
    children = out.token[0].tolist()
    return TokenTree.from_parents([5, *children], [-1] + [0] * len(children)), out


def test_a_node_is_asked_once_between_two_reroots() -> None:
    session = opened()
    tree, _ = after_one_pass(session)

    with pytest.raises(ProtocolViolation, match="asked before"):
        session.expand(tree, ROOT)
    with pytest.raises(ProtocolViolation, match="asked once"):
        session.expand(tree, ids(1, 1))
    session.expand(tree, ids(1, 2))


def test_a_node_is_not_asked_before_its_parent() -> None:
    session = opened()

    with pytest.raises(ProtocolViolation, match="before its parent"):
        session.expand(TokenTree.from_parents([5, 6], [-1, 0]), ids(1))
    with pytest.raises(ProtocolViolation, match="not in the tree"):
        session.expand(TokenTree.root_only(5), ids(3))


def test_a_tree_that_changed_elsewhere_than_at_its_end_is_refused() -> None:
    session = opened()
    tree, _ = after_one_pass(session)
    session.expand(tree, ids(1))

    swapped = TokenTree.from_parents([5, *tree.token[[2, 1, 3]].tolist()], [-1, 0, 0, 0])
    with pytest.raises(ProtocolViolation, match="grows at its end"):
        session.expand(swapped, ids(2))
    with pytest.raises(ProtocolViolation, match="grows at its end"):
        session.expand(TokenTree.root_only(5), ids(0))


def test_after_a_hit_on_a_node_of_the_last_pass_its_text_goes_on() -> None:
    session = opened((1.0,))
    tree, _ = after_one_pass(session)
    rerooting, new = reroot(tree, [int(tree.token[1])])

    session.reroot(rerooting)
    out = session.expand(new, ROOT)

    assert out.token[0, 0] == TEXT.choice(TEXT.fold_all([4, 5, tree.token[1]]), GREEDY)


def test_after_a_hit_a_kept_node_may_be_expanded_without_asking_its_root_again() -> None:
    session = opened((1.0,))
    tree, _ = after_one_pass(session)
    grandchildren = session.expand(tree, ids(1)).token[0].tolist()
    tree = TokenTree.from_parents([*tree.token, *grandchildren], [*tree.parent, 1, 1, 1])
    rerooting, new = reroot(tree, [int(tree.token[1])])

    session.reroot(rerooting)
    out = session.expand(new, ids(1))

    truth = TEXT.fold_all([4, 5, tree.token[1], grandchildren[0]])
    assert out.token[0, 0] == TEXT.choice(truth, GREEDY)


def test_after_a_miss_the_tree_starts_on_the_new_root() -> None:
    session = opened((1.0,))
    tree, _ = after_one_pass(session)
    rerooting, new = reroot(tree, [int(tree.token[2]), 77])

    session.reroot(rerooting)

    with pytest.raises(ProtocolViolation, match="grows at its end"):
        session.expand(tree, ids(1))
    out = session.expand(new, ROOT)
    assert out.token[0, 0] == TEXT.choice(TEXT.fold_all([4, 5, tree.token[2], 77]), GREEDY)


def test_a_rerooting_that_does_not_spell_what_was_committed_is_refused() -> None:
    session = opened()
    tree, _ = after_one_pass(session)
    session.expand(tree, ids(1))
    wrong = Rerooting(committed=ids(int(tree.token[1])), path=ids(), kept=ids(2))

    with pytest.raises(ProtocolViolation, match="spell"):
        session.reroot(wrong)


def test_a_closed_session_is_not_used() -> None:
    session = opened()
    session.close()

    with pytest.raises(ProtocolViolation, match="closed"):
        session.expand(TokenTree.root_only(5), ROOT)
    with pytest.raises(ProtocolViolation, match="closed"):
        session.reroot(reroot(TokenTree.root_only(5), [1])[0])
