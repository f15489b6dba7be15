"""The sessions of a verifier in virtual time: the real machines, their timers and slots, and what
they want of the next step.

Performs what the machines ask for. Steps are made by the verifier, out of ``wants``.
"""

from collections.abc import Callable
from typing import Final

from specedge.ids import SessionKey
from specedge.protocol.batch_ledger import BatchLedger
from specedge.protocol.effects import SetTimer, TimerDue
from specedge.protocol.messages import DownMessage, Progress
from specedge.protocol.verifier_effects import (
    DropSlot,
    EndingArrived,
    Gone,
    Reply,
    SlotDenied,
    SlotGiven,
    StepBegun,
    VerifierEffect,
    VerifierEvent,
    WantSlot,
    WantStep,
    Withdraw,
    WorkArrived,
)
from specedge.protocol.verifier_session import VerifierSession
from specedge_scheduler.sim.events import VirtualTime
from specedge_scheduler.sim.verifier_steps import StepPart

RETRY_MS: Final = 200


class SessionTable:
    """All sessions by key.

    wants    of the next step, in order of asking
    asked_s  since when a session's round waits
    """

    def __init__(
        self,
        make_machine: Callable[[SessionKey], VerifierSession],
        ledger: BatchLedger,
        num_slots: int,
        time: VirtualTime,
        say: Callable[[SessionKey, DownMessage], None],
    ) -> None:
        self.wants: dict[SessionKey, WantStep] = {}
        self.asked_s: dict[SessionKey, float] = {}
        self.num_leased = 0
        self.num_slots = num_slots
        self._make_machine = make_machine
        self._ledger = ledger
        self._time = time
        self._say = say
        self._machines: dict[SessionKey, VerifierSession] = {}
        self._timers: dict[SessionKey, float | None] = {}

    # ------------------------------------------------------------ what comes in

    def work(self, key: SessionKey, seq: int, event: WorkArrived) -> None:
        """A draft or a grant of that batch."""
        self._ledger.add(seq, key)
        self.asked_s.setdefault(key, self._time.now_s)
        self.feed(key, event)

    def begin(self, part: StepPart) -> None:
        """What it wanted goes into the step that starts now."""
        del self.wants[part.key]
        if part.is_round:
            self.asked_s.pop(part.key, None)
        self._ledger.begin(part.key)
        self.feed(part.key, StepBegun(part.num_chain))

    def end(self, key: SessionKey) -> None:
        """Cancelled or closed."""
        if key in self._machines:
            self.feed(key, EndingArrived())

    def feed(self, key: SessionKey, event: VerifierEvent) -> None:
        """Give the machine an event, and perform what it asks for until it asks no more. A session
        that is not known is made."""
        machine = self._machines.get(key)
        if machine is None:
            machine = self._machines[key] = self._make_machine(key)
        now_s = self._time.now_s
        effects = machine.on(event, now_s)
        for effect in effects:
            answer = self._perform(key, effect)
            if answer is not None:
                effects += machine.on(answer, now_s)

    def lose_all(self) -> None:
        """The verifier died: timers that are out find nobody."""
        self._machines.clear()

    # ------------------------------------------------------------ effects

    def _perform(  # noqa: C901  (one line for each effect there is)
        self, key: SessionKey, effect: VerifierEffect
    ) -> VerifierEvent | None:
        match effect:
            case Reply(message):
                if not isinstance(message, Progress):
                    self._settle(key)
                self._say(key, message)
            case WantStep():
                self.wants.pop(key, None)
                self.wants[key] = effect
                if effect.tree is None:
                    self._ledger.settle(key)
            case Withdraw():
                self.wants.pop(key, None)
            case WantSlot():
                if self.num_leased >= self.num_slots:
                    return SlotDenied(RETRY_MS)
                self.num_leased += 1
                return SlotGiven()
            case DropSlot():
                self.num_leased -= 1
            case SetTimer(at_s):
                self._set_timer(key, at_s)
            case Gone():
                self._forget(key)
            case _:
                pass  # rows that are kept cost nothing here
        return None

    def _settle(self, key: SessionKey) -> None:
        self.asked_s.pop(key, None)
        self._ledger.settle(key)

    def _forget(self, key: SessionKey) -> None:
        self._settle(key)
        self._machines.pop(key, None)
        self.wants.pop(key, None)
        self._timers.pop(key, None)

    def _set_timer(self, key: SessionKey, at_s: float | None) -> None:
        """One call is out per session; it looks at what is wanted then."""
        is_out = key in self._timers
        self._timers[key] = at_s
        if at_s is not None and not is_out:
            self._time.call_at(at_s, self._on_timer, key)

    def _on_timer(self, key: SessionKey) -> None:
        at_s = self._timers.pop(key, None)
        if at_s is None or key not in self._machines:
            return
        if at_s > self._time.now_s + 1e-9:
            self._timers[key] = at_s
            self._time.call_at(at_s, self._on_timer, key)
            return
        self.feed(key, TimerDue())
