"""The scheduler's decisions, event by event."""

from specedge.clock import ManualClock
from specedge.ids import GroupId, SessionKey, VerifierId
from specedge.protocol.messages import (
    ContextHeader,
    Limits,
    Opened,
    OpenRequest,
    Reason,
    Refused,
    Rejected,
    SessionParams,
)
from specedge.protocol.reports import SessionReport, Stat, StepReport
from specedge_scheduler.policy.admission import WaitingLine
from specedge_scheduler.policy.decide import SchedulerPolicy
from specedge_scheduler.policy.types import (
    AheadArrived,
    AnswerOpen,
    AnswerSession,
    BadMessageArrived,
    ByeArrived,
    ContextArrived,
    DraftArrived,
    Effect,
    EndingArrived,
    Event,
    Forward,
    LoopStalled,
    OpenAsked,
    SchedulerLimits,
    SendBatch,
    StatArrived,
    TurnEnded,
    VerifierFound,
    VerifierLost,
)
from tests.unit.scheduler_facts import IDENTITY, LIMITS, ahead, draft, key, stat

V1, V2 = VerifierId("v1"), VerifierId("v2")


class World:
    """A policy, and a clock that a test turns."""

    def __init__(self, **limits: object) -> None:
        limits = {"policy": "greedy"} | limits
        self.clock = ManualClock(100.0)
        self.policy = SchedulerPolicy(
            GroupId("main"),
            (1, 0),
            SchedulerLimits(**limits),  # type: ignore[arg-type]
        )
        self._seq = 0

    def tell(self, *events: Event) -> list[Effect]:
        """The events, and the end of their turn."""
        now_s = self.clock.now_s()
        return [
            effect for event in (*events, TurnEnded()) for effect in self.policy.on(event, now_s)
        ]

    def stat(self, verifier: VerifierId = V1, **fields: object) -> list[Effect]:
        self._seq += 1
        return self.tell(StatArrived(verifier, stat(self._seq, **fields)))  # type: ignore[arg-type]

    def wait(self, seconds: float, *alive: VerifierId) -> list[Effect]:
        """Time passes; those named go on reporting."""
        effects: list[Effect] = []
        for _ in range(round(seconds / 0.1)):
            self.clock.advance(0.1)
            for verifier in alive:
                known = self.policy.cluster.verifiers.get(verifier)
                last = known.stat if known is not None else Stat.model_construct()
                fields = {"batches": last.batches, "last": last.last, "inc": last.inc}
                effects += self.stat(verifier, **fields)
            effects += self.tell()
        return effects

    def open(
        self, session: SessionKey, *, model: str = "big", tokenizer: str = "bb", context: int = 100
    ) -> Opened | Refused:
        request = OpenRequest(model=model, tokenizer=tokenizer, context=context)
        (answer,) = self.tell(OpenAsked(session, request, "inbox"))
        assert isinstance(answer, AnswerOpen)
        return answer.reply


def sent(effects: list[Effect]) -> list[SendBatch]:
    return [effect for effect in effects if isinstance(effect, SendBatch)]


def sessions_in(batch: SendBatch) -> set[SessionKey]:
    return {key_of(item.e, item.s) for item in batch.batch.items}


def key_of(edge: str, session: str) -> SessionKey:
    return key(edge[1], int(session, 16))


def context(wants: dict[str, object] | None = None) -> ContextHeader:
    params = {"model": "big", "weights": "aa", "tokenizer": "bb", "prompt": 3, "max_tokens": 9}
    return ContextHeader(
        round=0,
        off=0,
        total=3,
        hash="0" * 16,
        params=SessionParams(**params | (wants or {})),  # type: ignore[arg-type]
    )


# ---------------------------------------------------------------- batches


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


# ---------------------------------------------------------------- verifiers that go away


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

    assert world.tell(LoopStalled()) == []
    assert world.wait(0.5) == [VerifierLost(V1, "silent", 0)]


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


# ---------------------------------------------------------------- places


def test_sessions_spread_over_the_verifiers_by_load() -> None:
    world = World()
    world.stat(V1, slots=2)
    world.stat(V2, slots=4)

    for number in range(6):
        assert isinstance(world.open(key("A", number)), Opened)

    verifiers = world.policy.cluster.verifiers
    assert (len(verifiers[V1].sessions), len(verifiers[V2].sessions)) == (2, 4)


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
    (other,) = sent(world.tell(DraftArrived(key("B"), draft(9, at="v9"))))

    assert batch.verifier == V2
    assert other.verifier == V1


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


def test_a_cancelled_sessions_round_does_not_come_back_when_its_verifier_dies() -> None:
    world = World()
    world.stat(V1)
    world.tell(DraftArrived(key(), draft(budget_ms=9000)))
    world.tell(EndingArrived(key(), "cancel", b""))
    world.stat(V2)

    effects = world.wait(1.0, V2)

    assert not sent(effects)
    assert not world.policy.cluster.sessions


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


# ---------------------------------------------------------------- admission


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


# ---------------------------------------------------------------- objective, moves


def test_at_most_a_few_sessions_come_to_a_verifier_of_which_nothing_is_known() -> None:
    world = World(objective_ms=50.0)
    world.stat(slots=64)

    answers = [world.open(key("A", number)) for number in range(10)]

    assert [isinstance(answer, Opened) for answer in answers] == [True] * 8 + [False] * 2
    refused = [answer for answer in answers if isinstance(answer, Refused)]
    assert refused[0].retry_ms is not None
    assert refused[1].retry_ms is not None
    assert 100 <= refused[0].retry_ms < refused[1].retry_ms <= 10_000
    assert "50 ms" in refused[0].message


def test_who_is_refused_waits_for_less_when_sessions_end_faster() -> None:
    line = WaitingLine(0.5)
    slow_ms = [line.refuse_ms(0.0) for _ in range(4)][-1]
    for number in range(60):
        line.note_end(number * 0.02)

    assert line.refuse_ms(1.2) < slow_ms


def test_refusals_of_long_ago_make_nobody_wait() -> None:
    line = WaitingLine(0.5)
    for number in range(7200):  # somebody who asks twice a second for an hour
        line.refuse_ms(number * 0.5)
    for number in range(20):
        line.note_end(3600 + number * 0.05)

    assert line.refuse_ms(3660.0) <= 500


def test_trial_openings_that_are_closed_again_are_no_places_that_came_free() -> None:
    world = World(objective_ms=50.0)
    world.stat(slots=64)
    for number in range(50):
        world.open(key("T", number))
        world.tell(EndingArrived(key("T", number), "close", b"{}"))
        world.clock.advance(0.001)

    answers = [world.open(key("A", number)) for number in range(10)]

    refused = [answer for answer in answers if isinstance(answer, Refused)]
    assert refused[0].retry_ms == 500, "as nothing is known of how fast places come free"


def test_sessions_move_to_a_verifier_that_is_faster_for_long() -> None:
    world = World()
    learn(world, V1)
    for round_ in range(2):
        for number in range(6):
            world.tell(DraftArrived(key("A", number), draft(round_, at="v1")))
        world.stat(V1, batches=[], last=99, steps=(step(98 + round_),), slots=64)
    world.stat(V2, slots=64)

    effects = world.wait(3.5, V1, V2)

    closes = [effect for effect in effects if isinstance(effect, Forward)]
    assert closes
    assert {(one.kind, one.verifier) for one in closes} == {("close", V1)}
    assert len(world.policy.cluster.verifiers[V2].sessions) == len(closes) <= 4


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


def test_context_waits_for_its_edges_timer_while_there_is_no_verifier() -> None:
    assert World().tell(ContextArrived(key(), context(), b"chunk")) == []


def test_another_version_is_refused_by_name() -> None:
    world = World()
    world.stat()
    request = OpenRequest(model="big", tokenizer="bb", context=100, versions=(7,))

    (answer,) = world.tell(OpenAsked(key(), request, "inbox"))

    assert isinstance(answer, AnswerOpen)
    assert isinstance(answer.reply, Refused)
    assert answer.reply.refused is Reason.VERSION


def step(seq: int, ms: float = 50.0) -> StepReport:
    return StepReport(seq=seq, rows=24, prefill=0, context=50, sessions=6, ms=ms)


def learn(world: World, verifier: VerifierId) -> None:
    """Some steps of that verifier were seen."""
    for seq in range(20):
        world.stat(verifier, steps=(step(seq),), slots=64)


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


def test_a_round_of_a_session_that_ended_meanwhile_is_not_put_back() -> None:
    world = World()
    world.stat(V1)
    report = SessionReport(e=key().edge, s=key().session, round=0, state="ready")
    world.tell(DraftArrived(key(), draft(budget_ms=9000)))
    world.stat(V1, batches=[1], last=1, sessions=(report,))
    world.tell(EndingArrived(key(), "close", b""))

    (lost,) = world.tell(ByeArrived(V1))

    assert lost == VerifierLost(V1, "bye", 0)


# ---------------------------------------------------------------- drafts sent ahead


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
