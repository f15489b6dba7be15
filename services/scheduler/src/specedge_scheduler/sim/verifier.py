"""A verifier in virtual time: the real session machines, and a device whose steps only take time.

Forms steps as the service does: rounds in order of their asking, prefill in what is left; tells
the scheduler as much as the service would. Knows nothing of links but ``say`` and ``report``.
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from specedge.ids import SessionKey, VerifierId
from specedge.protocol.codec import decode_context
from specedge.protocol.effects import SetTimer, TimerDue
from specedge.protocol.messages import Batch, DownMessage, Identity, Limits, Progress
from specedge.protocol.reports import Stat, StepReport
from specedge.protocol.verifier_effects import (
    ContextArrived,
    DropSlot,
    EndingArrived,
    Gone,
    Reply,
    SlotDenied,
    SlotGiven,
    StepBegun,
    Stepped,
    VerifierEffect,
    VerifierEvent,
    WantSlot,
    WantStep,
    Withdraw,
    WorkArrived,
)
from specedge.protocol.verifier_session import VerifierSession
from specedge_scheduler.sim.drafts import VOCABULARY, line_choice, num_levels
from specedge_scheduler.sim.draws import Stream
from specedge_scheduler.sim.events import VirtualTime
from specedge_scheduler.sim.scenario import VerifierSpec

HEARTBEAT_S: Final = 0.1
STEPS_REPEATED: Final = 2
PREFILL_SHARE: Final = 8  # at least 1/8 of a step's rows while anybody prefills
RETRY_MS: Final = 200
IDENTITY: Final = Identity(
    model="emulated", weights="aa", tokenizer="bb", vocab_size=VOCABULARY, max_context=1 << 20
)
LIMITS: Final = Limits(nodes=1023, append=64, context=1 << 20, grant=256)

# How far a draft is right: (session, base, its levels) → levels.
Judge = Callable[[SessionKey, int, int], int]


class _Part(NamedTuple):
    key: SessionKey
    want: WantStep
    num_chain: int
    queue_ms: float

    @property
    def rows(self) -> int:
        nodes = 0 if self.want.tree is None else self.want.tree.num_drafted
        return self.num_chain + nodes


@dataclass(slots=True)
class VerifierTally:
    """What a verifier did since the figures count: steps, seconds in them, and what was in them;
    ``gaps_s`` between two steps, where nothing ran."""

    num_steps: int = 0
    busy_s: float = 0.0
    num_rounds: int = 0
    num_rows: int = 0
    gaps_s: list[float] | None = None


@dataclass(frozen=True, slots=True)
class VerifierPorts:
    """What a verifier meets: time, the text's judge, edges and schedulers; ``host`` draws what its
    own software takes."""

    time: VirtualTime
    judge: Judge
    say: Callable[[SessionKey, DownMessage], None]
    report: Callable[[VerifierId, Stat], None]
    host: Stream


class SimVerifier:
    """One verifier's life from its start to its death; ``is_dead`` ends it."""

    def __init__(
        self, name: VerifierId, incarnation: int, spec: VerifierSpec, ports: VerifierPorts
    ) -> None:
        self.name = name
        self.is_dead = False
        self.tally = VerifierTally(gaps_s=[])
        self._incarnation = f"{incarnation}"
        self._profile = spec.profile
        self._slots = spec.slots
        self._step_rows = spec.step_rows
        self._overhead_s = spec.overhead_ms / 1000
        self._answer_ms = spec.answer_ms
        self._host = ports.host
        self._time = ports.time
        self._judge = ports.judge
        self._say = ports.say
        self._report = ports.report
        self._machines: dict[SessionKey, VerifierSession] = {}
        self._timers: dict[SessionKey, float | None] = {}
        self._wants: dict[SessionKey, WantStep] = {}
        self._asked_s: dict[SessionKey, float] = {}
        self._num_leased = 0
        self._parts: list[_Part] = []
        self._is_stepping = False
        self._wakes = False
        self._ended_s: float | None = None
        self._seq = 0
        self._steps: deque[StepReport] = deque(maxlen=STEPS_REPEATED)
        self._num_steps = 0
        self._epoch = (0, 0)
        self._last = self._begun = 0
        self._open: dict[int, set[SessionKey]] = {}
        self._in: dict[SessionKey, list[int]] = {}

    def start(self) -> None:
        """Report from now on."""
        self._beat()

    # ------------------------------------------------------------ what comes in

    def on_batch(self, batch: Batch) -> None:
        """Work, in order."""
        if self.is_dead:
            return
        now_s = self._time.now_s
        self._epoch = (batch.epoch[0], batch.epoch[1])
        self._last = max(self._last, batch.seq)
        for item in batch.items:
            key = SessionKey(item.e, item.s)  # type: ignore[arg-type]
            self._open.setdefault(batch.seq, set()).add(key)
            self._in.setdefault(key, []).append(batch.seq)
            self._asked_s.setdefault(key, now_s)
            self._feed(key, WorkArrived(item, now_s + item.budget_ms / 1000))
        self._wake()

    def on_context(self, key: SessionKey, payload: bytes) -> None:
        """A chunk as the edge sent it."""
        if not self.is_dead:
            header, ids = decode_context(payload, VOCABULARY)
            self._feed(key, ContextArrived(header, ids))
            self._wake()

    def on_ending(self, key: SessionKey) -> None:
        """Cancelled or closed."""
        if not self.is_dead and key in self._machines:
            self._feed(key, EndingArrived())

    def die(self) -> None:
        """Without a word; what is on its way to it or in it is lost."""
        self.is_dead = True

    # ------------------------------------------------------------ machines

    def _feed(self, key: SessionKey, event: VerifierEvent) -> None:
        machine = self._machines.get(key)
        if machine is None:
            machine = VerifierSession(key, LIMITS, IDENTITY, self.name)
            self._machines[key] = machine
        now_s = self._time.now_s
        if isinstance(event, StepBegun):
            self._begun = max(self._begun, *self._in.get(key, ()), 0)
        effects = machine.on(event, now_s)
        for effect in effects:
            answer = self._perform(key, effect)
            if answer is not None:
                effects += machine.on(answer, now_s)

    def _perform(  # noqa: C901  (one line for each effect there is)
        self, key: SessionKey, effect: VerifierEffect
    ) -> VerifierEvent | None:
        match effect:
            case Reply(message):
                if not isinstance(message, Progress):
                    self._settle(key)
                self._say(key, message)
            case WantStep():
                self._wants.pop(key, None)
                self._wants[key] = effect
                if effect.tree is None:
                    self._settle_batches(key)
            case Withdraw():
                self._wants.pop(key, None)
            case WantSlot():
                if self._num_leased >= self._slots:
                    return SlotDenied(RETRY_MS)
                self._num_leased += 1
                return SlotGiven()
            case DropSlot():
                self._num_leased -= 1
            case SetTimer(at_s):
                self._set_timer(key, at_s)
            case Gone():
                self._forget(key)
            case _:
                pass  # rows that are kept cost nothing here
        return None

    def _settle(self, key: SessionKey) -> None:
        self._asked_s.pop(key, None)
        self._settle_batches(key)

    def _settle_batches(self, key: SessionKey) -> None:
        for seq in self._in.pop(key, ()):
            keys = self._open[seq]
            keys.discard(key)
            if not keys:
                del self._open[seq]

    def _forget(self, key: SessionKey) -> None:
        self._settle(key)
        self._machines.pop(key, None)
        self._wants.pop(key, None)
        self._timers.pop(key, None)

    def _set_timer(self, key: SessionKey, at_s: float | None) -> None:
        """One call is out per session; it looks at what is wanted then."""
        is_out = key in self._timers
        self._timers[key] = at_s
        if at_s is not None and not is_out:
            self._time.call_at(at_s, self._on_timer, key)

    def _on_timer(self, key: SessionKey) -> None:
        at_s = self._timers.pop(key, None)
        if at_s is None or self.is_dead or key not in self._machines:
            return
        if at_s > self._time.now_s + 1e-9:
            self._timers[key] = at_s
            self._time.call_at(at_s, self._on_timer, key)
            return
        self._feed(key, TimerDue())

    # ------------------------------------------------------------ steps

    def _wake(self) -> None:
        """Begin a step once everything that arrives at this moment is here."""
        if not self._is_stepping and not self._wakes and self._wants:
            self._wakes = True
            self._time.call_at(self._time.now_s, self._begin)

    def _begin(self) -> None:
        self._wakes = False
        if self.is_dead or self._is_stepping or not self._wants:
            return
        now_s = self._time.now_s
        self._parts = parts = self._plan(now_s)
        for part in parts:
            del self._wants[part.key]
            self._feed(part.key, StepBegun(part.num_chain))
        self._is_stepping = True
        if self._ended_s is not None and self.tally.gaps_s is not None:
            self.tally.gaps_s.append(now_s - self._ended_s)
        ms = self._profile.step_ms(
            rows=sum(part.rows for part in parts if part.want.tree is not None),
            context_tokens=sum(part.want.start + part.num_chain for part in parts),
            prefill_tokens=sum(part.rows for part in parts if part.want.tree is None),
        )
        self._time.call_at(now_s + ms / 1000, self._end, ms)

    def _plan(self, now_s: float) -> list[_Part]:
        is_prefilling = any(want.tree is None for want in self._wants.values())
        share = max(1, self._step_rows // PREFILL_SHARE) if is_prefilling else 0
        room = self._step_rows - share
        parts: list[_Part] = []
        prefill: list[tuple[SessionKey, WantStep]] = []
        is_full = False
        for key, want in self._wants.items():
            if want.tree is None:
                prefill.append((key, want))
                continue
            rows = len(want.chain) + want.tree.num_drafted
            is_full = is_full or (bool(parts) and rows > room)
            if not is_full:
                room -= rows
                waited_ms = (now_s - self._asked_s.pop(key, now_s)) * 1000
                parts.append(_Part(key, want, len(want.chain), waited_ms))
        room = max(room, 0) + share
        for index, (key, want) in enumerate(prefill):
            size = min(len(want.chain), math.ceil(room / (len(prefill) - index)))
            room -= size
            if size > 0:
                parts.append(_Part(key, want, size, 0.0))
        return parts

    def _end(self, ms: float) -> None:
        if self.is_dead:
            return
        parts, self._parts = self._parts, []
        self._is_stepping = False
        self._ended_s = self._time.now_s
        self._note(parts, ms)
        rows = sum(part.rows for part in parts)
        for part in parts:
            if part.want.tree is None:
                self._feed(part.key, Stepped(None, step_ms=ms, step_rows=rows))
        if self._wants:
            self._wakes = True
            self._time.call_at(self._time.now_s + self._overhead_s, self._begin)
        # As the service does: the next step begins, then verdicts go out, then the report.
        answered_s = self._time.now_s + self._host.host_s(self._answer_ms)
        self._time.call_at(answered_s, self._finish, parts, ms, rows)

    def _finish(self, parts: list[_Part], ms: float, rows: int) -> None:
        if self.is_dead:
            return
        for part in parts:
            if part.want.tree is not None:
                self._answer(part, ms, rows)
        self._tell()
        self._wake()

    def _answer(self, part: _Part, ms: float, rows: int) -> None:
        tree = part.want.tree
        assert tree is not None
        base = part.want.start + len(part.want.chain)
        choice = line_choice(tree, self._judge(part.key, base, num_levels(tree)))
        stepped = Stepped(choice, queue_ms=part.queue_ms, step_ms=ms, step_rows=rows)
        self._feed(part.key, stepped)

    def _note(self, parts: list[_Part], ms: float) -> None:
        rounds = [part for part in parts if part.want.tree is not None]
        rows = sum(part.rows for part in parts)
        prefill = sum(part.rows for part in parts if part.want.tree is None)
        tally = self.tally
        tally.num_steps += 1
        tally.busy_s += ms / 1000
        tally.num_rounds += len(rounds)
        tally.num_rows += rows
        self._steps.append(
            StepReport.model_construct(
                seq=self._num_steps,
                rows=rows,
                prefill=prefill,
                context=sum(part.want.start + part.num_chain for part in parts),
                sessions=len(parts),
                ms=ms,
                hosted=0,
                draft_ms=0.0,
                slack_ms=min((part.queue_ms for part in rounds), default=0.0),
            )
        )
        self._num_steps += 1

    # ------------------------------------------------------------ reports

    def _beat(self) -> None:
        if not self.is_dead:
            self._tell()
            self._time.call_at(self._time.now_s + HEARTBEAT_S, self._beat)

    def _tell(self) -> None:
        if self.is_dead:
            return
        stat = Stat.model_construct(
            inc=self._incarnation,
            seq=self._seq,
            identity=IDENTITY,
            limits=LIMITS,
            slots=(self._num_leased, self._slots),
            epoch=self._epoch,
            batches=tuple(self._open),
            last=self._last,
            begun=self._begun,
            running=sum(part.rows for part in self._parts),
            step_rows=self._step_rows,
            steps=tuple(self._steps),
        )
        self._seq += 1
        self._report(self.name, stat)
