"""What distillation learns from, on disk: conversations and the target's likeliest next tokens.

Owns the file format. A piece is one file, written whole or not at all, named by its number. What
its conversations say depends on seed and number alone; how many they are, on where sampling was
stopped, which may be anywhere.

One piece (N tokens of all its conversations, K likeliest per position):

    tokens   (N,) int32     conversation after conversation
    starts   (c + 1,) int64 conversation i is tokens[starts[i]:starts[i + 1]]
    answers  (c,) int32     how many of a conversation's first tokens are prompt
    greedy   (c,) bool      the answer is the target's greedy one
    has_next (N,) bool      the target's view of the token after this one is stored
    next_id  (M, K) int32   its likeliest next tokens at those M positions, falling
    next_logprob (M, K) float16
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from specedge.engine.stored_arrays import read_arrays
from specedge.errors import ModelUnusable
from specedge.tree.token_tree import IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Conversation:
    """Tokens (n,) int32, prompt_len of them prompt; next_id (m, K) int32 and next_logprob (m, K)
    float16 belong to the m positions where has_next (n,) bool holds."""

    tokens: IntArray
    prompt_len: int
    is_greedy: bool
    has_next: npt.NDArray[np.bool_]
    next_id: IntArray
    next_logprob: npt.NDArray[np.float16]

    @property
    def is_answer(self) -> npt.NDArray[np.bool_]:
        """(m,) which of those positions choose a token of the answer."""
        return np.flatnonzero(self.has_next) >= self.prompt_len - 1


def piece_path(folder: Path, number: int) -> Path:
    """Where piece ``number`` is, or will be."""
    return folder / f"piece-{number:05d}.npz"


def write_piece(path: Path, conversations: Sequence[Conversation]) -> None:
    """Write a piece; whoever looks meanwhile sees nothing or all of it."""
    lengths = [len(one.tokens) for one in conversations]
    scratch = path.with_name(f".{path.name}.{os.getpid()}.npz")
    try:
        np.savez_compressed(
            scratch,
            tokens=np.concatenate([one.tokens for one in conversations]),
            starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            answers=np.array([one.prompt_len for one in conversations], dtype=np.int32),
            greedy=np.array([one.is_greedy for one in conversations], dtype=np.bool_),
            has_next=np.concatenate([one.has_next for one in conversations]),
            next_id=np.concatenate([one.next_id for one in conversations]),
            next_logprob=np.concatenate([one.next_logprob for one in conversations]),
        )
        scratch.rename(path)
    except OSError as error:  # numpy's does not say where
        scratch.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error


def read_piece(path: Path) -> list[Conversation]:
    """The conversations of one piece. Raises ModelUnusable for a file that is none."""
    try:
        return list(_conversations(read_arrays(path)))
    except (OSError, ValueError, LookupError) as error:
        raise ModelUnusable(f"{path} is not a piece of a corpus: {error}") from error


def num_tokens(path: Path) -> int:
    """Tokens in one piece. Raises ModelUnusable for a file that is none."""
    try:
        return int(read_arrays(path, ("starts",))["starts"][-1])
    except (OSError, ValueError, LookupError) as error:
        raise ModelUnusable(f"{path} is not a piece of a corpus: {error}") from error


def _conversations(piece: dict[str, npt.NDArray[np.generic]]) -> Iterator[Conversation]:
    starts, has_next = piece["starts"], piece["has_next"]
    before = np.concatenate([[0], np.cumsum(has_next)])
    for number, prompt_len in enumerate(piece["answers"]):
        first, last = int(starts[number]), int(starts[number + 1])
        rows = slice(int(before[first]), int(before[last]))
        yield Conversation(
            tokens=piece["tokens"][first:last].astype(np.int32),
            prompt_len=int(prompt_len),
            is_greedy=bool(piece["greedy"][number]),
            has_next=has_next[first:last].astype(np.bool_),
            next_id=piece["next_id"][rows].astype(np.int32),
            next_logprob=piece["next_logprob"][rows].astype(np.float16),
        )
