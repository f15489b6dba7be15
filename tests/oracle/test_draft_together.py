"""A pass for several draft sessions proposes what a pass for each alone would."""

from collections.abc import Sequence

import numpy as np
import pytest

from specedge.drafting.tree_drafter import TreeDrafter
from specedge.engine.ports import BatchingDrafter, ExpandAsked
from specedge.engine.torch_draft import TorchDrafter
from specedge.errors import ProtocolViolation
from specedge.params import DraftPolicy, SamplingParams
from specedge.tree.token_tree import TokenTree
from tests.oracle.tiny_models import KV_BYTES, build, loaded, random_tokens

POLICY = DraftPolicy(depth=3, budget=12, beams=4, branch=3)
PARAMS = (SamplingParams(), SamplingParams(temperature=0.8, seed=5), SamplingParams())
LENGTHS = (4, 40, 11)


def a_drafter(kv_bytes: int = KV_BYTES) -> TorchDrafter:
    return TorchDrafter(
        loaded(build("llama")), kv_bytes=kv_bytes, num_slots=4, num_children=3, coupled=True
    )


def started(drafter: TorchDrafter) -> list[TreeDrafter]:
    rng = np.random.default_rng(3)
    sessions = []
    for length, params in zip(LENGTHS, PARAMS, strict=True):
        session = TreeDrafter(drafter)
        session.start(random_tokens(rng, length), params)
        session.begin(POLICY)
        sessions.append(session)
    return sessions


def asked(session: TreeDrafter) -> ExpandAsked:
    return ExpandAsked(session.session, session.growing.tree, session.plan_step())


def grow_together(drafter: TorchDrafter, sessions: Sequence[TreeDrafter]) -> None:
    while any(len(session.plan_step()) for session in sessions):
        wanted = [(session, asked(session)) for session in sessions if len(session.plan_step())]
        expansions = drafter.expand_together([one for _, one in wanted])
        for (session, one), expansion in zip(wanted, expansions, strict=True):
            assert expansion is not None
            session.take_step(one.nodes, expansion, 0.0)


def assert_same(ours: TokenTree, theirs: TokenTree) -> None:
    assert np.array_equal(ours.token, theirs.token)
    assert np.array_equal(ours.parent, theirs.parent)
    assert np.allclose(ours.logprob, theirs.logprob, atol=2e-4)


def test_sessions_grow_together_as_they_grow_alone_over_several_rounds() -> None:
    drafter, plain = a_drafter(), a_drafter()
    together, alone = started(drafter), started(plain)
    assert isinstance(drafter, BatchingDrafter)

    for num_committed in (2, 1, 3):
        grow_together(drafter, together)
        for ours, theirs in zip(together, alone, strict=True):
            while theirs.step():
                pass
            tree = theirs.finish().tree
            assert_same(ours.finish().tree, tree)
            first = [int(tree.token[node]) for node in (1, 2, 3)][: num_committed - 1]
            for session in (ours, theirs):
                session.on_verdict(first, 7)
                session.begin(POLICY)


def test_a_session_without_memory_gets_nothing_and_the_others_go_on() -> None:
    row_bytes = a_drafter().tree_model.cache.row_bytes
    drafter = a_drafter(256 * row_bytes)  # a block of 128 rows for each of two
    fits, does_not = TreeDrafter(drafter), TreeDrafter(drafter)
    rng = np.random.default_rng(3)
    for session in (fits, does_not):
        session.start(random_tokens(rng, 9), SamplingParams())
    does_not.on_append(random_tokens(rng, 130).tolist())
    for session in (fits, does_not):
        session.begin(POLICY)

    given, refused = drafter.expand_together([asked(fits), asked(does_not)])

    assert refused is None
    assert given is not None
    fits.take_step(fits.plan_step(), given, 0.0)
    assert fits.finish().tree.num_drafted == 3


def test_a_session_of_another_drafter_is_a_wrong_call() -> None:
    class Other:
        pass

    drafter = a_drafter()
    wanted = ExpandAsked(Other(), TokenTree.root_only(3), np.zeros(1, np.int32))  # type: ignore[arg-type]

    with pytest.raises(ProtocolViolation):
        drafter.expand_together([wanted])


def test_a_root_asked_again_is_read_where_its_rows_are_now() -> None:
    """Room for its nodes moved them, and another session took what became free."""
    rng = np.random.default_rng(6)
    texts = [random_tokens(rng, length) for length in (180, 64)]
    drafter, plain = a_drafter(), a_drafter()
    moving, taking = (drafter.open(text, SamplingParams()) for text in texts)
    alone = [plain.open(text, SamplingParams()) for text in texts]
    wide = [
        TokenTree.from_parents(np.append(text[-1], random_tokens(rng, 90)), [-1, *[0] * 90])
        for text in texts
    ]
    first = np.arange(61, dtype=np.int32)
    for session, tree in zip((moving, taking, *alone), (*wide, *wide), strict=True):
        session.expand(tree, first[:1])
        session.expand(tree, first[1:60])
    again = np.array([0, *range(60, 91)], dtype=np.int32)

    ours = drafter.expand_together(
        [ExpandAsked(moving, wide[0], again), ExpandAsked(taking, wide[1], again[1:])]
    )

    for one, session, tree, nodes in zip(ours, alone, wide, (again, again[1:]), strict=True):
        assert one is not None
        theirs = session.expand(tree, nodes)
        assert np.array_equal(one.token, theirs.token)
        assert np.allclose(one.logprob, theirs.logprob, atol=2e-4)
