"""The scheduler's decisions: drafts sent ahead of a verdict."""

from specedge.ids import SessionKey
from specedge_scheduler.policy.types import AheadArrived, DraftArrived, Forward
from tests.unit.scheduler_facts import ahead, draft, key
from tests.unit.scheduler_world import V1, World


def sent_ahead(session: SessionKey, round_: int = 0, nodes: int = 3) -> AheadArrived:
    return AheadArrived(session, ahead(round_, nodes=nodes), b"as it came")


def test_what_is_sent_ahead_is_passed_on_at_once_as_it_came_and_once_a_round() -> None:
    world = World()
    world.stat()
    world.open(key())
    world.tell(DraftArrived(key(), draft()))

    assert world.tell(sent_ahead(key())) == [Forward("ahead", V1, key(), b"as it came")]
    assert world.tell(sent_ahead(key())) == []
    assert world.tell(sent_ahead(key(), 1)) == [Forward("ahead", V1, key(), b"as it came")]
    assert world.tell(sent_ahead(key(), 0)) == []


def test_what_is_sent_ahead_by_strangers_or_in_excess_is_dropped_without_a_word() -> None:
    world = World(nodes_per_s=10.0, burst_s=1.0)
    world.stat()
    world.open(key())

    assert world.tell(sent_ahead(key("B"))) == []
    assert world.tell(sent_ahead(key(), 0, nodes=7)) == []
    assert world.tell(sent_ahead(key(), 1, nodes=6)) != []
    assert world.tell(sent_ahead(key(), 2)) == []


def test_nothing_runs_ahead_where_a_batch_does_not_hold_all_who_live_there() -> None:
    world = World(max_batch_sessions=2)
    world.stat()
    for number in range(2):
        world.open(key("A", number))
    assert world.tell(sent_ahead(key("A", 0)))

    world.open(key("A", 2))

    assert world.tell(sent_ahead(key("A", 0), 1)) == []


def test_a_session_whose_round_runs_ahead_is_not_waited_for_until_that_has_ended() -> None:
    world = World()
    world.stat()
    world.open(key())
    world.tell(DraftArrived(key(), draft()))
    session = world.policy.cluster.sessions[key()]

    world.stat(last=1, running=4, ahead=[key()])
    assert session.is_out
    assert session.rhythm.released_s is None

    world.clock.advance(0.1)
    world.stat(last=1)
    assert not session.is_out
    assert session.rhythm.released_s == world.clock.now_s()
