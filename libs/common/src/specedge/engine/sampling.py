"""The target's choices at all nodes of a step, on the device that holds the logits.

Equal to ``specedge.sampling`` row by row. Owns only how rows are grouped: the plain greedy ones in
one operation, the others tree by tree, with the noise of a position drawn once for all siblings.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from specedge.engine.device_noise import gumbel_rows, has_float64
from specedge.engine.device_rules import changes_nothing, process_rows
from specedge.engine.ports import Choosing, NodeChoices, NodeLogprobs
from specedge.tree.token_tree import IntArray, TokenTree


def choose_nodes(logits: Tensor, asked: Sequence[tuple[TokenTree, Choosing]]) -> list[NodeChoices]:
    """Choices at all nodes of all trees. ``logits`` (L, V) any float dtype, tree by tree, the
    root's row first. Call in inference mode; ``logits`` may be overwritten."""
    if not has_float64(logits.device):  # in which masses and noise are computed
        logits = logits.cpu()
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
        return _to_host(_argmax(logits))
    # Brought to the host together: each time it waits for all that was launched.
    choice = [
        _argmax(
            logits[part]
            if changes_nothing(choosing)
            else _scores(logits[part].float(), tree, choosing)
        )
        for (tree, choosing), part in zip(asked, rows, strict=True)
    ]
    return _to_host(torch.cat(choice))


def _scores(x: Tensor, tree: TokenTree, choosing: Choosing) -> Tensor:
    """(n, V) float32: what the sampler maximises at each node."""
    processed = process_rows(x, tree, choosing)
    params = choosing.params
    if params.is_greedy:
        return processed
    depths, row_of_node = np.unique(tree.depth, return_inverse=True)
    positions = [len(choosing.committed) + int(depth) for depth in depths]
    noise = gumbel_rows(params.seed, positions, x.shape[1], x.device)
    # Not by an index brought to the device, which would wait for the pass.
    return processed + torch.stack([noise[row] for row in row_of_node.tolist()])


def _argmax(x: Tensor) -> Tensor:
    """(n,) int64, where ``x`` is: the lowest id on a tie."""
    if x.device.type == "cpu":
        # numpy's argmax is several times faster here, and rounding to float32 moves no value.
        return torch.from_numpy(x.float().numpy().argmax(axis=1))
    return x.argmax(dim=1)


def _to_host(choice: Tensor) -> IntArray:
    """(n,) int32."""
    found: IntArray = choice.to(torch.int32).cpu().numpy()
    return found


def _logprobs(logits: Tensor, choice: IntArray, num_logprobs: int) -> NodeLogprobs:
    """Under the model's own distribution, whatever the sampler did to it."""
    logprob = logits.double().log_softmax(dim=1).float()
    chosen = logprob.gather(1, torch.from_numpy(choice).long().to(logits.device)[:, None])[:, 0]
    top = logprob.topk(min(num_logprobs, logprob.shape[1]), dim=1)
    return NodeLogprobs(
        chosen.cpu().numpy(), top.indices.to(torch.int32).cpu().numpy(), top.values.cpu().numpy()
    )
