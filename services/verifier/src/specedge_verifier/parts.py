"""One session's part of a step: from what its machine wants to what the engine is given, and from
the engine's answer to what the machine is told. Values; runs nothing."""

from dataclasses import dataclass, replace

from specedge.engine.ports import Choosing, NodeChoices, NodeLogprobs
from specedge.errors import ProtocolViolation
from specedge.params import StopRule
from specedge.protocol.messages import TokenLogprobs
from specedge.protocol.reports import StepReport
from specedge.protocol.step_plan import Planned
from specedge.protocol.verifier_effects import Stepped, WantStep
from specedge_verifier.entry import Entry
from specedge_verifier.hosted_drafting import DraftSeat, HostedRound
from specedge_verifier.turn import OwnDrafts, TurnItem


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What one session has in the step that runs. ``queue_ms``: how long it had waited for it."""

    entry: Entry
    want: WantStep
    item: TurnItem
    queue_ms: float

    @property
    def may_go_on(self) -> bool:
        """Whether the session may want the next step as soon as this one's result is told."""
        is_hosted = self.want.tree is None or self.want.is_hosted
        return is_hosted or self.entry.machine.expects_more

    @property
    def is_edges_round(self) -> bool:
        """Whether it is a draft that a batch brought."""
        own = self.want.is_hosted or self.want.is_ahead
        return self.want.tree is not None and not own

    @property
    def is_told(self) -> bool:
        """Whether the session knows the result: it may be in another step by now."""
        return self.entry.running is not self.want

    @property
    def plain_item(self) -> TurnItem:
        """The item without a draft of the verifier's own: a hosted round must not fail for it."""
        return replace(self.item, hosted=None)


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """A step that ended well, for these parts. ``own``: what was drafted here for some of them."""

    parts: tuple[Part, ...]
    choices: tuple[NodeChoices | None, ...]
    ms: float
    own: OwnDrafts

    @property
    def num_rows(self) -> int:
        """Rows of the forward pass."""
        return sum(self._rows)

    @property
    def _rows(self) -> list[int]:
        """Of each part."""
        return [
            part.item.num_rows + (0 if tree is None else tree.num_drafted)
            for part, tree in zip(self.parts, self.own.trees, strict=True)
        ]

    def result(self, index: int) -> Stepped:
        """What the machine of the part of that number is told."""
        part, chosen = self.parts[index], self.choices[index]
        return Stepped(
            choice=None if chosen is None else chosen.choice,
            logprobs=None if chosen is None else _on_wire(chosen.logprobs),
            queue_ms=part.queue_ms,
            step_ms=self.ms,
            step_rows=self.num_rows,
            draft_ms=0.0 if part.item.hosted is None else self.own.ms,
            tree=self.own.trees[index],
        )

    def report(self, seq: int) -> StepReport:
        """What schedulers are told."""
        rows = self._rows
        shares = list(zip(self.parts, rows, strict=True))
        return StepReport(
            seq=seq,
            rows=sum(rows),
            prefill=sum(num for part, num in shares if part.item.tree is None),
            context=sum(part.item.start + num for part, num in shares),
            sessions=len(self.parts),
            ms=self.ms,
            hosted=sum(num for part, num in shares if part.want.is_hosted),
            draft_ms=self.own.ms,
            slack_ms=min((part.queue_ms for part in self.parts if part.is_edges_round), default=0),
        )


def take_part(entry: Entry, planned: Planned, now_s: float) -> Part:
    """The session's part, as ``planned``, of the step that begins now: what it wanted is in the
    step from here on."""
    want, lease = entry.want, entry.lease
    if want is None or lease is None:
        raise ProtocolViolation(f"{entry.key} is in a step that it does not want, or has no slot")
    entry.want, entry.running = None, want
    choosing, waits_since_s = None, entry.wanted_s
    if want.tree is not None:
        choosing = _choosing(entry, want)
        if entry.asked_s is not None:  # a prefill before it counts as waiting too
            waits_since_s, entry.asked_s = entry.asked_s, None
    hosted = _hosted_round(entry, planned.num_nodes) if planned.num_nodes else None
    chain = want.chain[: planned.num_chain]
    item = TurnItem(lease, want.start, chain, want.tree, choosing, hosted)
    return Part(entry, want, item, (now_s - waits_since_s) * 1000)


def _hosted_round(entry: Entry, max_nodes: int) -> HostedRound:
    machine, params = entry.machine, entry.machine.params
    assert params is not None  # a grant hangs off a context
    if entry.seat is None:
        entry.seat = DraftSeat()
    committed = machine.committed
    num_left = params.prompt + params.max_tokens - len(committed)
    return HostedRound(
        seat=entry.seat,
        committed=committed,
        params=entry.sampling(params),
        stop=StopRule(frozenset(params.stop), max(num_left, 1)),
        max_nodes=max_nodes,
        max_depth=machine.grant_left - 1,
    )


def _choosing(entry: Entry, want: WantStep) -> Choosing:
    params = entry.machine.params
    assert params is not None  # a tree hangs off a context
    return Choosing(
        params=entry.sampling(params),
        committed=entry.machine.committed[: want.start + len(want.chain)],
        prompt_len=params.prompt,
        stop_ids=frozenset(params.stop),
        num_logprobs=params.logprobs,
    )


def _on_wire(logprobs: NodeLogprobs | None) -> tuple[TokenLogprobs, ...] | None:
    """Per node, as verdicts carry them."""
    if logprobs is None:
        return None
    nodes = zip(
        logprobs.chosen.tolist(), logprobs.token.tolist(), logprobs.logprob.tolist(), strict=True
    )
    return tuple(
        TokenLogprobs.model_construct(lp=chosen, top=tuple(zip(token, logprob, strict=True)))
        for chosen, token, logprob in nodes
    )
