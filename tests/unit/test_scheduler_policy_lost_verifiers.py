"""The scheduler's decisions: verifiers that fall silent, restart or leave, and their rounds."""

import pytest

from specedge.ids import VerifierId
from specedge.protocol.opening import Identity, Opened
from specedge.protocol.reports import SessionReport
from specedge_scheduler.policy.types import (
    ByeArrived,
    ContextArrived,
    DraftArrived,
    EndingArrived,
    Forward,
    LoopStalled,
    StatArrived,
    VerifierFound,
    VerifierLost,
)
from tests.unit.scheduler_facts import IDENTITY, draft, key, stat
from tests.unit.scheduler_world import V1, V2, World, context, sent, sessions_in


def test_a_silent_verifiers_rounds_go_to_another() -> None:
    world = World()
    world.stat(V1)
    world.tell(DraftArrived(key(), draft(budget_ms=9000)))
    world.stat(V2)

    effects = world.wait(0.5, V2)

    assert [e for e in effects if isinstance(e, VerifierLost)] == [VerifierLost(V1, "silent", 1)]
    (batch,) = sent(effects)
    assert batch.verifier == V2


def test_silence_of_less_than_350_ms_is_no_death() -> None:
    world = World()
    world.stat()

    assert not world.wait(0.3)
    assert world.wait(0.1) == [VerifierLost(V1, "silent", 0)]


def test_a_verifier_that_was_slow_of_late_is_waited_for_longer_but_not_for_ever() -> None:
    world = World()
    world.stat()
    world.wait(0.3)
    world.stat()

    assert not world.wait(1.1)
    assert world.wait(0.2) == [VerifierLost(V1, "silent", 0)]

    slow = World()
    slow.stat()
    slow.clock.advance(2.0)
    slow.policy.on(StatArrived(V1, stat(99)), slow.clock.now_s())
    assert not slow.wait(1.4)
    assert slow.wait(0.2) == [VerifierLost(V1, "silent", 0)]


def test_a_new_incarnation_means_that_everything_in_flight_there_is_gone() -> None:
    world = World()
    world.stat()
    world.tell(DraftArrived(key(), draft(budget_ms=9000)))

    effects = world.stat(inc="two")

    assert effects[:2] == [VerifierLost(V1, "restarted", 1), VerifierFound(V1, "big")]
    (batch,) = sent(effects)
    assert sessions_in(batch) == {key()}
    assert batch.batch.seq == 2  # never a number twice


def test_after_bye_rounds_and_sessions_move() -> None:
    world = World()
    world.stat(V1)
    world.tell(DraftArrived(key(), draft(budget_ms=9000)))
    world.stat(V2)

    effects = world.tell(ByeArrived(V1))

    assert effects[0] == VerifierLost(V1, "bye", 1)
    (batch,) = sent(effects)
    assert batch.verifier == V2


def test_a_draining_verifier_gets_nothing_new() -> None:
    world = World()
    world.stat(V1)
    world.tell(DraftArrived(key(), draft(0)))
    world.stat(V2)

    world.stat(V1, draining=True)
    (batch,) = sent(world.tell(DraftArrived(key(), draft(1, at="v1"))))

    assert batch.verifier == V2
    assert isinstance(world.open(key("B")), Opened)
    assert world.policy.cluster.sessions[key("B")].verifier == V2


def test_after_a_stall_of_its_own_it_declares_nobody_dead() -> None:
    world = World()
    world.stat()
    world.clock.advance(3.0)

    assert world.tell(LoopStalled(3.0)) == []
    assert world.wait(0.5) == [VerifierLost(V1, "silent", 0)]


def test_stalls_of_its_own_again_and_again_hide_no_death() -> None:
    world, lost = World(), []
    world.stat()

    for _ in range(10):
        world.clock.advance(0.3)
        lost += world.tell(LoopStalled(0.25))

    assert lost == [VerifierLost(V1, "silent", 0)]


def test_a_verifier_under_an_earlier_term_holds_none_of_this_ones_batches() -> None:
    world = World()
    world.stat(epoch=(0, 7), last=40, batches=[39, 40])

    (batch,) = sent(world.tell(DraftArrived(key(), draft(budget_ms=9000))))
    world.stat(epoch=(0, 7), last=40, batches=[40])

    assert batch.batch.epoch == (1, 0)
    assert list(world.policy.cluster.verifiers[V1].sent) == [1]


def test_a_report_that_was_overtaken_changes_nothing() -> None:
    world = World()
    world.tell(StatArrived(V1, stat(5)))
    world.tell(DraftArrived(key(), draft()))

    world.tell(StatArrived(V1, stat(4, last=1)))

    assert list(world.policy.cluster.verifiers[V1].sent) == [1]


def test_a_cancelled_sessions_round_does_not_come_back_when_its_verifier_dies() -> None:
    world = World()
    world.stat(V1)
    world.tell(DraftArrived(key(), draft(budget_ms=9000)))
    world.tell(EndingArrived(key(), "cancel", b""))
    world.stat(V2)

    effects = world.wait(1.0, V2)

    assert not sent(effects)
    assert not world.policy.cluster.sessions


def test_a_round_of_a_session_that_ended_meanwhile_is_not_put_back() -> None:
    world = World()
    world.stat(V1)
    report = SessionReport(e=key().edge, s=key().session, round=0, state="ready")
    world.tell(DraftArrived(key(), draft(budget_ms=9000)))
    world.stat(V1, batches=[1], last=1, sessions=(report,))
    world.tell(EndingArrived(key(), "close", b""))

    (lost,) = world.tell(ByeArrived(V1))

    assert lost == VerifierLost(V1, "bye", 0)


def test_a_verifier_that_drains_and_goes_is_lost_once() -> None:
    world = World()
    world.stat(V1)
    effects = [*world.stat(V1, draining=True), *world.tell(ByeArrived(V1))]

    assert [one.why for one in effects if isinstance(one, VerifierLost)] == ["draining"]
    assert V1 not in world.policy.cluster.verifiers


def test_a_later_term_heard_first_is_of_a_scheduler_before_this_one() -> None:
    world = World()
    world.stat(V1, epoch=(50, 3))
    world.open(key())
    (batch,) = sent(world.tell(DraftArrived(key(), draft())))

    assert batch.batch.epoch > (50, 3)


def test_a_later_term_heard_afterwards_is_of_its_successor() -> None:
    world = World()
    world.stat(V1)
    world.stat(V1, epoch=(50, 3))
    world.stat(V1, epoch=(50, 3))

    assert world.policy.cluster.epoch == (1, 0)


def test_a_scheduler_that_was_cut_off_does_not_outrank_its_successor_when_it_is_back() -> None:
    world = World()
    world.stat(V1)
    world.wait(2.0)
    assert not world.policy.cluster.verifiers

    world.stat(V1, epoch=(50, 3))
    world.stat(V2, epoch=(50, 3))

    assert world.policy.cluster.epoch == (1, 0)


@pytest.mark.parametrize("is_successor_alive", [False, True])
def test_a_later_term_is_outranked_once_nobody_sends_batches_under_it(
    is_successor_alive: bool,
) -> None:
    world = World()
    world.stat(V1)
    world.stat(V1, epoch=(50, 3))

    terms = []
    for number in range(6):
        world.tell(DraftArrived(key(), draft(0, try_=number, budget_ms=9000)))
        for _ in range(10):
            world.clock.advance(0.1)
            world.stat(V1, epoch=(50, 3), last=number if is_successor_alive else 0)
        terms.append(world.policy.cluster.epoch)

    assert terms[1] == (1, 0), "it is waited for"
    assert (terms[-1] > (50, 3)) != is_successor_alive


OTHER_WEIGHTS = IDENTITY.model_copy(update={"weights": "cc"})
V0 = VerifierId("v0")  # ranks first where all else is equal


def lost_at_v1(**others: Identity) -> World:
    """A session of weights aa, whose verifier is gone; ``others`` are alive."""
    world = World()
    world.stat(V1)
    world.tell(ContextArrived(key(), context(), b"chunk"))
    for name, identity in others.items():
        world.stat(VerifierId(name), identity=identity)
    world.tell(ByeArrived(V1))
    return world


def test_a_session_that_lost_its_verifier_goes_where_its_own_weights_are() -> None:
    world = lost_at_v1(v0=OTHER_WEIGHTS, v2=IDENTITY)

    (batch,) = sent(world.tell(DraftArrived(key(), draft(1, at="v1"))))

    assert V0 in world.policy.cluster.verifiers
    assert batch.verifier == V2


def test_where_only_other_weights_are_left_the_context_is_refused_by_who_can_name_both() -> None:
    """No round is checked there: the verifier answers cold, and refuses the context that follows,
    naming both fingerprints. A session is never refused by a scheduler that only guesses."""
    world = lost_at_v1(v0=OTHER_WEIGHTS)

    passed_on = world.tell(ContextArrived(key(), context(), b"chunk"))

    assert passed_on == [Forward("ctx", V0, key(), b"chunk")]
    world.stat(V2)
    world.tell(ByeArrived(V0))
    (batch,) = sent(world.tell(DraftArrived(key(), draft(1, at="v1"))))
    assert batch.verifier == V2


def test_a_context_that_names_its_weights_leaves_the_verifier_of_others() -> None:
    """After a restart a session is placed by its drafts alone, which do not say of what model."""
    world = World()
    world.stat(V0, identity=OTHER_WEIGHTS, slots=64)
    world.stat(V2)
    (batch,) = sent(world.tell(DraftArrived(key(), draft(9, at="v0"))))

    effects = world.tell(ContextArrived(key(), context(), b"chunk"))

    assert batch.verifier == V0
    assert effects == [Forward("ctx", V2, key(), b"chunk")]
