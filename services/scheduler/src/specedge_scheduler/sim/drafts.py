"""Trees and verdicts of emulated edges: a line of levels, with siblings that are never right.

The line's tokens are all ``DRAFTED``, and every verdict ends with ``BONUS``; how far it goes is
drawn per position of the session's text, so it does not depend on who verifies it when.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np

from specedge.tree.token_tree import IntArray, TokenTree
from specedge_scheduler.sim.draws import uniform

DRAFTED: Final = 7
BONUS: Final = 5
SIBLING: Final = 16  # and upwards
VOCABULARY: Final = 128


@lru_cache(maxsize=4096)
def line_tree(depth: int, num_nodes: int) -> TokenTree:
    """The draft of ``depth`` levels on a root of token ``BONUS``: per level the line's node, then
    its siblings; ``num_nodes`` in all, or as many as there are levels."""
    token, parent, above = [BONUS], [-1], 0
    siblings = max(0, num_nodes - depth)
    for level in range(depth):
        node = len(token)
        token.append(DRAFTED)
        parent.append(above)
        num = siblings * (level + 1) // depth - siblings * level // depth
        token += [SIBLING + sibling for sibling in range(num)]
        parent += [above] * num
        above = node
    return TokenTree.from_parents(token, parent)


def line_of(tree: TokenTree) -> IntArray:
    """Ids of the nodes of a draft's line, (depth,) int32, as far as the draft goes."""
    return np.flatnonzero(tree.token == DRAFTED).astype(np.int32)


def line_choice(tree: TokenTree, line: IntArray, num_accepted: int) -> IntArray:
    """The target's choice at each node, the root's first, (n,) int32, such that the first
    ``num_accepted`` levels of the line are right, and no more."""
    choice = np.full(len(tree), BONUS, dtype=np.int32)
    if num_accepted:
        choice[0] = DRAFTED
        choice[line[: num_accepted - 1]] = DRAFTED
    return choice


def expected_tokens(acceptance: Sequence[float], max_depth: int) -> list[float]:
    """Tokens of a round, on average, by the levels drafted, 0 … ``max_depth``."""
    tokens, reached = [1.0], 1.0
    for level in range(max_depth):
        reached *= acceptance[min(level, len(acceptance) - 1)]
        tokens.append(tokens[-1] + reached)
    return tokens


def accepted_levels(text: int, base: int, acceptance: Sequence[float], max_depth: int) -> int:
    """How many levels of a line drafted after ``base`` tokens of that text are right."""
    for level in range(max_depth):
        chance = acceptance[min(level, len(acceptance) - 1)]
        if uniform(text, base + level) >= chance:
            return level
    return max_depth
