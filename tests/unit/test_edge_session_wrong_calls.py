"""The edge's end of a session: calls of its driver that are out of place."""

import pytest

from specedge.errors import ProtocolViolation
from specedge.protocol.edge_session import EdgeSession
from specedge.protocol.edge_states import EDGE_TRANSITIONS
from specedge.protocol.effects import CancelAsked, Drafted, Started
from specedge.tree.token_tree import TokenTree
from tests.unit.edge_bench import LIMITS, OPENED, Bench, draft_in, params_of


def test_a_wrong_local_call_raises_and_changes_nothing() -> None:
    for state, row in EDGE_TRANSITIONS.items():
        if Started in row:
            continue
        bench = Bench()
        {"opening": lambda b: b.on(Started()), "drafting": Bench.opened, "awaiting": Bench.awaiting,
         "hosted": Bench.hosted, "ended": lambda b: b.on(CancelAsked())}[state](bench)  # fmt: skip
        assert bench.session.state is state

        with pytest.raises(ProtocolViolation):
            bench.on(Started())

        assert bench.session.state is state


def test_drafts_that_nobody_asked_for_or_on_a_strange_root_are_wrong_calls() -> None:
    bench = Bench()
    bench.hosted()
    with pytest.raises(ProtocolViolation, match="nobody asked"):
        bench.on(bench.grant(1))

    bench = Bench()
    bench.opened()
    strange = Drafted(TokenTree.root_only(49))
    for wrong in (strange, bench.draft(base=2), bench.draft(base=4), bench.grant(-1)):
        with pytest.raises(ProtocolViolation):
            bench.on(wrong)
    assert draft_in(bench.on(bench.draft())), "the right answer is still welcome"


def test_a_grant_where_none_is_offered_is_a_wrong_call() -> None:
    bench = Bench()
    bench.opened(OPENED.model_copy(update={"limits": LIMITS.model_copy(update={"grant": 0})}))

    with pytest.raises(ProtocolViolation, match="hosted"):
        bench.on(bench.grant(1))


def test_the_prompt_must_be_as_long_as_the_params_say() -> None:
    with pytest.raises(ValueError, match="prompt"):
        EdgeSession(params_of(), [1, 2])
