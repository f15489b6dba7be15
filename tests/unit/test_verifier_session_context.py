"""The verifier's end of a session: how its context comes, and which one is taken."""

import pytest

from specedge.protocol.messages import Cold, Rejected, Verdict
from specedge.protocol.opening import Reason
from specedge.protocol.verifier_effects import ContextArrived, Reply, SlotGiven, WantSlot
from specedge.protocol.verifier_states import VerifierState
from tests.unit.verifier_bench import IDENTITY, LIMITS, PROMPT, Bench, find, reply_in, step_in


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
