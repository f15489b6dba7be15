"""The target talks to itself: it writes a user's turn, then answers it, many conversations at once.

Owns how conversations come about and what of the target's distribution is kept. Needs nothing but
the target; storing is ``corpus``'s.
"""

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from specedge.distill.corpus import Conversation
from specedge.distill.openings import Opening, Openings, TurnFrame
from specedge.engine.step_table import Span, chain_span
from specedge.engine.torch_model import LoadedModel
from specedge.engine.tree_model import TreeModel
from specedge.errors import Busy
from specedge.ids import Slot
from specedge.tree.token_tree import IntArray

PROMPT_TEMPERATURE: Final = 1.0
# A user's turn is cut to its likelier half of words: the tail of a small model is no language.
PROMPT_TOP_P: Final = 0.95
# Of the answers, so many are greedy, the others sampled: an edge drafts for both.
GREEDY_SHARE: Final = 0.5
ANSWER_TEMPERATURE: Final = 0.8


@dataclass(frozen=True, slots=True)
class SamplingPlan:
    """Sizes of self-sampling.

    lanes   conversations computed at once, or as many as fit into the memory
    top_k   likeliest tokens kept per position
    max_prompt_tokens   that it writes of a user's turn itself: what is quoted comes on top
    """

    lanes: int = 64
    top_k: int = 24
    max_prompt_tokens: int = 128
    max_answer_tokens: int = 192


@dataclass(slots=True, eq=False)
class _Lane:
    """One conversation under way. ``pending`` tokens have no KV yet."""

    opening: Opening
    slot: Slot
    rng: np.random.Generator
    temperature: float
    tokens: list[int]
    pending: int
    prompt_len: int | None = None  # None while the user's turn is being written
    has_next: list[bool] = field(default_factory=list)
    next_id: list[npt.NDArray[np.int32]] = field(default_factory=list)
    next_logprob: list[npt.NDArray[np.float16]] = field(default_factory=list)


class SelfSampler:
    """Samples conversations from ``loaded``, which it takes over. One owner thread."""

    def __init__(self, loaded: LoadedModel, plan: SamplingPlan, *, kv_bytes: int) -> None:
        self._plan = plan
        self._tokenizer = loaded.tokenizer
        self._stop_ids = frozenset(loaded.identity.stop_ids)
        self._vocab_size = loaded.identity.vocab_size
        self._frame = TurnFrame.of(loaded.tokenizer)
        self._openings = Openings(loaded.tokenizer, self._frame, self._stop_ids)
        self._model = TreeModel(loaded.model, num_slots=plan.lanes, kv_bytes=kv_bytes)
        # A turn's end is a stop id wherever the template closes turns with it.
        self._turn_ends = self._stop_ids | frozenset(self._frame.between[:1])

    @torch.inference_mode()
    def sample(self, seed: Sequence[int]) -> Iterator[Conversation]:
        """Conversations without end, in the order in which they are finished, which depends on how
        many fit the memory at once; what they say depends on ``seed`` alone, but for near ties
        that tip over where rounding depends on the batch, as on a GPU. Closing the iterator gives
        up those under way. Raises Busy where not even one has room."""
        openings = map(self._openings.fresh, ([*seed, number] for number in itertools.count()))
        waiting: deque[Opening] = deque()
        lanes: list[_Lane] = []
        try:
            while True:
                while len(lanes) < self._plan.lanes:
                    if not waiting:
                        waiting.append(next(openings))
                    lane = self._try_start(waiting[0], must_fit=not lanes)
                    if lane is None:
                        break
                    waiting.popleft()
                    lanes.append(lane)
                for lane in self._advance(lanes):
                    lanes.remove(lane)
                    self._model.cache.release(lane.slot)
                    conversation = _conversation(lane)
                    following = self._openings.after(conversation, lane.opening)
                    if following is not None:
                        waiting.append(following)
                    yield conversation
        finally:
            for lane in lanes:
                self._model.cache.release(lane.slot)

    def _try_start(self, opening: Opening, *, must_fit: bool) -> _Lane | None:
        """A conversation, or None while there is no room for one more beside the others."""
        try:
            return self._start(opening)
        except Busy:
            if must_fit:
                raise
            return None

    def _start(self, opening: Opening) -> _Lane:
        rng = np.random.default_rng(opening.seed)
        tokens = list(opening.token_ids)
        room = len(tokens) + len(self._frame.between)
        room += self._plan.max_prompt_tokens + self._plan.max_answer_tokens
        is_greedy = rng.random() < GREEDY_SHARE
        temperature = 0.0 if is_greedy else ANSWER_TEMPERATURE
        slot = self._model.cache.lease(room)
        lane = _Lane(opening, slot, rng, temperature, tokens, len(tokens))
        lane.has_next = [False] * (len(tokens) - 1)
        if opening.is_asked:
            self._open_answer(lane)
        return lane

    def _advance(self, lanes: list[_Lane]) -> list[_Lane]:
        """One pass over all lanes, one token for each; those that ended with it."""
        logits = self._model.forward([self._span(lane) for lane in lanes])[:, : self._vocab_size]
        logprob = logits.float().log_softmax(dim=1)
        top = logprob.topk(self._plan.top_k, dim=1)
        ids = top.indices.to(torch.int32).cpu().numpy()
        values = top.values.cpu().numpy()
        tokens = [
            self._choose(lane, ids[row], values[row], logprob[row])
            for row, lane in enumerate(lanes)
        ]
        for row, (lane, token) in enumerate(zip(lanes, tokens, strict=True)):
            lane.has_next.append(True)
            lane.next_id.append(ids[row])
            lane.next_logprob.append(values[row].astype(np.float16))
            lane.tokens.append(token)
            lane.pending = 1
        return [lane for lane in lanes if self._has_ended(lane)]

    def _span(self, lane: _Lane) -> Span:
        start = len(lane.tokens) - lane.pending
        chain = np.array(lane.tokens[start:], dtype=np.int32)
        offset = self._model.cache.offset(lane.slot)
        return chain_span(chain, start=start, offset=offset, num_logits=1)

    def _choose(
        self, lane: _Lane, ids: IntArray, values: npt.NDArray[np.float32], row: Tensor
    ) -> int:
        if lane.prompt_len is None:
            likely = _within(values, PROMPT_TOP_P)
            return int(ids[_draw(lane.rng, values[:likely] / PROMPT_TEMPERATURE)])
        if lane.temperature == 0.0:
            return int(ids[0])
        scores = (row / lane.temperature).cpu().numpy()
        return int(_draw(lane.rng, scores))

    def _has_ended(self, lane: _Lane) -> bool:
        token, plan = lane.tokens[-1], self._plan
        if lane.prompt_len is not None:
            return token in self._stop_ids or (
                len(lane.tokens) - lane.prompt_len >= plan.max_answer_tokens
            )
        written = len(lane.tokens) - len(lane.opening.token_ids)
        if token in self._turn_ends:
            lane.tokens.pop()  # the template closes the turn; what the target expected here stays
        elif written < plan.max_prompt_tokens:
            return False
        self._open_answer(lane)
        return False

    def _open_answer(self, lane: _Lane) -> None:
        """The user's turn is over: the template's tokens come next, at once."""
        # What has KV is everything before the last sampled token; a popped end never got any.
        with_kv = len(lane.next_id) and len(lane.has_next)
        lane.tokens.extend(self._frame.between)
        lane.pending = len(lane.tokens) - with_kv
        lane.has_next.extend([False] * (len(lane.tokens) - 1 - len(lane.has_next)))
        lane.prompt_len = len(lane.tokens)


def _conversation(lane: _Lane) -> Conversation:
    assert lane.prompt_len is not None  # no lane ends before its answer
    return Conversation(
        tokens=np.array(lane.tokens, dtype=np.int32),
        prompt_len=lane.prompt_len,
        is_greedy=lane.temperature == 0.0,
        has_next=np.array([*lane.has_next, False], dtype=np.bool_),
        next_id=np.stack(lane.next_id),
        next_logprob=np.stack(lane.next_logprob),
    )


def _within(logprob: npt.NDArray[np.float32], top_p: float) -> int:
    """How many of the falling probabilities make up ``top_p``, at least one."""
    return int(np.searchsorted(np.cumsum(np.exp(logprob)), top_p)) + 1


def _draw(rng: np.random.Generator, scores: npt.NDArray[np.float32]) -> int:
    """A sample of softmax(scores)."""
    mass = np.cumsum(np.exp(scores - scores.max(), dtype=np.float64))
    return int(np.searchsorted(mass, rng.random() * mass[-1], side="right"))
