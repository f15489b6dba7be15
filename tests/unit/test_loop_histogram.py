"""A histogram that only the loop feeds says what the library's own says."""

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.metrics import disable_created_metrics

from specedge.service.metrics import LoopHistogram

EDGES = (0.5, 1, 2.5)
VALUES = (0.0, 0.5, 0.50001, 1.0, 2.5, 3.0, 1e9)


def test_its_exposition_is_that_of_the_library() -> None:
    disable_created_metrics()
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    one = LoopHistogram("seconds", "how long", buckets=EDGES, registry=ours)
    other = Histogram("seconds", "how long", buckets=EDGES, registry=theirs)

    for value in VALUES:
        one.observe(value)
        other.observe(value)

    told, expected = (generate_latest(each).decode().splitlines() for each in (ours, theirs))
    assert told == [line for line in expected if "_created" not in line]
