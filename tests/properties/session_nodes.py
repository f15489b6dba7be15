"""The two ends of a session with emulated surroundings, for tests in virtual time.

``EdgeNode`` drives one ``EdgeSession``; ``VerifierNode`` drives many ``VerifierSession`` over one
emulated engine. The engine keeps real rows of tokens and chooses from those alone, so a wrong row
count, a wrong move or a stale row shows as a wrong token.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import numpy as np

from specedge.clock import ManualClock
from specedge.errors import LinkTimeout
from specedge.ids import SessionKey
from specedge.protocol import codec
from specedge.protocol.edge_session import EdgeSession
from specedge.protocol.effects import (
    Answered,
    AskDraft,
    Committed,
    Drafted,
    DraftedAhead,
    EdgeEvent,
    Ended,
    OpenAnswered,
    OpenFailed,
    RequestOpen,
    SendUp,
    SetTimer,
    Started,
    SwitchAsked,
    TimerDue,
)
from specedge.protocol.messages import Ahead, BatchItem, Draft, SessionParams, Verdict
from specedge.protocol.opening import Identity, Limits
from specedge.protocol.subjects import Up
from specedge.protocol.token_log import TokenLog
from specedge.protocol.verifier_effects import (
    AheadArrived,
    ContextArrived,
    DropSlot,
    EndingArrived,
    Gone,
    KeepRows,
    Reply,
    SlotDenied,
    SlotGiven,
    SlotTaken,
    StepBegun,
    StepFailed,
    Stepped,
    VerifierEvent,
    WantSlot,
    WantStep,
    Withdraw,
    WorkArrived,
)
from specedge.protocol.verifier_session import VerifierSession
from specedge.protocol.verifier_states import VerifierState
from specedge.tree.token_tree import TokenTree

VOCAB = 61
IDLE_S = 30.0


def choose(tokens: list[int], params: SessionParams) -> int:
    """The emulated target: a pure function of the prefix, the seed and the position."""
    position = len(tokens)
    state = params.seed + 31 * position
    for token in tokens[-4:]:
        state = (state * 1_000_003 + token + 7) % 2_147_483_647
    token = state % VOCAB
    if position - params.prompt < params.min_tokens:
        while token in params.stop:
            token = (token + 1) % VOCAB
    return token


def reference(params: SessionParams, prompt: list[int]) -> list[int]:
    """What a plain decoder generates."""
    tokens = list(prompt)
    while len(tokens) - len(prompt) < params.max_tokens:
        tokens.append(choose(tokens, params))
        if tokens[-1] in params.stop and len(tokens) - len(prompt) > params.min_tokens:
            break
    return tokens[len(prompt) :]


def random_tree(
    random: Random, committed: list[int], num_nodes: int, params: SessionParams, accuracy: float
) -> TokenTree:
    """A tree of any shape, of whose nodes about ``accuracy`` are the target's own tokens."""
    token, parent = [committed[-1]], [-1]
    paths = [committed]
    for _ in range(num_nodes):
        at = random.randrange(len(token))
        right = choose(paths[at], params)
        guess = right if random.random() < accuracy else random.randrange(VOCAB)
        token.append(guess)
        parent.append(at)
        paths.append([*paths[at], guess])
    return TokenTree.from_parents(token, parent)


@dataclass
class EdgeNode:
    """One session's driver. ``send_up`` and ``request_open`` are the network's."""

    key: SessionKey
    params: SessionParams
    prompt: list[int]
    session: EdgeSession
    clock: ManualClock
    random: Random
    send_up: Callable[[SessionKey, Up, bytes], None]
    request_open: Callable[["EdgeNode", float], None]
    grants: str = "never"  # "always" | "sometimes"
    accuracy: float = 0.7
    sends_ahead: bool = False
    appends: bool = False
    got: list[int] = field(default_factory=list)
    ended: Ended | None = None
    is_linked: bool = True
    _timer: object = None
    _asks: int = 0

    def start(self) -> None:
        self.feed(Started())

    def feed(self, event: EdgeEvent) -> None:
        for effect in self.session.on(event, self.clock.now_s()):
            self._perform(effect)

    def on_bytes(self, payload: bytes) -> None:
        if self.is_linked:
            self.feed(Answered(codec.decode_down(payload)))

    def on_open_reply(self, payload: bytes | None) -> None:
        if payload is None or not self.is_linked:
            self.feed(OpenFailed(LinkTimeout("no answer")))
        else:
            self.feed(OpenAnswered(codec.decode_open_reply(payload)))

    def _perform(self, effect: object) -> None:  # noqa: C901
        assert self.ended is None, "nothing follows Ended"
        match effect:
            case RequestOpen(_, timeout_s):
                self.request_open(self, timeout_s)
            case SendUp(kind, payload):
                self._say(kind, payload)
                if kind is Up.DRAFT:
                    self._draft_on()
            case SetTimer(at_s):
                if self._timer is not None:
                    self._timer.cancel()
                self._timer = None
                if at_s is not None:
                    self._timer = self.clock.call_at(at_s, lambda: self.feed(TimerDue()))
            case AskDraft(_, max_nodes, base):
                assert base == self.session.base
                delay_s = self.random.choice((0.0, 0.01, 0.05))
                event = self._draft(max_nodes, base)
                self.clock.call_at(self.clock.now_s() + delay_s, lambda: self._answer(event))
            case Committed(tokens, _, verdict, round_trip_s, next_tree):
                assert tokens == (*verdict.path, verdict.bonus)
                assert round_trip_s is None or round_trip_s >= 0
                self.got += tokens
                if next_tree is not None:
                    assert next_tree.token[0] == verdict.bonus
                    self._draft_on()
                if self.grants == "sometimes" and self.random.random() < 0.1:
                    self.clock.call_at(self.clock.now_s(), lambda: self.feed(SwitchAsked()))
            case Ended():
                self.ended = effect

    def _say(self, kind: Up, payload: bytes) -> None:
        if not self.is_linked:
            return
        if kind is Up.DRAFT and self.appends and self.random.random() < 0.5:
            self._say_by_append(codec.decode(Draft, payload))
        else:
            self.send_up(self.key, kind, payload)

    def _say_by_append(self, draft: Draft) -> None:
        """The same round on an earlier base, the tokens since then named in the draft. Before it,
        at times, comes one that names others: an outdated word, as which its round is answered."""
        committed, fewest = (
            self.session.committed.tolist(),
            max(draft.base - 16, self.params.prompt),
        )
        base = self.random.randint(fewest, draft.base)
        hash_ = TokenLog(self.params, committed).hash_at(base)
        append = tuple(committed[base : draft.base])
        delay_s = 0.0
        if append and draft.round > 0 and self.random.random() < 0.5:
            num_right = self.random.randrange(len(append))
            wrong = tuple(self.random.randrange(VOCAB) for _ in append[num_right:])
            changed = {"base": base, "hash": hash_, "append": (*append[:num_right], *wrong)}
            older = {"round": draft.round - 1, "try_": 99 + draft.try_, "run": 0}
            lie = draft.model_copy(update={**changed, **older, "token": (), "parent": ()})
            self.send_up(self.key, Up.DRAFT, codec.encode(lie))
            delay_s = self.random.choice((0.0, 0.02, 0.05, 0.25))
        said = draft.model_copy(update={"base": base, "hash": hash_, "append": append})
        payload = codec.encode(said)
        self.clock.call_at(
            self.clock.now_s() + delay_s, lambda: self.send_up(self.key, Up.DRAFT, payload)
        )

    def _answer(self, event: Drafted) -> None:
        if self.ended is None:
            self.feed(event)

    def _draft_on(self) -> None:
        """A tree on today's root, said at any time from now on: also when it is too late."""
        if not self.sends_ahead or self.random.random() < 0.2:
            return
        committed, num_nodes = self.session.committed.tolist(), self.random.randrange(40)
        tree = random_tree(self.random, committed, num_nodes, self.params, self.accuracy)
        event = DraftedAhead(tree, self.random.randrange(9), len(committed))
        delay_s = self.random.choice((0.0, 0.005, 0.02, 0.1))
        self.clock.call_at(self.clock.now_s() + delay_s, lambda: self.ended or self.feed(event))

    def _draft(self, max_nodes: int, base: int) -> Drafted:
        committed = self.session.committed.tolist()
        is_grant = self.grants == "always" or (
            self.grants == "sometimes" and self.random.random() < 0.5
        )
        if is_grant:
            run = self.random.choice((1, 2, 7))
            return Drafted(TokenTree.root_only(committed[-1]), run=run)
        num_nodes = self.random.randrange(max_nodes + 3)
        given = base if self.random.random() < 0.5 else None
        tree = random_tree(self.random, committed, num_nodes, self.params, self.accuracy)
        return Drafted(tree, base=given)


@dataclass
class _Held:
    machine: VerifierSession
    heard_s: float
    timer: object = None
    rows: list[int] | None = None  # the slot: a token per row; None: no slot
    wanted: WantStep | None = None
    in_step: tuple[WantStep, int] | None = None
    began_with: int = 0  # tokens that were left of the grant
    limit: int | None = None  # the same, while the step's verdict is said


class VerifierNode:
    """A verifier process: it may crash and come back empty. ``own_accuracy``: of the trees that it
    drafts itself for hosted rounds, deeper than their grants at times; None: it has no drafter."""

    def __init__(
        self,
        name: str,
        clock: ManualClock,
        random: Random,
        reply: Callable[[SessionKey, bytes], None],
        identity: Identity,
        limits: Limits,
        num_slots: int,
        fail_rate: float = 0.0,
        own_accuracy: float | None = None,
    ) -> None:
        self.own_accuracy = own_accuracy
        self.name, self.clock, self.random = name, clock, random
        self.reply, self.identity, self.limits = reply, identity, limits
        self.num_slots, self.fail_rate = num_slots, fail_rate
        self.is_up = True
        self.incarnation = 0
        self.held: dict[SessionKey, _Held] = {}
        self.kept: list[list[int]] = []  # rows of closed sessions
        self.is_stepping = False
        self.num_steps = 0

    # ---- the process

    def crash(self) -> None:
        self.is_up = False
        self.incarnation += 1
        for held in self.held.values():
            if held.timer is not None:
                held.timer.cancel()
        self.held.clear()
        self.kept.clear()
        self.is_stepping = False

    def restart(self) -> None:
        self.is_up = True

    @property
    def slots_used(self) -> int:
        return sum(held.rows is not None for held in self.held.values())

    def _later(self, delay_s: float, call: Callable[[], None]) -> None:
        incarnation = self.incarnation

        def run() -> None:
            if self.incarnation == incarnation:
                call()

        self.clock.call_at(self.clock.now_s() + delay_s, run)

    # ---- from the wire

    def on_context(self, key: SessionKey, payload: bytes) -> None:
        if self.is_up:
            header, ids = codec.decode_context(payload, self.identity.vocab_size)
            self.feed(key, ContextArrived(header, ids))

    def on_item(self, item: BatchItem) -> None:
        if self.is_up:
            deadline_s = self.clock.now_s() + item.budget_ms / 1e3
            self.feed(SessionKey(item.e, item.s), WorkArrived(item, deadline_s))

    def on_ahead(self, key: SessionKey, ahead: Ahead) -> None:
        if self.is_up and key in self.held:
            self.feed(key, AheadArrived(ahead))

    def on_ending(self, key: SessionKey) -> None:
        if self.is_up and key in self.held:
            self.feed(key, EndingArrived())

    def feed(self, key: SessionKey, event: VerifierEvent) -> None:
        if key not in self.held:
            machine = VerifierSession(key, self.limits, self.identity, self.name)
            self.held[key] = _Held(machine, self.clock.now_s())
            self._later(IDLE_S, lambda: self._reap(key))
        held = self.held[key]
        if isinstance(event, ContextArrived | WorkArrived):
            held.heard_s = self.clock.now_s()
        for effect in held.machine.on(event, self.clock.now_s()):
            self._perform(key, held, effect)

    def _reap(self, key: SessionKey) -> None:
        held = self.held.get(key)
        if held is None:
            return
        left_s = held.heard_s + IDLE_S - self.clock.now_s()
        if left_s > 1e-6:
            self._later(left_s, lambda: self._reap(key))
        else:
            self.feed(key, EndingArrived())

    # ---- effects

    def _perform(self, key: SessionKey, held: _Held, effect: object) -> None:  # noqa: C901
        match effect:
            case WantSlot():
                self._later(self.random.choice((0.0, 0.005)), lambda: self._lease(key, held))
            case DropSlot(tokens):
                assert held.rows is not None and held.in_step is None
                assert held.rows[: len(tokens)] == tokens.tolist()
                self.kept.append(tokens.tolist())
                held.rows = None
            case WantStep(start, chain, tree):
                assert held.rows is not None and held.in_step is None and len(chain) >= 1
                committed = held.machine.committed.tolist()
                assert held.rows[:start] == committed[:start], "rows say another prefix"
                assert committed[start : start + len(chain)] == chain.tolist()
                assert tree is None or start + len(chain) == len(committed)
                held.wanted = effect
                self._later(0.0, self._step)
            case Withdraw():
                assert held.wanted is not None
                held.wanted = None
            case KeepRows(base, path):
                rows = held.rows
                assert rows is not None
                rows[base : base + len(path)] = [rows[base + node - 1] for node in path.tolist()]
            case Reply(message):
                if isinstance(message, Verdict) and held.limit is not None:
                    assert message.own == 0 or len(message.path) < held.limit, "past its grant"
                    assert message.own == 0 or message.kept == 0
                self.reply(key, codec.encode(message))
            case SetTimer(at_s):
                if held.timer is not None:
                    held.timer.cancel()
                held.timer = None
                if at_s is not None:
                    held.timer = self.clock.call_at(at_s, lambda: self.feed(key, TimerDue()))
            case Gone():
                assert held.rows is None and held.in_step is None
                del self.held[key]

    def _lease(self, key: SessionKey, held: _Held) -> None:
        if self.slots_used >= self.num_slots:
            self._park_one()
        if self.slots_used >= self.num_slots or self.random.random() < self.fail_rate:
            self.feed(key, SlotDenied(retry_ms=40))
            return
        committed = held.machine.committed.tolist()
        best: list[int] = max(
            ([t for t, _ in _common(kept, committed)] for kept in self.kept), key=len, default=[]
        )
        held.rows = list(best)
        self.feed(key, SlotGiven(rows_ready=len(best)))

    def _park_one(self) -> None:
        for key, held in list(self.held.items()):
            if held.rows is not None and held.machine.state is VerifierState.READY:
                held.rows = None
                self.feed(key, SlotTaken())
                return

    def _step(self) -> None:
        if self.is_stepping:
            return
        begun = [(key, held) for key, held in self.held.items() if held.wanted is not None]
        if not begun:
            return
        self.is_stepping = True
        for key, held in begun:
            wanted, held.wanted = held.wanted, None
            num_chain = len(wanted.chain)
            if wanted.tree is None:
                num_chain = min(num_chain, self.random.choice((5, 40, 400)))
            held.in_step = (wanted, num_chain)
            held.began_with = held.machine.grant_left
            self.feed(key, StepBegun(num_chain))
        self._later(self.random.choice((0.01, 0.03, 0.2)), lambda: self._finish_step(begun))

    def _finish_step(self, begun: list[tuple[SessionKey, _Held]]) -> None:
        self.is_stepping = False
        self.num_steps += 1
        for key, held in begun:
            assert held.in_step is not None
            (wanted, num_chain), held.in_step = held.in_step, None
            if self.random.random() < self.fail_rate:
                self.feed(key, StepFailed("out of memory", retry_ms=20))
            else:
                held.limit = held.began_with
                self.feed(key, self._compute(held, wanted, num_chain))
                held.limit = None
        self._later(0.0, self._step)

    def _compute(self, held: _Held, wanted: WantStep, num_chain: int) -> Stepped:
        rows, tree, params = held.rows, wanted.tree, held.machine.params
        assert rows is not None and params is not None
        del rows[wanted.start :]
        rows += wanted.chain[:num_chain].tolist()
        if tree is None:
            return Stepped(None)
        prefix = list(rows)
        own = self._draft(wanted, prefix, params)
        tree = tree if own is None else own
        rows += tree.token[1:].tolist()
        choice = []
        for node in range(len(tree)):
            path: list[int] = []
            at = node
            while at > 0:
                path.append(int(tree.token[at]))
                at = int(tree.parent[at])
            choice.append(choose(prefix + path[::-1], params))
        chosen = np.asarray(choice, dtype=np.int32)
        return Stepped(chosen, step_ms=10.0, step_rows=len(tree), tree=own)

    def _draft(
        self, wanted: WantStep, committed: list[int], params: SessionParams
    ) -> TokenTree | None:
        if self.own_accuracy is None or not wanted.is_hosted or self.random.random() < 0.2:
            return None
        num_nodes = self.random.randrange(12)
        return random_tree(self.random, committed, num_nodes, params, self.own_accuracy)


def _common(one: list[int], other: list[int]) -> list[tuple[int, int]]:
    pairs = []
    for pair in zip(one, other, strict=False):
        if pair[0] != pair[1]:
            break
        pairs.append(pair)
    return pairs
