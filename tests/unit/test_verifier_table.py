"""The bound of a verifier's table of sessions; no engine."""

from specedge.ids import SessionKey
from specedge.protocol.codec import batch_item
from specedge.protocol.messages import Draft
from specedge.protocol.verifier_effects import WorkArrived
from specedge_verifier.sessions import MAX_SESSIONS
from tests.unit.scheduler_facts import key
from tests.unit.test_verifier_intake import Desk


def a_draft_of(session: SessionKey, desk: Desk) -> WorkArrived:
    """Of a session that is not known here: it is told so, and idle then."""
    item = batch_item(Draft(base=4, hash="0" * 16, round=0, budget_ms=1000), session,
                      budget_ms=1000, held_ms=0.0)  # fmt: skip
    return WorkArrived(item, desk.clock.now_s() + 1.0)


def test_a_full_table_drops_an_idle_session_first() -> None:
    desk = Desk()
    busy = key("A")
    desk.ready(busy)
    desk.batch(busy)
    desk.clock.advance(0.01)
    idle = [key("B", number) for number in range(MAX_SESSIONS - 1)]
    for session in idle:
        desk.table.hear(session, a_draft_of(session, desk))
    assert len(desk.table) == MAX_SESSIONS

    for number in range(2):
        desk.clock.advance(0.01)
        session = key("C", number)
        desk.table.hear(session, a_draft_of(session, desk))

    assert len(desk.table) == MAX_SESSIONS
    assert desk.table.get(busy) is not None, "whoever was heard of longest ago, but at work"
    assert busy in desk.table.wants
    assert [desk.table.get(session) is None for session in idle[:3]] == [True, True, False]
