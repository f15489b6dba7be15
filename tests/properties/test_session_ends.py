"""The two ends of a session against each other, whatever lies between them: every run ends, with
exactly the reference tokens, and nothing stays held."""

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from specedge.errors import RetryableError
from specedge.protocol.effects import CancelAsked, CloseAsked
from specedge.protocol.round_timer import EdgeSessionConfig
from tests.properties.session_nodes import IDLE_S, EdgeNode, reference
from tests.properties.session_world import Network, Request, World

lean = settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
seeds = st.integers(0, 2**32 - 1)
requests = st.builds(
    Request,
    prompt_len=st.sampled_from((1, 2, 30, 90, 8193)),
    max_tokens=st.integers(1, 25),
    seed=st.integers(0, 1000),
    stop=st.sampled_from(((), (3,), (1, 2, 5, 8, 13, 21, 34, 55))),
    min_tokens=st.sampled_from((0, 0, 4)),
    grants=st.sampled_from(("never", "always", "sometimes")),
    accuracy=st.sampled_from((0.0, 0.7, 1.0)),
    sends_ahead=st.booleans(),
)
own_accuracies = st.sampled_from((None, 0.5, 1.0))
networks = st.builds(
    Network,
    loss=st.sampled_from((0.0, 0.05, 0.3)),
    duplication=st.sampled_from((0.0, 0.3)),
    latency_s=st.sampled_from((0.001, 0.02, 0.2)),
    jitter_s=st.sampled_from((0.0, 0.01, 0.3)),
)


def assert_right(edge: EdgeNode) -> None:
    expected = reference(edge.params, edge.prompt)
    assert edge.ended is not None
    if edge.ended.reason in ("cancelled", "closed"):
        assert edge.got == expected[: len(edge.got)]
    else:
        assert edge.ended.error is None, edge.ended
        assert edge.got == expected
        is_stop = expected[-1] in edge.params.stop and len(expected) > edge.params.min_tokens
        assert edge.ended.reason == ("stop" if is_stop else "length")
    assert edge.session.committed.tolist() == edge.prompt + edge.got


def assert_nothing_stays(world: World) -> None:
    world.clock.advance(3 * IDLE_S)
    for verifier in world.verifiers.values():
        assert verifier.slots_used == 0
        assert not verifier.held
    assert world.clock.next_due_s() is None


@lean
@given(
    seed=seeds,
    request=requests,
    own_accuracy=own_accuracies,
    latency_s=st.sampled_from((0.005, 0.02)),
)
def test_a_calm_run_gives_the_reference_tokens_and_resyncs_only_after_a_repeat(
    seed: int, request: Request, own_accuracy: float | None, latency_s: float
) -> None:
    world = World(seed, network=Network(latency_s=latency_s), own_accuracy=own_accuracy)

    edge = world.start(request)
    world.run()

    assert_right(edge)
    # A step that stalls may outlast the edge's patience. A granted round that is said again takes
    # back what the edge has not seen, which may be on its way to it.
    assert edge.session.counters["resyncs"] <= edge.session.counters["resends"]
    assert_nothing_stays(world)


def test_a_granted_round_said_again_while_its_verdicts_travel_costs_one_resync() -> None:
    world = World(7, network=Network(latency_s=0.02), own_accuracy=None)

    edge = world.start(
        Request(
            prompt_len=90,
            max_tokens=3,
            seed=0,
            stop=(),
            min_tokens=0,
            grants="always",
            accuracy=0.0,
            sends_ahead=True,
        )
    )
    world.run()

    assert_right(edge)
    assert (edge.session.counters["resends"], edge.session.counters["resyncs"]) == (1, 1)
    assert_nothing_stays(world)


@lean
@given(
    seed=seeds,
    requests=st.lists(requests, min_size=1, max_size=3),
    network=networks,
    num_verifiers=st.integers(1, 3),
    num_slots=st.integers(1, 3),
    fail_rate=st.sampled_from((0.0, 0.1)),
    hold_s=st.sampled_from((0.0, 0.1, 1.5)),
    migration=st.sampled_from((0.0, 0.2)),
    crashes=st.lists(st.tuples(st.floats(0, 5), st.integers(0, 2), st.floats(0.01, 3)), max_size=4),
    cuts=st.lists(st.tuples(st.floats(0, 3), st.floats(0.01, 2)), max_size=2),
    leavings=st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=1),
    own_accuracy=own_accuracies,
)
def test_every_run_ends_with_the_reference_tokens_and_nothing_held(
    seed,
    requests,
    network,
    num_verifiers,
    num_slots,
    fail_rate,
    hold_s,
    migration,
    crashes,
    cuts,
    leavings,
    own_accuracy,
) -> None:
    world = World(
        seed,
        network=network,
        num_verifiers=num_verifiers,
        num_slots=num_slots,
        fail_rate=fail_rate,
        hold_s=hold_s,
        migration=migration,
        own_accuracy=own_accuracy,
    )
    for when_s, number, down_s in crashes:
        name = f"v{number % num_verifiers}"
        world.at(when_s, lambda name=name, down_s=down_s: world.crash(name, down_s))

    edges = [world.start(request) for request in requests]
    for when_s, for_s in cuts:
        world.at(when_s, lambda for_s=for_s: world.cut(edges[0], for_s))
    for when_s, is_cancel in leavings:
        event = CancelAsked() if is_cancel else CloseAsked()
        world.at(when_s, lambda event=event: edges[0].ended or edges[0].feed(event))
    world.run()

    for edge in edges:
        assert_right(edge)
    assert_nothing_stays(world)


@lean
@given(seed=seeds, request=requests, when_s=st.floats(0, 2))
def test_a_cancel_frees_the_slot_after_at_most_the_step_under_way(seed, request, when_s) -> None:
    world = World(seed)
    edge = world.start(request)
    world.at(when_s, lambda: edge.ended or edge.feed(CancelAsked()))
    world.run()

    world.clock.advance(0.25)

    assert world.verifiers["v0"].slots_used == 0
    assert_right(edge)


@lean
@given(seed=seeds, request=requests, when_s=st.floats(0, 1))
@example(seed=1, request=Request(max_tokens=25), when_s=0.0)
@example(seed=1, request=Request(max_tokens=25), when_s=0.1)
@example(seed=1, request=Request(max_tokens=25, grants="always"), when_s=0.1)
def test_when_the_cloud_is_gone_for_good_the_session_ends_with_a_retryable_error(
    seed, request, when_s
) -> None:
    world = World(seed, config=EdgeSessionConfig(give_up_s=5.0))
    edge = world.start(request)
    was_cut_off = False

    def look() -> None:
        nonlocal was_cut_off
        was_cut_off = edge.ended is None

    world.at(when_s, lambda: world.crash("v0", 1e9))
    world.at(when_s + 2 * world.network.latency_s, look)  # what was on its way has come

    world.run(limit_s=when_s + 30.0)

    if was_cut_off:
        assert isinstance(edge.ended.error, RetryableError)
        assert edge.got == reference(edge.params, edge.prompt)[: len(edge.got)]
    else:
        assert_right(edge)


@lean
@given(
    seed=seeds,
    request_seed=st.integers(0, 1000),
    grants=st.sampled_from(("always", "sometimes")),
    network=networks,
    crash_s=st.floats(0.05, 2),
    accuracy=st.sampled_from((0.5, 1.0)),
)
def test_a_verifier_that_drafts_itself_and_dies_in_a_grant_costs_no_token(
    seed, request_seed, grants, network, crash_s, accuracy
) -> None:
    world = World(seed, network=network, num_verifiers=2, own_accuracy=accuracy)
    request = Request(prompt_len=30, max_tokens=60, seed=request_seed, grants=grants)
    edge = world.start(request)
    world.at(crash_s, lambda: world.crash("v0", 0.5))
    world.at(2 * crash_s, lambda: world.crash("v1", 0.1))

    world.run()

    assert_right(edge)
    assert_nothing_stays(world)


def test_a_calm_hosted_run_with_a_perfect_drafter_takes_fewer_rounds_than_tokens() -> None:
    world = World(7, own_accuracy=1.0)

    edge = world.start(Request(prompt_len=5, max_tokens=60, seed=3, grants="always"))
    world.run()

    assert_right(edge)
    assert edge.session.round < 45


def test_a_calm_run_goes_on_from_drafts_sent_ahead_without_sending_their_rounds() -> None:
    world = World(7, network=Network(latency_s=0.002))

    edge = world.start(Request(max_tokens=120, seed=3, accuracy=1.0, sends_ahead=True))
    world.run()

    assert_right(edge)
    assert edge.session.counters["followed"] > 5
    assert edge.session.counters["resyncs"] == edge.session.counters["resends"] == 0
    assert_nothing_stays(world)


@lean
@given(
    seed=seeds,
    request_seed=st.integers(0, 1000),
    network=networks,
    num_verifiers=st.integers(1, 2),
    fail_rate=st.sampled_from((0.0, 0.1)),
    hold_s=st.sampled_from((0.0, 0.05)),
    migration=st.sampled_from((0.0, 0.2)),
    grants=st.sampled_from(("never", "sometimes")),
    accuracy=st.sampled_from((0.7, 1.0)),
    crash_s=st.floats(0.05, 2),
    cut_s=st.floats(0.05, 2),
)
def test_drafts_sent_ahead_cost_no_token_whatever_is_lost_late_or_said_again(
    seed,
    request_seed,
    network,
    num_verifiers,
    fail_rate,
    hold_s,
    migration,
    grants,
    accuracy,
    crash_s,
    cut_s,
) -> None:
    world = World(
        seed,
        network=network,
        num_verifiers=num_verifiers,
        fail_rate=fail_rate,
        hold_s=hold_s,
        migration=migration,
    )
    request = Request(
        prompt_len=30,
        max_tokens=60,
        seed=request_seed,
        grants=grants,
        accuracy=accuracy,
        sends_ahead=True,
    )
    edge = world.start(request)
    world.at(crash_s, lambda: world.crash("v0", 0.3))
    world.at(cut_s, lambda: world.cut(edge, 0.2))

    world.run()

    assert_right(edge)
    assert_nothing_stays(world)
