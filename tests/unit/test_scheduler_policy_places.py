"""The scheduler's decisions: where sessions live, what is passed on there, when they move."""

import pytest

from specedge.ids import SessionKey, VerifierId
from specedge.protocol.messages import Cold, Rejected
from specedge.protocol.opening import Opened, OpenRequest, Reason, Refused
from specedge.protocol.reports import SessionReport, StepReport
from specedge_scheduler.policy.types import (
    AnswerSession,
    ByeArrived,
    ContextArrived,
    DraftArrived,
    EndingArrived,
    Forward,
    OpenAsked,
)
from tests.unit.scheduler_facts import IDENTITY, LIMITS, draft, key
from tests.unit.scheduler_world import V1, V2, World, context, learn, sent, sessions_in, step

REQUEST = OpenRequest(model="big", tokenizer="bb", context=100)


def test_sessions_spread_over_the_verifiers_by_load() -> None:
    world = World()
    world.stat(V1, slots=2)
    world.stat(V2, slots=4)

    for number in range(6):
        assert isinstance(world.open(key("A", number)), Opened)

    verifiers = world.policy.cluster.verifiers
    assert (len(verifiers[V1].sessions), len(verifiers[V2].sessions)) == (2, 4)


def test_of_two_about_as_quick_the_one_with_more_slots_free_gets_a_session() -> None:
    """What is predicted errs by more than they differ by; where rows cost nothing, whoever seems
    the quickest would get them all."""
    world = World()
    for verifier, step_ms in ((V1, 50.0), (V2, 51.0)):
        for seq in range(20):
            same = step(seq, step_ms).model_copy(update={"rows": 24 + 40 * (seq % 2)})
            world.stat(verifier, steps=(same,), slots=64)
        world.tell(DraftArrived(key("B"), draft(0, at=verifier)))  # rounds were seen there
        world.tell(EndingArrived(key("B"), "close", b""))

    for number in range(10):
        world.open(key("A", number))

    verifiers = world.policy.cluster.verifiers
    assert (len(verifiers[V1].sessions), len(verifiers[V2].sessions)) == (5, 5)


def test_when_all_places_are_taken_an_edge_is_told_busy() -> None:
    world = World()
    world.stat(slots=1)
    world.open(key("A"))

    refused = world.open(key("B"))
    again = world.open(key("A"))

    assert isinstance(refused, Refused)
    assert refused.refused is Reason.BUSY
    assert refused.retry_ms
    assert isinstance(again, Opened)


def test_a_closed_session_gives_its_place_back_at_once() -> None:
    world = World()
    world.stat(slots=1)
    world.open(key("A"))

    effects = world.tell(EndingArrived(key("A"), "close", b"body"))

    assert effects == [Forward("close", V1, key("A"), b"body")]
    assert isinstance(world.open(key("B")), Opened)


def test_a_session_stays_where_its_rows_are() -> None:
    world = World()
    world.stat(V1)
    world.open(key("A"))
    world.stat(V2)

    batches = [sent(world.tell(DraftArrived(key("A"), draft(round_)))) for round_ in range(2)]

    assert [batch.verifier for (batch,) in batches] == [V1, V1]


def test_a_draft_of_an_unknown_session_goes_where_it_was_last() -> None:
    world = World()
    world.stat(V1)
    world.stat(V2)

    (batch,) = sent(world.tell(DraftArrived(key(), draft(9, at="v2"))))

    assert batch.verifier == V2


def test_a_verifier_that_a_draft_names_is_waited_for_while_verifiers_turn_up() -> None:
    """After a restart, or an outage of the broker, who holds which context is known to edges."""
    world = World()
    world.stat(V1)
    world.tell(*(DraftArrived(key(letter), draft(9, at="v2")) for letter in "AB"))
    world.clock.advance(0.1)
    (found,) = sent(world.stat(V2))

    world.tell(DraftArrived(key("C"), draft(9, at="v9")))
    (placed,) = sent(world.wait(0.4, V1, V2))

    assert (found.verifier, sessions_in(found)) == (V2, {key("A"), key("B")})
    assert (placed.verifier, sessions_in(placed)) == (V1, {key("C")})


def test_a_verifier_that_left_is_not_waited_for() -> None:
    world = World()
    world.stat(V1)
    world.stat(V2)
    world.tell(ByeArrived(V2))

    (batch,) = sent(world.tell(DraftArrived(key(), draft(9, at="v2"))))

    assert batch.verifier == V1


def test_what_is_not_known_to_be_of_a_verifiers_model_is_not_judged_by_its_limits() -> None:
    world = World()
    world.stat(V1)
    world.wait(0.5, V1)
    far = draft(9, at="v2").model_copy(update={"base": LIMITS.context + 1})

    (answer,) = world.tell(DraftArrived(key(), far))

    assert isinstance(answer, AnswerSession)
    assert answer.message == Cold(round=9, try_=0)


def test_a_context_that_names_the_model_moves_nobody_from_where_that_is_served() -> None:
    world = World()
    world.stat(V1)
    world.stat(V2)
    world.tell(DraftArrived(key(), draft(9, at="v2")))

    world.tell(ContextArrived(key(), context(), b"chunk"))

    assert world.policy.cluster.sessions[key()].verifier == V2


def test_who_was_denied_a_slot_goes_where_one_is_free_and_leaves_nothing_behind() -> None:
    world = World()
    world.stat(V1, slots=1)
    for letter in "AB":
        world.open(key(letter))
        world.tell(ContextArrived(key(letter), context(), b"chunk"))
        world.tell(DraftArrived(key(letter), draft(0, at="v1")))
    world.stat(V2)

    effects = world.tell(DraftArrived(key("B"), draft(0, try_=1, at="v1")))

    assert world.policy.cluster.sessions[key("B")].verifier == V2
    closed = [one for one in effects if isinstance(one, Forward)]
    assert [(one.kind, one.verifier) for one in closed] == [("close", V1)]


def test_context_is_passed_on_as_it_came_to_the_sessions_verifier() -> None:
    world = World()
    world.stat(V1)
    world.open(key())
    world.stat(V2)

    effects = world.tell(ContextArrived(key(), context(), b"chunk"))

    assert effects == [Forward("ctx", V1, key(), b"chunk")]


def test_context_finds_the_verifier_of_its_model() -> None:
    world = World()
    world.stat(V1)
    other = IDENTITY.model_copy(update={"model": "other", "weights": "cc"})
    world.stat(V2, identity=other)

    header = context({"model": "other", "weights": "cc"})
    known = world.tell(ContextArrived(key(), header, b"chunk"))
    unknown = world.tell(ContextArrived(key("B"), context({"model": "third"}), b"chunk"))

    assert known == [Forward("ctx", V2, key(), b"chunk")]
    (answer,) = unknown
    assert isinstance(answer, AnswerSession)
    assert isinstance(answer.message, Rejected)
    assert answer.message.rejected is Reason.UNKNOWN_MODEL


def test_the_end_of_a_session_not_known_here_is_passed_on_to_all() -> None:
    world = World()
    world.stat(V1)
    world.stat(V2)

    effects = world.tell(EndingArrived(key(), "cancel", b"body"))

    assert effects == [Forward("cancel", name, key(), b"body") for name in (V1, V2)]


def test_a_silent_session_is_forgotten_unless_its_verifier_works_for_it() -> None:
    world = World()
    world.stat()
    quiet, prefilling = key("A"), key("B")
    world.open(quiet)
    world.open(prefilling)
    report = SessionReport(e=prefilling.edge, s=prefilling.session, round=-1, state="filling")

    for _ in range(32):
        world.wait(1.0, V1)
        world.stat(sessions=(report,))

    assert set(world.policy.cluster.sessions) == {prefilling}


def test_context_waits_for_its_edges_timer_while_there_is_no_verifier() -> None:
    assert World().tell(ContextArrived(key(), context(), b"chunk")) == []


def overloaded() -> World:
    """Six sessions at one verifier, between two rounds."""
    world = World()
    learn(world, V1)
    for round_ in range(2):
        for number in range(6):
            world.tell(DraftArrived(key("A", number), draft(round_, at="v1")))
        world.stat(V1, batches=[], last=99, steps=(step(98 + round_),), slots=64)
    return world


def test_sessions_move_to_a_verifier_that_is_faster_for_long() -> None:
    world = overloaded()
    world.stat(V2, slots=64)

    effects = world.wait(3.5, V1, V2)

    closes = [effect for effect in effects if isinstance(effect, Forward)]
    assert closes
    assert {(one.kind, one.verifier) for one in closes} == {("close", V1)}
    assert len(world.policy.cluster.verifiers[V2].sessions) == len(closes) <= 4


def test_nobody_moves_before_the_other_was_better_for_longer_than_the_context_takes_there() -> None:
    world = overloaded()
    prefill_s = 2.5
    for seq in range(32):  # a token of prefill takes 2 ms
        prefill = 500 * (seq % 2)
        one = StepReport(
            seq=seq, rows=24 + prefill, prefill=prefill, context=50, sessions=6, ms=50 + 2 * prefill
        )
        world.stat(V2, steps=(one,), slots=64)
    world.policy.cluster.verifiers[V2].usual.context = 500 * prefill_s

    early = world.wait(prefill_s, V1, V2)
    later = world.wait(2.0, V1, V2)

    assert not [effect for effect in early if isinstance(effect, Forward)]
    assert [effect for effect in later if isinstance(effect, Forward)]


def test_a_place_that_is_only_asked_for_is_given_to_others() -> None:
    world = World(unused_s=5.0)
    world.stat(slots=2)
    idler, user = key("A"), key("B")
    world.open(idler)
    world.open(user)
    world.tell(ContextArrived(user, context(), b"chunk"))

    for _ in range(12):
        world.wait(0.5, V1)
        if idler in world.policy.cluster.sessions:
            world.open(idler)

    assert set(world.policy.cluster.sessions) == {user}


def test_sessions_whose_context_is_being_computed_stay_for_it() -> None:
    world = World()
    learn(world, V1)
    for number in range(6):
        world.tell(ContextArrived(key("A", number), context(), b"chunk"))
        world.tell(DraftArrived(key("A", number), draft(0, at="v1")))
    reports = tuple(filling(key("A", number)) for number in range(6))
    world.stat(V1, batches=[], last=99, steps=(step(98),), slots=64, sessions=reports)
    world.stat(V2, slots=64)

    effects = world.wait(3.5, V1, V2)

    assert not [effect for effect in effects if isinstance(effect, Forward)]


def filling(session: SessionKey) -> SessionReport:
    return SessionReport(e=session.edge, s=session.session, round=-1, state="filling")


def test_how_long_a_context_takes_is_not_how_long_an_edge_does() -> None:
    world = World()
    world.stat()
    world.tell(ContextArrived(key(), context(), b"chunk"))
    world.tell(DraftArrived(key(), draft(0)))
    world.stat(batches=[], last=99)  # its verifier took it out, to compute the context
    world.clock.advance(1.0)
    world.stat(batches=[], last=99, sessions=(filling(key()),))
    world.clock.advance(1.0)

    def answer_and_go_on(round_: int) -> None:
        world.tell(DraftArrived(key(), draft(round_)))
        world.stat(batches=[], last=99)
        world.clock.advance(0.04)

    for round_ in range(1, 5):
        answer_and_go_on(round_)

    rhythm = world.policy.cluster.sessions[key()].rhythm
    assert rhythm.turnaround_s == pytest.approx(0.04)


def test_sessions_go_where_they_may_do_what_they_were_promised() -> None:
    world = World()
    world.stat(V1, limits=LIMITS)
    opened = world.open(key())
    world.tell(ContextArrived(key(), context(), b"chunk"))
    world.tell(DraftArrived(key(), draft(0, at="v1")))
    less = LIMITS.model_copy(update={"nodes": 2})
    world.stat(VerifierId("v0"), limits=less, slots=64)
    world.stat(V2, limits=LIMITS, slots=4)
    world.tell(*(OpenAsked(key("B", n), REQUEST, "inbox") for n in range(3)))

    world.tell(ByeArrived(V1))
    world.tell(DraftArrived(key(), draft(1, at="v1")))

    assert isinstance(opened, Opened)
    assert world.policy.cluster.sessions[key()].verifier == V2


def test_nobody_moves_to_where_less_is_allowed() -> None:
    world = overloaded()
    world.stat(V2, slots=64, limits=LIMITS.model_copy(update={"context": 50}))

    effects = world.wait(3.5, V1, V2)

    assert V2 in world.policy.cluster.verifiers
    assert not [effect for effect in effects if isinstance(effect, Forward)]


def test_a_context_that_is_on_its_way_is_waited_for_before_anybody_is_moved() -> None:
    world = World()
    learn(world, V1)
    for number in range(6):
        world.tell(DraftArrived(key("A", number), draft(0, at="v1")))
        world.tell(DraftArrived(key("A", number), draft(1, at="v1")))
        lost = context().model_copy(update={"round": 1})  # its verifier does not have it any more
        world.tell(ContextArrived(key("A", number), lost, b"chunk"))
    cluster = world.policy.cluster
    world.stat(V1, batches=[], last=99, steps=(step(98),), slots=64)
    world.stat(V2, slots=64)

    effects = world.wait(3.5, V1, V2)

    assert not any(session.is_out for session in cluster.sessions.values())
    assert not [effect for effect in effects if isinstance(effect, Forward)]


def test_what_a_verifier_says_of_a_session_that_lives_elsewhere_is_its_past() -> None:
    world = World()
    world.stat(V1)
    world.open(key())
    world.tell(DraftArrived(key(), draft(0)))
    world.stat(V2, sessions=(filling(key()),))

    session = world.policy.cluster.sessions[key()]
    assert session.verifier == V1
    assert session.fill_round == -1
