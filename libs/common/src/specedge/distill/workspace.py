"""The working folder of one distillation: what was planned, and what is there already.

plan.json         what was asked for; running again must ask for the same
corpus/           pieces of self-sampled conversations
head_tokens.npy   tokens that the drafter's head speaks of, fixed when training begins
checkpoint.pt     of the training run
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from specedge.distill.corpus import Conversation, num_tokens, piece_path, read_piece
from specedge.errors import InvalidRequest, ModelUnusable
from specedge.tree.token_tree import IntArray

CHECKPOINT: Final = "checkpoint.pt"
HELD_OUT_PIECE: Final = 0
PIECE_CONVERSATIONS: Final = 256
_PIECE: Final = re.compile(r"piece-(\d+)\.npz")


class DistillPlan(BaseModel):
    """What decides the drafter; a run goes on only with the plan that it began with.

    layers            numbers of the target's layers that the drafter starts from
    start_from        folder of the drafter whose layers take their places, or empty
    vocabulary        tokens its head speaks of
    held_out          conversations measured on, never trained on
    """

    model_config = ConfigDict(frozen=True)

    target: str
    target_weights: str
    layers: tuple[int, ...]
    start_from: str = ""
    vocabulary: int
    seed: int = 1
    peak_rate: float = 2e-3
    batch_tokens: int = 2048
    piece_conversations: int = PIECE_CONVERSATIONS
    held_out: int = 64


@dataclass(frozen=True, slots=True)
class Workspace:
    """Paths below ``folder``, and what is read and written there."""

    folder: Path

    @property
    def corpus(self) -> Path:
        """Where pieces are."""
        return self.folder / "corpus"

    def begin(self, plan: DistillPlan) -> None:
        """Make the folder, or check that it was begun with ``plan``. Raises InvalidRequest with the
        first field that differs."""
        self.corpus.mkdir(parents=True, exist_ok=True)
        path = self.folder / "plan.json"
        if not path.is_file():
            path.write_text(plan.model_dump_json(indent=2) + "\n")
            return
        try:
            began = DistillPlan.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise InvalidRequest(f"{path} is not a plan: {error}", field="work") from error
        for name in DistillPlan.model_fields:
            if getattr(began, name) != getattr(plan, name):
                raise InvalidRequest(
                    f"{self.folder} was begun with {name} {getattr(began, name)}, not "
                    f"{getattr(plan, name)}; choose another --work folder",
                    field=name,
                )

    def pieces(self) -> list[int]:
        """Numbers of the pieces that are there, ascending."""
        found = (_PIECE.fullmatch(path.name) for path in self.corpus.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def held_out(self, count: int) -> list[Conversation]:
        """Up to ``count`` conversations to measure on: of the first piece, never trained on."""
        return read_piece(piece_path(self.corpus, HELD_OUT_PIECE))[:count]

    def training_pieces(self) -> list[int]:
        """All pieces but the one held out."""
        return [number for number in self.pieces() if number != HELD_OUT_PIECE]

    def num_training_tokens(self) -> int:
        """Tokens to train on: the piece held out is not counted."""
        return sum(num_tokens(piece_path(self.corpus, one)) for one in self.training_pieces())

    def has_checkpoint(self) -> bool:
        """Whether a training run left anything to go on from."""
        return (self.folder / CHECKPOINT).is_file()

    def head_tokens(self) -> IntArray | None:
        """The head's tokens once training began. Raises ModelUnusable for a broken file."""
        path = self.folder / "head_tokens.npy"
        if not path.is_file():
            return None
        try:
            return np.load(path).astype(np.int32)
        except (OSError, ValueError, EOFError) as error:
            raise ModelUnusable(f"{path} cannot be read: {error}") from error

    def fix_head_tokens(self, tokens: IntArray) -> None:
        """Decide the head's tokens for good."""
        np.save(self.folder / "head_tokens.npy", tokens)
