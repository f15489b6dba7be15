"""How a verifier's drain begins; no engine, no link, no time."""

from prometheus_client import CollectorRegistry

from specedge.engine.emulated import EmulatedTarget, EmulatedText
from specedge.link.base import Message
from specedge.protocol import subjects
from specedge.protocol.codec import decode
from specedge.protocol.reports import Stat
from specedge.protocol.step_plan import StepRoom
from specedge.service.compute import ComputeThread
from specedge_verifier.drain import drain
from specedge_verifier.engine_loop import EngineLoop, Stepper
from specedge_verifier.metrics import VerifierMetrics
from tests.unit.scheduler_facts import key
from tests.unit.test_verifier_intake import V1, Desk
from tests.unit.test_verifier_reports import reporter_of


async def test_the_first_report_after_the_drain_begins_says_so_and_the_goodbye_is_the_last_word(
    compute: ComputeThread,
) -> None:
    desk, said = Desk(), list[Message]()
    desk.ready(key("A"))
    reporter = reporter_of(desk, lambda subject, body: said.append(Message(subject, body)))
    loop = EngineLoop(
        stepper=Stepper(EmulatedTarget(EmulatedText()), compute),
        table=desk.table,
        pool=desk.pool,
        clock=desk.clock,
        metrics=VerifierMetrics(CollectorRegistry()),
        room=StepRoom(64),
        on_step=reporter.after_step,
    )
    reporter.start()
    before = len(said)

    await drain(desk.table, loop, reporter, limit_s=0.0)

    stat, bye = said[before:]
    assert not decode(Stat, said[before - 1].payload).draining
    assert decode(Stat, stat.payload).draining
    assert bye.subject == subjects.verifier_bye(V1)
    desk.clock.advance(10.0)
    assert len(said) == before + 2, "no heartbeat follows"
