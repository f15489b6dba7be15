"""What comes in on a verifier's work subject, and what becomes of its sessions; no engine."""

from collections import Counter

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from specedge.clock import ManualClock
from specedge.ids import Epoch, Round, SessionKey, VerifierId
from specedge.link.base import Message
from specedge.protocol import subjects
from specedge.protocol.batch_ledger import BatchLedger
from specedge.protocol.codec import batch_item, encode
from specedge.protocol.context import context_chunks
from specedge.protocol.messages import (
    Batch,
    Cold,
    DownMessage,
    Draft,
    Ending,
    Progress,
    Rejected,
    SessionParams,
    Verdict,
)
from specedge.protocol.subjects import Work
from specedge.protocol.token_log import TokenLog
from specedge.protocol.verifier_effects import StepBegun, Stepped
from specedge.protocol.verifier_session import VerifierSession
from specedge_verifier.entry import Entry, SessionTimes
from specedge_verifier.handlers import WorkHandler
from specedge_verifier.metrics import VerifierMetrics
from specedge_verifier.sessions import SessionTable
from specedge_verifier.slots import SlotPool
from tests.unit.scheduler_facts import IDENTITY, LIMITS, key

V1 = VerifierId("v1")
PARAMS = SessionParams(model="big", weights="aa", tokenizer="bb", prompt=4, max_tokens=20)
PROMPT = [1, 2, 3, 4]


def verdict(round_: int, *tokens: int, base: int) -> Verdict:
    """That commits ``tokens``, the last one up to ``base``."""
    *path, bonus = tokens
    return Verdict(round=round_, path=tuple(path), bonus=bonus, base=base, hash="0" * 16)


class Desk:
    """A verifier without its engine: the test makes the steps."""

    def __init__(self, *, slots: int = 2) -> None:
        self.clock = ManualClock(100.0)
        self.ledger = BatchLedger()
        self.pool = SlotPool(slots)
        self.said: list[tuple[SessionKey, DownMessage]] = []
        self.registry = CollectorRegistry()
        self.table = SessionTable(
            make_machine=lambda session: VerifierSession(session, LIMITS, IDENTITY, V1),
            pool=self.pool,
            ledger=self.ledger,
            clock=self.clock,
            times=SessionTimes(idle_s=30.0, park_s=1.0),
            say=self._say,
        )
        self.handler = WorkHandler(
            table=self.table,
            ledger=self.ledger,
            clock=self.clock,
            metrics=VerifierMetrics(self.registry),
            vocab_size=IDENTITY.vocab_size,
            say=self._say,
        )
        self._seq = 0

    def _say(self, session: SessionKey, message: DownMessage) -> None:
        self.said.append((session, message))

    def hear(self, kind: Work, payload: bytes, session: SessionKey | None = None) -> None:
        self.handler.on_message(Message(subjects.work(kind, V1, session), payload))

    def context(self, session: SessionKey) -> None:
        for chunk in context_chunks(TokenLog(PARAMS, PROMPT), PARAMS, Round(0)):
            self.hear(Work.CONTEXT, chunk, session)

    def batch(self, *sessions: SessionKey, epoch: Epoch = Epoch(1, 0)) -> None:  # noqa: B008
        self._seq += 1
        draft = Draft(base=4, hash=TokenLog(PARAMS, PROMPT).hash_at(4), round=0, budget_ms=1000)
        items = tuple(batch_item(draft, one, budget_ms=1000, held_ms=0.0) for one in sessions)
        self.hear(Work.BATCH, encode(Batch(epoch=epoch, seq=self._seq, items=items)))

    def step(self, session: SessionKey, choice: int = 7) -> None:
        """The session's wanted step, begun and ended."""
        entry = self.entry(session)
        want = entry.want
        assert want is not None
        entry.want, entry.running = None, want
        del self.table.wants[session]
        self.table.feed(entry, StepBegun(len(want.chain)))
        entry.running = None
        chosen = None if want.tree is None else np.asarray([choice], dtype=np.int32)
        self.table.feed(entry, Stepped(chosen))

    def entry(self, session: SessionKey) -> Entry:
        entry = self.table.get(session)
        assert entry is not None
        return entry

    def dropped(self, reason: str) -> float | None:
        return self.registry.get_sample_value("specedge_messages_dropped_total", {"reason": reason})

    def ready(self, session: SessionKey) -> None:
        self.context(session)
        while session in self.table.wants:
            self.step(session)


def test_context_and_a_round_make_a_verdict_to_that_session() -> None:
    desk = Desk()
    desk.ready(key("A"))

    desk.batch(key("A"))
    assert desk.ledger.held == (1,)
    desk.step(key("A"), choice=9)

    ((session, verdict),) = desk.said
    assert session == key("A")
    assert isinstance(verdict, Verdict)
    assert (verdict.bonus, verdict.base) == (9, 5)
    assert desk.ledger.held == ()


def test_a_round_of_an_unknown_session_is_cold_and_holds_no_batch() -> None:
    desk = Desk()

    desk.batch(key("A"), key("B"))

    assert [type(message) for _, message in desk.said] == [Cold, Cold]
    assert desk.ledger.held == ()
    assert desk.ledger.last == 1


def test_a_round_that_waits_for_its_prefill_holds_no_batch() -> None:
    desk = Desk()
    desk.context(key("A"))

    desk.batch(key("A"))

    want = desk.entry(key("A")).want
    assert want is not None
    if want.tree is None:
        assert desk.ledger.held == ()


def test_work_of_an_earlier_term_is_dropped() -> None:
    desk = Desk()
    desk.batch(key("A"), epoch=Epoch(2, 0))

    desk.batch(key("B"), epoch=Epoch(1, 5))

    assert [session for session, _ in desk.said] == [key("A")]
    assert desk.dropped("stale_epoch") == 1


@pytest.mark.parametrize(
    ("subject", "reason"),
    [
        ("se.work.v1.dance", "unknown_subject"),
        ("se.work.v1.ctx.nobody.nothing", "unknown_subject"),
        ("se.work.v1.batch", "bad_batch"),
        (subjects.work(Work.CONTEXT, V1, key()), "bad_context"),
        (subjects.work(Work.CANCEL, V1, key()), "unknown_session"),
    ],
)
def test_what_leads_to_nothing_is_counted_and_raises_nothing(subject: str, reason: str) -> None:
    desk = Desk()

    for junk in (b"", b"{}", b"\xff" * 100, b"[1]\n123"):
        desk.handler.on_message(Message(subject, junk))

    assert desk.dropped(reason) == 4
    assert len(desk.table) == 0


def test_a_context_with_an_id_outside_the_vocabulary_is_rejected_by_field() -> None:
    desk = Desk()
    params = PARAMS.model_copy(update={"prompt": 3})
    (chunk,) = context_chunks(TokenLog(params, [1, IDENTITY.vocab_size, 2]), params, Round(0))

    desk.hear(Work.CONTEXT, chunk, key())

    ((_, rejected),) = desk.said
    assert isinstance(rejected, Rejected)
    assert rejected.field == "ids[1]"


def test_a_cancel_takes_the_sessions_work_and_slot_away() -> None:
    desk = Desk()
    desk.ready(key("A"))
    desk.batch(key("A"))

    desk.hear(Work.CANCEL, encode(Ending()), key("A"))

    assert len(desk.table) == 0
    assert not desk.table.wants
    assert desk.pool.num_leased == 0
    assert desk.ledger.held == ()


def test_with_every_slot_busy_a_round_is_rejected_with_a_time_to_wait() -> None:
    desk = Desk(slots=1)
    desk.ready(key("A"))

    desk.context(key("B"))
    desk.batch(key("B"))

    ((session, rejected),) = [one for one in desk.said if not isinstance(one[1], Progress)]
    assert session == key("B")
    assert isinstance(rejected, Rejected)
    assert rejected.retry_ms


def test_a_session_idle_for_a_while_gives_its_slot_to_one_that_needs_it() -> None:
    desk = Desk(slots=1)
    desk.ready(key("A"))
    desk.clock.advance(1.5)

    desk.ready(key("B"))
    desk.batch(key("B"))
    desk.step(key("B"))

    assert isinstance(desk.said[-1][1], Verdict)
    assert desk.entry(key("A")).lease is None
    # It comes back when it speaks: its context is still here.
    desk.clock.advance(1.5)
    desk.batch(key("A"))
    while key("A") in desk.table.wants:
        desk.step(key("A"))
    assert desk.said[-1][0] == key("A")
    assert isinstance(desk.said[-1][1], Verdict)


def test_a_session_without_a_word_for_30_s_is_given_up() -> None:
    desk = Desk()
    desk.table.start_sweeping()
    desk.ready(key("A"))
    desk.clock.advance(20.0)
    desk.ready(key("B"))

    desk.clock.advance(15.0)

    assert desk.table.get(key("A")) is None
    assert desk.table.get(key("B")) is not None
    assert desk.pool.num_leased == 1
    desk.table.close()


def test_what_gone_sessions_counted_is_not_forgotten() -> None:
    desk = Desk()
    desk.batch(key("A"))
    desk.hear(Work.CLOSE, encode(Ending()), key("A"))

    desk.batch(key("B"))

    assert desk.table.counted == Counter(cold=2)


def test_to_say_again_what_is_held_keeps_nobodys_slot() -> None:
    desk = Desk(slots=1)
    desk.ready(key("A"))
    for _ in range(3):
        desk.clock.advance(0.5)
        desk.context(key("A"))

    desk.ready(key("B"))

    assert desk.entry(key("A")).lease is None
    assert desk.entry(key("B")).lease is not None


def test_a_verdict_said_again_is_no_news() -> None:
    desk = Desk()
    desk.ready(key("A"))

    first, second = verdict(0, 7, 8, base=5), verdict(1, 9, base=6)
    said = [desk.table.count_new(key("A"), one) for one in (first, first, second, first)]

    assert said == [2, 0, 1, 0]
    assert desk.table.count_new(key("B"), first) == 0


def test_tokens_said_again_in_other_rounds_are_no_news() -> None:
    desk = Desk()
    desk.ready(key("A"))

    said = [verdict(0, 7, 8, 9, base=6), verdict(0, 7, base=4), verdict(1, 8, 9, 5, base=7)]

    assert [desk.table.count_new(key("A"), one) for one in said] == [3, 0, 1]
