"""One edge and one verifier in virtual time: real session machines, real bytes through the real
codec, the real ``TreeDrafter`` and controller; only devices and link are imitated. A generation of
minutes takes a second, and comes out the same every time.

Stands in for: the services' drivers, scheduler and broker (their times are in ``overhead_ms``).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np

from benchmarks.traces import VOCAB_SIZE, TraceDrafter, TraceText
from specedge.clock import Cancellable, ManualClock
from specedge.drafting.controller import Decision, HostedOutcome, RoundOutcome
from specedge.drafting.growth_rule import PassRecord
from specedge.drafting.tree_drafter import TreeDrafter
from specedge.ids import EdgeId, SessionId, SessionKey
from specedge.protocol import codec
from specedge.protocol.edge_session import EdgeSession
from specedge.protocol.effects import (
    Answered,
    AskDraft,
    Committed,
    Drafted,
    EdgeEvent,
    Ended,
    OpenAnswered,
    RequestOpen,
    SendUp,
    SetTimer,
    Started,
    TimerDue,
)
from specedge.protocol.messages import Draft, Identity, Limits, Opened, SessionParams
from specedge.protocol.subjects import Up
from specedge.protocol.verifier_effects import (
    ContextArrived,
    KeepRows,
    Reply,
    SlotGiven,
    StepBegun,
    Stepped,
    VerifierEvent,
    WantSlot,
    WantStep,
    WorkArrived,
)
from specedge.protocol.verifier_session import VerifierSession
from specedge.tree.ahead import AheadPolicy
from specedge.tree.calibration import Tally
from specedge.tree.token_tree import TokenTree

IDENTITY: Final = Identity(
    model="trace", weights="ab12", tokenizer="cd34", vocab_size=VOCAB_SIZE, max_context=1 << 20
)
LIMITS: Final = Limits(nodes=64, append=64, context=1 << 20, grant=256)
KEY: Final = SessionKey(EdgeId("U" + "A" * 55), SessionId("0" * 32))
PROMPT_LEN: Final = 16


class Control(Protocol):
    """What decides the rounds: a ``DraftController``, or a fixed setting."""

    def decide(self, max_nodes: int, max_grant: int) -> Decision: ...

    def observe_passes(self, passes: tuple[PassRecord, ...]) -> None: ...

    def observe_verdict(self, outcome: RoundOutcome) -> None: ...

    def observe_hosted(self, outcome: HostedOutcome) -> None: ...


@dataclass(frozen=True, slots=True)
class FixedSetting:
    """The same every round."""

    decision: Decision

    def decide(self, max_nodes: int, max_grant: int) -> Decision:
        """That."""
        return self.decision

    def observe_passes(self, passes: tuple[PassRecord, ...]) -> None:
        """Nothing to learn."""

    def observe_verdict(self, outcome: RoundOutcome) -> None:
        """Nothing to learn."""

    def observe_hosted(self, outcome: HostedOutcome) -> None:
        """Nothing to learn."""


@dataclass(frozen=True, slots=True)
class PairCosts:
    """What the pair's devices and link take, in milliseconds.

    step         (rows) → a step of the target        noise  its relative standard deviation
    pass_, row   of the drafter                       overhead  services and broker, each way
    """

    step: Callable[[int], float]
    pass_ms: float
    row_ms: float
    round_trip_ms: float
    overhead_ms: float = 0.5
    noise: float = 0.03


@dataclass(slots=True)
class PairResult:
    """Of one generation; time starts with the first verdict, when both prompts are read."""

    num_tokens: int = 0
    num_hosted_tokens: int = 0
    num_drafted_rounds: int = 0
    num_sent: int = 0
    first_tokens: int = 0
    first_s: float | None = None
    last_s: float = 0.0

    @property
    def decode_s(self) -> float:
        """From the first verdict to the last."""
        return 0.0 if self.first_s is None else self.last_s - self.first_s


@dataclass(slots=True)
class DeviceClock:
    """The world's clock, as a device sees it that works within one event."""

    world: ManualClock
    spent_s: float = 0.0

    def now_s(self) -> float:
        """Of the world, and what was worked since the event began."""
        return self.world.now_s() + self.spent_s

    def sleep(self, seconds: float) -> None:
        """Work."""
        self.spent_s += seconds

    def take(self) -> float:
        """What was worked since this was last asked."""
        spent_s, self.spent_s = self.spent_s, 0.0
        return spent_s


@dataclass
class VirtualPair:
    """Make one per generation, and ``run`` it."""

    control: Control
    text: TraceText
    costs: PairCosts
    tally: Tally
    num_tokens: int
    is_proactive: bool = True
    seed: int = 0
    clock: ManualClock = field(default_factory=ManualClock)

    def __post_init__(self) -> None:
        prompt = self.text.tokens(np.arange(PROMPT_LEN, dtype=np.int64))
        params = SessionParams(
            model=IDENTITY.model,
            weights=IDENTITY.weights,
            tokenizer=IDENTITY.tokenizer,
            prompt=PROMPT_LEN,
            max_tokens=self.num_tokens,
        )
        self.result = PairResult()
        self._random = np.random.default_rng(self.seed)
        self._verifier = _Verifier(self)
        self._edge = _Edge(self, EdgeSession(params, prompt), prompt)

    def run(self) -> PairResult:
        """The whole generation."""
        self._edge.feed(Started())
        while not self._edge.has_ended:
            due_s = self.clock.next_due_s()
            assert due_s is not None, "nothing will ever happen"
            self.clock.advance(max(due_s - self.clock.now_s(), 0.0))
        return self.result

    def later(self, delay_s: float, call: Callable[[], None]) -> Cancellable:
        """On the world's clock."""
        return self.clock.call_at(self.clock.now_s() + delay_s, call)

    def step_s(self, num_rows: int) -> float:
        """One step of the target, with its noise."""
        factor = np.exp(self.costs.noise * self._random.standard_normal())
        return float(self.costs.step(num_rows) * factor / 1e3)

    def send_up(self, kind: Up, payload: bytes) -> None:
        """Edge to verifier."""
        self._carry(lambda: self._verifier.on_bytes(kind, payload))

    def send_down(self, payload: bytes) -> None:
        """Verifier to edge."""
        self._carry(lambda: self._edge.feed(Answered(codec.decode_down(payload))))

    def _carry(self, deliver: Callable[[], None]) -> None:
        self.later((self.costs.round_trip_ms / 2 + self.costs.overhead_ms) / 1e3, deliver)


class _Verifier:
    """One session, one slot, steps one after the other."""

    def __init__(self, world: VirtualPair) -> None:
        self._world = world
        self._machine = VerifierSession(KEY, LIMITS, IDENTITY, "v")
        self._wanted: WantStep | None = None
        self._is_stepping = False
        self._arrived_s = 0.0
        self._timer: Cancellable | None = None

    def on_bytes(self, kind: Up, payload: bytes) -> None:
        if kind is Up.CONTEXT:
            self._feed(ContextArrived(*codec.decode_context(payload, VOCAB_SIZE)))
        elif kind is Up.DRAFT:
            draft = codec.decode(Draft, payload)
            item = codec.batch_item(draft, KEY, budget_ms=draft.budget_ms, held_ms=0.0)
            self._arrived_s = self._world.clock.now_s()
            self._feed(WorkArrived(item, self._world.clock.now_s() + item.budget_ms / 1e3))

    def _feed(self, event: VerifierEvent) -> None:
        for effect in self._machine.on(event, self._world.clock.now_s()):
            match effect:
                case WantSlot():
                    self._world.later(0.0, lambda: self._feed(SlotGiven()))
                case WantStep():
                    self._wanted = effect
                    self._world.later(0.0, self._step)
                case Reply(message):
                    self._world.send_down(codec.encode(message))
                case SetTimer(at_s):
                    self._set_timer(at_s)
                case KeepRows():
                    pass
                case _:
                    self._wanted = None

    def _set_timer(self, at_s: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if at_s is not None:
            self._timer = self._world.clock.call_at(at_s, lambda: self._feed(TimerDue()))

    def _step(self) -> None:
        if self._is_stepping or self._wanted is None:
            return
        wanted, self._wanted, self._is_stepping = self._wanted, None, True
        self._feed(StepBegun(len(wanted.chain)))
        rows = 1 if wanted.tree is None else len(wanted.chain) + wanted.tree.num_drafted
        took_s = self._world.step_s(rows)
        base = wanted.start + len(wanted.chain)
        queue_s = 0.0 if wanted.is_hosted else self._world.clock.now_s() - self._arrived_s
        stepped = Stepped(None)
        if wanted.tree is not None:
            # Off the text's path a choice does not matter: nothing there is accepted.
            choice = self._world.text.tokens(base + wanted.tree.depth.astype(np.int64))
            stepped = Stepped(choice, None, 1e3 * queue_s, 1e3 * took_s, rows)
        self._world.later(took_s, lambda: self._finish(stepped))

    def _finish(self, stepped: Stepped) -> None:
        self._is_stepping = False
        self._feed(stepped)
        self._step()


class _Edge:
    """One generation: the machine, the drafter, and what it does while it waits."""

    def __init__(
        self, world: VirtualPair, session: EdgeSession, prompt: np.typing.NDArray[np.int32]
    ) -> None:
        self._world, self._session = world, session
        self._device = DeviceClock(world.clock)
        costs = world.costs
        drafter = TraceDrafter(
            world.text, self._device.sleep, pass_ms=costs.pass_ms, row_ms=costs.row_ms
        )
        self._drafter = TreeDrafter(drafter, world.tally, self._device.now_s)
        self._drafter.start(prompt, session.params.sampling(), session.params.stop_rule())
        self._decision = Decision(None)
        self._out: TokenTree | None = None
        self._begun_s = self._sent_s = 0.0
        self._hosted_s: float | None = None
        self._busy_until_s = 0.0
        self._trip_s: float | None = None
        self._timer: Cancellable | None = None
        self.has_ended = False

    def feed(self, event: EdgeEvent) -> None:
        if self.has_ended:
            return
        for effect in self._session.on(event, self._world.clock.now_s()):
            match effect:
                case RequestOpen():
                    reply = Opened(at="v", group="main", limits=LIMITS, identity=IDENTITY)
                    self.feed_later(0.0, OpenAnswered(reply))
                case SendUp(kind, payload):
                    self._world.send_up(kind, payload)
                case SetTimer(at_s):
                    self._set_timer(at_s)
                case AskDraft():
                    self._begin()
                case Committed():
                    self._commit(effect)
                case Ended():
                    assert effect.error is None, effect.error
                    self.has_ended = True

    def _set_timer(self, at_s: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if at_s is not None:
            self._timer = self._world.clock.call_at(at_s, lambda: self.feed(TimerDue()))

    def _begin(self) -> None:
        clock = self._world.clock
        self._begun_s = clock.now_s()
        limits = self._session.limits
        assert limits is not None
        self._decision = self._world.control.decide(limits.nodes, limits.grant)
        base = self._session.base
        if self._decision.policy is None:
            self._out = None
            root = TokenTree.root_only(int(self._session.committed[-1]))
            self.feed_later(0.0, Drafted(root, run=self._decision.run, base=base))
        else:
            # A pass ahead that runs just now must end first.
            wait_s = max(0.0, self._busy_until_s - clock.now_s())
            self._world.later(wait_s, lambda: self._draft(base))

    def _draft(self, base: int) -> None:
        policy = self._decision.policy
        assert policy is not None
        if self.has_ended:
            return
        self._device.take()
        self._drafter.resync(self._session.committed[:base])
        tree = self._drafter.draft(policy, self._decision.rule)
        took_s = self._device.take()
        records = self._drafter.take_records()
        self._world.later(took_s, lambda: self._send(tree, records, base))

    def _send(self, tree: TokenTree, records: tuple[PassRecord, ...], base: int) -> None:
        if self.has_ended:
            return
        self._world.control.observe_passes(records)
        self._out, self._hosted_s = tree, None
        self._sent_s = self._world.clock.now_s()
        self.feed(Drafted(tree, base=base))
        if self._world.is_proactive and not self.has_ended:
            self._draft_ahead(self._session.round)

    def _draft_ahead(self, round_: int) -> None:
        """One pass, if it ends before the verdict is expected, and then the next."""
        policy, now_s = self._decision.policy, self._world.clock.now_s()
        if self._session.round != round_ or self.has_ended or policy is None:
            return
        pass_s = self._world.costs.pass_ms / 1e3
        if self._trip_s is None or now_s + pass_s > self._sent_s + self._trip_s:
            return
        ahead = AheadPolicy(levels=policy.depth, beams=policy.beams, branch=policy.branch)
        self._device.take()
        if self._drafter.step_ahead(ahead):
            took_s = self._device.take()
            self._busy_until_s = now_s + took_s
            self._world.later(took_s, lambda: self._draft_ahead(round_))

    def feed_later(self, delay_s: float, event: EdgeEvent) -> None:
        self._world.later(delay_s, lambda: self.feed(event))

    def _commit(self, committed: Committed) -> None:
        now_s, result, verdict = self._world.clock.now_s(), self._world.result, committed.verdict
        result.num_tokens += len(committed.tokens)
        result.last_s = now_s
        if result.first_s is None:
            result.first_s, result.first_tokens = now_s, len(committed.tokens)
        timing = verdict.timing
        if committed.was_tree and self._out is not None:
            self._learn_tree(committed)
            result.num_sent += verdict.kept
            result.num_drafted_rounds += 1
        elif not committed.was_tree:
            result.num_hosted_tokens += len(committed.tokens)
            elapsed_ms = None if self._hosted_s is None else 1e3 * (now_s - self._hosted_s)
            self._hosted_s = now_s
            self._world.control.observe_hosted(
                HostedOutcome(
                    num_tokens=len(committed.tokens),
                    elapsed_ms=elapsed_ms,
                    num_tried=verdict.own,
                    queue_ms=timing.held + timing.queue,
                    step_ms=timing.step,
                    step_rows=timing.rows,
                )
            )

    def _learn_tree(self, committed: Committed) -> None:
        verdict, trip_s, tree = committed.verdict, committed.round_trip_s, self._out
        assert tree is not None
        if trip_s is not None:
            usual_s = trip_s if self._trip_s is None else self._trip_s
            self._trip_s = usual_s + 0.25 * (trip_s - usual_s)
        self._drafter.on_verdict(committed.tokens[:-1], committed.tokens[-1], verdict.kept)
        self._world.control.observe_verdict(
            RoundOutcome(
                expected=float(tree.value[1 : verdict.kept + 1].sum()),
                num_tried=verdict.kept,
                num_accepted=len(committed.tokens) - 1,
                draft_ms=1e3 * (self._sent_s - self._begun_s),
                round_trip_ms=None if trip_s is None else 1e3 * trip_s,
                queue_ms=verdict.timing.held + verdict.timing.queue,
                step_ms=verdict.timing.step,
                step_rows=verdict.timing.rows,
            )
        )
