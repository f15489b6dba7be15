"""Which tokens a drafter's head speaks: the most frequent ones of the target's own text.

A small drafter spends most of its time in the head. Pure; ids in, ids out.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from specedge.distill.corpus import Conversation
from specedge.tree.token_tree import IntArray


def token_mass(conversations: Sequence[Conversation], vocab_size: int) -> npt.NDArray[np.float64]:
    """(vocab_size,) how much probability the target gave each token, summed over all positions."""
    mass = np.zeros(vocab_size)
    for one in conversations:
        np.add.at(mass, one.next_id, np.exp(one.next_logprob, dtype=np.float64))
    return mass


def frequent_tokens(mass: npt.NDArray[np.float64], size: int, always: Sequence[int]) -> IntArray:
    """The ``size`` tokens of the largest mass, and ``always`` (stop ids) among them: ascending
    (size,) int32. All of them if ``size`` is no smaller than the vocabulary."""
    ranked = mass.copy()
    ranked[list(always)] = np.inf
    best = np.argsort(-ranked, kind="stable")[:size]
    return np.sort(best).astype(np.int32)
