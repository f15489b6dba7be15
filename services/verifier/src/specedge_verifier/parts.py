"""One session's part of a step: from what its machine wants to what the engine is given, and from
the engine's answer to what the machine is told. Values; runs nothing."""

from dataclasses import dataclass

from specedge.engine.ports import Choosing, NodeChoices, NodeLogprobs
from specedge.errors import ProtocolViolation
from specedge.protocol.effects import Stepped, WantStep
from specedge.protocol.messages import StepReport, TokenLogprobs
from specedge_verifier.entry import Entry
from specedge_verifier.turn import TurnItem


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What one session has in the step that runs. ``queue_ms``: how long it had waited for it."""

    entry: Entry
    want: WantStep
    item: TurnItem
    queue_ms: float

    @property
    def may_go_on(self) -> bool:
        """Whether the session wants the next step as soon as this one's result is told."""
        return self.want.tree is None or self.want.is_hosted


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """A step that ended well, for these parts."""

    parts: tuple[Part, ...]
    choices: tuple[NodeChoices | None, ...]
    ms: float

    @property
    def num_rows(self) -> int:
        """Rows of the forward pass."""
        return sum(part.item.num_rows for part in self.parts)

    def result(self, part: Part, chosen: NodeChoices | None) -> Stepped:
        """What this part's machine is told."""
        return Stepped(
            choice=None if chosen is None else chosen.choice,
            logprobs=None if chosen is None else _on_wire(chosen.logprobs),
            queue_ms=part.queue_ms,
            step_ms=self.ms,
            step_rows=self.num_rows,
        )

    def report(self, seq: int) -> StepReport:
        """What schedulers are told."""
        return StepReport(
            seq=seq,
            rows=self.num_rows,
            prefill=sum(part.item.num_rows for part in self.parts if part.item.tree is None),
            context=sum(part.item.start + part.item.num_rows for part in self.parts),
            sessions=len(self.parts),
            ms=self.ms,
        )


def take_part(entry: Entry, num_chain: int, now_s: float) -> Part:
    """The session's part of the step that begins now, with the first ``num_chain`` tokens of its
    chain: what it wanted is in the step from here on."""
    want, lease = entry.want, entry.lease
    if want is None or lease is None:
        raise ProtocolViolation(f"{entry.key} is in a step that it does not want, or has no slot")
    entry.want, entry.running = None, want
    choosing, waits_since_s = None, entry.wanted_s
    if want.tree is not None:
        choosing = _choosing(entry, want)
        if entry.asked_s is not None:  # a prefill before it counts as waiting too
            waits_since_s, entry.asked_s = entry.asked_s, None
    item = TurnItem(lease, want.start, want.chain[:num_chain], want.tree, choosing)
    return Part(entry, want, item, (now_s - waits_since_s) * 1000)


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
