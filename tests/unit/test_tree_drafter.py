"""An edge's drafting of one session, on emulated engines."""

import numpy as np
import pytest

from specedge.drafting.tree_drafter import TreeDrafter
from specedge.engine.emulated import (
    EmulatedDrafter,
    EmulatedTarget,
    EmulatedText,
    emulated_continuation,
)
from specedge.engine.prompt_lookup import PromptLookupDrafter
from specedge.errors import Busy, ProtocolViolation
from specedge.params import DraftPolicy, SamplingParams, StopRule
from specedge.tree.calibration import Tally
from specedge.tree.path import walk
from specedge.tree.token_tree import TokenTree
from tests.emulated_decoding import Decoding

TEXT = EmulatedText(vocab_size=500)
PROMPT = [11, 12, 13]
POLICY = DraftPolicy(depth=4, budget=16, beams=4, branch=3)
FOREVER = StopRule(max_tokens=10_000)


def ids(tokens: list[int]) -> np.ndarray:
    return np.array(tokens, dtype=np.int32)


def started(
    *agreement: float,
    stop: StopRule | None = None,
    text: EmulatedText = TEXT,
    tally: Tally | None = None,
) -> TreeDrafter:
    drafter = TreeDrafter(EmulatedDrafter(text, agreement=agreement or (0.8,)), tally)
    drafter.start(ids(PROMPT), SamplingParams(), stop)
    return drafter


def decode(
    drafter: TreeDrafter, policy: DraftPolicy, stop: StopRule, text: EmulatedText = TEXT
) -> tuple[list[int], list[int]]:
    """Tokens, and how many each round yielded."""
    decoding = Decoding(EmulatedTarget(text), PROMPT, stop)
    yields = []
    while not decoding.is_final:
        new = decoding.verify(drafter.draft(policy))
        drafter.on_verdict(new[:-1], new[-1])
        yields.append(len(new))
    return decoding.generated, yields


def spelled_out(tree: TokenTree, text: EmulatedText = TEXT) -> bool:
    """Whether the tree holds the target's own text, from the root to its greatest depth."""
    depth = int(tree.depth.max())
    truth = emulated_continuation(PROMPT, StopRule(max_tokens=max(depth, 1)), text=text)[:depth]
    nodes = {
        (int(p), int(t)): i for i, (p, t) in enumerate(zip(tree.parent, tree.token, strict=True))
    }
    node = 0
    for token in truth:
        node = nodes.get((node, token), -1)
    return node >= 0


@pytest.mark.parametrize("depth", [1, 4, 7])
def test_full_agreement_yields_depth_plus_one_tokens_a_round(depth: int) -> None:
    policy = DraftPolicy(depth=depth, budget=32, beams=4, branch=3)
    stop = StopRule(max_tokens=10 * (depth + 1))

    tokens, yields = decode(started(1.0), policy, stop)

    assert yields == [depth + 1] * 10
    assert tokens == emulated_continuation(PROMPT, stop, text=TEXT)


def test_no_agreement_yields_the_bonus_alone() -> None:
    _, yields = decode(started(0.0), POLICY, StopRule(max_tokens=12))

    assert yields == [1] * 12


def test_more_agreement_yields_more_tokens_a_round() -> None:
    stop = StopRule(max_tokens=200)

    means = [np.mean(decode(started(a), POLICY, stop)[1]) for a in (0.2, 0.5, 0.9)]

    assert means[0] < means[1] < means[2]


@pytest.mark.parametrize("policy", [DraftPolicy(depth=0), DraftPolicy(budget=0)])
def test_a_policy_of_nothing_drafts_nothing(policy: DraftPolicy) -> None:
    drafter = started(1.0)

    assert drafter.draft(policy).num_drafted == 0
    assert drafter.counts.passes == 0


def test_a_round_keeps_to_its_policy() -> None:
    tree = started(0.6).draft(POLICY)

    assert tree.num_drafted == 16
    assert tree.depth.max() <= 4
    assert (np.bincount(tree.parent[1:]) <= 3).all()
    assert (np.diff(tree.value) <= 0).all()


def test_a_round_cut_short_sends_what_it_has() -> None:
    drafter = started(1.0)
    drafter.begin(POLICY)

    assert drafter.step()
    assert drafter.step()
    tree = drafter.finish().tree

    assert drafter.counts.passes == 2
    assert tree.depth.max() == 2
    assert spelled_out(tree)


def test_a_round_runs_no_more_passes_than_its_depth() -> None:
    drafter = started(0.5)
    drafter.begin(DraftPolicy(depth=3, budget=64, beams=1))

    passes = 0
    while drafter.step():
        passes += 1

    assert passes == drafter.counts.passes == 3
    assert not drafter.step()


def test_nothing_is_drafted_before_a_round_begins() -> None:
    drafter = started(1.0)

    assert not drafter.step()
    assert drafter.finish().tree.num_drafted == 0


def test_a_hit_keeps_the_subtree_as_a_head_start() -> None:
    drafter = started(1.0)
    truth = emulated_continuation(PROMPT, StopRule(max_tokens=8), text=TEXT)
    drafter.draft(POLICY)

    # The verifier tried only the first node, so the verdict stays inside the tree.
    drafter.on_verdict(truth[:1], truth[1], num_tried=1)
    drafter.begin(DraftPolicy(depth=2, budget=8))
    head_start = drafter.finish().tree

    assert drafter.counts.hits == 1
    assert drafter.counts.nodes_reused > 0
    assert head_start.token[0] == truth[1]
    assert truth[2] in head_start.token[1:][head_start.parent[1:] == 0]
    assert truth[3] in head_start.token[head_start.depth == 2]


def test_a_head_start_is_not_drafted_again() -> None:
    drafter = started(1.0)
    truth = emulated_continuation(PROMPT, StopRule(max_tokens=8), text=TEXT)
    drafter.draft(POLICY)
    passes = drafter.counts.passes

    drafter.on_verdict([], truth[0])
    tree = drafter.draft(DraftPolicy(depth=3, budget=3, branch=1))

    assert drafter.counts.passes == passes
    assert tree.token.tolist() == truth[:4]


def test_a_miss_starts_afresh() -> None:
    drafter = started(1.0)
    drafter.draft(POLICY)

    drafter.on_verdict([], 499)

    assert drafter.counts.hits == drafter.counts.nodes_reused == 0
    assert drafter.draft(POLICY).token[0] == 499


def test_no_draft_runs_past_a_stop_id() -> None:
    text = EmulatedText(vocab_size=500, stop_every=3)
    stop = StopRule(frozenset({text.stop_id}), 1000)
    drafter = started(1.0, stop=stop, text=text)

    tree = drafter.draft(DraftPolicy(depth=40, budget=200, beams=2, branch=2))

    ends = np.flatnonzero(tree.token == text.stop_id)
    assert len(ends) > 0
    assert not np.isin(tree.parent, ends).any()


def test_no_draft_runs_past_the_last_token_wanted() -> None:
    stop = StopRule(max_tokens=8)
    policy = DraftPolicy(depth=5, budget=32)

    tokens, yields = decode(started(1.0, stop=stop), policy, stop)

    assert yields == [6, 2]
    assert len(tokens) == 8
    drafter = started(1.0, stop=StopRule(max_tokens=3))
    assert drafter.draft(policy).depth.max() == 2


def test_appended_tokens_move_the_root() -> None:
    drafter = started(1.0)
    drafter.draft(POLICY)

    drafter.on_append([70, 71])
    tree = drafter.draft(POLICY)

    expected = emulated_continuation([*PROMPT, 70, 71], StopRule(max_tokens=4), text=TEXT)
    assert tree.token[0] == 71
    assert expected[3] in tree.token[tree.depth == 4]
    assert drafter.counts.verdicts == 0


def test_a_resync_to_a_longer_context_keeps_the_tree() -> None:
    drafter = started(1.0)
    truth = emulated_continuation(PROMPT, StopRule(max_tokens=3), text=TEXT)
    drafter.draft(POLICY)
    passes = drafter.counts.passes

    drafter.resync(ids(PROMPT))
    drafter.resync(ids([*PROMPT, truth[0]]))
    tree = drafter.draft(DraftPolicy(depth=2, budget=2, branch=1))

    assert drafter.counts.passes == passes
    assert tree.token.tolist() == truth


def test_a_resync_to_another_context_starts_anew() -> None:
    drafter = started(1.0)
    drafter.draft(POLICY)
    other = [*PROMPT[:2], 99]

    drafter.resync(ids(other))
    tree = drafter.draft(POLICY)

    expected = emulated_continuation(other, StopRule(max_tokens=4), text=TEXT)
    assert tree.token[0] == 99
    assert expected[3] in tree.token[tree.depth == 4]


def test_verdicts_teach_how_far_a_drafter_can_be_trusted() -> None:
    tally = Tally()
    before = started(0.3, tally=tally).draft(POLICY)

    decode(started(0.3, tally=tally), POLICY, StopRule(max_tokens=400))
    after = started(0.3, tally=tally).draft(POLICY)

    first_child = 0.3  # the dial: what is true
    assert abs(after.value[1] - first_child) < abs(before.value[1] - first_child)
    assert after.value[1] == pytest.approx(first_child, abs=0.06)


def test_nodes_that_were_not_tried_teach_nothing() -> None:
    tally = Tally()
    for _ in range(30):
        drafter = started(1.0, tally=tally)
        drafter.draft(DraftPolicy(depth=1, budget=3))
        drafter.on_verdict([], 499, num_tried=0)

    untaught = started(1.0).draft(DraftPolicy(depth=1, budget=3))
    assert np.array_equal(started(1.0, tally=tally).draft(POLICY).value[:2], untaught.value[:2])


def test_values_estimate_how_much_of_a_tree_is_accepted() -> None:
    drafter = started(0.7)
    decoding = Decoding(EmulatedTarget(TEXT), PROMPT, StopRule(max_tokens=1500))
    expected = accepted = 0.0
    while not decoding.is_final:
        tree = drafter.draft(POLICY)
        new = decoding.verify(tree)
        expected += float(tree.value[1:].sum())
        accepted += len(new) - 1
        drafter.on_verdict(new[:-1], new[-1])

    assert expected == pytest.approx(accepted, rel=0.1)


def test_prompt_lookup_drafts_what_is_being_copied() -> None:
    passage = list(range(100, 140))
    drafter = TreeDrafter(PromptLookupDrafter())
    drafter.start(ids([*passage, 7, *passage[:3]]), SamplingParams())

    tree = drafter.draft(DraftPolicy(depth=6, budget=6, branch=1))
    drafter.on_verdict(passage[3:9], passage[9])
    following = drafter.draft(DraftPolicy(depth=3, budget=3, branch=1))

    assert tree.token.tolist() == passage[2:9]
    assert following.token.tolist() == passage[9:13]


def test_a_drafter_that_proposes_nothing_sends_an_empty_tree() -> None:
    drafter = TreeDrafter(PromptLookupDrafter())
    drafter.start(ids([1, 2, 3]), SamplingParams())

    tree = drafter.draft(POLICY)
    choice = walk(tree, ids([5]))

    assert tree.num_drafted == 0
    drafter.on_verdict([], choice.bonus)
    assert drafter.draft(POLICY).token.tolist() == [5]


def test_counts_add_up() -> None:
    drafter = started(0.8)

    _, yields = decode(drafter, POLICY, StopRule(max_tokens=60))

    counts = drafter.counts
    assert counts.verdicts == len(yields)
    assert 0 < counts.hits < counts.verdicts
    assert counts.nodes_sent == 16 * counts.verdicts
    assert counts.nodes_drafted > counts.nodes_sent
    assert counts.passes == 4 * counts.verdicts


def test_the_drafters_slot_comes_back_on_close() -> None:
    model = EmulatedDrafter(TEXT, max_sessions=1)
    first, second = TreeDrafter(model), TreeDrafter(model)
    first.start(ids(PROMPT), SamplingParams())

    with pytest.raises(Busy):
        second.start(ids(PROMPT), SamplingParams())
    first.close()
    first.close()

    second.start(ids(PROMPT), SamplingParams())


def test_a_drafter_is_used_only_between_start_and_close() -> None:
    drafter = started(1.0)

    with pytest.raises(ProtocolViolation, match="started already"):
        drafter.start(ids(PROMPT), SamplingParams())
    drafter.close()
    with pytest.raises(ProtocolViolation, match="closed"):
        drafter.draft(POLICY)
