"""Trees and verdicts of emulated edges: a line of levels, with siblings that are never right.

The line's tokens are all ``DRAFTED``, and every verdict ends with ``BONUS``; how far it goes is
drawn per position of the session's text, so it does not depend on who verifies it when.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np

from specedge.tree.token_tree import IntArray, TokenTree

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


def num_levels(tree: TokenTree) -> int:
    """Levels of a draft's line, as far as the draft goes."""
    return len(_line(tree.token.tobytes()))


def line_choice(tree: TokenTree, num_accepted: int) -> IntArray:
    """The target's choice at each node, the root's first, (n,) int32, such that the first
    ``num_accepted`` levels of the line are right, and no more. Not to be written."""
    return _choice(tree.token.tobytes(), num_accepted)


# Many drafts are cut from few kinds: remembered by their tokens' bytes.


@lru_cache(maxsize=4096)
def _line(tokens: bytes) -> IntArray:
    return np.flatnonzero(np.frombuffer(tokens, np.int32) == DRAFTED).astype(np.int32)


@lru_cache(maxsize=65536)
def _choice(tokens: bytes, num_accepted: int) -> IntArray:
    choice = np.full(len(tokens) // 4, BONUS, dtype=np.int32)
    if num_accepted:
        choice[0] = DRAFTED
        choice[_line(tokens)[: num_accepted - 1]] = DRAFTED
    return choice


def expected_tokens(acceptance: Sequence[float], max_depth: int) -> list[float]:
    """Tokens of a round, on average, by the levels drafted, 0 … ``max_depth``."""
    tokens, reached = [1.0], 1.0
    for level in range(max_depth):
        reached *= acceptance[min(level, len(acceptance) - 1)]
        tokens.append(tokens[-1] + reached)
    return tokens


def accepted_levels(
    luck: Sequence[float], base: int, acceptance: Sequence[float], max_depth: int
) -> int:
    """How many levels of a line drafted after ``base`` tokens of a text are right; ``luck`` is that
    text's draw at each position."""
    last = len(acceptance) - 1
    for level in range(max_depth):
        if luck[base + level] >= acceptance[min(level, last)]:
            return level
    return max_depth
