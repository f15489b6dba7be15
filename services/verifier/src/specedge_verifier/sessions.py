"""The sessions of this verifier: machines, timers, slots, and what they want of the next step.

Performs the machines' effects, in order, on the event loop. Never touches the engine: slots are
counted by ``SlotPool``, and steps are made by the engine loop out of ``wants``. One owner, the
event loop; every method is synchronous, so none sees another half done.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from typing import Final, assert_never

import numpy as np
import structlog

from specedge.clock import Cancellable, Timers
from specedge.ids import SessionKey
from specedge.log_pace import is_worth_a_line
from specedge.protocol.batch_ledger import BatchLedger
from specedge.protocol.effects import SetTimer, TimerDue
from specedge.protocol.messages import DownMessage, Progress, Verdict
from specedge.protocol.verifier_effects import (
    AheadArrived,
    DropSlot,
    EndingArrived,
    Gone,
    KeepRows,
    Reply,
    SlotDenied,
    SlotGiven,
    SlotTaken,
    StepBegun,
    StepFailed,
    Stepped,
    VerifierEffect,
    VerifierEvent,
    WantSlot,
    WantStep,
    Withdraw,
    WorkArrived,
)
from specedge.protocol.verifier_session import VerifierSession
from specedge.protocol.verifier_states import VerifierState
from specedge.tree.token_tree import IntArray
from specedge_verifier.entry import FAILED, PARKED, Entry, MachineFailed, SessionTimes
from specedge_verifier.hosted_drafting import LeaveCall
from specedge_verifier.slots import KeepCall, SlotPool

MAX_SESSIONS: Final = 8192
NO_ROWS: Final[IntArray] = np.empty(0, dtype=np.int32)

_log = structlog.get_logger("specedge.verifier")


class SessionTable:
    """All sessions by key.

    say   called with every message for an edge
    ahead rows of the rounds at hand whose drafts were sent ahead, by session
    work  set when a step has something new to do; the engine loop clears it
    """

    def __init__(
        self,
        *,
        make_machine: Callable[[SessionKey], VerifierSession],
        pool: SlotPool,
        ledger: BatchLedger,
        clock: Timers,
        times: SessionTimes,
        say: Callable[[SessionKey, DownMessage], None],
    ) -> None:
        self.wants: dict[SessionKey, Entry] = {}  # in order of asking
        self.ahead: dict[SessionKey, int] = {}
        self._entries: dict[SessionKey, Entry] = {}
        self._make_machine = make_machine
        self._pool = pool
        self._ledger = ledger
        self._clock = clock
        self._times = times
        self._say = say
        self.work = asyncio.Event()
        self._sweep: Cancellable | None = None
        self._counted: Counter[str] = Counter()  # by sessions that are gone, and parkings

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def entries(self) -> list[Entry]:
        """All of them, for reports."""
        return list(self._entries.values())

    @property
    def counted(self) -> Counter[str]:
        """What all sessions, past ones included, ignored, rejected or answered again, and how often
        one was parked."""
        return sum((entry.machine.counters for entry in self.entries), self._counted)

    def get(self, key: SessionKey) -> Entry | None:
        """The session, if it is known."""
        return self._entries.get(key)

    # ------------------------------------------------------------ what comes in

    def hear(self, key: SessionKey, event: VerifierEvent) -> None:
        """The edge said something: its session is made if it is unknown."""
        now_s = self._clock.now_s()
        entry = self._entries.get(key)
        if entry is None:
            self._make_room()
            entry = Entry(key, self._make_machine(key), heard_s=now_s, active_s=now_s)
            self._entries[key] = entry
        entry.heard_s = now_s
        if isinstance(event, WorkArrived) and entry.asked_s is None:
            entry.asked_s = now_s
        self.feed(entry, event)

    def count_new(self, key: SessionKey, verdict: Verdict) -> int:
        """How many tokens of a verdict that is being said were said by none before. The same ones
        may be said again, in the same rounds or, where a grant was taken back, in others."""
        entry = self._entries.get(key)
        if entry is None or verdict.base <= entry.counted_base:
            return 0
        num_new = min(len(verdict.path) + 1, verdict.base - entry.counted_base)
        entry.counted_base = verdict.base
        return num_new

    def hint(self, key: SessionKey, event: AheadArrived) -> bool:
        """The edge said what only a session that is known can use. False if it is not."""
        entry = self._entries.get(key)
        if entry is not None:
            entry.heard_s = self._clock.now_s()
            self.feed(entry, event)
        return entry is not None

    def end(self, key: SessionKey) -> bool:
        """Cancelled, closed or given up. False if the session is not known."""
        entry = self._entries.get(key)
        if entry is not None:
            self.feed(entry, EndingArrived())
        return entry is not None

    def feed(self, entry: Entry, event: VerifierEvent) -> None:
        """Give the machine an event and perform what it asks for, until it asks no more. What is
        told to a session that has gone is lost. One whose machine fails goes: no session may be
        able to end the others', and its edge, which says its round again, begins anew."""
        if self._entries.get(entry.key) is not entry:
            return
        if entry.is_broken:
            self._give_up(entry)
            return
        now_s = self._clock.now_s()
        if isinstance(event, StepBegun) and entry.has_round_waiting:
            self._ledger.begin(entry.key)
        try:
            self._feed(entry, event, now_s)
        except MachineFailed as failed:
            self._note_machine_failure(entry, failed)
            return
        if not entry.has_round_waiting:
            self._ledger.settle(entry.key)
        self._note_ahead(entry)
        if entry.machine.state is VerifierState.READY:
            entry.asked_s = None  # it may have been answered before, or by nothing

    def _feed(self, entry: Entry, event: VerifierEvent, now_s: float) -> None:
        effects = deque(entry.ask(event, now_s))
        # What changes nothing keeps nobody's slot: what is held already may be said again for ever.
        if isinstance(event, (StepBegun, Stepped, StepFailed)) or any(map(_is_work, effects)):
            entry.active_s = now_s
        while effects:
            answer = self._perform(entry, effects.popleft())
            if answer is not None:
                effects.extend(entry.ask(answer, now_s))

    def _note_machine_failure(self, entry: Entry, failed: MachineFailed) -> None:
        self._counted[FAILED] += 1
        so_far = self._counted[FAILED]
        if is_worth_a_line(so_far):
            session = entry.key.session
            _log.error("session_failed", session=session, so_far=so_far, exc_info=failed.__cause__)
        entry.is_broken = True
        self._withdraw(entry)
        self._give_up(entry)

    def _give_up(self, entry: Entry) -> None:
        """Forget it, unless it is in a step: its rows may be computed again until that is over."""
        if entry.running is None:
            self.ahead.pop(entry.key, None)
            self._forget(entry)

    def start_sweeping(self) -> None:
        """Give up sessions that are idle for too long, from now on."""
        self._sweep = self._clock.call_at(
            self._clock.now_s() + self._times.sweep_s, self._give_up_idle
        )

    def close(self) -> None:
        """Stop every timer. Idempotent."""
        for entry in self._entries.values():
            self._set_timer(entry, None)
        if self._sweep is not None:
            self._sweep.cancel()

    def park_one(self) -> bool:
        """Take the slot of the session that is idle for longest; False if none may be taken."""
        idle_since_s = self._clock.now_s() - self._times.park_s
        idle = [entry for entry in self._entries.values() if entry.may_park(idle_since_s)]
        if not idle:
            return False
        self.park(min(idle, key=lambda entry: entry.active_s))
        return True

    def park(self, entry: Entry) -> None:
        """Take its slot: what it asks for next starts in a new one, of the size it needs then.
        Nothing happens unless it holds one and is idle."""
        if not entry.may_park(entry.active_s):
            return
        lease, entry.lease = entry.lease, None
        assert lease is not None
        self._counted[PARKED] += 1
        self._leave_seat(entry)
        self._pool.give_back(entry.key.edge, lease, NO_ROWS)
        self.feed(entry, SlotTaken())

    # ------------------------------------------------------------ effects

    def _perform(self, entry: Entry, effect: VerifierEffect) -> VerifierEvent | None:
        """Do it; what the machine is to be told in return, if anything."""
        match effect:
            case Reply():
                self._say(entry.key, effect.message)
                if not isinstance(effect.message, Progress):
                    entry.asked_s = None
                    self._ledger.settle(entry.key)
            case WantStep():
                self._note_want(entry, effect)
            case Withdraw():
                self._withdraw(entry)
            case KeepRows():
                assert entry.lease is not None
                self._pool.calls.append(KeepCall(entry.lease, effect.base, effect.path))
                self.work.set()
            case WantSlot():
                return self._lease(entry, effect)
            case DropSlot():
                self._drop_slot(entry, effect.tokens)
            case SetTimer():
                self._set_timer(entry, effect.at_s)
            case Gone():
                self._forget(entry)
            case _:
                assert_never(effect)
        return None

    def _note_want(self, entry: Entry, want: WantStep) -> None:
        if want.tree is not None and not want.is_hosted:
            self._leave_seat(entry)  # its edge drafts again
        self.wants.pop(entry.key, None)
        entry.want, entry.wanted_s = want, self._clock.now_s()
        self.wants[entry.key] = entry
        self.work.set()

    def _note_ahead(self, entry: Entry) -> None:
        rows = 0 if entry.is_idle else entry.machine.rows_ahead
        if rows:
            self.ahead[entry.key] = rows
        else:
            self.ahead.pop(entry.key, None)

    def _lease(self, entry: Entry, want: WantSlot) -> VerifierEvent:
        context = entry.machine.committed
        while (leased := self._pool.lease(entry.key.edge, context, want.num_tokens)) is None:
            if not self.park_one():
                return SlotDenied(self._times.retry_ms)
        entry.lease, rows_ready = leased
        return SlotGiven(rows_ready)

    def _drop_slot(self, entry: Entry, valid: IntArray) -> None:
        lease, entry.lease = entry.lease, None
        self._leave_seat(entry)
        if lease is not None:
            self._pool.give_back(entry.key.edge, lease, valid)
            self.work.set()

    def _leave_seat(self, entry: Entry) -> None:
        seat, entry.seat = entry.seat, None
        if seat is not None:
            self._pool.calls.append(LeaveCall(seat))
            self.work.set()

    def _withdraw(self, entry: Entry) -> None:
        entry.want = None
        self.wants.pop(entry.key, None)

    def _set_timer(self, entry: Entry, at_s: float | None) -> None:
        if entry.timer is not None:
            entry.timer.cancel()
        entry.timer = None
        if at_s is not None:
            entry.timer = self._clock.call_at(at_s, lambda: self._on_timer(entry))

    def _on_timer(self, entry: Entry) -> None:
        entry.timer = None
        self.feed(entry, TimerDue())

    def _forget(self, entry: Entry) -> None:
        self._withdraw(entry)
        self._set_timer(entry, None)
        self._drop_slot(entry, NO_ROWS)
        self._ledger.settle(entry.key)
        self._counted.update(entry.machine.counters)
        del self._entries[entry.key]

    # ------------------------------------------------------------ idleness

    def _give_up_idle(self) -> None:
        self.start_sweeping()
        idle_since_s = self._clock.now_s() - self._times.idle_s
        for entry in self.entries:
            if entry.is_idle and max(entry.heard_s, entry.active_s) < idle_since_s:
                _log.info("session_given_up", session=entry.key.session)
                self.feed(entry, EndingArrived())

    def _make_room(self) -> None:
        """Bound the table: the session that is idle for longest goes first."""
        if len(self._entries) < MAX_SESSIONS:
            return
        idle = [entry for entry in self._entries.values() if entry.is_idle]
        oldest = min(idle or self._entries.values(), key=lambda entry: entry.heard_s)
        self.feed(oldest, EndingArrived())


def _is_work(effect: VerifierEffect) -> bool:
    return isinstance(effect, (WantSlot, WantStep))
