"""The scheduler's decisions: rounds whose session has no verifier, and when one is looked for."""

from specedge.ids import VerifierId
from specedge_scheduler.policy.types import ByeArrived, ContextArrived, DraftArrived
from tests.unit.scheduler_facts import IDENTITY, draft, key
from tests.unit.scheduler_world import V1, V2, World, context, sent, sessions_in

LONG_MS = 60_000
UNSERVED = key("Z", 9)


def a_world_where_one_waits_in_vain() -> World:
    """Its two verifiers serve another model than that of a session whose round waits for long."""
    world = World(max_batch_sessions=1, max_batches=2)
    other = IDENTITY.model_copy(update={"model": "gone"})
    gone = VerifierId("v9")
    world.stat(gone, identity=other)
    world.tell(ContextArrived(UNSERVED, context({"model": "gone"}), b""))
    world.tell(ByeArrived(gone))
    world.stat(V1)
    world.stat(V2)
    world.tell(DraftArrived(UNSERVED, draft(0, budget_ms=LONG_MS)))
    assert list(world.policy.cluster.homeless) == [UNSERVED]
    return world


def test_where_nothing_changes_no_turn_looks_for_a_place_again() -> None:
    """Hundreds may wait for the verifier of their model, through thousands of turns of others."""
    world = a_world_where_one_waits_in_vain()
    cluster = world.policy.cluster

    world.tell(DraftArrived(key("A"), draft(0, at="v1")))

    assert cluster.homeless and cluster.take_seekers() == []
    cluster.seek_places()
    assert [session.key for session in cluster.take_seekers()] == [UNSERVED]


def test_a_round_of_a_lost_verifier_that_was_not_sent_yet_finds_another() -> None:
    world = a_world_where_one_waits_in_vain()
    letters = "ABCD"
    rounds = (DraftArrived(key(one), draft(0, at="v1", budget_ms=LONG_MS)) for one in letters)
    world.tell(*rounds)
    assert len(world.policy.cluster.verifiers[V1].waiting) > 0
    world.policy.cluster.verifiers[V1].sent.clear()  # what was sent is done, as far as is known

    moved = sent(world.tell(ByeArrived(V1)))

    assert {batch.verifier for batch in moved} == {V2}


def test_a_round_that_was_lost_on_its_way_to_a_verifier_that_drains_finds_another() -> None:
    world = a_world_where_one_waits_in_vain()
    (first,) = sent(world.tell(DraftArrived(key("A"), draft(0, at="v1", budget_ms=LONG_MS))))
    assert first.verifier == V1
    world.stat(V1, draining=True)

    again = []
    for _ in range(7):
        world.clock.advance(0.1)
        world.stat(V2)
        again += sent(world.stat(V1, draining=True))

    assert [(batch.verifier, sessions_in(batch)) for batch in again] == [(V2, {key("A")})]


def test_a_verifier_that_takes_work_again_gets_what_waits_for_it() -> None:
    world = World()
    world.stat(V1, draining=True)
    world.tell(DraftArrived(key("A"), draft(0, budget_ms=LONG_MS)))
    world.wait(0.2)

    (batch,) = sent(world.stat(V1, draining=False))

    assert batch.verifier == V1
