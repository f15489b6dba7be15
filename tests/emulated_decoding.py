"""One session decoded on an emulated target, straight through the ports: no services, no link."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from specedge.engine.emulated import EmulatedTarget
from specedge.engine.ports import Choosing, StepItem
from specedge.ids import Slot
from specedge.params import SamplingParams, StopRule
from specedge.tree.path import walk
from specedge.tree.token_tree import TokenTree


@dataclass
class Decoding:
    """A verifier's part of a session, in a few lines.

    committed   prompt and generated tokens
    valid_rows  of the slot
    """

    target: EmulatedTarget
    prompt: list[int]
    stop: StopRule
    params: SamplingParams = field(default_factory=SamplingParams)

    def __post_init__(self) -> None:
        self.committed = list(self.prompt)
        self.valid_rows = 0
        self.slot: Slot = self.target.lease(8)

    @property
    def generated(self) -> list[int]:
        return self.committed[len(self.prompt) :]

    @property
    def is_final(self) -> bool:
        generated = self.generated
        if not generated:
            return False
        return generated[-1] in self.stop.stop_ids or len(generated) >= self.stop.max_tokens

    def verify(self, tree: TokenTree, num_tried: int | None = None) -> list[int]:
        """One round: the newly committed tokens, path and bonus, cut where the text ends."""
        committed = np.array(self.committed, dtype=np.int32)
        choosing = Choosing(self.params, committed, len(self.prompt), self.stop.stop_ids)
        chain = committed[self.valid_rows :]
        item = StepItem(self.slot, self.valid_rows, chain, tree, choosing)
        [choices] = self.target.step([item])
        assert choices is not None
        walked = walk(tree, choices.choice, num_tried)
        new = list(self._cut([*tree.token[walked.path].tolist(), walked.bonus]))
        self.target.keep(self.slot, len(committed), walked.path)
        self.committed += new
        self.valid_rows = min(len(committed) + len(walked.path), len(self.committed) - 1)
        return new

    def _cut(self, tokens: list[int]) -> Iterator[int]:
        room = self.stop.max_tokens - len(self.generated)
        for token in tokens[:room]:
            yield token
            if token in self.stop.stop_ids:
                return
