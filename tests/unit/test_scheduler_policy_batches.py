"""The scheduler's decisions: what goes into a batch, when, and for how long a round may wait."""

from specedge.protocol.messages import Rejected
from specedge.protocol.opening import Reason
from specedge_scheduler.policy.types import AnswerSession, DraftArrived
from tests.unit.scheduler_facts import draft, key
from tests.unit.scheduler_world import V1, World, sent, sessions_in


def test_an_idle_verifier_gets_what_waits_at_once() -> None:
    world = World()
    world.stat()

    (batch,) = sent(world.tell(DraftArrived(key("A"), draft()), DraftArrived(key("B"), draft())))

    assert batch.verifier == V1
    assert sessions_in(batch) == {key("A"), key("B")}
    assert batch.batch.seq == 1
    assert batch.num_nodes == 8


def test_a_full_batch_runs_and_a_full_one_is_staged_and_the_rest_waits_here() -> None:
    world = World(max_batch_nodes=8)
    world.stat()

    batches = [
        len(sent(world.tell(DraftArrived(key("A", number), draft(nodes=3))))) for number in range(6)
    ]

    assert batches == [1, 1, 1, 1, 0, 0]


def test_what_arrives_while_a_step_runs_joins_the_staged_batch() -> None:
    world = World()
    world.stat()
    world.tell(DraftArrived(key("A", 1), draft()))
    world.stat(batches=[1], last=1)

    batches = [sent(world.tell(DraftArrived(key("A", number), draft()))) for number in (2, 3)]

    assert [len(batch) for batch in batches] == [1, 1]


def test_a_finished_batch_makes_room_for_as_much() -> None:
    world = World(max_batch_nodes=8)
    world.stat()
    for number in range(8):
        world.tell(DraftArrived(key("A", number), draft(nodes=3)))

    (batch,) = sent(world.stat(batches=[3, 4], last=4))

    assert sessions_in(batch) == {key("A", 4), key("A", 5)}
    assert batch.batch.seq == 5


def test_a_verifier_with_small_steps_gets_small_batches() -> None:
    world = World()

    world.tell(*(DraftArrived(key("A", number), draft(nodes=3)) for number in range(9)))
    batches = sent(world.stat(step_rows=10))

    assert [batch.num_nodes for batch in batches] == [8, 8, 4]


def test_a_large_round_is_not_passed_by_small_ones_for_ever() -> None:
    world = World(max_batch_nodes=16)
    world.stat()
    world.tell(*(DraftArrived(key("A", number), draft(nodes=3)) for number in range(7)))
    large = key("B")
    world.tell(DraftArrived(large, draft(nodes=15)))

    held, number, passed = [1, 2], 10, 0
    while large in world.policy.cluster.waiting:
        number += 1
        passed += 1
        arrival = DraftArrived(key("A", number), draft(nodes=3))
        effects = world.tell(arrival) + world.stat(batches=held[1:], last=max(held))
        held = [*held[1:], *(batch.batch.seq for batch in sent(effects))]

    assert passed < 10


def test_a_verifier_is_never_idle_while_rounds_wait() -> None:
    world = World(max_batch_nodes=8)
    world.stat()
    first = [DraftArrived(key("A", number), draft(nodes=3)) for number in range(20)]

    held = [batch.batch.seq for batch in sent(world.tell(*first))]
    served = 2 * len(held)
    while held:
        effects = world.stat(batches=held[1:], last=max(held))
        held = [*held[1:], *(batch.batch.seq for batch in sent(effects))]
        served += 2 * len(sent(effects))
        assert len(held) == 2 or not world.policy.cluster.waiting

    assert served == 20


def test_the_newest_round_and_try_takes_the_one_place_of_its_session() -> None:
    world = World()

    world.tell(DraftArrived(key(), draft(3, try_=1)))
    world.tell(DraftArrived(key(), draft(3)))
    world.tell(DraftArrived(key(), draft(2)))
    (batch,) = sent(world.stat())

    assert [(item.round, item.try_) for item in batch.batch.items] == [(3, 1)]


def test_what_is_left_of_the_budget_goes_on_with_how_long_it_was_held() -> None:
    world = World()
    world.tell(DraftArrived(key(), draft(budget_ms=1000)))
    world.clock.advance(0.3)

    (batch,) = sent(world.stat())

    (item,) = batch.batch.items
    assert item.budget_ms in (699, 700)
    assert abs(item.held_ms - 300) < 0.01


def test_a_round_whose_time_is_over_is_answered_expired() -> None:
    world = World()
    world.tell(DraftArrived(key(), draft(7, try_=2, budget_ms=400)))

    effects = world.wait(0.5)

    (answer,) = effects
    assert isinstance(answer, AnswerSession)
    assert isinstance(answer.message, Rejected)
    assert (answer.message.rejected, answer.message.round, answer.message.try_) == (
        Reason.EXPIRED,
        7,
        2,
    )
    assert not sent(world.stat())


def test_a_batch_that_never_arrived_is_sent_again() -> None:
    world = World()
    world.stat()
    world.tell(DraftArrived(key(), draft(budget_ms=5000)))

    effects = world.wait(0.7, V1)

    (again,) = sent(effects)
    assert again.batch.seq == 2
    assert sessions_in(again) == {key()}


def test_a_batch_that_its_verifier_still_holds_is_not_sent_again() -> None:
    world = World()
    world.stat()
    world.tell(DraftArrived(key(), draft(budget_ms=5000)))
    world.stat(batches=[1], last=1)

    assert not sent(world.wait(2.0, V1))
