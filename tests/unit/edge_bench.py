"""An edge's end of a session on a bench, and what to find in its effects. For tests."""

from specedge.protocol import codec
from specedge.protocol.edge_session import EdgeSession
from specedge.protocol.effects import (
    Answered,
    Drafted,
    EdgeEffect,
    EdgeEvent,
    Ended,
    OpenAnswered,
    SendUp,
    SetTimer,
    Started,
)
from specedge.protocol.messages import DownMessage, Draft, SessionParams, Verdict
from specedge.protocol.opening import Identity, Limits, Opened
from specedge.protocol.refusals import ANY_WEIGHTS
from specedge.protocol.round_timer import EdgeSessionConfig
from specedge.protocol.subjects import Up
from specedge.protocol.token_log import TokenLog
from specedge.tree.token_tree import TokenTree

LIMITS = Limits(nodes=4, append=16, context=100, grant=8)
IDENTITY = Identity(model="m", weights="ab", tokenizer="cd", vocab_size=50, max_context=100)
OPENED = Opened(at="v1", group="main", limits=LIMITS, identity=IDENTITY)
TREE = ((7, 8, 9), (0, 1, 1))  # drafted tokens and their parents, counted with the root


def params_of(**changed: object) -> SessionParams:
    fields = {
        "model": "m", "weights": ANY_WEIGHTS, "tokenizer": "cd", "prompt": 3, "max_tokens": 20
    }  # fmt: skip
    return SessionParams(**{**fields, **changed})


class Bench:
    """An edge session under test, with time and what it sent last at hand."""

    def __init__(self, config: EdgeSessionConfig | None = None, **params: object) -> None:
        told = params_of(**params)
        self.session = EdgeSession(told, list(range(told.prompt)), config)
        self.now_s = 0.0

    def on(self, event: EdgeEvent, after_s: float = 0.0) -> list[EdgeEffect]:
        self.now_s += after_s
        return self.session.on(event, self.now_s)

    def opened(self, opened: Opened = OPENED) -> list[EdgeEffect]:
        self.on(Started())
        return self.on(OpenAnswered(opened))

    def awaiting(self) -> list[EdgeEffect]:
        self.opened()
        return self.on(self.draft())

    def hosted(self, run: int = 4) -> list[EdgeEffect]:
        self.opened()
        return self.on(self.grant(run))

    def draft(self, *, base: int | None = None) -> Drafted:
        root = int(self.session.committed[-1])
        token, parent = TREE
        return Drafted(TokenTree.from_parents([root, *token], [-1, *parent]), base=base)

    def grant(self, run: int) -> Drafted:
        return Drafted(TokenTree.root_only(0), run=run)

    def verdict(self, *tokens: int, round_: int | None = None, **changed: object) -> Verdict:
        log = TokenLog(self.session.params, self.session.committed)
        log.extend(tokens)
        fields = {
            "round": self.session.round if round_ is None else round_,
            "at": "v2",
            "path": tokens[:-1],
            "bonus": tokens[-1],
            "kept": 3,
            "base": len(log),
            "hash": log.hash_at(len(log)),
        }
        return Verdict(**{**fields, **changed})

    def answer(self, message: DownMessage, after_s: float = 0.0) -> list[EdgeEffect]:
        return self.on(Answered(message), after_s)


def find(effects: list[EdgeEffect], kind: type) -> list:
    return [effect for effect in effects if isinstance(effect, kind)]


def sent(effects: list[EdgeEffect], kind: Up) -> list[bytes]:
    return [effect.payload for effect in find(effects, SendUp) if effect.kind is kind]


def draft_in(effects: list[EdgeEffect]) -> Draft:
    (payload,) = sent(effects, Up.DRAFT)
    return codec.decode(Draft, payload)


def timer_in(effects: list[EdgeEffect]) -> float | None:
    return find(effects, SetTimer)[-1].at_s


def ended(effects: list[EdgeEffect]) -> Ended:
    assert isinstance(effects[-1], Ended)
    return effects[-1]
