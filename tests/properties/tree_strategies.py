"""Trees and what a target makes of them, for the property tests."""

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from specedge.tree.token_tree import IntArray, TokenTree

# The machine may be busy: no property here is about time.
relaxed = settings(deadline=None)

VOCAB = 6


@st.composite
def trees(draw: st.DrawFn, max_nodes: int = 24, distinct_siblings: bool = True) -> TokenTree:
    """Any tree whose values never rise along a path; equal values are common."""
    token, parent, value = [draw(st.integers(0, VOCAB - 1))], [-1], [1.0]
    for _ in range(draw(st.integers(0, max_nodes - 1))):
        above = draw(st.integers(0, len(token) - 1))
        taken = {token[i] for i in range(1, len(token)) if parent[i] == above}
        free = sorted(set(range(VOCAB)) - taken) if distinct_siblings else list(range(VOCAB))
        if free:
            token.append(draw(st.sampled_from(free)))
            parent.append(above)
            value.append(value[above] * draw(st.sampled_from([0.25, 0.5, 0.9, 1.0])))
    logprob = np.log(np.array(value, dtype=np.float32))
    return TokenTree.from_parents(token, parent, logprob, np.array(value, dtype=np.float32))


@st.composite
def trees_with_choices(draw: st.DrawFn) -> tuple[TokenTree, IntArray]:
    """A tree, and a target's choice at each node: often one of the node's children."""
    tree = draw(trees())
    choice = []
    for node in range(len(tree)):
        children = tree.token[1:][tree.parent[1:] == node].tolist()
        wanted = st.integers(0, VOCAB - 1)
        choice.append(draw(st.sampled_from(children) | wanted if children else wanted))
    return tree, np.array(choice, dtype=np.int32)


def path_to(tree: TokenTree, node: int) -> list[int]:
    """Node ids from the root's child down to ``node``; empty for the root."""
    path: list[int] = []
    while node > 0:
        path.append(node)
        node = int(tree.parent[node])
    return path[::-1]


def spelling(tree: TokenTree, node: int) -> tuple[int, ...]:
    """Tokens below the root down to ``node``."""
    return tuple(int(tree.token[i]) for i in path_to(tree, node))
