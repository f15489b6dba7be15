"""Fair queueing: nobody starves or waits while there is room, nothing is over its bound."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from specedge.ids import EdgeId, SessionId, SessionKey
from specedge.protocol.codec import batch_item, encode
from specedge.protocol.messages import MAX_BATCH_BYTES, MAX_NODES, Batch
from specedge_scheduler.pipeline import PendingDraft
from specedge_scheduler.policy.batching import (
    BatchPlanner,
    BatchRoom,
    message_bytes,
    node_cap,
)
from specedge_scheduler.policy.fair_ring import FORGET_BEYOND, FairRing
from tests.unit.scheduler_facts import draft, key


def pending(nodes: int) -> PendingDraft:
    return PendingDraft(draft(nodes=nodes), 0.0, 1.0)


def test_everything_that_fits_goes_at_once() -> None:
    waiting = {key("A", number): pending(3) for number in range(10)}

    chosen = BatchPlanner().plan(waiting, BatchRoom(100))

    assert {session for session, _ in chosen} == set(waiting)


def test_a_batch_is_not_over_its_rows() -> None:
    waiting = {key("A", number): pending(9) for number in range(10)}

    chosen = BatchPlanner().plan(waiting, BatchRoom(35))

    assert sum(one.num_rows for _, one in chosen) <= 35
    assert len(chosen) == 3


def test_a_round_larger_than_a_batch_still_goes_alone() -> None:
    chosen = BatchPlanner().plan({key(): pending(50)}, BatchRoom(10))

    assert len(chosen) == 1


def test_a_batch_fits_one_message() -> None:
    waiting = {key("A", number): pending(32) for number in range(200)}

    chosen = BatchPlanner().plan(waiting, BatchRoom(100_000))

    items = tuple(batch_item(p.draft, k, budget_ms=1, held_ms=0.123) for k, p in chosen)
    assert len(encode(Batch(epoch=(1, 0), seq=1, items=items))) <= MAX_BATCH_BYTES
    assert 0 < len(chosen) < 200


def test_the_bound_of_an_items_bytes_is_one() -> None:
    worst = draft(round_=2**31 - 1, nodes=32, at="v" * 32, budget_ms=2**31 - 1)
    worst = worst.model_copy(update={"token": (2**31 - 1,) * 32, "run": 2**31 - 1})

    item = batch_item(worst, key(), budget_ms=2**31 - 1, held_ms=123456.789)

    assert len(encode(item)) <= message_bytes(PendingDraft(worst, 0.0, 1.0))


def test_an_edge_with_many_sessions_gets_no_more_rows_than_one_with_few() -> None:
    planner = BatchPlanner()
    many = [key("A", number) for number in range(30)]
    few = [key("B", number) for number in range(3)]
    served = serve(planner, dict.fromkeys((*many, *few), 7), max_rows=24, batches=100)

    rows = Counter[str]()
    for session, count in served.items():
        rows[session.edge] += 8 * count
    assert abs(rows[few[0].edge] - rows[many[0].edge]) <= 0.1 * rows[many[0].edge]


def test_a_session_with_large_drafts_takes_no_turns_from_one_with_small_ones() -> None:
    planner = BatchPlanner()
    large, small = key("A", 1), key("A", 2)

    served = serve(planner, {large: 31, small: 7}, max_rows=32, batches=200)

    assert served[small] >= served[large] > 0


def test_nobody_waits_for_ever_behind_others_large_drafts() -> None:
    planner = BatchPlanner()
    sessions = {key("A", number): 31 for number in range(5)} | {key("B", 1): 31, key("C", 1): 0}

    served = serve(planner, sessions, max_rows=32, batches=30)

    assert all(served[session] > 0 for session in sessions)


def test_a_large_round_is_not_passed_over_for_ever_by_smaller_ones_of_new_edges() -> None:
    """Whoever is new starts where the count is, and before one that was served: where each edge has
    one round, only having been passed over brings the large one in."""
    planner, large, waiting = BatchPlanner(), key("L"), dict[SessionKey, PendingDraft]()
    served = Counter[SessionKey]()

    for batch in range(40):
        waiting.setdefault(large, pending(31))
        waiting |= {only_session_of(2 * batch + number): pending(7) for number in range(2)}
        chosen = planner.plan(waiting, BatchRoom(rows=32))
        for session, _ in chosen:
            served[session] += 1
            del waiting[session]

    assert served[large] >= 10


def test_who_comes_back_has_saved_nothing_up_and_lost_nothing() -> None:
    ring: FairRing[str] = FairRing()
    ring.set_members(["a", "b"])
    ring.pay("a", 10)
    ring.set_members(["b"])  # a is away, and was served 10 rows
    ring.pay("b", 10)

    ring.set_members(["b", "a", "c"])

    assert ring.choose() == "c"  # new: it starts where the count is
    ring.pay("c", 10)
    assert ring.choose() in ("a", "b")


@given(st.lists(st.tuples(st.booleans(), st.dictionaries(st.integers(0, 5), st.integers(1, 9)))))
def test_all_served_at_once_are_as_if_served_one_after_another(
    turns: list[tuple[bool, dict[int, int]]],
) -> None:
    at_once, in_turn = FairRing[int](), FairRing[int]()

    for are_all_served, costs in turns:
        if not are_all_served or not costs:  # the first of them only, and the others stay
            for ring in (at_once, in_turn):
                ring.set_members(costs)
                for key_ in ring.in_turn()[:1]:
                    ring.pay(key_, costs[key_])
            continue
        in_turn.set_members(costs)
        served = in_turn.in_turn()
        for key_ in served:
            in_turn.serve_and_leave(key_, costs[key_])
        assert set(at_once.serve_all(costs)) == set(served)
        assert (at_once._tag, at_once._past) == (in_turn._tag, in_turn._past)
        assert at_once._count == in_turn._count


def test_an_edge_that_always_waits_gets_no_more_than_those_who_come_and_go() -> None:
    planner = BatchPlanner()
    flood = [key("A", number) for number in range(20)]
    homes = [key(letter) for letter in "BCDEFG"]
    served = Counter[str]()
    for step in range(300):  # each home is there for every other batch
        there = [home for index, home in enumerate(homes) if index % 2 == step % 2]
        waiting = {session: pending(7) for session in (*flood, *there)}
        chosen = planner.plan(waiting, BatchRoom(rows=100, sessions=3))
        served.update(session.edge for session, _ in chosen)

    least = min(served[home.edge] for home in homes)
    assert served[flood[0].edge] <= 1.1 * least


def test_drafts_are_cut_rather_than_left_when_all_do_not_fit() -> None:
    rounds = [pending(9), pending(9), pending(1)]

    assert node_cap(rounds, BatchRoom(rows=22)) == MAX_NODES
    assert node_cap(rounds, BatchRoom(rows=12)) == 4
    assert node_cap(rounds, BatchRoom(rows=4)) == 2


def only_session_of(edge: int) -> SessionKey:
    """Of one edge among many."""
    return SessionKey(EdgeId(f"U{edge:055}"), SessionId(f"{edge:032x}"))


def serve(
    planner: BatchPlanner, sessions: dict[SessionKey, int], *, max_rows: int, batches: int
) -> Counter[SessionKey]:
    """Batches served while every session asks again at once: how often each was."""
    served: Counter[SessionKey] = Counter()
    waiting = {session: pending(nodes) for session, nodes in sessions.items()}
    for _ in range(batches):
        chosen = planner.plan(waiting, BatchRoom(max_rows))
        assert chosen
        served.update(session for session, _ in chosen)
    return served


def test_who_stays_away_for_long_is_forgotten() -> None:
    ring: FairRing[int] = FairRing()
    ring.set_members([-1, -2])
    for number in range(3 * FORGET_BEYOND):
        ring.set_members([-1, -2, number])
        ring.pay(number, 5)
        ring.pay(ring.choose(), 4)

    assert len(ring._past) <= FORGET_BEYOND + 1

    ring.set_members([])

    assert not ring._past
    assert not ring._turns
