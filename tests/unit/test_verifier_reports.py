"""What a verifier's heartbeats say of its sessions; no engine, no link."""

from collections.abc import Callable

from specedge.protocol.codec import decode
from specedge.protocol.reports import Stat, StepReport
from specedge.protocol.subjects import verifier_bye
from specedge_verifier.reports import BEATS_PER_ROUND, PERIOD_S, EngineLoad, Reporter, Who
from tests.unit.scheduler_facts import IDENTITY, LIMITS, key
from tests.unit.test_verifier_intake import V1, Desk


def step(number: int) -> StepReport:
    return StepReport(seq=number, rows=1, prefill=0, context=1, sessions=1, ms=20.0)


def reporter_of(desk: Desk, publish: Callable[[str, bytes], None]) -> Reporter:
    """Of a verifier that never steps."""
    return Reporter(
        Who(V1, "aa", IDENTITY, LIMITS, step_rows=64),
        table=desk.table,
        pool=desk.pool,
        ledger=desk.ledger,
        clock=desk.clock,
        load=lambda: EngineLoad(0, 0.0),
        publish=publish,
    )


class Reports:
    """A verifier's reports as they are published."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.sent: list[Stat] = []
        self.reporter = reporter_of(
            desk, lambda _subject, body: self.sent.append(decode(Stat, body))
        )

    def beat(self, beats: int) -> list[int]:
        """So many heartbeats: how many sessions each names."""
        self.sent.clear()
        for _ in range(beats):
            self.desk.clock.advance(PERIOD_S)
        return [len(stat.sessions or ()) for stat in self.sent]

    def named(self) -> list[str]:
        return [report.s for stat in self.sent for report in stat.sessions or ()]


def reports_of(num_sessions: int) -> tuple[Reports, list[str]]:
    """A verifier that reports, and the names of its sessions."""
    desk = Desk(slots=64)
    keys = [key("A", number) for number in range(num_sessions)]
    for one in keys:
        desk.ready(one)
    reports = Reports(desk)
    reports.reporter.start()
    return reports, [one.session for one in keys]


def test_heartbeats_name_every_session_once_in_a_round_of_them() -> None:
    reports, names = reports_of(25)
    reports.beat(4)  # somewhere in a round

    sizes = reports.beat(BEATS_PER_ROUND - 1)

    assert max(sizes) == 3, "a share, not all of them"
    assert sorted(reports.named()) == sorted(names)


def test_sessions_that_come_and_go_do_not_keep_others_from_being_named() -> None:
    desk = Desk(slots=64)
    reports = Reports(desk)
    reports.reporter.start()
    stays = [key("A", number) for number in range(4)]
    for one in stays:
        desk.ready(one)
    for number in range(3 * BEATS_PER_ROUND):
        desk.ready(key("B", number))
        reports.desk.clock.advance(PERIOD_S)
        if number % 2:
            desk.table.end(key("B", number))

    named = {(report.e, report.s) for stat in reports.sent for report in stat.sessions or ()}
    assert {(one.edge, one.session) for one in stays} <= named


def test_a_report_soon_after_another_names_none() -> None:
    desk = Desk()
    desk.ready(key("A"))
    reports = Reports(desk)

    reports.reporter.tell()
    reports.reporter.tell()

    first, second = reports.sent
    assert first.sessions is not None
    assert len(first.sessions) == 1
    assert second.sessions is None


def test_whoever_reports_each_step_sends_no_heartbeats_beside() -> None:
    reports, names = reports_of(25)
    reports.sent.clear()

    num_steps = 2 * BEATS_PER_ROUND + 2
    for number in range(num_steps):
        reports.desk.clock.advance(0.6 * PERIOD_S)
        reports.reporter.after_step(step(number))

    assert [stat.steps[-1].seq for stat in reports.sent] == list(range(num_steps))
    assert set(reports.named()) == set(names), "named in reports of steps"


def test_after_the_last_step_the_next_report_comes_one_period_later() -> None:
    desk = Desk()
    reports = Reports(desk)
    reports.reporter.start()
    desk.clock.advance(0.7 * PERIOD_S)
    reports.reporter.after_step(step(0))
    reports.sent.clear()

    desk.clock.advance(0.99 * PERIOD_S)
    assert not reports.sent

    desk.clock.advance(0.02 * PERIOD_S)
    assert len(reports.sent) == 1


def test_a_step_that_ends_after_the_goodbye_is_not_told() -> None:
    subjects_said: list[str] = []
    reporter = reporter_of(Desk(), lambda subject, _: subjects_said.append(subject))
    reporter.start()

    reporter.bye()
    reporter.after_step(step(0))

    assert subjects_said[-1] == verifier_bye(V1)
