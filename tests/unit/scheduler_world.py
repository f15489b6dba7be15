"""A scheduler's policy, a clock that a test turns, and what to find in effects. For tests."""

from specedge.clock import ManualClock
from specedge.ids import GroupId, SessionKey, VerifierId
from specedge.protocol.messages import ContextHeader, SessionParams
from specedge.protocol.opening import Opened, OpenRequest, Refused
from specedge.protocol.reports import Stat, StepReport
from specedge_scheduler.policy.decide import SchedulerPolicy
from specedge_scheduler.policy.types import (
    AnswerOpen,
    Effect,
    Event,
    OpenAsked,
    SchedulerLimits,
    SendBatch,
    StatArrived,
    TurnEnded,
)
from tests.unit.scheduler_facts import key, stat

V1, V2 = VerifierId("v1"), VerifierId("v2")


class World:
    """A policy, and a clock that a test turns."""

    def __init__(self, **limits: object) -> None:
        limits = {"policy": "greedy"} | limits
        self.clock = ManualClock(100.0)
        self.policy = SchedulerPolicy(
            GroupId("main"),
            (1, 0),
            SchedulerLimits(**limits),  # type: ignore[arg-type]
        )
        self._seq = 0

    def tell(self, *events: Event) -> list[Effect]:
        """The events, and the end of their turn."""
        now_s = self.clock.now_s()
        return [
            effect for event in (*events, TurnEnded()) for effect in self.policy.on(event, now_s)
        ]

    def stat(self, verifier: VerifierId = V1, **fields: object) -> list[Effect]:
        self._seq += 1
        return self.tell(StatArrived(verifier, stat(self._seq, **fields)))  # type: ignore[arg-type]

    def wait(self, seconds: float, *alive: VerifierId) -> list[Effect]:
        """Time passes; those named go on reporting."""
        effects: list[Effect] = []
        for _ in range(round(seconds / 0.1)):
            self.clock.advance(0.1)
            for verifier in alive:
                known = self.policy.cluster.verifiers.get(verifier)
                last = known.stat if known is not None else Stat.model_construct()
                fields = {"batches": last.batches, "last": last.last, "inc": last.inc}
                if known is not None:
                    fields |= {"limits": last.limits, "slots": last.slots[1]}
                effects += self.stat(verifier, **fields)
            effects += self.tell()
        return effects

    def open(
        self,
        session: SessionKey,
        *,
        model: str = "big",
        tokenizer: str = "bb",
        context: int = 100,
        trial: bool = False,
    ) -> Opened | Refused:
        request = OpenRequest(model=model, tokenizer=tokenizer, context=context, trial=trial)
        (answer,) = self.tell(OpenAsked(session, request, "inbox"))
        assert isinstance(answer, AnswerOpen)
        return answer.reply


def sent(effects: list[Effect]) -> list[SendBatch]:
    return [effect for effect in effects if isinstance(effect, SendBatch)]


def sessions_in(batch: SendBatch) -> set[SessionKey]:
    return {key_of(item.e, item.s) for item in batch.batch.items}


def key_of(edge: str, session: str) -> SessionKey:
    return key(edge[1], int(session, 16))


def context(wants: dict[str, object] | None = None) -> ContextHeader:
    params = {"model": "big", "weights": "aa", "tokenizer": "bb", "prompt": 3, "max_tokens": 9}
    return ContextHeader(
        round=0,
        off=0,
        total=3,
        hash="0" * 16,
        params=SessionParams(**params | (wants or {})),  # type: ignore[arg-type]
    )


def step(seq: int, ms: float = 50.0) -> StepReport:
    return StepReport(seq=seq, rows=24, prefill=0, context=50, sessions=6, ms=ms)


def learn(world: World, verifier: VerifierId) -> None:
    """Some steps of that verifier were seen."""
    for seq in range(20):
        world.stat(verifier, steps=(step(seq),), slots=64)
