"""The compute thread's part of one generation: a tree drafter that is opened when there is room,
kept in step with what was committed, and opened anew after a failure.

Synchronous. Called on the compute thread only, but for its figures, which anyone may read.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

import numpy as np

from specedge.drafting.counts import DraftCounts
from specedge.drafting.growth_rule import PassRecord
from specedge.drafting.reading import read_piece
from specedge.drafting.rounds import Decision
from specedge.drafting.tree_drafter import TreeDrafter
from specedge.engine.ports import Drafter
from specedge.errors import Busy
from specedge.params import SamplingParams, StopRule
from specedge.protocol.effects import Committed
from specedge.service.spans import NO_SPANS, SpanRing
from specedge.tree.ahead import AheadPolicy, OfferPolicy
from specedge.tree.calibration import Tally
from specedge.tree.token_tree import TokenTree
from specedge_edge.proactive import PassTime


@dataclass(frozen=True, slots=True)
class Workshop:
    """What all sessions of a drafter share; the compute thread's."""

    drafter: Drafter
    tally: Tally
    pass_time: PassTime
    now_s: Callable[[], float]
    spans: SpanRing = NO_SPANS
    lane: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class DraftedRound:
    """A round's tree, the passes since the round before, and how many levels had been there."""

    tree: TokenTree
    records: tuple[PassRecord, ...]
    levels_there: int


class SessionDrafter:
    """One session. ``prompt_len`` tells what of the committed tokens was generated.

    saved_s  time of the passes that rounds need not run, since a head start was there
    """

    def __init__(
        self, workshop: Workshop, params: SamplingParams, stop: StopRule, prompt_len: int
    ) -> None:
        self._shop = workshop
        self._params = params
        self._stop = stop
        self._prompt_len = prompt_len
        self._drafter = TreeDrafter(workshop.drafter, workshop.tally, workshop.now_s)
        self._is_open = False
        self._has_prompt_behind = False
        self._failure: Exception | None = None
        self.saved_s = 0.0

    @property
    def counts(self) -> DraftCounts:
        """Totals so far."""
        return self._drafter.counts

    def draft(
        self, committed: Sequence[int], news: Sequence[Committed], decision: Decision
    ) -> DraftedRound | None:
        """The next round's tree; None where the drafter's positions are at their end. ``news`` is
        what came since the last call that returned; ``committed`` all tokens, to start from where
        the drafter holds nothing yet.

        Raises Busy when there is no room, and whatever else the drafter raises, also what it raised
        in ``step_ahead``; the session then starts anew when it is asked again.
        """
        with self._giving_up_on_failure():
            self._catch_up(committed, news)
            return self._grow(decision)

    def read(self, committed: Sequence[int], news: Sequence[Committed]) -> bool:
        """Before ``draft``, where much is new: read a piece of it, if it is more than that; whether
        it was. The arguments, and what is raised, are as there."""
        with self._giving_up_on_failure():
            self._catch_up(committed, news)
            return read_piece(self._drafter.session)

    def step_ahead(self, policy: AheadPolicy, due_s: float | None) -> bool:
        """One pass beyond what was sent, as wide as it may be to be over before ``due_s``; whether
        one was run. A failure is kept for ``draft`` to raise."""
        if not self._is_open:
            return False
        began_s = self._shop.now_s()
        widest = math.inf if due_s is None else self._shop.pass_time.rows_within(due_s - began_s)
        if widest < 1:
            return False
        policy = replace(policy, beams=int(min(policy.beams, widest)))
        try:
            num_rows = self._drafter.step_ahead(policy)
        except Busy:
            return False
        except Exception as error:  # noqa: BLE001, RUF100 - raised by ``draft``
            self._failure = error
            self._give_up()
            return False
        if num_rows:
            ended_s = self._shop.now_s()
            self._shop.pass_time.add(ended_s - began_s, num_rows)
            self._shop.spans.add(self._shop.lane, "ahead", began_s, ended_s)
        return num_rows > 0

    def follow(self, news: Sequence[Committed], tree: TokenTree) -> None:
        """``news`` came, and the next round is out already: its draft is ``tree``, sent ahead. A
        failure is kept for ``draft`` to raise."""
        if not self._is_open:
            return  # ``draft`` starts from all that is committed then
        try:
            self._learn(news)
            self._drafter.follow(tree)
        except Exception as error:  # noqa: BLE001, RUF100 - raised by ``draft``
            self._failure = error
            self._give_up()

    def offer(self, policy: OfferPolicy) -> TokenTree | None:
        """What to send before the verdict; None: nothing."""
        tree = self._drafter.offer(policy) if self._is_open else None
        return None if tree is None or tree.num_drafted == 0 else tree

    def close(self) -> None:
        """Give the drafter's slot back. Idempotent; never raises: the session is over."""
        self._give_up()

    @contextmanager
    def _giving_up_on_failure(self) -> Iterator[None]:
        """Raises an earlier failure first."""
        try:
            error, self._failure = self._failure, None
            if error is not None:
                raise error
            yield
        except Busy:
            raise
        except Exception:
            self._give_up()
            raise

    def _catch_up(self, committed: Sequence[int], news: Sequence[Committed]) -> None:
        if not self._is_open:
            self._open(committed)
        else:
            self._learn(news)

    def _learn(self, news: Sequence[Committed]) -> None:
        appended: list[int] = []
        for verdict in news:
            if not verdict.was_tree:
                appended += verdict.tokens
                continue
            self._append(appended)
            path, bonus = verdict.tokens[:-1], verdict.tokens[-1]
            self._drafter.on_verdict(path, bonus, verdict.verdict.kept)
            appended = []
        self._append(appended)

    def _append(self, tokens: list[int]) -> None:
        if tokens:
            self._drafter.on_append(tokens)
            self._has_prompt_behind = False  # the next pass reads them first

    def _open(self, committed: Sequence[int]) -> None:
        num_generated = len(committed) - self._prompt_len
        stop = replace(self._stop, max_tokens=max(1, self._stop.max_tokens - num_generated))
        self._drafter.start(np.array(committed, dtype=np.int32), self._params, stop)
        self._is_open = True
        self._has_prompt_behind = False

    def _grow(self, decision: Decision) -> DraftedRound | None:
        assert decision.policy is not None
        saved = self.counts.passes_saved
        self._drafter.begin(decision.policy, decision.rule)
        levels_there = self.counts.passes_saved - saved
        self.saved_s += levels_there * self._shop.pass_time.seconds
        full: Busy | None = None
        try:
            while self._step():
                pass
        except Busy as error:
            full = error  # what is there already is worth sending
        tree = self._drafter.finish().tree
        if full is not None and tree.num_drafted == 0:
            raise full
        if self._drafter.is_at_end and tree.num_drafted == 0:
            return None
        return DraftedRound(tree, self._drafter.take_records(), levels_there)

    def _step(self) -> bool:
        began_s = self._shop.now_s()
        num_rows = self._drafter.step()
        if num_rows and self._has_prompt_behind:
            self._shop.pass_time.add(self._shop.now_s() - began_s, num_rows)
        self._has_prompt_behind = True
        return num_rows > 0

    def _give_up(self) -> None:
        self._is_open = False
        with suppress(Exception):  # of a drafter that failed already
            self._drafter.close()
