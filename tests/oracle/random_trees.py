"""Random trees and the paths through them."""

import numpy as np

from specedge.tree.token_tree import IntArray, TokenTree
from tests.oracle.tiny_models import random_tokens


def random_tree(rng: np.random.Generator, root: int, num_drafted: int) -> TokenTree:
    """Siblings, chains and branches as they come; node ids are not in order of depth."""
    parent = [-1, *(int(rng.integers(0, node)) for node in range(1, num_drafted + 1))]
    token = [root, *random_tokens(rng, num_drafted).tolist()]
    return TokenTree.from_parents(token, parent)


def path_to(tree: TokenTree, node: int) -> IntArray:
    """(d,) int32 node ids from the root's child down to ``node``; empty for the root."""
    path: list[int] = []
    while node > 0:
        path.append(node)
        node = int(tree.parent[node])
    return np.array(path[::-1], dtype=np.int32)
