"""The simulator's own parts: what people write, what they are told, how chance is drawn."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest
from rich.console import Console

from specedge.errors import InvalidRequest
from specedge.ids import EDGE_ID
from specedge.tree.path import walk
from specedge_scheduler.sim import __main__ as command
from specedge_scheduler.sim import sweeps, waiting
from specedge_scheduler.sim.__main__ import main, read_file
from specedge_scheduler.sim.drafts import (
    accepted_levels,
    expected_tokens,
    line_choice,
    line_tree,
    num_levels,
)
from specedge_scheduler.sim.draws import Stream, normal, uniform, uniforms
from specedge_scheduler.sim.edge import edge_id, next_arrival_s
from specedge_scheduler.sim.events import VirtualTime
from specedge_scheduler.sim.measures import Figures
from specedge_scheduler.sim.report import headings, show_capacity
from specedge_scheduler.sim.scenario import EdgeSpec, LoadSpec, read_scenario
from specedge_scheduler.sim.sweeps import Most, find_capacity, most_edges, run_all, variations
from specedge_scheduler.sim.world import simulate

EXAMPLES = Path(__file__).parents[2] / "examples"
SMALL: dict[str, object] = {
    "duration_s": 2.0,
    "warmup_s": 0.5,
    "verifiers": [{"device": {"fixed_ms": 20.0, "row_ms": 2.0}}],
    "edges": [{"count": 2, "session": {"prompt_tokens": 8, "output_tokens": 50}}],
}


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"duration_s": -1}, "duration_s"),
        ({"warmup_s": 9}, "warmup_s"),
        ({"typo": 1}, "typo"),
        ({"edges": []}, "edges"),
        ({"verifiers": []}, "verifiers"),
        ({"sweep": {"edges.0.count": []}}, "sweep.edges.0.count"),
        ({"edges": [{"acceptance": [1.5]}]}, "edges.0.acceptance.0"),
        ({"edges": [{"depth": {"min": 5, "max": 3}}]}, "min must not be above max"),
        ({"edges": [{"link": "nowhere"}]}, "no link is called 'nowhere'"),
        ({"verifiers": [{"device": "toaster"}]}, "no profile is called 'toaster'"),
        ({"scheduler": {"policy": "lazy"}}, "scheduler.policy"),
        ({"failures": [{"verifier": 3, "at_s": 1}]}, "failures.0.verifier"),
    ],
)
def test_a_wrong_field_is_named(wrong: dict[str, object], named: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_scenario(SMALL | wrong)

    assert named in str(caught.value)


def edges_with(**fields: object) -> dict[str, object]:
    return {"edges": [fields]}


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (edges_with(link={"rount_trip_ms": 14}), "edges.0.link.rount_trip_ms"),
        (edges_with(link={"loss": 2}), "edges.0.link.loss"),
        (edges_with(link={"str": 2}), "edges.0.link.str"),
        (edges_with(link=3), "edges.0.link"),
        ({"verifiers": [{"device": {"fixd_ms": 1}}]}, "verifiers.0.device.fixd_ms"),
        (edges_with(depth={"mni": 3}), "edges.0.depth.mni"),
        (edges_with(depth={"min": "few"}), "edges.0.depth.min"),
        (edges_with(depth={"min": 5, "max": 3}), "edges.0.depth"),
        (edges_with(depth=99), "edges.0.depth"),
        (edges_with(Count=3), "edges.0.Count"),
        (edges_with(str=3), "edges.0.str"),
        ({"Edges": 1}, "Edges"),
        ({"": 1}, "''"),
        ({1: 1}, "1"),
        ({"failures": [{"verifer": 0, "at_s": 1}]}, "failures.0.verifer"),
    ],
)
def test_a_wrong_field_is_named_as_it_was_written(wrong: dict[str, object], field: str) -> None:
    """Fields that may be one thing or another too: not the reading that nobody meant."""
    with pytest.raises(InvalidRequest) as caught:
        read_scenario(SMALL | wrong)

    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field}: ")


def fail(at_s: float, for_s: float | None = None, verifier: int = 0) -> dict[str, object]:
    return {"verifier": verifier, "at_s": at_s, "for_s": for_s}


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"failures": [fail(0.5, 1.0), fail(1.0, 0.1)]}, "failures.1.at_s"),
        ({"failures": [fail(1.0, 0.1), fail(0.5, 1.0)]}, "failures.0.at_s"),
        ({"failures": [fail(0.5, 0.5), fail(1.0)]}, "failures.1.at_s"),
        ({"failures": [fail(0.5), fail(1.5)]}, "failures.1.at_s"),
        ({"failures": [fail(2.0)]}, "failures.0.at_s"),
        (edges_with(load={"per_s": 0.5}), "edges.0.load.per_s"),
        (edges_with(load={"kind": "poisson", "burst_share": 0.5}), "edges.0.load.burst_share"),
        (edges_with(load={"kind": "bursty", "think_s": 1.0}), "edges.0.load.think_s"),
        (edges_with(load={"kind": "poisson"}, sessions=4), "edges.0.sessions"),
        (edges_with(load={"kind": "bursty"}, starts_s=1.0), "edges.0.starts_s"),
        ({"edges": [{}, {}]}, "edges.1.name"),
        (edges_with(nodes=2, depth=5), "edges.0.nodes"),
        (edges_with(nodes=2, depth={"min": 1, "max": 3}), "edges.0.nodes"),
        ({"warmup_s": 2.0}, "warmup_s"),
    ],
)
def test_what_would_be_passed_over_is_refused(wrong: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_scenario(SMALL | wrong)

    assert caught.value.field == field


def test_verifiers_may_fail_one_after_another_and_side_by_side() -> None:
    two = {"verifiers": [{"count": 2, "device": {"fixed_ms": 20.0}}]}
    failures = [fail(0.5, 0.2), fail(0.8, 0.2), fail(0.6, 0.3, verifier=1)]

    assert len(read_scenario(SMALL | two | {"failures": failures}).failures) == 3


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_examples_are_scenarios(file: Path) -> None:
    assert read_scenario(read_file(file)).num_edges > 0


def test_a_sweep_tries_every_combination() -> None:
    fields = SMALL | {"sweep": {"edges.0.count": [1, 2], "scheduler.policy": ["jit", "greedy"]}}

    found = [(varied, scenario.num_edges) for varied, scenario in variations(fields)]

    assert [num for _, num in found] == [1, 1, 2, 2]
    assert found[1][0] == {"edges.0.count": 1, "scheduler.policy": "greedy"}


@pytest.mark.parametrize(
    "name", ["edges.7.count", "edges.x", "edges.².count", "duration_s.much", "edges.0.typo"]
)
def test_a_sweep_over_a_field_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match=r"sweep|typo"):
        list(variations(SMALL | {"sweep": {name: [1]}}))


def test_a_sweep_with_a_wrong_value_is_refused_before_the_first_simulation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fields = SMALL | {"sweep": {"edges.0.depth": [5, "deep"]}}

    monkeypatch.setattr(sweeps, "simulate", lambda *_: pytest.fail("this would be lost"))
    with pytest.raises(InvalidRequest, match=r"edges\.0\.depth"):
        run_all(fields)


@pytest.mark.parametrize(
    ("swept", "titles"),
    [
        (["edges.0.count", "scheduler.policy"], ["count", "policy"]),
        (["edges.0.count", "verifiers.0.count"], ["edges.0.count", "verifiers.0.count"]),
        (["edges.0.link.loss", "edges.1.link.loss"], ["0.link.loss", "1.link.loss"]),
        (["seed", "edges.0.seed"], ["seed", "0.seed"]),
    ],
)
def test_every_swept_field_has_a_heading_of_its_own(swept: list[str], titles: list[str]) -> None:
    assert headings(swept) == titles


def test_a_sweep_may_replace_a_whole_entry() -> None:
    entry = {"count": 3}
    ((_, scenario),) = variations(SMALL | {"sweep": {"edges.0": [entry]}})

    assert scenario.num_edges == 3


def test_the_command_tells_people_and_programs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two_kinds = [SMALL["edges"][0] | {"name": name} for name in ("near", "far")]  # type: ignore[index]
    scenario = SMALL | {"edges": two_kinds, "sweep": {"scheduler.policy": ["jit", "static"]}}
    file, figures = tmp_path / "world.yaml", tmp_path / "figures.json"
    file.write_bytes(orjson.dumps(scenario))

    picture = tmp_path / "figures.png"
    code = main([str(file), "--json", str(figures), "--plot", str(picture), "--capacity", "30"])

    told = orjson.loads(figures.read_bytes())
    assert code == 0
    assert [run["varied"] for run in told["runs"]] == [
        {"scheduler.policy": "jit"},
        {"scheduler.policy": "static"},
    ]
    assert told["capacity"]["edges_with_one_verifier_more"] >= told["capacity"]["edges"] > 0
    said = " ".join(capsys.readouterr().out.split())
    assert "all edges are of the kind 'near', without 'far'" in said
    assert "the sweep over scheduler.policy is left out" in said
    assert "a place for every session" in told["capacity"]["assumed"][0]
    assert picture.stat().st_size > 0


@pytest.mark.parametrize("content", ["- 1", "edges: [", "edges: []\nedges: [{}]", None])
def test_what_is_no_scenario_ends_in_one_sentence(
    content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "world.yaml"
    if content is not None:
        file.write_text(content)

    assert main([str(file)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"{file}: ") and "Traceback" not in said
    # A YAML parser says where: its own sentence is of several lines.
    assert 1 <= len(said.splitlines()) <= 6


@pytest.mark.parametrize("wrong", ["nan", "inf", "-5", "0", "soon"])
def test_an_objective_is_a_positive_time(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["world.yaml", "--capacity", wrong])

    assert ended.value.code == 2
    assert f"argument --capacity: {wrong!r} is not a positive" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--json", "--plot"])
@pytest.mark.parametrize("place", ["nodir/x", "."])
def test_a_place_that_nothing_can_be_written_to_is_refused_before_the_work(
    flag: str,
    place: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "world.yaml"
    file.write_bytes(orjson.dumps(SMALL))
    monkeypatch.setattr(command, "run_all", lambda *_: pytest.fail("this would be lost"))

    assert main([str(file), flag, str(tmp_path / place)]) == 2

    assert str(tmp_path / place) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("ending", "code", "said"),
    [
        (KeyboardInterrupt(), 130, ""),
        (OSError(28, "No space left on device", "x.json"), 1, "x.json: No space left on device\n"),
    ],
)
def test_an_interruption_is_quiet_and_a_full_disk_is_one_sentence(
    ending: BaseException,
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run_all(*_: object) -> None:
        raise ending

    file = tmp_path / "world.yaml"
    file.write_bytes(orjson.dumps(SMALL))
    monkeypatch.setattr(command, "run_all", run_all)

    assert main([str(file)]) == code

    assert capsys.readouterr().err == said


def test_figures_go_to_stdout_alone_if_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "world.yaml"
    file.write_bytes(orjson.dumps(SMALL))

    main([str(file), "--json", "-"])

    assert orjson.loads(capsys.readouterr().out)["runs"]


def test_where_no_edge_keeps_the_objective_capacity_says_so() -> None:
    assert find_capacity(read_scenario(SMALL), 0.1).here == Most(0, None)


def test_where_nobody_gets_a_token_no_objective_is_kept() -> None:
    """A step is longer than the whole scenario."""
    fields = SMALL | {"verifiers": [{"device": {"fixed_ms": 5000.0}}]}

    assert find_capacity(read_scenario(fields), 1000.0).here == Most(0, None)


def test_a_capacity_that_the_search_did_not_find_the_end_of_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sweeps, "MOST_EDGES_PER_VERIFIER", 4)

    capacity = find_capacity(read_scenario(SMALL), 10_000.0)

    assert (capacity.here.edges, capacity.here.is_least) == (4, True)
    console = Console(file=io.StringIO(), width=200)
    show_capacity(capacity, console)
    assert "at least 4 edges on 1 verifiers" in console.file.getvalue()  # type: ignore[attr-defined]
    assert not find_capacity(read_scenario(SMALL), 30.0).here.is_least


def test_every_token_and_round_counts_the_first_of_a_session_too() -> None:
    """Held against sessions that ended: each had four tokens, one a round; and against rounds that
    verifiers judged."""
    short = {"count": 2, "acceptance": [0.0], "session": {"prompt_tokens": 8, "output_tokens": 4}}
    figures = simulate(read_scenario(SMALL | {"edges": [short], "warmup_s": 0.0}))

    tokens = round(figures.tokens_per_s * 2.0)
    assert figures.finished > 5
    assert 4 * figures.finished <= tokens <= 4 * (figures.finished + 2)
    assert figures.tokens_per_round == 1.0
    assert figures.expected_tokens_per_s * 2.0 == pytest.approx(tokens, abs=2)


@pytest.mark.parametrize(
    "failures",
    [
        [{"verifier": 0, "at_s": 8.0, "for_s": 0.1}],
        [{"verifier": 0, "at_s": 0.5, "for_s": 0.1}],
        [{"verifier": 0, "at_s": 4.0, "for_s": 0.1}, {"verifier": 0, "at_s": 6.0, "for_s": 0.1}],
    ],
)
def test_what_a_verifier_did_before_it_died_counts(failures: list[object]) -> None:
    homes = {"count": 8, "session": {"prompt_tokens": 8, "output_tokens": 5000}}
    fields = SMALL | {"duration_s": 10.0, "warmup_s": 2.0, "edges": [homes]}

    calm = simulate(read_scenario(fields))
    figures = simulate(read_scenario(fields | {"failures": failures}))

    away = 0.1 * len(failures)  # of ten, and some for contexts that are sent again
    assert calm.busy_share - away <= figures.busy_share <= 1.0
    assert figures.tokens_per_busy_s == pytest.approx(calm.tokens_per_busy_s, rel=0.05)


def test_a_verifier_that_stays_away_is_still_paid_for() -> None:
    fields = SMALL | {"verifiers": [{"count": 2, "device": {"fixed_ms": 20.0}}]}
    one_gone = fields | {"failures": [{"verifier": 1, "at_s": 0.1}]}

    assert simulate(read_scenario(one_gone)).busy_share <= 0.5


def test_a_line_is_right_as_far_as_it_was_drawn() -> None:
    tree = line_tree(4, 9)

    for levels in range(5):
        walked = walk(tree, line_choice(tree, levels))
        assert len(walked.path) == levels
    assert num_levels(tree) == 4
    assert len(tree) == 10
    assert line_tree(0, 0).num_drafted == 0


def test_levels_are_accepted_as_often_as_said() -> None:
    acceptance = (0.8, 0.5)

    found = [accepted_levels(uniforms(text, 16), 10, acceptance, 6) for text in range(4000)]

    assert 1 + np.mean(found) == pytest.approx(expected_tokens(acceptance, 6)[6], rel=0.03)


def test_draws_taken_together_are_those_taken_one_by_one() -> None:
    name = (1 << 64) - 3

    assert list(uniforms(name, 50)) == [uniform(name, place) for place in range(50)]


def test_draws_are_the_same_in_every_run_and_well_spread() -> None:
    stream = Stream(1, 2)
    drawn = [stream.normal() for _ in range(4000)]

    assert drawn[0] == Stream(1, 2).normal()
    assert abs(np.mean(drawn)) < 0.05
    assert np.std(drawn) == pytest.approx(1.0, rel=0.05)
    assert normal(3, 4) == normal(3, 4)


def test_bursts_hold_all_arrivals_and_keep_the_rate() -> None:
    load = LoadSpec(kind="bursty", per_s=5.0, period_s=2.0, burst_share=0.25)
    spec, stream = EdgeSpec(load=load), Stream(7)

    at_s, arrivals = 0.0, []
    while at_s < 400.0:
        at_s = next_arrival_s(spec, stream.uniform, at_s)
        arrivals.append(at_s)

    assert all(at % 2.0 <= 0.5 + 1e-9 for at in arrivals)
    assert len(arrivals) / 400.0 == pytest.approx(5.0, rel=0.1)


def test_what_falls_due_together_happens_in_the_order_of_asking() -> None:
    time, happened = VirtualTime(), []
    time.call_at(1.0, happened.append, "a")
    time.call_at(0.5, happened.append, "b")
    time.call_at(1.0, happened.append, "c")
    time.call_at(2.0, happened.append, "late")

    time.run_until(2.0)

    assert happened == ["b", "a", "c"]
    assert time.now_s == 2.0


def test_made_up_keys_are_well_formed_and_distinct() -> None:
    names = [edge_id(number) for number in range(100)]

    assert all(EDGE_ID.match(name) for name in names)
    assert len(set(names)) == 100


def test_without_a_share_what_was_right_to_the_end_and_one_level_on_was_prepared() -> None:
    homes = {
        "count": 4,
        "depth": 3,
        "acceptance": [0.8],
        "proactive": {},
        "session": {"prompt_tokens": 8, "output_tokens": 1000},
    }
    fields = SMALL | {"duration_s": 30.0, "edges": [homes]}

    assert simulate(read_scenario(fields)).hit_share == pytest.approx(0.8**4, abs=0.04)


def test_what_the_services_take_comes_on_top_of_link_and_device() -> None:
    def token_ms(**times: float) -> float:
        one = {"count": 1, "depth": 2, "acceptance": [0.0], "draft_ms": times.get("draft_ms", 0.0)}
        own = {"answer_ms": times.get("answer_ms", 0.0), "device": {"fixed_ms": 20.0}}
        fields = SMALL | {"edges": [one], "verifiers": [own]}
        return simulate(read_scenario(fields)).ms_per_token_mean

    assert token_ms(draft_ms=3.0, answer_ms=4.0) == pytest.approx(token_ms() + 7.0, abs=0.2)


def test_a_picture_of_another_kind_is_refused_before_the_simulation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "none.yaml"), "--plot", str(tmp_path / "plot.xyz")]) == 2
    assert ".png" in capsys.readouterr().err


def test_in_a_search_for_capacity_nobody_is_refused() -> None:
    edges = {"count": 1, "sessions": 80, "depth": 0, "session": {"output_tokens": 20}}
    verifier = {"device": {"fixed_ms": 20.0, "row_ms": 0.2}}
    fields = SMALL | {"edges": [edges], "verifiers": [verifier]}

    here = find_capacity(read_scenario(fields), 100.0).here

    assert here.figures is not None
    assert here.figures.refused == 0


def test_what_one_verifier_more_adds_is_found_however_many_there_are() -> None:
    """Each takes 40 edges; a search to a fiftieth of 4,000 would be 80 wide."""
    some = simulate(read_scenario(SMALL))

    def simulated(count: int, num_verifiers: int) -> Figures:
        return replace(some, ms_per_token_mean=count / num_verifiers)

    here = most_edges(lambda count: simulated(count, 100), 100, 40.0).edges
    more = most_edges(lambda count: simulated(count, 101), 101, 40.0).edges

    assert 36 <= more - here <= 44


def test_every_kind_of_edges_has_its_figures_in_the_order_of_the_file() -> None:
    kinds = [{"name": "never", "starts_s": 0, "link": {"loss": 1}}, {"name": "near"}]

    groups = simulate(read_scenario(SMALL | {"edges": kinds})).groups

    assert list(groups) == ["never", "near"]
    assert groups["never"].tokens_per_s == 0 < groups["near"].tokens_per_s


def test_a_table_that_is_not_for_a_terminal_has_whole_headings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "world.yaml"
    sweep = {"scheduler.policy": ["static"], "edges.0.session.output_tokens": [50], "seed": [1]}
    file.write_bytes(orjson.dumps(SMALL | {"sweep": sweep}))

    main([str(file)])

    heading = capsys.readouterr().out.splitlines()[0]
    assert heading.split()[:3] == ["policy", "output_tokens", "seed"]
    assert "ms/token" in heading and "…" not in heading


def test_who_waits_long_hears_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(waiting, "LINE_EVERY_S", 0.0)

    with waiting.Waiting() as watcher:
        run_all(SMALL | {"sweep": {"seed": [1, 2]}}, watcher)

    assert "simulation 2 of 2: 1 of 2 s" in capsys.readouterr().err.splitlines()


def test_edges_that_leave_after_the_end_are_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"edges\.0\.leaves_s"):
        read_scenario(SMALL | {"edges": [{"leaves_s": 9.0}]})
