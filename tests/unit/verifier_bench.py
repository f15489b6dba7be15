"""A verifier's end of a session on a bench, and what to find in its effects. For tests."""

import numpy as np

from specedge.ids import EdgeId, SessionId, SessionKey
from specedge.protocol import codec
from specedge.protocol.messages import ContextHeader, Draft, SessionParams
from specedge.protocol.opening import Identity, Limits
from specedge.protocol.token_log import TokenLog
from specedge.protocol.verifier_effects import (
    ContextArrived,
    Reply,
    SlotGiven,
    StepBegun,
    Stepped,
    VerifierEffect,
    VerifierEvent,
    WantStep,
    WorkArrived,
)
from specedge.protocol.verifier_job import VerifierSessionConfig
from specedge.protocol.verifier_session import VerifierSession
from specedge.protocol.verifier_states import VerifierState
from specedge.tree.token_tree import TokenTree

LIMITS = Limits(nodes=4, append=3, context=60, grant=8, ahead=6)
IDENTITY = Identity(model="m", weights="ab", tokenizer="cd", vocab_size=50, max_context=60)
KEY = SessionKey(EdgeId("U" + "A" * 55), SessionId("0" * 32))
PROMPT = list(range(10, 20))


def params_of(**changed: object) -> SessionParams:
    fields = {
        "model": "m", "weights": "ab", "tokenizer": "cd", "prompt": len(PROMPT), "max_tokens": 20
    }  # fmt: skip
    return SessionParams(**{**fields, **changed})


class Bench:
    """A verifier session under test, and what an edge with the same log would say to it."""

    def __init__(self, *, max_chain_tokens: int = 4, **params: object) -> None:
        config = VerifierSessionConfig(max_chain_tokens=max_chain_tokens)
        self.session = VerifierSession(KEY, LIMITS, IDENTITY, "v1", config)
        self.params = params_of(**params)
        self.now_s = 0.0

    def on(self, event: VerifierEvent, after_s: float = 0.0) -> list[VerifierEffect]:
        self.now_s += after_s
        return self.session.on(event, self.now_s)

    def log(self, *tokens: int) -> TokenLog:
        return TokenLog(self.params, [*PROMPT, *tokens])

    def context(
        self, *tokens: int, round_: int = 0, off: int = 0, end: int | None = None, **changed: object
    ) -> ContextArrived:
        log = self.log(*tokens)
        fields = {
            "round": round_, "off": off, "total": len(log), "hash": log.hash_at(len(log)),
            "params": self.params,
        }  # fmt: skip
        return ContextArrived(ContextHeader(**{**fields, **changed}), log.view(off, end))

    def work(
        self, *tokens: int, round_: int = 0, try_: int = 0, budget_ms: int = 600, **changed: object
    ) -> WorkArrived:
        log = self.log(*tokens)
        fields = {
            "round": round_, "try_": try_, "base": len(log), "hash": log.hash_at(len(log)),
            "budget_ms": budget_ms,
        }  # fmt: skip
        item = codec.batch_item(
            Draft(**{**fields, **changed}), KEY, budget_ms=budget_ms, held_ms=1.5
        )
        return WorkArrived(item, self.now_s + budget_ms / 1e3)

    def ready(self, *tokens: int) -> None:
        """Context here, slot leased, every row computed but the root's."""
        self.on(self.context(*tokens))
        self.on(SlotGiven())
        if self.session.state is VerifierState.FILLING:
            self.on(StepBegun(len(PROMPT) + len(tokens) - 1))
            self.on(Stepped(None))
        assert self.session.state is VerifierState.READY

    def step(self, *choice: int, num_chain: int = 1, **figures: object) -> list[VerifierEffect]:
        """The step asked for begins and ends with these choices; none for prefill."""
        self.on(StepBegun(num_chain))
        chosen = np.asarray(choice, dtype=np.int32) if choice else None
        return self.on(Stepped(chosen, **figures))


def find(effects: list[VerifierEffect], kind: type) -> list:
    return [effect for effect in effects if isinstance(effect, kind)]


def reply_in(effects: list[VerifierEffect], kind: type):
    (reply,) = find(effects, Reply)
    assert isinstance(reply.message, kind), reply.message
    return reply.message


def step_in(effects: list[VerifierEffect]) -> WantStep:
    (step,) = find(effects, WantStep)
    return step


def own_tree(root: int, *path: int) -> TokenTree:
    """What a verifier drafted itself: a chain on ``root``."""
    return TokenTree.from_parents([root, *path], [-1, *range(len(path))])
