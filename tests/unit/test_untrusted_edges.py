"""Edges need not be trusted: what one says of itself costs no other edge its turn, its speed or its
verifier."""

import numpy as np
import pytest

from specedge.errors import InvalidRequest
from specedge.protocol.codec import decode_context_header, encode
from specedge.protocol.messages import (
    MAX_BATCH_BYTES,
    ContextHeader,
    Draft,
    Rejected,
    SessionParams,
)
from specedge.protocol.opening import Limits, Reason
from specedge.protocol.verifier_effects import Reply
from specedge.protocol.work_checks import find_context_fault, find_work_fault
from specedge_scheduler.policy.types import AnswerSession, DraftArrived, EndingArrived, StatArrived
from tests.unit.scheduler_facts import IDENTITY, LIMITS, draft, key, stat
from tests.unit.scheduler_world import V1, V2, World, learn, sent, sessions_in
from tests.unit.verifier_bench import IDENTITY as BENCH_IDENTITY
from tests.unit.verifier_bench import LIMITS as BENCH_LIMITS
from tests.unit.verifier_bench import PROMPT, Bench

PARAMS = {
    "model": IDENTITY.model,
    "weights": IDENTITY.weights,
    "tokenizer": IDENTITY.tokenizer,
    "prompt": 3,
    "max_tokens": 9,
}


def header(**params: object) -> ContextHeader:
    told = SessionParams(**PARAMS | params)  # type: ignore[arg-type]
    return ContextHeader(round=0, off=0, total=3, hash="0" * 16, params=told)


# ---------------------------------------------------------------- at a verifier


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"stop": (2, IDENTITY.vocab_size)}, "params.stop[1]"),
        ({"logit_bias": ((IDENTITY.vocab_size, 1.0),)}, "params.logit_bias[0]"),
    ],
)
def test_an_id_that_no_device_could_index_is_refused_with_the_context(
    params: dict[str, object], field: str
) -> None:
    ids = np.arange(3, dtype=np.int32)

    fault = find_context_fault(header(**params), ids, IDENTITY, LIMITS)

    assert fault is not None
    assert (fault.reason, fault.field) == (Reason.INVALID, field)
    sound = {name: ((0, 1.0),) if name == "logit_bias" else (2,) for name in params}
    assert find_context_fault(header(**sound), ids, IDENTITY, LIMITS) is None


@pytest.mark.parametrize("bias", [b"NaN", b"Infinity", b"1e400", b"101.0"])
def test_a_bias_that_is_no_number_or_too_large_is_refused(bias: bytes) -> None:
    said = encode(header(logit_bias=((1, 7.125),))).replace(b"7.125", bias)

    with pytest.raises(InvalidRequest):
        decode_context_header(said + b"\n" + bytes(4))


@pytest.mark.parametrize(("num_left", "field"), [(3, None), (2, "parent")])
def test_a_tree_that_leads_past_the_models_last_position_is_refused(
    num_left: int, field: str | None
) -> None:
    """It could not be computed, and a step is everybody's."""
    bench = Bench(max_tokens=50)
    said = [1] * (BENCH_IDENTITY.max_context - len(PROMPT) - num_left)
    bench.ready(*said)

    effects = bench.on(bench.work(*said, token=(1, 2, 3, 4), parent=(-1, 0, 1, 0)))

    refused = [one.message for one in effects if isinstance(one, Reply)]
    assert [getattr(message, "field", "") for message in refused] == ([field] if field else [])


@pytest.mark.parametrize("work", [{"run": 4}, {"token": (3,), "parent": (-1,)}])
def test_a_round_whose_number_no_session_reaches_is_refused(work: dict[str, object]) -> None:
    """The verifier counts on from it by itself, and would end with what no message can say."""
    bench = Bench(max_tokens=50)
    bench.ready()

    effects = bench.on(bench.work(round_=2**31 - 1, **work))

    (refused,) = [one.message for one in effects if isinstance(one, Reply)]
    assert isinstance(refused, Rejected)
    assert (refused.rejected, refused.field) == (Reason.OVER_LIMIT, "round")
    last = bench.work(round_=BENCH_LIMITS.context, **work)
    assert find_work_fault(last.item, BENCH_LIMITS, BENCH_IDENTITY.vocab_size) is None


# ---------------------------------------------------------------- at a scheduler


def far_draft(base: int, round_: int = 1) -> Draft:
    return draft(round_).model_copy(update={"base": base})


def test_a_draft_that_starts_beyond_the_context_limit_is_refused_and_counts_for_nothing() -> None:
    world = World()
    world.stat()
    world.open(key("A"))
    world.tell(DraftArrived(key("A"), draft()))
    before = world.policy.cluster.verifiers[V1].usual.context

    (answer,) = world.tell(DraftArrived(key("A"), far_draft(2**31 - 1)))

    assert isinstance(answer, AnswerSession)
    assert isinstance(answer.message, Rejected)
    assert (answer.message.rejected, answer.message.field) == (Reason.OVER_LIMIT, "base")
    assert world.policy.cluster.verifiers[V1].usual.context == before


def test_a_draft_that_had_no_verifier_to_be_judged_by_is_judged_when_it_gets_one() -> None:
    world = World()
    world.tell(DraftArrived(key("A"), far_draft(2**31 - 1)))

    effects = world.stat()

    answers = [effect for effect in effects if isinstance(effect, AnswerSession)]
    assert [answer.message.field for answer in answers] == ["base"]  # type: ignore[union-attr]
    assert not sent(effects)
    assert not world.policy.cluster.waiting
    assert world.policy.cluster.verifiers[V1].usual.num_drafts == 0


def test_an_edge_cannot_claim_that_its_rounds_yield_more_than_they_could() -> None:
    world = World()
    world.stat()
    world.open(key("A"))
    for round_ in range(20):
        world.tell(DraftArrived(key("A"), far_draft(5 + 40 * round_, round_)))
        batch = world.policy.cluster.verifiers[V1].sent
        world.stat(batches=(), last=max(batch, default=0))

    usual = world.policy.cluster.verifiers[V1].usual

    assert usual.tokens <= 4, "three nodes in a line and a bonus"


def test_rounds_that_nobody_asked_for_do_not_tell_what_rounds_are_like() -> None:
    """Said by the hundred, each as the yield of nothing, they would make a verifier look slow: it
    would be given no sessions, and others would be refused."""
    world = World(policy="jit")
    learn(world, V1)
    usual = world.policy.cluster.verifiers[V1].usual
    world.stat(V1, running=24, batches=(), slots=64)
    for letter in "BCD":
        world.tell(DraftArrived(key(letter), draft()))

    world.tell(*(DraftArrived(key("A"), draft(number)) for number in range(200)))

    assert usual.num_drafts == 4


@pytest.mark.parametrize(
    "lie", [far_draft(2**31 - 1, 0), draft(0).model_copy(update={"run": 2**31 - 1})]
)
def test_what_was_refused_counts_for_nothing_though_its_session_was_never_opened(
    lie: Draft,
) -> None:
    """Neither at once nor when lawful drafts of the same session follow."""
    world = World()
    world.stat()
    world.open(key("B"))
    world.tell(DraftArrived(key("B"), draft()))

    (answer,) = world.tell(DraftArrived(key("A"), lie))
    for try_ in range(1, 30):
        world.tell(DraftArrived(key("A"), draft(0, try_=try_)))
    world.tell(DraftArrived(key("A"), far_draft(900, 1)))

    usual = world.policy.cluster.verifiers[V1].usual
    assert isinstance(answer, AnswerSession)
    assert usual.tokens <= 4
    assert usual.context <= 1000


@pytest.mark.parametrize("policy", ["jit", "static"])
def test_however_much_grants_carry_they_fit_a_message_and_nobody_waits_for_good(
    policy: str,
) -> None:
    world = World(policy=policy, max_batch_nodes=100_000)
    wide = Limits(nodes=1024, append=256, context=1000, grant=16)
    world.tell(StatArrived(V1, stat(1, slots=99).model_copy(update={"limits": wide})))
    fat = draft(nodes=900).model_copy(update={"run": 16, "append": (99,) * 256})
    grants = [DraftArrived(key("A", number), fat) for number in range(60)]
    honest = draft(nodes=0).model_copy(update={"run": 16})

    batches = sent(world.tell(*grants, DraftArrived(key("B"), honest)))

    assert len(batches) > 1
    assert all(len(encode(batch.batch)) <= MAX_BATCH_BYTES for batch in batches)
    assert set().union(*map(sessions_in, batches)) >= {key("A", 59), key("B")}
    assert not any(item.token for batch in batches for item in batch.batch.items)


def test_endings_of_sessions_that_nobody_knows_are_passed_on_within_the_allowance_only() -> None:
    world = World(messages_per_s=10.0, burst_s=1.0)
    world.stat(V1)
    world.stat(V2)
    world.open(key("A"))

    passed_on = [
        len(world.tell(EndingArrived(key("A", 100 + number), "close", b"{}")))
        for number in range(20)
    ]

    assert passed_on[0] == 2, "any verifier may hold it"
    assert passed_on[-1] == 0
    assert len(world.tell(EndingArrived(key("A"), "close", b"{}"))) == 1, "one that is known"
