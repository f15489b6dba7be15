"""Spans: off unless asked for, merged over services and machines, drawn."""

import json
import math
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest

from specedge.cli.trace import run_trace
from specedge.clock import ManualClock
from specedge.errors import InvalidRequest
from specedge.service.spans import NO_SPANS, recording
from specedge.tracing.merging import chrome_trace, read_all, within
from specedge.tracing.picture import draw


def test_nothing_is_recorded_unless_a_file_is_asked_for() -> None:
    with recording(None, "edge", ManualClock()) as spans:
        spans.add("lane", "draft", 1.0, 2.0)

    assert spans is NO_SPANS
    assert list(spans.lines()) == []


def test_what_was_recorded_is_in_the_file_when_the_service_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "edge.jsonl"
    with pytest.raises(RuntimeError), recording(path, "edge", ManualClock(50.0)) as spans:
        spans.add("UABC 1", "draft", 40.0, 40.044, nodes=32)
        spans.add("UABC 1", "away", 40.044, 40.130)
        raise RuntimeError("however it ends")

    draft, away = read_all([path])

    assert (draft.service, draft.lane, draft.name) == ("edge", "UABC 1", "draft")
    assert draft.facts == {"nodes": 32}
    assert (draft.start_s, away.start_s) == (0.0, pytest.approx(0.044, abs=1e-5))


def test_where_no_file_can_be_is_said_before_anything_is_recorded(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "edge.jsonl", tmp_path):
        with (
            pytest.raises(InvalidRequest, match="spans_file") as refusal,
            recording(path, "edge", ManualClock()),
        ):
            pytest.fail("this would be lost")
        assert refusal.value.field == "spans_file"


def test_a_service_that_was_killed_leaves_a_file_that_can_be_read(tmp_path: Path) -> None:
    with recording(tmp_path / "killed.jsonl", "edge", ManualClock()):
        during = (tmp_path / "killed.jsonl").read_bytes()
    (tmp_path / "killed.jsonl").write_bytes(during)
    with recording(tmp_path / "ended.jsonl", "verifier", ManualClock()) as spans:
        spans.add("device", "verify", 1.0, 2.0)

    assert [span.service for span in read_all([tmp_path])] == ["verifier"]


def test_an_earlier_recording_stays_until_there_is_another(tmp_path: Path) -> None:
    path = tmp_path / "edge.jsonl"
    with recording(path, "edge", ManualClock()) as spans:
        spans.add("UABC 1", "draft", 1.0, 2.0)

    with recording(path, "edge", ManualClock()) as spans:
        assert len(read_all([path])) == 1
        spans.add("UABC 1", "draft", 1.0, 2.0)
        spans.add("UABC 1", "away", 2.0, 3.0)

    assert len(read_all([path])) == 2


def written(path: Path, service: str, wall_s: float, at_s: float, *spans: list[object]) -> Path:
    header = {"service": service, "wall_s": wall_s, "at_s": at_s}
    path.write_text("\n".join(json.dumps(line) for line in (header, *spans)) + "\n")
    return path


def a_run(folder: Path) -> Path:
    """A verifier and an edge whose monotonic clocks have nothing in common."""
    steps = [
        ["device", "verify", 5.0, 5.06, {"rows": 33, "edges": "UABC UDEF"}],
        ["device", "draft", 5.06, 5.07, {}],
        ["lane", "batch", 4.99, 4.99, {"rows": 33}],
    ]
    edge = [
        ["UABC 1", "draft", 900.0, 900.04, {"nodes": 32}],
        ["UABC device", "ahead", 900.04, 900.051, {}],
        ["UABC 1", "away", 900.04, 900.13, {}],
    ]
    written(folder / "verifier.jsonl", "verifier-1", 1000.0, 6.0, *steps)
    written(folder / "edge.jsonl", "edge", 1000.0, 901.0, *edge)
    return folder


def test_services_of_different_clocks_are_merged_by_the_wall_clock(tmp_path: Path) -> None:
    spans = read_all([a_run(tmp_path)])

    at_s = {(one.service, one.name): round(one.start_s, 6) for one in spans}
    assert at_s["verifier-1", "batch"] == 0.0
    assert at_s["verifier-1", "verify"] == pytest.approx(0.01)
    assert at_s["edge", "draft"] == pytest.approx(0.01)


def test_the_trace_has_a_process_per_service_and_a_thread_per_lane(tmp_path: Path) -> None:
    events = json.loads(chrome_trace(read_all([a_run(tmp_path)])))["traceEvents"]

    names = {e["args"]["name"] for e in events if e["ph"] == "M"}
    verify = next(e for e in events if e["name"] == "verify")
    mark = next(e for e in events if e["name"] == "batch")
    assert names >= {"verifier-1", "edge", "device", "UABC 1"}
    assert (verify["ph"], verify["dur"], verify["args"]["rows"]) == ("X", 60_000.0, 33)
    assert (mark["ph"], "dur" in mark) == ("i", False)
    assert all(e["ts"] >= 0 for e in events if e["ph"] != "M")


def test_spans_that_touch_still_touch_in_the_trace_and_never_cross(tmp_path: Path) -> None:
    """A viewer drops those that partly overlap: exactly, not but for a rounding error."""
    ends_s = [5.0 + 0.0137931 * math.sqrt(number) for number in range(400)]
    steps: list[list[object]] = [
        ["device", "verify", start_s, end_s, {}] for start_s, end_s in pairwise(ends_s)
    ]
    path = written(tmp_path / "v.jsonl", "verifier-1", 1.7e9 + 1 / 3, 6.0, *steps)

    events = [e for e in json.loads(chrome_trace(read_all([path])))["traceEvents"] if "dur" in e]

    assert len(events) == len(steps)
    for event, later in pairwise(events):
        assert event["ts"] + event["dur"] == later["ts"]
        assert Fraction(event["ts"]) + Fraction(event["dur"]) == Fraction(later["ts"])
        assert event["ts"] * 1000 == Fraction(event["ts"]) * 1000  # whole nanoseconds


def test_a_stretch_of_it_is_drawn(tmp_path: Path) -> None:
    spans = within(read_all([a_run(tmp_path)]), 0.0, 0.2)
    path = tmp_path / "out" / "timeline.png"

    draw(spans, path, from_s=0.0, until_s=0.2)

    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_verifier_that_only_drafted_in_a_stretch_has_its_row(tmp_path: Path) -> None:
    drafted = ["device", "draft", 5.0, 5.01, {}]
    spans = read_all([written(tmp_path / "v.jsonl", "verifier-1", 1000.0, 6.0, drafted)])

    draw(spans, tmp_path / "out.png", from_s=0.0, until_s=0.2)

    assert (tmp_path / "out.png").stat().st_size > 0


@pytest.mark.parametrize("content", ["", "no json\n", '{"service": "x"}\n["a"]\n'])
def test_a_file_that_no_service_wrote_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "other.jsonl"
    path.write_text(content)

    with pytest.raises(InvalidRequest):
        read_all([path])


@pytest.mark.parametrize(("from_s", "for_s"), [(None, math.nan), (None, math.inf), (0.0, -1.0)])
def test_a_stretch_that_has_no_length_is_refused(
    tmp_path: Path, from_s: float | None, for_s: float
) -> None:
    with pytest.raises(InvalidRequest, match="--for") as refusal:
        run_trace([a_run(tmp_path)], tmp_path / "t.json", tmp_path / "t.png", from_s, for_s)

    assert refusal.value.field == "for"


def test_a_picture_of_a_stretch_that_holds_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="hold nothing") as refusal:
        run_trace([a_run(tmp_path)], tmp_path / "t.json", tmp_path / "t.png", 7.0, 0.6)

    assert refusal.value.field == "from"
    assert not (tmp_path / "t.png").exists()
    run_trace([tmp_path], tmp_path / "t.json", None, 7.0, 0.6)  # which draws nothing


def test_what_is_shown_unasked_is_no_rest_between_two_answers(tmp_path: Path) -> None:
    steps = [["device", "verify", at_s, at_s + 0.06, {}] for at_s in (5.0, 5.1, 5.2, 65.0)]
    written(tmp_path / "v.jsonl", "verifier-1", 1000.0, 70.0, *steps)

    run_trace([tmp_path], tmp_path / "t.json", tmp_path / "t.png", None, 0.6)

    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")
