"""What of an edge's messages is read at all."""

from specedge.ids import EdgeId
from specedge_scheduler.doorway import BURST_S, SHORT_BYTES, Doorway

A, B = EdgeId("A"), EdgeId("B")
RATE = 10_000.0
LONG = 8_000


def taken(doorway: Doorway, edge: EdgeId, count: int, now_s: float, num_bytes: int = LONG) -> int:
    return sum(doorway.lets_in(edge, num_bytes, now_s) for _ in range(count))


def test_long_messages_are_read_as_far_as_an_edges_bytes_go() -> None:
    doorway = Doorway(RATE)
    burst = int(RATE * BURST_S / LONG)

    assert taken(doorway, A, 100, 0.0) == burst
    assert taken(doorway, B, 1, 0.0) == 1
    assert taken(doorway, A, 100, 8.0) == burst


def test_over_time_an_edge_sends_no_more_than_its_rate() -> None:
    doorway = Doorway(RATE)
    read = sum(taken(doorway, A, 10, tenth / 10) for tenth in range(600))

    assert read * LONG <= RATE * (60 + BURST_S) + LONG


def test_short_messages_are_the_policys() -> None:
    doorway = Doorway(1.0)

    assert taken(doorway, A, 1000, 0.0, SHORT_BYTES) == 1000
    assert not len(doorway)


def test_an_edge_that_paid_all_back_is_forgotten() -> None:
    doorway = Doorway(RATE)
    taken(doorway, A, 3, 0.0)
    doorway.forget_unused(1.0)
    assert len(doorway) == 1
    doorway.forget_unused(10.0)
    assert not len(doorway)
