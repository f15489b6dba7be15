"""The target's choices at all nodes of a step, on the device that holds the logits.

Thin: greedy by numpy for every node, and the numpy reference where rules or noise are asked.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from specedge.engine.ports import Choosing, NodeChoices
from specedge.sampling.rules import choose, process_logits
from specedge.tree.token_tree import TokenTree


def choose_nodes(logits: Tensor, asked: Sequence[tuple[TokenTree, Choosing]]) -> list[NodeChoices]:
    """``logits`` (all trees' nodes, V), tree by tree, each tree's root first."""
    rows = logits.float().cpu().numpy()
    found: list[NodeChoices] = []
    begin = 0
    for tree, choosing in asked:
        choice = np.empty(len(tree), dtype=np.int32)
        for node in range(len(tree)):
            path: list[int] = []
            at = node
            while at > 0:
                path.append(int(tree.token[at]))
                at = int(tree.parent[at])
            committed = choosing.committed
            generated = np.concatenate(
                [committed[choosing.prompt_len :], np.asarray(path[::-1], dtype=np.int32)]
            )
            processed = process_logits(
                rows[begin + node],
                choosing.params,
                committed[: choosing.prompt_len],
                generated,
                choosing.stop_ids,
            )
            position = len(committed) + int(tree.depth[node])
            choice[node] = choose(processed, choosing.params, position)
        found.append(NodeChoices(choice))
        begin += len(tree)
    return found


_ = torch
