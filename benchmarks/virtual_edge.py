"""The edge of a virtual pair: one generation, its drafter, and what it does while it waits."""

from benchmarks.traces import TraceDrafter
from benchmarks.virtual_world import IDENTITY, LIMITS, DeviceClock, World
from specedge.clock import Cancellable
from specedge.drafting.growth_rule import PassRecord
from specedge.drafting.rounds import Decision, HostedOutcome, RoundOutcome
from specedge.drafting.tree_drafter import TreeDrafter
from specedge.protocol.edge_session import EdgeSession
from specedge.protocol.effects import (
    AskDraft,
    Committed,
    Drafted,
    EdgeEvent,
    Ended,
    OpenAnswered,
    RequestOpen,
    SendUp,
    SetTimer,
    TimerDue,
)
from specedge.protocol.opening import Opened
from specedge.tree.ahead import AheadPolicy
from specedge.tree.token_tree import IntArray, TokenTree


class VirtualEdge:
    """See the module. ``feed`` is what happens to it."""

    def __init__(self, world: World, session: EdgeSession, prompt: IntArray) -> None:
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
        """Take an event in, and do what follows from it."""
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
        """The same, on the world's clock."""
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
