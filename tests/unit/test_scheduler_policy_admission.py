"""The scheduler's decisions: who is let in, and when those refused may come again."""

from specedge.ids import EdgeId
from specedge.protocol.opening import Limits, Opened, OpenRequest, Reason, Refused
from specedge_scheduler.policy.admission import WaitingLine
from specedge_scheduler.policy.pace import FIRST_SESSIONS
from specedge_scheduler.policy.types import (
    AnswerOpen,
    ByeArrived,
    ContextArrived,
    DraftArrived,
    EndingArrived,
    OpenAsked,
    SchedulerLimits,
)
from tests.unit.scheduler_facts import IDENTITY, draft, key
from tests.unit.scheduler_world import V1, V2, World, context, learn

# ---------------------------------------------------------------- what can be served


def test_without_a_verifier_an_edge_is_told_when_to_come_again() -> None:
    refused = World().open(key())

    assert isinstance(refused, Refused)
    assert refused.refused is Reason.NO_VERIFIER
    assert refused.retry_ms


def test_what_cannot_be_served_is_refused_by_field() -> None:
    world = World()
    world.stat()

    model = world.open(key(), model="small")
    tokenizer = world.open(key(), tokenizer="cc")
    length = world.open(key(), context=1001)

    assert isinstance(model, Refused)
    assert (model.refused, model.field) == (Reason.UNKNOWN_MODEL, "model")
    assert isinstance(tokenizer, Refused)
    assert (tokenizer.refused, tokenizer.field) == (Reason.FINGERPRINT, "tokenizer")
    assert (tokenizer.ours, tokenizer.theirs) == ("bb", "cc")
    assert isinstance(length, Refused)
    assert (length.refused, length.field) == (Reason.TOO_LONG, "context")
    assert not world.policy.cluster.sessions


def test_a_model_whose_verifier_is_away_is_to_be_asked_for_again() -> None:
    """As the only model of a pool is, beside one that is served by another verifier."""
    small = IDENTITY.model_copy(update={"model": "small", "weights": "cc"})
    world = World()
    world.stat(V1)
    world.stat(V2, identity=small)
    world.tell(ByeArrived(V2))

    refused = world.open(key(), model="small")
    header = context({"model": "small", "weights": "cc"})
    on_its_way = world.tell(ContextArrived(key("B"), header, b"chunk"))
    unknown = world.open(key(), model="third")
    world.stat(V2, identity=small)

    assert isinstance(refused, Refused)
    assert (refused.refused, refused.retry_ms) == (
        Reason.NO_VERIFIER,
        SchedulerLimits.no_verifier_retry_ms,
    )
    assert "'small'" in refused.message
    assert on_its_way == []
    assert isinstance(unknown, Refused) and unknown.refused is Reason.UNKNOWN_MODEL
    assert isinstance(world.open(key(), model="small"), Opened)


def test_a_model_is_away_while_its_last_verifier_drains() -> None:
    world = World()
    world.stat(V1)
    world.stat(V2, identity=IDENTITY.model_copy(update={"model": "small"}))
    world.stat(V2, identity=IDENTITY.model_copy(update={"model": "small"}), draining=True)

    refused = world.open(key(), model="small")

    assert isinstance(refused, Refused) and refused.refused is Reason.NO_VERIFIER


def test_an_opened_session_learns_its_limits_and_the_model() -> None:
    world = World(max_batch_nodes=20)
    world.stat()

    opened = world.open(key())

    assert isinstance(opened, Opened)
    assert opened.limits == Limits(nodes=19, append=8, context=1000, grant=16, ahead=6)
    assert opened.identity == IDENTITY
    assert (opened.at, opened.group) == ("v1", "main")


def test_another_version_is_refused_by_name() -> None:
    world = World()
    world.stat()
    request = OpenRequest(model="big", tokenizer="bb", context=100, versions=(7,))

    (answer,) = world.tell(OpenAsked(key(), request, "inbox"))

    assert isinstance(answer, AnswerOpen)
    assert isinstance(answer.reply, Refused)
    assert answer.reply.refused is Reason.VERSION


# ---------------------------------------------------------------- the objective


def test_at_most_a_few_sessions_come_to_a_verifier_of_which_nothing_is_known() -> None:
    world = World(objective_ms=50.0)
    world.stat(slots=64)

    answers = [world.open(key(letter)) for letter in "ABCDEFGHIJ"]

    assert [isinstance(answer, Opened) for answer in answers] == [True] * 8 + [False] * 2
    refused = [answer for answer in answers if isinstance(answer, Refused)]
    assert refused[0].retry_ms is not None
    assert refused[1].retry_ms is not None
    assert 100 <= refused[0].retry_ms < refused[1].retry_ms <= 10_000
    assert "50 ms" in refused[0].message


def test_who_is_refused_waits_for_less_when_sessions_end_faster() -> None:
    line = WaitingLine(0.5)
    slow_ms = [line.refuse_ms(key(letter).edge, 0.0) for letter in "ABCD"][-1]
    for number in range(60):
        line.note_end(number * 0.02)

    assert line.refuse_ms(key("D").edge, 1.2) < slow_ms


def test_refusals_of_long_ago_make_nobody_wait() -> None:
    line = WaitingLine(0.5)
    for number in range(7200):  # one edge after another, twice a second for an hour
        line.refuse_ms(EdgeId(f"U{number:055}"), number * 0.5)
    for number in range(20):
        line.note_end(3600 + number * 0.05)

    assert line.refuse_ms(key().edge, 3660.0) <= 500


def test_who_asks_again_and_again_makes_nobody_else_wait() -> None:
    line = WaitingLine(0.5)
    for number in range(100):
        line.refuse_ms(key("A").edge, number * 0.05)

    assert line.refuse_ms(key("B").edge, 5.0) == 1000, "two edges want the next places"


def test_an_edge_that_got_a_place_is_not_waited_for() -> None:
    line = WaitingLine(0.5)
    for letter in "ABC":
        line.refuse_ms(key(letter).edge, 0.0)
    line.note_place(key("A").edge)

    assert line.refuse_ms(key("D").edge, 0.1) == 1500


def test_a_trial_opening_is_answered_like_a_real_one_and_takes_nothing() -> None:
    world = World()
    world.stat(slots=1)

    for number in range(3):
        assert isinstance(world.open(key("T", number), trial=True), Opened)
    assert not world.policy.cluster.sessions
    assert isinstance(world.open(key("A")), Opened)
    full = world.open(key("T", 9), trial=True)
    real = world.open(key("B"))

    assert isinstance(full, Refused) and isinstance(real, Refused)
    assert full.refused is real.refused is Reason.BUSY
    assert real.retry_ms == SchedulerLimits.busy_retry_ms, "the trial wants no place"


def test_sessions_that_are_closed_unused_are_no_places_that_came_free() -> None:
    world = World(objective_ms=50.0)
    world.stat(slots=64)
    for number in range(50):
        world.open(key("T", number))
        world.tell(EndingArrived(key("T", number), "close", b"{}"))
        world.clock.advance(0.001)

    answers = [world.open(key("A", number)) for number in range(10)]

    refused = [answer for answer in answers if isinstance(answer, Refused)]
    assert refused[0].retry_ms == 500, "as nothing is known of how fast places come free"


def test_a_session_is_admitted_while_all_keep_the_objective() -> None:
    def admitted(objective_ms: float) -> bool:
        world = World(objective_ms=objective_ms)
        learn(world, V1)
        for round_ in range(2):
            for number in range(6):
                world.tell(DraftArrived(key("A", number), draft(round_, at="v1")))
        return isinstance(world.open(key("B")), Opened)

    assert admitted(1000.0)
    assert not admitted(20.0)


def test_a_session_gets_the_place_where_the_objective_is_kept() -> None:
    world = World(objective_ms=100.0)
    learn(world, V1)
    world.stat(V2, slots=64)  # nothing is known of its pace
    opened = [world.open(key("A", number)) for number in range(20)]

    places = [answer.at for answer in opened if isinstance(answer, Opened)]
    assert {V1, V2} == set(places)
    assert places.count(V2) == FIRST_SESSIONS
