"""Real edge sessions at whole verifiers, while the network, the engine and other edges do what they
can: every run ends with exactly the reference tokens, and nothing stays held."""

import asyncio
from collections.abc import Callable

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from specedge.ids import SessionKey
from specedge.protocol.effects import CancelAsked, CloseAsked
from tests.properties.session_world import IDENTITY, LIMITS, Network, Request, World
from tests.properties.stranger import Stranger
from tests.properties.test_session_ends import assert_right, networks, seeds
from tests.properties.verifier_process import VerifierProcess

SETTLED_S = 40.0  # by then what is idle was given up
PLENTY_ROWS = 1 << 20

lean = settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
requests = st.builds(
    Request,
    prompt_len=st.sampled_from((1, 2, 20, 30, 90, 700)),
    max_tokens=st.integers(1, 40),
    seed=st.integers(0, 30),  # some begin alike, so that rows of one serve another
    stop=st.sampled_from(((), (3,), (1, 2, 5, 8, 13, 21, 34, 55))),
    min_tokens=st.sampled_from((0, 0, 4)),
    grants=st.sampled_from(("never", "always", "sometimes")),
    accuracy=st.sampled_from((0.0, 0.7, 1.0)),
    sends_ahead=st.booleans(),
    appends=st.booleans(),
)


class ProcessWorld(World):
    """A ``World`` of whole verifiers. ``strangers`` hear what is said to their own sessions."""

    def __init__(
        self, seed: int, *, network: Network, num_verifiers: int = 1, migration: float = 0.0,
        num_slots: int = 4, kv_rows: int = PLENTY_ROWS, step_rows: int = 24,
        fail_rate: float = 0.0, own_drafts: bool = False, fault_rate: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__(seed, network=network, num_verifiers=0, migration=migration)
        self.strangers: list[Stranger] = []
        for name in (f"v{number}" for number in range(num_verifiers)):
            self.verifiers[name] = VerifierProcess(  # type: ignore[assignment]
                *(name, self.clock, self.random, self._down, IDENTITY, LIMITS),
                num_slots=num_slots,
                kv_rows=kv_rows,
                step_rows=step_rows,
                fail_rate=fail_rate,
                own_drafts=own_drafts,
                fault_rate=fault_rate,
            )
            self.verifiers[name].restart()

    def _down(self, key: SessionKey, payload: bytes) -> None:
        for stranger in self.strangers:
            if key in stranger.texts:
                stranger.hear(key, payload)
                return
        super()._down(key, payload)

    async def end(self) -> None:
        """Run until all sessions ended rightly, and nothing is held for them."""
        try:
            await self._run_until(lambda: all(edge.ended for edge in self.edges.values()))
            for edge in self.edges.values():
                assert_right(edge)
            for stranger in self.strangers:
                stranger.num_left = 0
            end_s = self.clock.now_s() + SETTLED_S
            await self._run_until(lambda: self.clock.now_s() > end_s)
            for verifier in self.verifiers.values():
                if verifier.is_up:
                    verifier.assert_nothing_is_held()
        finally:
            for verifier in self.verifiers.values():
                verifier.crash()
            await _settle()

    async def _run_until(self, is_over: Callable[[], bool]) -> None:
        await _settle()
        while not is_over():
            due_s = self.clock.next_due_s()
            assert due_s is not None, f"nothing will ever happen: {self.describe()}"
            assert due_s < 3600.0, f"not ended: {self.describe()}"
            self.clock.advance(max(due_s - self.clock.now_s(), 0.0))
            await _settle()
            for verifier in self.verifiers.values():
                verifier.look()


async def _settle() -> None:
    """Let every task do what it can at this moment."""
    for _ in range(12):
        await asyncio.sleep(0)


@lean
@given(
    seed=seeds,
    requests=st.lists(requests, min_size=1, max_size=6),
    network=networks,
    num_verifiers=st.integers(1, 2),
    num_slots=st.integers(1, 4),
    kv_rows=st.sampled_from((PLENTY_ROWS, 4096, 2048)),
    step_rows=st.sampled_from((8, 24, 128)),
    fail_rate=st.sampled_from((0.0, 0.0, 0.1)),
    migration=st.sampled_from((0.0, 0.2)),
    own_drafts=st.booleans(),
    crashes=st.lists(st.tuples(st.floats(0, 5), st.integers(0, 1), st.floats(0.01, 3)), max_size=2),
    leavings=st.lists(
        st.tuples(st.integers(0, 5), st.floats(0, 3), st.booleans()), max_size=3
    ),
)  # fmt: skip
def test_at_whole_verifiers_every_run_ends_with_the_reference_tokens_and_nothing_held(
    seed, requests, network, num_verifiers, num_slots, kv_rows, step_rows, fail_rate, migration,
    own_drafts, crashes, leavings,
) -> None:  # fmt: skip
    async def run() -> None:
        world = ProcessWorld(
            seed, network=network, num_verifiers=num_verifiers, migration=migration,
            num_slots=num_slots, kv_rows=kv_rows, step_rows=step_rows, fail_rate=fail_rate,
            own_drafts=own_drafts,
        )  # fmt: skip
        for when_s, number, down_s in crashes:
            name = f"v{number % num_verifiers}"
            world.at(when_s, lambda name=name, down_s=down_s: world.crash(name, down_s))
        edges = [world.start(request) for request in requests]
        for number, when_s, is_cancel in leavings:
            edge, event = edges[number % len(edges)], CancelAsked() if is_cancel else CloseAsked()
            world.at(when_s, lambda edge=edge, event=event: edge.ended or edge.feed(event))
        await world.end()

    asyncio.run(run())


@lean
@given(
    seed=seeds,
    requests=st.lists(requests, min_size=1, max_size=3),
    network=networks,
    kv_rows=st.sampled_from((PLENTY_ROWS, 4096)),
    step_rows=st.sampled_from((8, 24, 128)),
    fail_rate=st.sampled_from((0.0, 0.05)),
    own_drafts=st.booleans(),
    pause_s=st.sampled_from((0.01, 0.05, 0.3)),
)
def test_an_edge_that_keeps_to_no_protocol_costs_no_other_a_token(
    seed, requests, network, kv_rows, step_rows, fail_rate, own_drafts, pause_s
) -> None:
    async def run() -> None:
        world = ProcessWorld(
            seed, network=network, num_slots=6, kv_rows=kv_rows, step_rows=step_rows,
            fail_rate=fail_rate, own_drafts=own_drafts,
        )  # fmt: skip
        world.strangers.append(Stranger(world.clock, world.random, world.verifiers, pause_s))
        for request in requests:
            world.start(request)
        await world.end()

    asyncio.run(run())


@lean
@given(
    seed=seeds,
    requests=st.lists(requests.filter(lambda one: one.prompt_len < 100), min_size=1, max_size=4),
    network=networks,
    num_slots=st.integers(1, 4),
    step_rows=st.sampled_from((24, 128)),
    fail_rate=st.sampled_from((0.0, 0.05)),
    own_drafts=st.booleans(),
    fault_rate=st.sampled_from((0.01, 0.03)),
)
def test_a_session_whose_machine_has_a_fault_begins_anew_and_ends_no_other(
    seed, requests, network, num_slots, step_rows, fail_rate, own_drafts, fault_rate
) -> None:
    async def run() -> None:
        world = ProcessWorld(
            seed, network=network, num_slots=num_slots, step_rows=step_rows, fail_rate=fail_rate,
            own_drafts=own_drafts, fault_rate=fault_rate,
        )  # fmt: skip
        for request in requests:
            world.start(request)
        await world.end()

    asyncio.run(run())
