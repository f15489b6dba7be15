"""No sequence of wire messages makes either machine raise, whatever its driver is doing meanwhile.

The drivers here are correct; everything from the wire is arbitrary, built from small pools so that
rounds, tries, bases and hashes often meet by chance.
"""

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from specedge.errors import LinkTimeout
from specedge.ids import EdgeId, SessionId, SessionKey
from specedge.protocol import codec
from specedge.protocol.edge_session import EdgeSession
from specedge.protocol.edge_states import EdgeState
from specedge.protocol.effects import (
    Answered,
    AskDraft,
    Drafted,
    DraftedAhead,
    EdgeEvent,
    LinkRestored,
    OpenAnswered,
    OpenFailed,
    RequestOpen,
    Started,
    SwitchAsked,
    TimerDue,
)
from specedge.protocol.messages import (
    Ahead,
    Cold,
    ContextHeader,
    Draft,
    Progress,
    Rejected,
    SessionParams,
    Verdict,
)
from specedge.protocol.opening import Identity, Limits, Opened, Reason
from specedge.protocol.token_log import TokenLog
from specedge.protocol.verifier_effects import (
    AheadArrived,
    ContextArrived,
    DropSlot,
    EndingArrived,
    Gone,
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
from specedge.protocol.verifier_job import VerifierSessionConfig
from specedge.protocol.verifier_session import VerifierSession
from specedge.protocol.verifier_states import VerifierState
from specedge.tree.token_tree import TokenTree

VOCAB = 4
LIMITS = Limits(nodes=3, append=2, context=14, grant=4, ahead=4)
IDENTITY = Identity(model="m", weights="ab", tokenizer="cd", vocab_size=VOCAB, max_context=14)
KEY = SessionKey(EdgeId("U" + "A" * 55), SessionId("0" * 32))
PARAMS = SessionParams(
    model="m", weights="ab", tokenizer="cd", prompt=2, max_tokens=9, stop=(3,), min_tokens=2
)

rounds = st.sampled_from((*range(5), 2**31 - 1))
tries = st.sampled_from((*range(4), 2**31 - 1))
tokens = st.integers(0, VOCAB)  # one past the vocabulary
texts = st.lists(st.integers(0, 1), min_size=1, max_size=8)
wrong_hash = st.just("0" * 16)
seconds = st.sampled_from((0.0, 0.05, 0.25, 0.7, 40.0))


@st.composite
def trees(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    token = tuple(draw(st.lists(tokens, max_size=4)))
    parent = tuple(draw(st.integers(-1, node - 1)) for node in range(len(token)))
    return token, parent


class VerifierUnderFire(RuleBasedStateMachine):
    """One verifier session, its correct driver, and anything at all from the wire."""

    @initialize()
    def begin(self) -> None:
        config = VerifierSessionConfig(max_chain_tokens=2)
        self.session = VerifierSession(KEY, LIMITS, IDENTITY, "v1", config)
        self.now_s = 0.0
        self.is_slot_asked = self.has_slot = self.is_gone = False
        self.wanted: WantStep | None = None
        self.begun: WantStep | None = None

    def on(self, event: VerifierEvent) -> None:
        for effect in self.session.on(event, self.now_s):
            assert not self.is_gone
            match effect:
                case WantSlot():
                    assert not self.has_slot
                    self.is_slot_asked = True
                case DropSlot():
                    assert self.has_slot
                    assert self.begun is None
                    self.has_slot = False
                case WantStep():
                    assert self.has_slot
                    assert self.begun is None
                    self.wanted = effect
                case Withdraw():
                    assert self.wanted is not None
                    self.wanted = None
                case Gone():
                    self.is_gone = True

    @rule(
        round_=rounds, text=texts, off=st.integers(0, 8), size=st.integers(1, 8),
        hash_=st.none() | wrong_hash, prompt=st.sampled_from((2, 2, 2, 5)),
    )  # fmt: skip
    def context(self, round_, text, off, size, hash_, prompt) -> None:
        params = PARAMS.model_copy(update={"prompt": prompt})
        log = TokenLog(params, text)
        header = ContextHeader(
            round=round_, off=off, total=len(text), hash=hash_ or log.hash_at(len(text)),
            params=params,
        )  # fmt: skip
        self.on(ContextArrived(header, np.asarray((text * 8)[off : off + size], dtype=np.int32)))

    @rule(
        round_=rounds, try_=tries, text=texts, hash_=st.none() | wrong_hash, tree=trees(),
        append=st.lists(tokens, max_size=3), run=st.integers(0, 5), budget_s=seconds,
    )  # fmt: skip
    def work(self, round_, try_, text, hash_, tree, append, run, budget_s) -> None:
        base = len(text)
        draft = Draft(
            round=round_, try_=try_, base=base,
            hash=hash_ or TokenLog(PARAMS, text).hash_at(base), append=tuple(append),
            token=tree[0], parent=tree[1], run=run, budget_ms=0,
        )  # fmt: skip
        item = codec.batch_item(draft, KEY, budget_ms=0, held_ms=0.0)
        self.on(WorkArrived(item, self.now_s + budget_s - 0.01))

    @rule(data=st.data(), round_=rounds, try_=tries, run=st.integers(0, 5), tree=trees())
    def fitting_work(self, data, round_, try_, run, tree) -> None:
        text = self.session.committed.tolist()
        if text:
            text = text[: data.draw(st.integers(1, len(text)))]
            self.work(round_, try_, text, None, tree, [], run, 0.7)

    @rule(round_=rounds, tree=trees(), nodes=st.integers(0, 4), hash_=st.none() | wrong_hash)
    def ahead(self, round_, tree, nodes, hash_) -> None:
        text = self.session.committed.tolist() or [0]
        ahead = Ahead(
            round=round_, base=len(text), hash=hash_ or TokenLog(PARAMS, text).hash_at(len(text)),
            token=tree[0], parent=tree[1], nodes=nodes,
        )  # fmt: skip
        self.on(AheadArrived(ahead))

    @rule()
    def ending(self) -> None:
        self.on(EndingArrived())

    @rule(after_s=seconds)
    def time(self, after_s: float) -> None:
        self.now_s += after_s
        self.on(TimerDue())

    @precondition(lambda self: self.is_slot_asked)
    @rule(is_given=st.booleans(), rows_ready=st.integers(0, 9))
    def lease(self, is_given: bool, rows_ready: int) -> None:
        self.is_slot_asked, self.has_slot = False, is_given
        self.on(SlotGiven(rows_ready) if is_given else SlotDenied(retry_ms=5))

    @precondition(lambda self: self.has_slot and self.session.state is VerifierState.READY)
    @rule()
    def park(self) -> None:
        self.has_slot = False
        self.on(SlotTaken())

    @precondition(lambda self: self.wanted is not None)
    @rule(data=st.data())
    def step_begins(self, data: st.DataObject) -> None:
        self.begun, self.wanted = self.wanted, None
        least = 1 if self.begun.tree is None else len(self.begun.chain)
        self.on(StepBegun(data.draw(st.integers(least, len(self.begun.chain)))))

    @precondition(lambda self: self.begun is not None)
    @rule(data=st.data(), fails=st.booleans())
    def step_ends(self, data: st.DataObject, fails: bool) -> None:
        tree, self.begun = self.begun.tree, None
        if fails:
            self.on(StepFailed("no"))
        elif tree is None:
            self.on(Stepped(None))
        else:
            size = len(tree)
            choice = data.draw(st.lists(st.integers(0, 3), min_size=size, max_size=size))
            self.on(Stepped(np.asarray(choice, dtype=np.int32)))

    @invariant()
    def rows_never_reach_the_root(self) -> None:
        session = self.session
        assert session.rows <= max(len(session.committed) - 1, 0)
        assert session.has_slot == self.has_slot
        assert self.has_slot or session.rows == 0
        assert self.is_gone == (session.state is VerifierState.GONE)


class EdgeUnderFire(RuleBasedStateMachine):
    """One edge session, its correct driver, and anything at all from the wire."""

    @initialize()
    def begin(self) -> None:
        self.session = EdgeSession(PARAMS, [0, 1])
        self.now_s = 0.0
        self.num_asked = 0
        self.is_request_out = False
        self.on(Started())

    def on(self, event: EdgeEvent) -> None:
        for effect in self.session.on(event, self.now_s):
            match effect:
                case RequestOpen():
                    assert not self.is_request_out
                    self.is_request_out = True
                case AskDraft():
                    self.num_asked += 1
                    assert self.num_asked == 1, "one at a time"

    @precondition(lambda self: self.is_request_out)
    @rule(is_answered=st.booleans())
    def open_outcome(self, is_answered: bool) -> None:
        self.is_request_out = False
        opened = Opened(at="v1", group="main", limits=LIMITS, identity=IDENTITY)
        self.on(OpenAnswered(opened) if is_answered else OpenFailed(LinkTimeout("no")))

    @precondition(lambda self: self.num_asked > 0)
    @rule(tree=trees(), run=st.integers(0, 5))
    def drafted(self, tree, run) -> None:
        self.num_asked = 0
        if self.session.state is EdgeState.ENDED:
            return
        root = int(self.session.committed[-1])
        token, parent = tree
        drafted = TokenTree.from_parents([root, *token], [-1, *(p + 1 for p in parent)])
        self.on(Drafted(drafted, run=run, base=self.session.base))

    @rule(tree=trees(), nodes=st.integers(0, 4), base=st.none() | st.integers(1, 9))
    def drafted_ahead(self, tree, nodes, base) -> None:
        root = int(self.session.committed[-1])
        token, parent = tree
        drafted = TokenTree.from_parents([root, *token], [-1, *(p + 1 for p in parent)])
        self.on(DraftedAhead(drafted, nodes, base or self.session.base))

    @rule(
        round_=rounds, try_=tries, path=st.lists(tokens, max_size=3), bonus=tokens,
        hash_=st.none() | wrong_hash, final=st.sampled_from((None, None, None, "stop")),
        is_current=st.booleans(), ahead=st.sampled_from((0, 0, 1, 2)),
    )  # fmt: skip
    def verdict(self, round_, try_, path, bonus, hash_, final, is_current, ahead) -> None:
        log = TokenLog(PARAMS, [*self.session.committed.tolist(), *path, bonus])
        verdict = Verdict(
            round=self.session.round if is_current else round_, try_=try_, at="v2",
            path=tuple(path), bonus=bonus, base=len(log), hash=hash_ or log.hash_at(len(log)),
            final=final, ahead=ahead,
        )  # fmt: skip
        self.on(Answered(verdict))

    @rule(round_=rounds, try_=tries, figures=st.tuples(rounds, rounds))
    def progress_or_cold(self, round_, try_, figures) -> None:
        self.on(Answered(Progress(round=round_, try_=try_, progress=figures)))
        self.on(Answered(Cold(round=round_, try_=try_)))

    @rule(round_=rounds, try_=tries, reason=st.sampled_from(list(Reason)))
    def rejected(self, round_, try_, reason) -> None:
        self.on(Answered(Rejected(round=round_, try_=try_, rejected=reason)))

    @rule(after_s=seconds, event=st.sampled_from((TimerDue(), LinkRestored(), SwitchAsked())))
    def local(self, after_s, event) -> None:
        self.now_s += after_s
        self.on(event)

    @invariant()
    def the_prompt_never_changes(self) -> None:
        assert self.session.committed[:2].tolist() == [0, 1]


lean = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestVerifierUnderFire = VerifierUnderFire.TestCase
TestVerifierUnderFire.settings = lean
TestEdgeUnderFire = EdgeUnderFire.TestCase
TestEdgeUnderFire.settings = lean
