"""Drafts along a known text, round by round, and sums up what was accepted.

Knows nothing of models, files or terminals.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Final

import numpy as np

from benchmarks.reference_texts import Reference
from benchmarks.watched_drafter import NOT_PROPOSED, WatchedDrafter
from specedge.drafting.tree_drafter import TreeDrafter
from specedge.params import DraftPolicy
from specedge.tree.calibration import Tally
from specedge.tree.path import find_path

TOP: Final = 4


@dataclass(frozen=True, slots=True)
class Round:
    """One draft and its verdict.

    nodes      sent                       expected  sum of their values
    accepted   length of the path         committed  tokens, the bonus included
    draft_s    drafting it took
    """

    nodes: int
    accepted: int
    committed: int
    draft_s: float
    expected: float


@dataclass(frozen=True, slots=True, eq=False)
class Drafted:
    """One text, drafted along to its end. ``rank`` holds one entry per token of the output."""

    category: str
    rounds: tuple[Round, ...]
    pass_s: tuple[float, ...]
    rank: tuple[int, ...]


def draft_along(
    drafter: WatchedDrafter, reference: Reference, policy: DraftPolicy, tally: Tally
) -> Drafted:
    """All rounds of one text, as an edge would draft them without proactive drafting."""
    watched = drafter.watch(np.concatenate([reference.prompt, reference.output]))
    tree_drafter = TreeDrafter(drafter, tally)
    tree_drafter.start(reference.prompt, reference.params, reference.stop)
    rounds: list[Round] = []
    rest = reference.output
    while len(rest):
        begin = perf_counter()
        tree = tree_drafter.draft(policy)
        draft_s = perf_counter() - begin
        accepted = len(find_path(tree, rest))
        committed = min(accepted + 1, len(rest))
        expected = float(tree.value[1:].sum())
        rounds.append(Round(tree.num_drafted, accepted, committed, draft_s, expected))
        tokens = rest[:committed].tolist()
        rest = rest[committed:]
        tree_drafter.on_verdict(tokens[:-1], tokens[-1])
    tree_drafter.close()
    drafter.fill_ranks(watched, len(reference.prompt), reference.params)
    first = len(reference.prompt)
    ranks = (watched.rank[place] for place in range(first, len(watched.text)))
    return Drafted(reference.category, tuple(rounds), tuple(watched.pass_s), tuple(ranks))


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Means over many texts.

    length      tokens committed a round, the bonus included
    expected    what the tree's values promised for it
    top_1, top_4  share of the target's tokens that the drafter put first, or among its first four
    reached     share of the rounds whose path was at least 1, 2, … long
    draft_ms    drafting of a round after the first, which also computes the prompt
    """

    texts: int
    tokens: int
    rounds: int
    length: float
    expected: float
    top_1: float
    top_4: float
    reached: tuple[float, ...]
    nodes: float
    passes: float
    pass_ms: float
    draft_ms: float


def sum_up(drafted: Sequence[Drafted]) -> Acceptance:
    """Raises ValueError without a round."""
    rounds = [each for text in drafted for each in text.rounds]
    if not rounds:
        raise ValueError("no text was drafted")
    later = [each for text in drafted for each in text.rounds[1:]]
    pass_s = [seconds for text in drafted for seconds in text.pass_s[1:]]
    ranks = np.array([rank for text in drafted for rank in text.rank])
    accepted = np.array([each.accepted for each in rounds])
    proposed = ranks != NOT_PROPOSED
    tokens = sum(each.committed for each in rounds)
    return Acceptance(
        texts=len(drafted),
        tokens=tokens,
        rounds=len(rounds),
        length=tokens / len(rounds),
        expected=1 + float(np.mean([each.expected for each in rounds])),
        top_1=float((ranks == 0).mean()),
        top_4=float((proposed & (ranks < TOP)).mean()),
        reached=tuple(
            float((accepted >= depth).mean()) for depth in range(1, int(accepted.max()) + 1)
        ),
        nodes=float(np.mean([each.nodes for each in rounds])),
        passes=sum(len(text.pass_s) for text in drafted) / len(rounds),
        pass_ms=1e3 * float(np.mean(pass_s)) if pass_s else 0.0,
        draft_ms=1e3 * float(np.mean([each.draft_s for each in later])) if later else 0.0,
    )
