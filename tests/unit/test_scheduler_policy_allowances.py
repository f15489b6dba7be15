"""The scheduler's decisions: what one edge may ask for, and what a flood of it costs."""

from specedge.ids import VerifierId
from specedge.protocol.messages import Rejected
from specedge.protocol.opening import Opened, Reason, Refused
from specedge_scheduler.policy.types import (
    AnswerSession,
    BadMessageArrived,
    ContextArrived,
    DraftArrived,
    EndingArrived,
)
from tests.unit.scheduler_facts import LIMITS, draft, key
from tests.unit.scheduler_world import World, context, sent


def test_a_draft_over_the_limit_is_rejected_before_it_costs_anything() -> None:
    world = World()
    world.stat()
    world.open(key())

    (answer,) = world.tell(DraftArrived(key(), draft(nodes=LIMITS.nodes + 1)))

    assert isinstance(answer, AnswerSession)
    assert isinstance(answer.message, Rejected)
    assert (answer.message.rejected, answer.message.field) == (Reason.OVER_LIMIT, "token")


def test_an_edge_has_a_bounded_number_of_sessions() -> None:
    world = World(sessions_per_edge=2)
    world.stat(slots=10)
    world.open(key("A", 1))
    world.tell(DraftArrived(key("A", 2), draft()))

    refused = world.open(key("A", 3))
    (rejected,) = world.tell(DraftArrived(key("A", 4), draft()))

    assert isinstance(refused, Refused)
    assert refused.refused is Reason.BUSY
    assert isinstance(rejected, AnswerSession)
    assert isinstance(rejected.message, Rejected)
    assert rejected.message.rejected is Reason.BUSY
    assert isinstance(world.open(key("B", 1)), Opened)


def test_an_edge_that_floods_is_told_to_wait_and_costs_no_other_edge_anything() -> None:
    world = World(messages_per_s=10.0, burst_s=1.0)
    world.stat()

    effects = world.tell(*(DraftArrived(key("A"), draft(n)) for n in range(30)))
    calm = world.tell(DraftArrived(key("B"), draft()))

    rejected = [e for e in effects if isinstance(e, AnswerSession)]
    assert len(rejected) == 20
    message = rejected[0].message
    assert isinstance(message, Rejected)
    assert message.retry_ms
    assert sent(calm)
    world.clock.advance(message.retry_ms / 1000)
    assert not [
        e for e in world.tell(DraftArrived(key("A"), draft(99))) if isinstance(e, AnswerSession)
    ]


def test_junk_is_answered_within_bounds_only() -> None:
    world = World(messages_per_s=10.0, burst_s=1.0)
    answer = AnswerSession(key(), Rejected(round=0, rejected=Reason.INVALID))

    effects = world.tell(*(BadMessageArrived(key(), answer) for _ in range(50)))

    assert effects == [answer] * 10


def test_who_overdrew_is_told_how_long_it_takes_to_earn_that() -> None:
    world = World(nodes_per_s=10.0, burst_s=1.0)
    world.stat()
    world.tell(DraftArrived(key(), draft(0, nodes=32)))  # and its root, of ten

    (answer,) = world.tell(DraftArrived(key(), draft(1)))

    assert isinstance(answer, AnswerSession)
    assert isinstance(answer.message, Rejected)
    assert answer.message.retry_ms == 2300


def test_ends_of_sessions_that_never_were_cost_their_edge_what_they_cost_the_pool() -> None:
    """Each is passed on to every verifier."""
    world = World(messages_per_s=10.0, burst_s=2.0)
    for number in range(5):
        world.stat(VerifierId(f"v{number}"))

    invented = (EndingArrived(key("A", number), "cancel", b"") for number in range(50))
    effects = world.tell(*invented)

    assert len(effects) == 20


def test_a_flood_of_chunks_and_openings_is_answered_with_when_to_come_back() -> None:
    world = World(messages_per_s=1.0, burst_s=1.0)
    world.stat()
    world.open(key())

    effects = world.tell(ContextArrived(key(), context(), b"chunk"))
    opening = world.open(key())

    (answer,) = effects
    assert isinstance(answer, AnswerSession)
    assert isinstance(answer.message, Rejected)
    assert answer.message.retry_ms
    assert isinstance(opening, Refused)
    assert opening.retry_ms
