"""A small world in virtual time: edges, a relay in the scheduler's place, verifiers, and a network
that loses, doubles and reorders. Real bytes pass through the real codec in both directions."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from specedge.clock import ManualClock
from specedge.ids import EdgeId, SessionId, SessionKey
from specedge.protocol import codec
from specedge.protocol.body import Body
from specedge.protocol.edge_session import EdgeSession
from specedge.protocol.effects import LinkRestored
from specedge.protocol.messages import Ahead, Batch, Draft, Rejected, SessionParams
from specedge.protocol.opening import Identity, Limits, Opened, Reason, Refused
from specedge.protocol.refusals import ANY_WEIGHTS
from specedge.protocol.round_timer import EdgeSessionConfig
from specedge.protocol.subjects import Up
from tests.properties.session_nodes import VOCAB, EdgeNode, VerifierNode

LIMITS = Limits(nodes=12, append=16, context=40_000, grant=8, ahead=24)
IDENTITY = Identity(
    model="emulated", weights="ab12", tokenizer="cd34", vocab_size=VOCAB, max_context=40_000
)


@dataclass(frozen=True)
class Network:
    """Chances per message, and how late it may be. Without ``jitter_s`` order is kept."""

    loss: float = 0.0
    duplication: float = 0.0
    latency_s: float = 0.005
    jitter_s: float = 0.0


@dataclass(frozen=True)
class Request:
    """What one client asks for."""

    prompt_len: int = 5
    max_tokens: int = 12
    seed: int = 0
    stop: tuple[int, ...] = ()
    min_tokens: int = 0
    grants: str = "never"
    accuracy: float = 0.7
    sends_ahead: bool = False
    appends: bool = (
        False  # its drafts name committed tokens at times, and not always the right ones
    )


class World:
    """Build, ``start`` requests, schedule trouble with ``at``, ``run``."""

    def __init__(
        self,
        seed: int = 0,
        *,
        network: Network | None = None,
        num_verifiers: int = 1,
        num_slots: int = 4,
        fail_rate: float = 0.0,
        hold_s: float = 0.0,
        migration: float = 0.0,
        own_accuracy: float | None = None,
        config: EdgeSessionConfig | None = None,
    ) -> None:
        self.random = Random(seed)
        self.clock = ManualClock()
        self.network = network or Network()
        self.hold_s = hold_s
        self.migration = migration
        self.config = config or EdgeSessionConfig(
            give_up_s=1e6, no_verifier_s=1e6, open_s=1e6, max_wait_s=4.0
        )
        self.verifiers = {
            name: VerifierNode(
                *(name, self.clock, self.random, self._down, IDENTITY, LIMITS, num_slots),
                fail_rate=fail_rate,
                own_accuracy=own_accuracy,
            )
            for name in (f"v{number}" for number in range(num_verifiers))
        }
        self.edges: dict[SessionKey, EdgeNode] = {}
        self.places: dict[SessionKey, str] = {}

    # ---- what a test does

    def start(self, request: Request) -> EdgeNode:
        number = len(self.edges)
        key = SessionKey(EdgeId("U" + "A" * 55), SessionId(f"{number:032x}"))
        source = Random(request.seed)
        prompt = [source.randrange(VOCAB) for _ in range(request.prompt_len)]
        params = SessionParams(
            model="emulated",
            weights=ANY_WEIGHTS,
            tokenizer=IDENTITY.tokenizer,
            prompt=len(prompt),
            max_tokens=request.max_tokens,
            seed=request.seed,
            stop=request.stop,
            min_tokens=request.min_tokens,
        )
        session = EdgeSession(params, prompt, self.config)
        edge = EdgeNode(
            *(key, params, prompt, session, self.clock, self.random, self._up, self._open),
            grants=request.grants,
            accuracy=request.accuracy,
            sends_ahead=request.sends_ahead,
            appends=request.appends,
        )
        self.edges[key] = edge
        edge.start()
        return edge

    def at(self, when_s: float, call: Callable[[], None]) -> None:
        self.clock.call_at(when_s, call)

    def crash(self, name: str, down_s: float) -> None:
        """Kill a verifier; the relay notices at once or not at all: both happen in life."""
        self.verifiers[name].crash()
        self.at(self.clock.now_s() + down_s, self.verifiers[name].restart)
        for key, place in list(self.places.items()):
            if place == name:
                del self.places[key]

    def cut(self, edge: EdgeNode, for_s: float) -> None:
        """Take an edge's link away for a while."""

        def restore() -> None:
            edge.is_linked = True
            if edge.ended is None:
                edge.feed(LinkRestored())

        edge.is_linked = False
        self.at(self.clock.now_s() + for_s, restore)

    def run(self, *, limit_s: float = 3600.0) -> None:
        """Until every session ended. Fails if one does not."""
        while any(edge.ended is None for edge in self.edges.values()):
            due_s = self.clock.next_due_s()
            assert due_s is not None, f"nothing will ever happen: {self.describe()}"
            assert due_s < limit_s, f"not ended after {limit_s} s: {self.describe()}"
            self.clock.advance(max(due_s - self.clock.now_s(), 0.0))

    def describe(self) -> str:
        return "; ".join(
            f"{edge.session.state} round {edge.session.round} base {edge.session.base} "
            f"{dict(edge.session.counters)}"
            for edge in self.edges.values()
        )

    # ---- network

    def _carry(self, deliver: Callable[[], None]) -> None:
        copies = 1 + (self.random.random() < self.network.duplication)
        for _ in range(copies):
            if self.random.random() >= self.network.loss:
                delay_s = self.network.latency_s + self.random.random() * self.network.jitter_s
                self.at(self.clock.now_s() + delay_s, deliver)

    def _send_down(self, key: SessionKey, payload: bytes) -> None:
        self._carry(lambda: self.edges[key].on_bytes(payload))

    def _down(self, key: SessionKey, payload: bytes) -> None:
        self._send_down(key, payload)

    def _answer(self, key: SessionKey, body: Body) -> None:
        self._send_down(key, codec.encode(body))

    def _up(self, key: SessionKey, kind: Up, payload: bytes) -> None:
        self._carry(lambda: self._relay(key, kind, payload))

    # ---- the relay, in the scheduler's place

    def _alive(self) -> list[str]:
        return [name for name, verifier in self.verifiers.items() if verifier.is_up]

    def _place(self, key: SessionKey, wished: str = "") -> str | None:
        alive = self._alive()
        if not alive:
            return None
        place = self.places.get(key)
        if place not in alive:
            place = wished if wished in alive else self.random.choice(alive)
        elif self.random.random() < self.migration:
            left, place = place, self.random.choice(alive)
            if left != place and self.random.random() < 0.5:
                self._carry(lambda: self.verifiers[left].on_ending(key))
        self.places[key] = place
        return place

    def _open(self, edge: EdgeNode, timeout_s: float) -> None:
        name = self._place(edge.key)
        reply: Opened | Refused
        if name is None:
            reply = Refused(refused=Reason.NO_VERIFIER, message="no verifier", retry_ms=50)
        else:
            reply = Opened(at=name, group="main", limits=LIMITS, identity=IDENTITY)
        is_lost = self.random.random() < self.network.loss
        payload = None if is_lost else codec.encode(reply)
        delay_s = timeout_s if is_lost else self.network.latency_s
        self.at(self.clock.now_s() + delay_s, lambda: edge.on_open_reply(payload))

    def _relay(self, key: SessionKey, kind: Up, payload: bytes) -> None:
        if kind is Up.DRAFT:
            self._relay_draft(key, codec.decode(Draft, payload))
        elif kind is Up.AHEAD:
            ahead = codec.decode(Ahead, payload)
            if (name := self.places.get(key)) is not None:
                self._carry(lambda: self.verifiers[name].on_ahead(key, ahead))
        elif kind is Up.CONTEXT:
            codec.decode_context_header(payload)
            if (name := self._place(key)) is not None:
                self._carry(lambda: self.verifiers[name].on_context(key, payload))
        else:
            self.places.pop(key, None)
            for verifier in self.verifiers.values():
                self._carry(lambda verifier=verifier: verifier.on_ending(key))

    def _relay_draft(self, key: SessionKey, draft: Draft) -> None:
        hold_s = self.random.random() * self.hold_s
        self.at(self.clock.now_s() + hold_s, lambda: self._pass_on(key, draft, hold_s))

    def _pass_on(self, key: SessionKey, draft: Draft, hold_s: float) -> None:
        answer = {"round": draft.round, "try_": draft.try_}
        left_ms = draft.budget_ms - int(hold_s * 1e3)
        if left_ms <= 0:
            self._answer(key, Rejected(**answer, rejected=Reason.EXPIRED))
            return
        name = self._place(key, draft.at)
        if name is None:
            self._answer(key, Rejected(**answer, rejected=Reason.NO_VERIFIER, retry_ms=50))
            return
        item = codec.batch_item(draft, key, budget_ms=left_ms, held_ms=hold_s * 1e3)
        batch = Batch(epoch=(0, 0), seq=1, items=(item,))
        payload = codec.encode(batch)
        self._carry(
            lambda: self.verifiers[name].on_item(codec.decode(type(batch), payload).items[0])
        )
