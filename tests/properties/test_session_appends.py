"""Drafts that name committed tokens themselves, also after drafts that named others: whatever the
verifier held and computed by then, the tokens are the reference's."""

from hypothesis import given
from hypothesis import strategies as st

from tests.properties.session_world import Network, Request, World
from tests.properties.test_session_ends import (
    assert_nothing_stays,
    assert_right,
    lean,
    networks,
    seeds,
)


@lean
@given(
    seed=seeds,
    request_seed=st.integers(0, 1000),
    grants=st.sampled_from(("never", "never", "sometimes")),
    sends_ahead=st.booleans(),
    network=networks,
    fail_rate=st.sampled_from((0.0, 0.1)),
    own_accuracy=st.sampled_from((None, 1.0)),
)
def test_what_a_draft_appends_is_what_its_session_goes_on_from_whatever_was_held(
    seed: int,
    request_seed: int,
    grants: str,
    sends_ahead: bool,
    network: Network,
    fail_rate: float,
    own_accuracy: float | None,
) -> None:
    world = World(seed, network=network, fail_rate=fail_rate, own_accuracy=own_accuracy)
    request = Request(
        max_tokens=40, seed=request_seed, grants=grants, sends_ahead=sends_ahead, appends=True
    )

    edge = world.start(request)
    world.run()

    assert_right(edge)
    assert_nothing_stays(world)
