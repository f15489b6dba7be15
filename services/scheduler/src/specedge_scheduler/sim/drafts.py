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
def line_tree(depth: int, nodes_per_level: int) -> TokenTree:
    """The draft of ``depth`` levels on a root of token ``BONUS``: per level the line's node, then
    its siblings."""
    token, parent, above = [BONUS], [-1], 0
    for _ in range(depth):
        node = len(token)
        token.append(DRAFTED)
        parent.append(above)
        for sibling in range(nodes_per_level - 1):
            token.append(SIBLING + sibling)
            parent.append(above)
        above = node
    return TokenTree.from_parents(token, parent)


@lru_cache(maxsize=65_536)
def line_choice(num_nodes: int, nodes_per_level: int, num_accepted: int) -> IntArray:
    """The target's choice at each of ``num_nodes`` nodes, the root's first, (num_nodes,) int32,
    such that the first ``num_accepted`` levels of the line are right."""
    choice = np.full(num_nodes, BONUS, dtype=np.int32)
    above = 0
    for level in range(num_accepted):
        node = 1 + level * nodes_per_level
        if node >= num_nodes:
            break
        choice[above] = DRAFTED
        above = node
    return choice


def accepted_levels(text: int, base: int, acceptance: Sequence[float], max_depth: int) -> int:
    """How many levels of a line drafted after ``base`` tokens of that text are right."""
    for level in range(max_depth):
        chance = acceptance[min(level, len(acceptance) - 1)]
        if uniform(text, base + level) >= chance:
            return level
    return max_depth
