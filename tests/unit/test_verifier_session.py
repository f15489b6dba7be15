"""The verifier's end of a session, row by row."""

import numpy as np
import pytest

from specedge.errors import ProtocolViolation
from specedge.ids import EdgeId, SessionId, SessionKey
from specedge.protocol import codec
from specedge.protocol.effects import SetTimer, TimerDue
from specedge.protocol.messages import (
    Ahead,
    Cold,
    ContextHeader,
    Draft,
    Identity,
    Limits,
    Progress,
    Reason,
    Rejected,
    SessionParams,
    TokenLogprobs,
    Verdict,
)
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
    VerifierEffect,
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


# ---------------------------------------------------------------- context


def test_work_without_context_is_cold_by_its_round_and_try() -> None:
    bench = Bench()

    cold = reply_in(bench.on(bench.work(round_=7, try_=2)), Cold)

    assert (cold.round, cold.try_, cold.at) == (7, 2, "v1")
    assert bench.session.state is VerifierState.ABSENT


def test_a_complete_context_leases_a_slot_and_prefills_all_but_the_root() -> None:
    bench = Bench()

    assert find(bench.on(bench.context()), WantSlot) == [WantSlot(len(PROMPT) + LIMITS.nodes)]
    step = step_in(bench.on(SlotGiven()))
    assert (step.start, step.chain.tolist(), step.tree) == (0, PROMPT[:-1], None)
    step = step_in(bench.step(num_chain=4))
    assert (step.start, step.chain.tolist()) == (4, PROMPT[4:-1])
    bench.step(num_chain=5)

    assert bench.session.state is VerifierState.READY
    assert bench.session.rows == len(PROMPT) - 1


def test_chunks_may_come_in_any_order_and_twice() -> None:
    bench = Bench()

    for off, end in ((6, None), (0, 3), (6, None), (3, 6)):
        assert bench.session.state is not VerifierState.READY
        effects = bench.on(bench.context(off=off, end=end))

    assert find(effects, WantSlot)
    assert bench.session.committed.tolist() == PROMPT
    assert bench.session.counters["duplicate_chunk"] == 1


def test_a_short_rest_of_the_context_shares_the_step_with_the_tree() -> None:
    bench = Bench(max_chain_tokens=16)
    bench.on(bench.context())
    bench.on(SlotGiven())

    step = step_in(bench.on(bench.work(token=(7,), parent=(-1,))))

    assert step.chain.tolist() == PROMPT, "it replaces the prefill not yet begun"
    assert step.tree is not None
    assert reply_in(bench.step(7, 8, num_chain=10), Verdict).path == (7,)


def test_rows_kept_from_an_earlier_session_are_not_computed_again() -> None:
    bench = Bench()
    bench.on(bench.context())

    step = step_in(bench.on(SlotGiven(rows_ready=6)))

    assert (step.start, step.chain.tolist()) == (6, PROMPT[6:-1])


def test_a_context_of_another_hash_replaces_the_one_coming_in() -> None:
    bench = Bench()
    bench.on(bench.context(off=0, end=3))

    bench.on(bench.context(1, 2))

    assert bench.session.committed.tolist() == [*PROMPT, 1, 2]
    assert bench.session.counters["replaced_context"] == 1


def test_a_context_of_an_older_round_is_ignored() -> None:
    bench = Bench()
    bench.on(bench.context(1, round_=3, off=0, end=3))

    assert bench.on(bench.context(round_=2)) == []
    bench.on(bench.work(round_=5))
    assert bench.on(bench.context(1, 2, round_=4)) == []
    assert bench.session.counters["stale_context"] == 2


def test_a_context_that_is_held_already_is_ignored() -> None:
    bench = Bench()
    bench.ready(1)

    assert bench.on(bench.context(round_=1)) == []
    assert bench.session.counters["held_context"] == 1


def test_a_new_context_keeps_the_rows_of_the_common_prefix() -> None:
    bench = Bench()
    bench.ready(1, 2, 3)

    effects = bench.on(bench.context(1, 9, 9, 9, round_=4))

    step = step_in(effects)
    assert step.start == len(PROMPT) + 1
    assert step.chain.tolist() == [9, 9]


def test_a_context_whose_hash_does_not_fit_is_rejected_and_forgotten() -> None:
    bench = Bench()

    rejected = reply_in(bench.on(bench.context(hash="0" * 16)), Rejected)

    assert (rejected.rejected, rejected.field) == (Reason.INVALID, "hash")
    assert bench.session.state is VerifierState.ABSENT


@pytest.mark.parametrize("field", ["weights", "tokenizer", "model"])
def test_a_context_for_another_model_is_rejected_with_both_fingerprints(field: str) -> None:
    bench = Bench(**{field: "ee"})

    rejected = reply_in(bench.on(bench.context()), Rejected)

    assert rejected.rejected is Reason.FINGERPRINT
    assert (rejected.ours, rejected.theirs) == (getattr(IDENTITY, field), "ee")
    assert rejected.ours in rejected.message
    assert rejected.theirs in rejected.message


@pytest.mark.parametrize(
    ("params", "changed", "reason", "field"),
    [
        ({"max_tokens": 51}, {}, Reason.TOO_LONG, "params.max_tokens"),
        ({"prompt": 11}, {}, Reason.INVALID, "total"),
        ({"prompt": 4, "max_tokens": 6}, {}, Reason.INVALID, "total"),
        ({}, {"off": 1, "total": 10}, Reason.INVALID, "off"),
    ],
)
def test_a_context_of_impossible_length_is_rejected_by_field(
    params: dict[str, object], changed: dict[str, object], reason: Reason, field: str
) -> None:
    bench = Bench(**params)
    event = bench.context()
    event = ContextArrived(event.header.model_copy(update=changed), event.ids)

    rejected = reply_in(bench.on(event), Rejected)

    assert (rejected.rejected, rejected.field) == (reason, field)


def test_a_context_id_outside_the_vocabulary_is_rejected_by_its_place() -> None:
    bench = Bench()

    rejected = reply_in(bench.on(bench.context(50)), Rejected)

    assert rejected.field == f"ids[{len(PROMPT)}]"


def test_a_draft_waits_for_its_context_and_is_cold_if_said_again_while_nothing_moves() -> None:
    bench = Bench()
    bench.on(bench.context(off=0, end=3))

    assert not find(bench.on(bench.work(try_=0)), Reply)
    bench.on(bench.context(off=3, end=6))
    assert not find(bench.on(bench.work(try_=1)), Reply)
    assert reply_in(bench.on(bench.work(try_=2)), Cold).try_ == 2

    bench.on(bench.context(off=6))
    assert reply_in(bench.on(bench.work(1, round_=0, try_=3)), Cold), "complete, but another prefix"


def test_a_waiting_draft_runs_once_its_context_is_complete() -> None:
    bench = Bench(max_chain_tokens=16)
    bench.on(bench.context(off=0, end=3))
    bench.on(bench.work())
    bench.on(bench.context(off=3))

    step = step_in(bench.on(SlotGiven()))

    assert step.tree is not None


# ---------------------------------------------------------------- a round


def test_a_draft_becomes_a_step_and_the_step_a_verdict() -> None:
    bench = Bench()
    bench.ready()

    step = step_in(bench.on(bench.work(token=(7, 8, 9), parent=(-1, 0, 0))))
    assert (step.start, step.chain.tolist()) == (9, [19])
    assert step.tree is not None
    assert step.tree.parent.tolist() == [-1, 0, 1, 1]
    effects = bench.step(7, 9, 0, 4, queue_ms=1.234, step_ms=20.0, step_rows=33)

    verdict = reply_in(effects, Verdict)
    assert (verdict.path, verdict.bonus, verdict.kept) == ((7, 9), 4, 3)
    log = bench.log(7, 9, 4)
    assert (verdict.base, verdict.hash) == (13, log.hash_at(13))
    assert (verdict.timing.held, verdict.timing.queue, verdict.timing.rows) == (1.5, 1.23, 33)
    (kept,) = find(effects, KeepRows)
    assert (kept.base, kept.path.tolist()) == (10, [1, 3])
    assert bench.session.rows == 12
    assert bench.session.last_round == 0


def test_an_empty_tree_yields_one_token_and_moves_no_row() -> None:
    bench = Bench()
    bench.ready()
    bench.on(bench.work())

    effects = bench.step(5)

    assert reply_in(effects, Verdict).path == ()
    assert not find(effects, KeepRows)


def test_log_probabilities_follow_the_path() -> None:
    bench = Bench()
    bench.ready()
    bench.on(bench.work(token=(7, 8), parent=(-1, 0)))

    logprobs = tuple(TokenLogprobs(lp=-float(node)) for node in range(3))
    verdict = reply_in(bench.step(7, 3, 0, logprobs=logprobs), Verdict)

    assert verdict.lp is not None
    assert [entry.lp for entry in verdict.lp] == [0.0, -1.0]


def test_the_same_round_again_is_answered_from_the_cache_and_not_run() -> None:
    bench = Bench()
    bench.ready()
    bench.on(bench.work(token=(7,), parent=(-1,)))
    first = reply_in(bench.step(7, 3), Verdict)

    effects = bench.on(bench.work(token=(7,), parent=(-1,), try_=1))

    assert reply_in(effects, Verdict) == first.model_copy(update={"try_": 1})
    assert not find(effects, WantStep)
    assert bench.session.state is VerifierState.READY


def test_an_older_round_is_ignored() -> None:
    bench = Bench()
    bench.ready()
    bench.on(bench.work(round_=4))
    bench.step(5)
    bench.on(bench.work(5, round_=5))
    bench.step(6)

    assert bench.on(bench.work(round_=4, try_=1)) == []
    assert bench.session.counters["stale_work"] == 1


@pytest.mark.parametrize("has_begun", [False, True])
def test_a_duplicate_while_running_is_answered_by_nothing(has_begun: bool) -> None:
    bench = Bench()
    bench.ready()
    bench.on(bench.work())
    if has_begun:
        bench.on(StepBegun(1))

    assert not find(bench.on(bench.work(try_=0)), Reply)
    assert not find(bench.on(bench.work(try_=1)), Reply | WantStep)

    if not has_begun:
        bench.on(StepBegun(1))
    verdict = reply_in(bench.on(Stepped(np.asarray([5], dtype=np.int32))), Verdict)
    assert verdict.try_ == 1, "the answer names the newest try"


@pytest.mark.parametrize("changed", [{"hash": "0" * 16}, {"base": 12}])
def test_another_base_or_hash_is_cold(changed: dict[str, object]) -> None:
    bench = Bench()
    bench.ready()

    assert reply_in(bench.on(bench.work(**changed)), Cold)
    assert bench.session.committed.tolist() == PROMPT


def test_a_base_inside_the_prompt_is_rejected() -> None:
    bench = Bench()
    bench.ready()
    log = bench.log()

    rejected = reply_in(bench.on(bench.work(base=5, hash=log.hash_at(5))), Rejected)

    assert rejected.field == "base"


def test_nothing_may_be_appended_past_the_end() -> None:
    bench = Bench(max_tokens=2)
    bench.ready()

    rejected = reply_in(bench.on(bench.work(append=(1, 2))), Rejected)

    assert (rejected.rejected, rejected.field) == (Reason.INVALID, "base")


@pytest.mark.parametrize(
    ("changed", "reason", "field"),
    [
        ({"token": (1,) * 5, "parent": (-1,) * 5}, Reason.OVER_LIMIT, "token"),
        ({"append": (1,) * 4}, Reason.OVER_LIMIT, "append"),
        ({"run": 9}, Reason.OVER_LIMIT, "run"),
        ({"token": (1, 50), "parent": (-1, 0)}, Reason.INVALID, "token[1]"),
        ({"append": (50,)}, Reason.INVALID, "append[0]"),
    ],
)
def test_a_faulty_draft_is_rejected_by_field_and_touches_nothing(
    changed: dict[str, object], reason: Reason, field: str
) -> None:
    bench = Bench()
    bench.ready()

    rejected = reply_in(bench.on(bench.work(**changed)), Rejected)

    assert (rejected.rejected, rejected.field) == (reason, field)
    assert bench.session.state is VerifierState.READY
    assert step_in(bench.on(bench.work())), "the round itself is still welcome"


def test_work_that_came_too_late_is_rejected_as_expired() -> None:
    bench = Bench()
    bench.ready()
    late = bench.work()

    rejected = reply_in(bench.on(late, after_s=0.7), Rejected)

    assert rejected.rejected is Reason.EXPIRED


def test_work_that_waits_past_its_time_is_withdrawn() -> None:
    bench = Bench()
    bench.ready()
    bench.on(bench.work(budget_ms=100))

    effects = bench.on(TimerDue(), 0.1)

    assert find(effects, Withdraw)
    assert reply_in(effects, Rejected).rejected is Reason.EXPIRED
    assert bench.session.state is VerifierState.READY


def test_appended_tokens_are_committed_before_the_round() -> None:
    bench = Bench()
    bench.ready()

    step = step_in(bench.on(bench.work(append=(1, 2), token=(7,), parent=(-1,))))
    assert (step.start, step.chain.tolist()) == (9, [19, 1, 2])
    verdict = reply_in(bench.step(7, 8, num_chain=3), Verdict)

    assert (verdict.base, verdict.hash) == (14, bench.log(1, 2, 7, 8).hash_at(14))
    assert reply_in(
        bench.on(bench.work(append=(1, 2), token=(7,), parent=(-1,), try_=1)), Verdict
    ), "the cache knows the round by where it started"


def test_a_lower_base_with_an_agreeing_hash_rewinds_the_log() -> None:
    bench = Bench()
    bench.ready(1, 2, 3)

    step = step_in(bench.on(bench.work(1, round_=8)))

    assert (step.start, step.chain.tolist()) == (10, [1])
    assert bench.session.committed.tolist() == [*PROMPT, 1]
    assert bench.session.counters["truncated"] == 1


# ---------------------------------------------------------------- where a sequence ends


def test_a_stop_id_on_the_path_cuts_the_verdict_and_frees_the_slot() -> None:
    bench = Bench(stop=(2,))
    bench.ready()
    bench.on(bench.work(token=(2, 8), parent=(-1, 0)))

    effects = bench.step(2, 8, 9)

    verdict = reply_in(effects, Verdict)
    assert (verdict.path, verdict.bonus, verdict.final) == ((), 2, "stop")
    (dropped,) = find(effects, DropSlot)
    assert dropped.tokens.tolist() == PROMPT
    assert len(dropped.tokens) == 10
    assert not bench.session.has_slot


def test_a_stop_id_does_not_count_before_min_tokens() -> None:
    bench = Bench(stop=(2,), min_tokens=2)
    bench.ready()
    bench.on(bench.work(token=(2, 2), parent=(-1, 0)))

    verdict = reply_in(bench.step(2, 2, 2), Verdict)

    assert (verdict.path, verdict.bonus, verdict.final) == ((2, 2), 2, "stop")


def test_max_tokens_cuts_the_verdict() -> None:
    bench = Bench(max_tokens=2)
    bench.ready()
    bench.on(bench.work(token=(7, 8), parent=(-1, 0)))

    verdict = reply_in(bench.step(7, 8, 9), Verdict)

    assert (verdict.path, verdict.bonus, verdict.final) == ((7,), 8, "length")


def test_the_final_verdict_is_given_again_without_a_slot() -> None:
    bench = Bench(max_tokens=1)
    bench.ready()
    bench.on(bench.work())
    bench.step(7)

    effects = bench.on(bench.work(try_=1))

    assert reply_in(effects, Verdict).final == "length"
    assert not find(effects, WantSlot)


# ---------------------------------------------------------------- slots, steps, progress


def test_without_a_slot_the_round_is_busy_and_the_next_try_asks_again() -> None:
    bench = Bench()
    bench.on(bench.context())
    bench.on(bench.work())

    rejected = reply_in(bench.on(SlotDenied(retry_ms=70)), Rejected)

    assert (rejected.rejected, rejected.retry_ms) == (Reason.BUSY, 70)
    assert bench.session.state is VerifierState.READY
    assert find(bench.on(bench.work(try_=1)), WantSlot)


def test_a_parked_session_is_prefilled_again_for_its_next_round() -> None:
    bench = Bench()
    bench.ready()
    bench.on(SlotTaken())

    assert bench.session.state is VerifierState.READY
    assert find(bench.on(bench.work()), WantSlot)
    assert step_in(bench.on(SlotGiven())).tree is None
    assert step_in(bench.step(num_chain=9)).tree is not None


def test_a_slot_that_came_when_the_round_had_expired_stays_for_the_next() -> None:
    bench = Bench()
    bench.ready()
    bench.on(SlotTaken())
    bench.on(bench.work(budget_ms=100))

    assert reply_in(bench.on(TimerDue(), 0.1), Rejected).rejected is Reason.EXPIRED
    assert bench.session.state is VerifierState.FILLING
    bench.on(SlotGiven())

    assert bench.session.state is VerifierState.READY
    assert bench.session.has_slot


@pytest.mark.parametrize(("retry_ms", "said"), [(70, 70), (None, 200)])
def test_a_failed_step_rejects_the_round_and_leaves_the_session_usable(
    retry_ms: int | None, said: int
) -> None:
    bench = Bench()
    bench.ready()
    bench.on(bench.work())
    bench.on(StepBegun(1))

    rejected = reply_in(bench.on(StepFailed("out of memory", retry_ms)), Rejected)

    assert (rejected.rejected, rejected.retry_ms) == (Reason.BUSY, said)
    assert "out of memory" in rejected.message
    assert step_in(bench.on(bench.work(try_=1)))


def test_a_long_prefill_shows_progress_every_250_ms_and_extends_the_deadline() -> None:
    bench = Bench()
    bench.on(bench.context())
    bench.on(bench.work())
    bench.on(SlotGiven())

    for done in (0, 2, 4):
        progress = reply_in(bench.on(TimerDue(), 0.25), Progress)
        assert (progress.round, progress.progress) == (0, (done, 10))
        if done < 4:
            bench.step(num_chain=2)

    asked = step_in(bench.step(num_chain=2))
    assert asked.tree is not None, "the round itself"
    assert asked.deadline_s == pytest.approx(bench.now_s + 0.6)


def test_a_context_that_stopped_coming_shows_no_progress() -> None:
    bench = Bench()
    effects = bench.on(bench.context(off=0, end=3))
    assert find(effects, SetTimer)

    effects = bench.on(TimerDue(), 0.25)
    assert reply_in(effects, Progress).progress == (3, 10)
    assert not find(effects, SetTimer), "it rings no more"


def test_progress_names_the_draft_that_waits_for_its_context() -> None:
    bench = Bench()
    bench.on(bench.context(off=0, end=3))
    bench.on(bench.work(try_=2))

    assert reply_in(bench.on(TimerDue(), 0.25), Progress).try_ == 2


def test_a_round_not_begun_is_taken_over_into_a_context_that_it_fits_too() -> None:
    bench = Bench(max_chain_tokens=16)
    bench.ready(1, 2)
    bench.on(bench.work(1, round_=3))

    effects = bench.on(bench.context(1, 9, round_=3))

    step = step_in(effects)
    assert step.chain.tolist() == [1]
    assert step.tree is not None
    assert bench.session.committed.tolist() == [*PROMPT, 1]


def test_an_early_timer_is_asked_for_again() -> None:
    bench = Bench()
    bench.ready()
    bench.on(bench.work())

    assert bench.on(TimerDue(), 0.1) == [SetTimer(0.25)]


def test_work_for_a_later_round_that_comes_during_a_step_is_taken_after_it() -> None:
    bench = Bench()
    bench.ready()
    bench.on(bench.work())
    bench.on(StepBegun(1))
    bench.on(bench.work(5, round_=1))

    progress = reply_in(bench.on(TimerDue(), 0.25), Progress)
    effects = bench.on(Stepped(np.asarray([5], dtype=np.int32)))

    assert progress.round == 1, "the newest round is the one that somebody waits for"
    assert reply_in(effects, Verdict).round == 0
    assert step_in(effects).chain.tolist() == [5]


def test_a_context_that_completes_during_a_step_is_installed_after_it() -> None:
    bench = Bench()
    bench.ready()
    bench.on(bench.work())
    bench.on(StepBegun(1))

    bench.on(bench.context(8, 8, round_=3))
    assert bench.session.committed.tolist() == PROMPT
    bench.on(Stepped(np.asarray([5], dtype=np.int32)))

    assert bench.session.committed.tolist() == [*PROMPT, 8, 8]


def test_a_context_that_replaces_a_round_not_begun_makes_it_cold() -> None:
    bench = Bench()
    bench.ready(1)
    bench.on(bench.work(1, round_=3))

    effects = bench.on(bench.context(8, 8, round_=3))

    assert reply_in(effects, Cold).round == 3


# ---------------------------------------------------------------- grants


def test_a_grant_publishes_one_round_a_step_until_it_is_used_up() -> None:
    bench = Bench()
    bench.ready()

    step = step_in(bench.on(bench.work(round_=4, run=3)))
    assert step.is_hosted
    assert step.tree is not None
    assert len(step.tree) == 1
    rounds = []
    for token in (1, 2, 3):
        effects = bench.step(token)
        rounds.append(reply_in(effects, Verdict).round)

    assert rounds == [4, 5, 6]
    assert not find(effects, WantStep)
    assert bench.session.committed.tolist() == [*PROMPT, 1, 2, 3]
    assert bench.session.state is VerifierState.READY


def own_tree(root: int, *path: int) -> TokenTree:
    """What a verifier drafted itself: a chain on ``root``."""
    return TokenTree.from_parents([root, *path], [-1, *range(len(path))])


def test_a_hosted_round_commits_what_the_verifiers_own_draft_got_right() -> None:
    bench = Bench()
    bench.ready()
    bench.on(bench.work(run=8))

    effects = bench.step(30, 31, 32, tree=own_tree(19, 30, 31), draft_ms=2.5)

    [verdict] = [reply.message for reply in find(effects, Reply)]
    assert (verdict.path, verdict.bonus, verdict.base) == ((30, 31), 32, 13)
    assert (verdict.kept, verdict.own) == (0, 2)
    assert verdict.timing.draft == 2.5
    [keep] = find(effects, KeepRows)
    assert (keep.base, keep.path.tolist()) == (10, [1, 2])
    [step] = find(effects, WantStep)
    assert (step.start, step.chain.tolist()) == (12, [32])
    assert bench.session.grant_left == 5


def test_a_hosted_round_is_cut_where_its_grant_ends() -> None:
    bench = Bench()
    bench.ready()
    bench.on(bench.work(run=2))

    effects = bench.step(30, 31, 32, 33, tree=own_tree(19, 30, 31, 32))

    [verdict] = [reply.message for reply in find(effects, Reply)]
    assert (verdict.path, verdict.bonus, verdict.final) == ((30,), 31, None)
    assert bench.session.committed.tolist() == [*PROMPT, 30, 31]
    assert bench.session.rows == 11
    assert bench.session.state is VerifierState.READY


def test_a_grant_extended_during_a_step_counts_from_the_next_round_on() -> None:
    bench = Bench()
    bench.ready()
    bench.on(bench.work(run=2))
    bench.on(StepBegun(1))
    bench.on(bench.work(run=6, try_=1))

    effects = bench.on(Stepped(np.array([30, 31, 32], np.int32), tree=own_tree(19, 30, 31)))

    [verdict] = [reply.message for reply in find(effects, Reply)]
    assert verdict.path == (30,)
    assert bench.session.grant_left == 4


def test_a_grant_asked_for_again_during_a_step_outdates_a_draft_that_came_before_it() -> None:
    bench = Bench()
    bench.ready()
    bench.on(bench.work(run=4))
    bench.on(StepBegun(1))
    bench.on(bench.work(token=(7,), parent=(-1,), try_=1))
    bench.on(bench.work(run=4, try_=2))

    effects = bench.on(StepFailed("no memory"))

    assert reply_in(effects, Rejected).try_ == 2
    assert not find(effects, WantStep)


@pytest.mark.parametrize("ended_by", ["stop", "length"])
def test_a_hosted_draft_is_cut_where_the_sequence_ends(ended_by: str) -> None:
    bench = Bench(stop=(31,)) if ended_by == "stop" else Bench(max_tokens=2)
    bench.ready()
    bench.on(bench.work(run=8))

    effects = bench.step(30, 31, 32, 33, tree=own_tree(19, 30, 31, 32))

    [verdict] = [reply.message for reply in find(effects, Reply)]
    assert (verdict.path, verdict.bonus, verdict.final) == ((30,), 31, ended_by)
    assert find(effects, DropSlot)


def test_a_draft_that_comes_while_a_hosted_draft_is_tried_ends_the_grant_after_it() -> None:
    bench = Bench()
    bench.ready()
    bench.on(bench.work(run=8))
    bench.on(StepBegun(1))
    bench.on(bench.work(try_=1, token=(30,), parent=(-1,)))

    effects = bench.on(Stepped(np.array([30, 31, 32], np.int32), tree=own_tree(19, 30, 31)))

    first = find(effects, Reply)[0].message
    assert first.path == (30, 31)
    assert not bench.session.is_hosted


@pytest.mark.parametrize(
    ("run", "tree"),
    [(0, own_tree(19, 30)), (8, own_tree(18, 30))],
    ids=["of an edge's round", "on another root"],
)
def test_a_tree_of_its_own_where_none_may_be_is_a_wrong_local_call(
    run: int, tree: TokenTree
) -> None:
    bench = Bench()
    bench.ready()
    bench.on(bench.work(run=run))
    bench.on(StepBegun(1))

    with pytest.raises(ProtocolViolation):
        bench.on(Stepped(np.array([30, 31], np.int32), tree=tree))

    assert bench.session.state is VerifierState.RUNNING
    assert bench.session.committed.tolist() == PROMPT


def test_a_grant_ends_with_the_sequence() -> None:
    bench = Bench(max_tokens=2)
    bench.ready()
    bench.on(bench.work(run=8))
    bench.step(1)

    effects = bench.step(2)

    assert reply_in(effects, Verdict).final == "length"
    assert find(effects, DropSlot)


@pytest.mark.parametrize("has_begun", [False, True])
def test_a_renewal_extends_absolutely_and_restarts_nothing(has_begun: bool) -> None:
    bench = Bench()
    bench.ready()
    bench.on(bench.work(run=4))
    bench.step(1)
    bench.step(2)
    bench.step(3)
    if has_begun:
        bench.on(StepBegun(1))

    effects = bench.on(bench.work(1, 2, round_=2, run=4))  # the edge has seen two of three

    assert not find(effects, WantStep | Reply)
    rounds = []
    for token in (4, 5, 6):
        if not has_begun:
            bench.on(StepBegun(1))
        has_begun = False
        effects = bench.on(Stepped(np.asarray([token], dtype=np.int32)))
        rounds.append(reply_in(effects, Verdict).round)
    assert rounds == [3, 4, 5]
    assert not find(effects, WantStep), "six tokens from where the grant began: base 2 and 4 more"
    assert bench.session.counters["truncated"] == 0


def test_a_renewal_after_the_end_goes_on_where_the_grant_stopped() -> None:
    bench = Bench()
    bench.ready()
    bench.on(bench.work(run=2))
    bench.step(1)
    bench.step(2)

    step = step_in(bench.on(bench.work(1, round_=1, run=4)))

    assert step.chain.tolist() == [2]
    assert reply_in(bench.step(3), Verdict).round == 2


def test_a_renewal_that_grants_nothing_new_changes_nothing() -> None:
    bench = Bench()
    bench.ready()
    bench.on(bench.work(run=3))
    for token in (1, 2, 3):
        bench.step(token)

    assert bench.on(bench.work(1, round_=1, run=2)) == []
    assert bench.session.committed.tolist() == [*PROMPT, 1, 2, 3]


def test_a_repeated_grant_goes_back_to_the_edge_base() -> None:
    bench = Bench()
    bench.ready()
    bench.on(bench.work(run=4))
    bench.step(1)
    bench.step(2)

    step = step_in(bench.on(bench.work(1, round_=1, try_=1, run=4)))

    assert step.chain.tolist() == [1]
    verdict = reply_in(bench.step(2), Verdict)
    assert (verdict.round, verdict.try_) == (1, 1)


def a_grant_that_ran_ahead() -> Bench:
    """Three rounds said, a fourth in a step; the edge may have seen none of them."""
    bench = Bench()
    bench.ready()
    bench.on(bench.work(run=8))
    for token in (1, 2, 3):
        bench.step(token)
    bench.on(StepBegun(1))
    return bench


def test_a_draft_for_a_round_the_grant_has_said_ends_it_and_what_was_said_stands() -> None:
    bench = a_grant_that_ran_ahead()

    bench.on(bench.work(1, round_=1, token=(2,), parent=(-1,)))
    effects = bench.on(Stepped(np.asarray([4], dtype=np.int32)))

    assert reply_in(effects, Verdict).round == 3
    assert bench.session.state is VerifierState.READY
    assert bench.session.counters["outrun_draft"] == 1
    step = step_in(bench.on(bench.work(1, 2, 3, 4, round_=4, token=(5,), parent=(-1,))))
    assert step.chain.tolist() == [4]


def test_a_draft_said_again_takes_back_what_the_edge_has_not_seen() -> None:
    bench = a_grant_that_ran_ahead()

    bench.on(bench.work(1, round_=1, try_=1, token=(2,), parent=(-1,)))
    effects = bench.on(Stepped(np.asarray([4], dtype=np.int32)))

    step = step_in(effects)
    assert step.chain.tolist() == [1]
    assert not step.is_hosted
    assert not bench.session.is_hosted
    verdict = reply_in(bench.step(2, 3), Verdict)
    assert (verdict.round, verdict.path, verdict.bonus) == (1, (2,), 3)


def test_a_draft_for_the_round_in_a_step_is_answered_by_it_and_not_run() -> None:
    bench = a_grant_that_ran_ahead()

    bench.on(bench.work(1, 2, 3, round_=3, token=(9,), parent=(-1,)))
    effects = bench.on(Stepped(np.array([4, 5], np.int32), tree=own_tree(3, 4)))

    verdict = reply_in(effects, Verdict)
    assert (verdict.round, verdict.path, verdict.bonus) == (3, (4,), 5)
    assert not find(effects, WantStep)
    assert bench.session.state is VerifierState.READY


def test_a_draft_for_a_round_the_grant_has_answered_gets_that_answer() -> None:
    bench = Bench()
    bench.ready()
    bench.on(bench.work(run=8))
    bench.step(1)

    effects = bench.on(bench.work(round_=0, try_=1, token=(1,), parent=(-1,)))

    assert reply_in(effects, Verdict).bonus == 1
    assert find(effects, Withdraw)
    assert bench.session.state is VerifierState.READY, "and the grant is over"


# ---------------------------------------------------------------- the end


def test_an_ending_frees_the_slot_at_once_with_its_valid_rows() -> None:
    bench = Bench()
    bench.ready(1)
    bench.on(bench.work(1))

    effects = bench.on(EndingArrived())

    assert [type(effect) for effect in effects] == [SetTimer, Withdraw, DropSlot, Gone]
    assert find(effects, DropSlot)[0].tokens.tolist() == PROMPT
    assert bench.session.state is VerifierState.GONE
    assert bench.on(bench.work(1, try_=1)) == []


@pytest.mark.parametrize("outcome", [Stepped(np.asarray([5], dtype=np.int32)), StepFailed("no")])
def test_an_ending_during_a_step_frees_the_slot_after_it(outcome: VerifierEvent) -> None:
    bench = Bench()
    bench.ready()
    bench.on(bench.work())
    bench.on(StepBegun(1))

    assert not find(bench.on(EndingArrived()), DropSlot | Gone)
    assert bench.session.state is VerifierState.ENDING
    assert bench.on(bench.context(1, round_=2)) == []
    assert bench.on(TimerDue()) == []

    assert [type(effect) for effect in bench.on(outcome)] == [DropSlot, Gone]


@pytest.mark.parametrize(("answer", "kinds"), [
    (SlotGiven(), [DropSlot, Gone]), (SlotDenied(9), [Gone])
])  # fmt: skip
def test_an_ending_while_a_slot_is_asked_for_leaks_none(
    answer: VerifierEvent, kinds: list[type]
) -> None:
    bench = Bench()
    bench.on(bench.context())

    assert bench.session.state is VerifierState.FILLING
    assert not find(bench.on(EndingArrived()), Gone)
    assert [type(effect) for effect in bench.on(answer)] == kinds


def test_an_ending_without_anything_held_is_just_gone() -> None:
    bench = Bench()

    assert bench.on(EndingArrived()) == [Gone()]
    assert bench.session.committed.tolist() == []


# ---------------------------------------------------------------- wrong local calls


@pytest.mark.parametrize(
    "event",
    [SlotGiven(), SlotDenied(1), SlotTaken(), StepBegun(1), Stepped(None), StepFailed("no")],
)
def test_an_answer_that_nobody_asked_for_raises_and_changes_nothing(event: VerifierEvent) -> None:
    bench = Bench()

    with pytest.raises(ProtocolViolation):
        bench.on(event)

    assert bench.session.state is VerifierState.ABSENT


def test_an_answer_that_does_not_fit_what_was_asked_raises_and_changes_nothing() -> None:
    bench = Bench()
    bench.ready()
    bench.on(bench.work(token=(7,), parent=(-1,), append=(1,)))
    for wrong in (StepBegun(1), StepBegun(3), Stepped(None), SlotTaken()):
        with pytest.raises(ProtocolViolation):
            bench.on(wrong)
    bench.on(StepBegun(2))
    for wrong in (StepBegun(2), Stepped(None), Stepped(np.zeros(1, dtype=np.int32))):
        with pytest.raises(ProtocolViolation):
            bench.on(wrong)

    assert reply_in(bench.on(Stepped(np.asarray([7, 8], dtype=np.int32))), Verdict)


# ---------------------------------------------------------------- drafts sent ahead


class AheadBench(Bench):
    """A round with the draft 7 is in its step. Ahead of its verdict were drafted, below 7: 8 with
    1 and 2 below it."""

    def __init__(self, **params: object) -> None:
        super().__init__(**params)
        self.ready()
        self.on(self.work(token=(7,), parent=(-1,)))
        self.on(StepBegun(1))

    def ahead(self, *tokens: int, **changed: object) -> AheadArrived:
        log = self.log(*tokens)
        fields = {
            "round": 0, "base": len(log), "hash": log.hash_at(len(log)), "nodes": 4,
            "token": (7, 8, 1, 2), "parent": (-1, 0, 1, 2),
        }  # fmt: skip
        return AheadArrived(Ahead(**{**fields, **changed}))

    def end_step(self, *choice: int) -> list[VerifierEffect]:
        return self.on(Stepped(np.asarray(choice, dtype=np.int32)))


def test_a_verdict_that_leads_into_what_was_sent_ahead_is_followed_by_the_next_round_at_once() -> (
    None
):
    bench = AheadBench()
    bench.on(bench.ahead())
    assert bench.session.expects_more

    effects = bench.end_step(7, 8)

    verdict, step = reply_in(effects, Verdict), step_in(effects)
    assert (verdict.path, verdict.bonus, verdict.ahead) == ((7,), 8, 2)
    assert (step.start, step.chain.tolist()) == (len(PROMPT) + 1, [8])
    assert (step.tree.token.tolist(), step.tree.parent.tolist()) == ([8, 1, 2], [-1, 0, 1])
    assert step.is_ahead
    assert bench.session.rows_ahead == 3
    second = reply_in(bench.step(1, 2, 3), Verdict)
    assert (second.round, second.try_, second.kept, second.ahead) == (1, 0, 2, 0)
    assert (second.path, second.bonus) == ((1, 2), 3)
    assert bench.session.rows_ahead == 0


def test_no_more_of_it_is_tried_than_the_edge_asks_for() -> None:
    bench = AheadBench()
    bench.on(bench.ahead(nodes=1))

    effects = bench.end_step(7, 8)

    assert reply_in(effects, Verdict).ahead == 1
    assert step_in(effects).tree.token.tolist() == [8, 1]


@pytest.mark.parametrize(
    ("choice", "changed"),
    [
        ((7, 9), {}),  # the verdict leads elsewhere
        ((7, 1), {"token": (7, 1), "parent": (-1, 0)}),  # nothing hangs below
        ((7, 8), {"nodes": 0}),
        ((7, 8), {"round": 1}),
        ((7, 8), {"hash": "0" * 16}),
        ((7, 8), {"token": (7, 8, 1, 50)}),  # not in the vocabulary
        ((7, 8), {"token": (7, 8, *range(5)), "parent": (-1, 0, 1, 1, 1, 1, 1)}),  # too large
    ],
)
def test_what_does_not_fit_is_as_if_it_had_never_come(
    choice: tuple[int, int], changed: dict[str, object]
) -> None:
    bench = AheadBench()
    assert bench.on(bench.ahead(**changed)) == []

    effects = bench.end_step(*choice)

    assert reply_in(effects, Verdict).ahead == 0
    assert find(effects, WantStep) == []
    assert bench.session.state is VerifierState.READY


def test_what_comes_after_the_verdict_is_too_late() -> None:
    bench = AheadBench()
    bench.end_step(7, 8)

    assert bench.on(bench.ahead()) == []
    assert bench.session.counters["ahead_out_of_turn"] == 1


def test_a_final_verdict_is_followed_by_nothing() -> None:
    bench = AheadBench(stop=(8,))
    bench.on(bench.ahead())

    effects = bench.end_step(7, 8)

    verdict = reply_in(effects, Verdict)
    assert (verdict.final, verdict.ahead) == ("stop", 0)
    assert find(effects, WantStep) == []


def test_a_lost_verdict_is_said_again_with_the_one_that_followed_from_what_was_sent_ahead() -> None:
    bench = AheadBench()
    again = bench.work(try_=1, token=(7,), parent=(-1,))
    bench.on(bench.ahead())
    first = reply_in(bench.end_step(7, 8), Verdict)
    bench.on(StepBegun(1))

    meanwhile = reply_in(bench.on(again), Verdict)
    bench.on(Stepped(np.asarray((1, 2, 3), dtype=np.int32)))
    later = [one.message for one in find(bench.on(bench.work(try_=2)), Reply)]

    assert meanwhile == first.model_copy(update={"try_": 1})
    assert [(one.round, one.try_) for one in later] == [(0, 2), (1, 0)]
    assert later[0].ahead == 2


def test_the_round_said_as_a_draft_while_it_is_tried_is_the_same_round() -> None:
    bench = AheadBench()
    bench.on(bench.ahead())
    bench.end_step(7, 8)
    said = bench.work(7, 8, round_=1, try_=1, token=(1, 2), parent=(-1, 0))

    assert find(bench.on(said), WantStep) == []
    verdict = reply_in(bench.step(1, 2, 3), Verdict)

    assert (verdict.round, verdict.try_, verdict.path) == (1, 1, (1, 2))


def test_a_step_that_fails_for_it_is_said_by_its_round_so_that_the_edge_says_it_again() -> None:
    bench = AheadBench()
    bench.on(bench.ahead())
    bench.end_step(7, 8)
    bench.on(StepBegun(1))

    rejected = reply_in(bench.on(StepFailed("no", 5)), Rejected)

    assert (rejected.round, rejected.try_, rejected.rejected) == (1, 0, Reason.BUSY)
