"""The target's choices at all nodes of a step, on the device that holds the logits.

Equal to ``specedge.sampling`` row by row. Owns only how rows are grouped: the plain greedy ones in
one operation, the others tree by tree, with the noise of a position drawn once for all siblings.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from specedge.engine.device_noise import gumbel_rows
from specedge.engine.device_rules import changes_nothing, process_rows
from specedge.engine.ports import Choosing, NodeChoices, NodeLogprobs
from specedge.tree.token_tree import IntArray, TokenTree


def choose_nodes(logits: Tensor, asked: Sequence[tuple[TokenTree, Choosing]]) -> list[NodeChoices]:
    """Choices at all nodes of all trees. ``logits`` (L, V) any float dtype, tree by tree, the
    root's row first. Call in inference mode; ``logits`` may be overwritten."""
    counts = [len(tree) for tree, _ in asked]
    begins = np.cumsum([0, *counts])
    rows = [slice(int(begin), int(begin) + n) for begin, n in zip(begins, counts, strict=False)]
    logprob_logits = {
        index: logits[rows[index]].clone()
        for index, (_, choosing) in enumerate(asked)
        if choosing.num_logprobs >= 0
    }
    choice = _choices(logits, asked, rows)
    return [
        NodeChoices(
            choice[rows[index]],
            _logprobs(logprob_logits[index], choice[rows[index]], choosing.num_logprobs)
            if index in logprob_logits
            else None,
        )
        for index, (_, choosing) in enumerate(asked)
    ]


def _choices(
    logits: Tensor, asked: Sequence[tuple[TokenTree, Choosing]], rows: Sequence[slice]
) -> IntArray:
    """(L,) int32."""
    if all(changes_nothing(choosing) for _, choosing in asked):
        return _argmax(logits)
    choice = np.empty(len(logits), dtype=np.int32)
    for (tree, choosing), part in zip(asked, rows, strict=True):
        if changes_nothing(choosing):
            choice[part] = _argmax(logits[part])
        else:
            choice[part] = _argmax(_scores(logits[part].float(), tree, choosing))
    return choice


def _scores(x: Tensor, tree: TokenTree, choosing: Choosing) -> Tensor:
    """(n, V) float32: what the sampler maximises at each node."""
    processed = process_rows(x, tree, choosing)
    params = choosing.params
    if params.is_greedy:
        return processed
    depths, row_of_node = np.unique(tree.depth, return_inverse=True)
    positions = [len(choosing.committed) + int(depth) for depth in depths]
    noise = gumbel_rows(params.seed, positions, x.shape[1], x.device)
    return processed + noise[torch.from_numpy(row_of_node).to(x.device)]


def _argmax(x: Tensor) -> IntArray:
    """(n,) int32, the lowest id on a tie."""
    if x.device.type == "cpu":
        # numpy's argmax is several times faster here, and rounding to float32 moves no value.
        return x.float().numpy().argmax(axis=1).astype(np.int32)
    found: IntArray = x.argmax(dim=1).to(torch.int32).cpu().numpy()
    return found


def _logprobs(logits: Tensor, choice: IntArray, num_logprobs: int) -> NodeLogprobs:
    """Under the model's own distribution, whatever the sampler did to it."""
    logprob = logits.double().log_softmax(dim=1).float()
    chosen = logprob.gather(1, torch.from_numpy(choice).long().to(logits.device)[:, None])[:, 0]
    top = logprob.topk(min(num_logprobs, logprob.shape[1]), dim=1)
    return NodeLogprobs(
        chosen.cpu().numpy(), top.indices.to(torch.int32).cpu().numpy(), top.values.cpu().numpy()
    )
