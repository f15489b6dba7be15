"""Subjects: what is built is read back, and nothing else is read."""

import pytest

from specedge.ids import EdgeId, SchedulerId, SessionId, SessionKey, VerifierId
from specedge.protocol import subjects
from specedge.protocol.subjects import Up, UpAddress, Work, WorkAddress

EDGE = EdgeId("U" + "A" * 55)
SESSION = SessionId("0" * 31 + "f")
KEY = SessionKey(EDGE, SESSION)
V1 = VerifierId("v1")


@pytest.mark.parametrize(
    ("subject", "address"),
    [
        (subjects.up_open(KEY), UpAddress(Up.OPEN, KEY)),
        (subjects.up_context(KEY, "main"), UpAddress(Up.CONTEXT, KEY, "main")),
        (subjects.up_draft(KEY, "main"), UpAddress(Up.DRAFT, KEY, "main")),
        (subjects.up_cancel(KEY), UpAddress(Up.CANCEL, KEY)),
        (subjects.up_close(KEY), UpAddress(Up.CLOSE, KEY)),
    ],
)
def test_what_an_edge_says_is_read_back(subject: str, address: UpAddress) -> None:
    assert subjects.parse_up(subject) == address


@pytest.mark.parametrize("kind", [Work.CONTEXT, Work.CANCEL, Work.CLOSE])
def test_what_a_verifier_is_told_is_read_back(kind: Work) -> None:
    assert subjects.parse_work(subjects.work(kind, V1, KEY)) == WorkAddress(kind, V1, KEY)
    assert subjects.parse_work(subjects.work(Work.BATCH, V1)) == WorkAddress(Work.BATCH, V1)


def test_what_a_verifier_says_is_read_back() -> None:
    assert subjects.parse_verifier(subjects.verifier_stat(V1)) == ("v1", "stat")
    assert subjects.parse_verifier(subjects.verifier_bye(V1)) == ("v1", "bye")
    assert subjects.parse_down_session(subjects.down_session(KEY)) == KEY


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "se.up",
        f"se.up.{EDGE}.open.{SESSION}.more",
        f"se.up.{EDGE}.steal.{SESSION}",
        f"se.up.{EDGE[:-1]}.open.{SESSION}",
        f"se.up.{EDGE}.open.{SESSION.upper()}",
        f"se.up.{EDGE}.draft.Not_A_Name.{SESSION}",
        f"se.up.*.open.{SESSION}",
        "se.work.V.batch",
        "se.work.v1.batch.more",
        f"se.work.v1.ctx.{EDGE}.x",
        f"se.work.V.ctx.{EDGE}.{SESSION}",
        "se.ver.v1.other",
        "se.ver.V.stat",
        f"se.dn.{EDGE}.w.{SESSION}",
        f"se.dn.{EDGE}.v.x",
        f"se.up.{EDGE}.open.{SESSION}\n",
        f"se.up.{EDGE}\n.open.{SESSION}",
        f"se.up.{EDGE}.draft.v1\n.{SESSION}",
        "se.work.v1\n.batch",
        "se.ver.v1\n.stat",
    ],
)
def test_anything_else_is_nobody_subject(subject: str) -> None:
    assert subjects.parse_up(subject) is None
    assert subjects.parse_work(subject) is None
    assert subjects.parse_verifier(subject) is None
    assert subjects.parse_down_session(subject) is None


def test_an_inbox_is_an_edge_own_only_below_its_key() -> None:
    own = subjects.edge_inbox(EDGE)

    assert subjects.is_own_inbox(EDGE, own + ".x1")
    for reply in (None, "", own, own + "x.1", "se.dn.U.inbox.x", "se.inbox.main.x"):
        assert not subjects.is_own_inbox(EDGE, reply)


def test_subscriptions_cover_what_is_published_below_them() -> None:
    pairs = [
        (subjects.ALL_UP, subjects.up_draft(KEY, "main")),
        (subjects.all_work(V1), subjects.work(Work.CONTEXT, V1, KEY)),
        (subjects.ALL_VERIFIERS, subjects.verifier_stat(V1)),
        (subjects.ALL_SCHEDULERS, subjects.scheduler_stat(SchedulerId("c1"))),
        (subjects.down_all_sessions(EDGE), subjects.down_session(KEY)),
    ]
    for subscription, subject in pairs:
        assert subject.startswith(subscription.removesuffix(">"))
    assert subjects.down_control(EDGE) == f"se.dn.{EDGE}.ctl"
    assert subjects.service_inbox("main") == "se.inbox.main"
