"""What the comparison computes from metrics, streams and prompts: no figure may mean another."""

import math

import numpy as np
import pytest

from benchmarks import compare_report
from benchmarks.acceptance_rounds import draft_along, sum_up
from benchmarks.asking import Timed
from benchmarks.columns import Column, Figures, Kind, Observed, Prefill, Setting, figures_of
from benchmarks.comparison import measured
from benchmarks.plan import Measured, Results
from benchmarks.prompt_set import CATEGORIES, choose, load_prompts
from benchmarks.reference_texts import Reference, decode_together
from benchmarks.scrape import Reading, parse
from benchmarks.watched_drafter import WatchedDrafter
from specedge.engine.emulated import EmulatedDrafter, EmulatedTarget, EmulatedText
from specedge.params import DraftPolicy, SamplingParams, StopRule
from specedge.tree.calibration import Tally

TEXT = EmulatedText()
STOP = StopRule(frozenset(), 24)

# ---------------------------------------------------------------- prompts


def test_the_prompts_are_many_distinct_and_equally_spread_over_the_categories() -> None:
    prompts = load_prompts()

    assert len(prompts) >= 60
    assert len({prompt.id for prompt in prompts}) == len({prompt.text for prompt in prompts})
    assert len({prompt.id for prompt in prompts}) == len(prompts)
    counts = dict.fromkeys(CATEGORIES, 0)
    for prompt in prompts:
        counts[prompt.category] += 1
    assert len(set(counts.values())) == 1


def test_the_first_prompts_are_one_of_each_category() -> None:
    chosen = choose(load_prompts(), len(CATEGORIES))

    assert {prompt.category for prompt in chosen} == set(CATEGORIES)


# ---------------------------------------------------------------- acceptance


def reference(temperature: float = 0.0) -> Reference:
    params = SamplingParams(temperature=temperature, seed=5)
    asked = Reference("1", "chat", np.arange(3, 20, dtype=np.int32), NOTHING, params, STOP)
    ((_, output),) = decode_together(EmulatedTarget(TEXT), [[asked]], STOP.max_tokens)
    return Reference("1", "chat", asked.prompt, np.array(output, dtype=np.int32), params, STOP)


NOTHING = np.empty(0, dtype=np.int32)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_reference_is_what_the_target_writes_token_by_token(temperature: float) -> None:
    told = reference(temperature)

    prefix = TEXT.fold_all(told.prompt)
    for token in told.output.tolist():
        assert token == TEXT.choice(prefix, told.params)
        prefix = TEXT.fold(prefix, token)
    assert len(told.output) == STOP.max_tokens


def test_texts_decoded_together_are_those_decoded_alone() -> None:
    asked = [
        Reference(str(n), "chat", np.arange(3, 10 + n, dtype=np.int32), NOTHING, params, STOP)
        for n in range(3)
        for params in (SamplingParams(), SamplingParams(temperature=1.0, seed=n))
    ]
    groups = [asked[:2], asked[2:4], asked[4:]]

    together = decode_together(EmulatedTarget(TEXT), groups, STOP.max_tokens)

    for one, output in together:
        ((_, alone),) = decode_together(EmulatedTarget(TEXT), [[one]], STOP.max_tokens)
        assert output == alone


def test_a_perfect_drafter_fills_every_round_to_its_depth() -> None:
    drafter = WatchedDrafter(EmulatedDrafter(TEXT, agreement=[1.0]))

    drafted = draft_along(drafter, reference(), DraftPolicy(depth=3, budget=16), Tally())

    found = sum_up([drafted])
    assert (found.tokens, found.rounds, found.length) == (24, 6, 4.0)
    assert (found.top_1, found.top_4) == (1.0, 1.0)
    assert found.reached == (1.0, 1.0, 1.0)


def test_a_drafter_that_never_agrees_yields_the_bonus_alone() -> None:
    drafter = WatchedDrafter(EmulatedDrafter(TEXT, agreement=[0.0]))

    found = sum_up([draft_along(drafter, reference(), DraftPolicy(), Tally())])

    assert (found.length, found.top_1, found.top_4, found.reached) == (1.0, 0.0, 0.0, ())


def test_agreement_counts_every_place_of_the_text_once_whatever_the_rounds_looked_like() -> None:
    agreement = 0.6
    policies = [DraftPolicy(depth=1, budget=1), DraftPolicy(depth=6, budget=32, beams=4)]

    shares = []
    for policy in policies:
        drafter = WatchedDrafter(EmulatedDrafter(TEXT, agreement=[agreement]))
        shares.append(sum_up([draft_along(drafter, reference(), policy, Tally())]).top_1)

    assert shares[0] == shares[1]
    assert 0.2 < shares[0] < 0.95


# ---------------------------------------------------------------- metrics

SCRAPED = """
# TYPE specedge_verifier_busy_seconds counter
specedge_verifier_busy_seconds_total 4.5
# TYPE specedge_request_success counter
specedge_request_success_total{finished_reason="stop"} 2
specedge_request_success_total{finished_reason="length"} 3
# TYPE specedge_reply_seconds histogram
specedge_reply_seconds_bucket{le="0.01"} 5
specedge_reply_seconds_bucket{le="0.02"} 10
specedge_reply_seconds_bucket{le="+Inf"} 10
specedge_reply_seconds_count 10
specedge_reply_seconds_sum 0.1
"""


def test_samples_are_summed_over_labels_and_missing_ones_are_nothing() -> None:
    reading = parse(SCRAPED)

    assert reading.value("specedge_request_success_total") == 5
    assert reading.value("specedge_verifier_busy_seconds_total") == 4.5
    assert reading.value("nobody_counts_this_total") == 0


def test_quantiles_lie_inside_the_bucket_that_holds_them() -> None:
    reading = parse(SCRAPED)

    assert reading.quantile("specedge_reply_seconds", 0.5) == pytest.approx(0.01)
    assert reading.quantile("specedge_reply_seconds", 0.75) == pytest.approx(0.015)
    assert reading.quantile("nothing_seconds", 0.5) is None
    assert (reading - reading).quantile("specedge_reply_seconds", 0.5) is None


def test_what_was_counted_between_two_readings_is_their_difference() -> None:
    earlier, later = parse(SCRAPED), parse(SCRAPED.replace(" 4.5", " 6.5"))

    assert (later - earlier).value("specedge_verifier_busy_seconds_total") == 2.0
    assert (later + earlier).value("specedge_reply_seconds_sum") == pytest.approx(0.2)


# ---------------------------------------------------------------- columns


def answer(arrived_s: list[float], pieces: list[int], **metrics: object) -> Timed:
    tokens = [tuple(range(size)) for size in pieces]
    own = {"rounds": len(pieces), "bytes_up": 100, "bytes_down": 50, "draft_ms": 6.0}
    return Timed(
        tuple(arrived_s),
        tuple(tokens),
        {"specedge": own, **metrics},
        {"completion_tokens": sum(pieces)},
    )


def counted(busy_s: float, tried: float = 0.0) -> Reading:
    return Reading(
        {
            "specedge_verifier_busy_seconds_total": busy_s,
            "specedge_spec_decode_num_draft_tokens_total": tried,
            "specedge_verify_seconds_sum": 0.4,
            "specedge_verify_seconds_count": 4,
        },
        {},
    )


def test_a_columns_figures_come_from_its_streams_and_its_verifiers_busy_time() -> None:
    timed = [answer([0.5, 0.7, 0.9], [2, 3, 3]), answer([0.5, 1.0], [1, 1])]
    seen = Observed(timed, 2.0, counted(1.0, tried=10), Reading({}, {}), 0.5)

    found = figures_of(seen, Prefill(tokens=2, busy_s=0.5))

    assert (found.tokens, found.rounds) == (10, 5)
    assert found.tokens_per_s == 5.0
    assert found.tokens_per_busy_s == 10.0
    assert found.tokens_per_busy_s_decoding == pytest.approx(8 / 0.5)
    assert found.busy_share == 0.5
    # 6 tokens in 0.4 s of the first stream, one in 0.5 s of the second.
    assert found.time_per_token_ms == pytest.approx(1000 * 0.9 / 7)
    assert found.time_per_token_p50_ms == pytest.approx(1000 * (0.4 / 6 + 0.5) / 2)
    assert found.acceptance_length == 2.0
    assert found.nodes == 2.0
    assert found.bytes == pytest.approx(2 * 150 / 5)
    assert found.step_ms == 100.0
    assert found.reached == pytest.approx((3 / 5, 2 / 5))
    assert found.hit_rate is None


def test_an_edges_own_histogram_of_accepted_paths_goes_before_guessing_from_pieces() -> None:
    speculative = {"num_spec_steps": 4, "acceptance_histogram": [1, 2, 1]}
    timed = [answer([0.1, 0.2], [4, 4], speculative_decoding=speculative)]
    edges = Reading(
        {
            "specedge_draft_verdicts_total": 4,
            "specedge_draft_hits_total": 1,
            "specedge_draft_nodes_reused_total": 6,
        },
        {"specedge_reply_seconds": {0.01: 0.0, 0.02: 4.0, math.inf: 4.0}},
    )

    found = figures_of(Observed(timed, 1.0, counted(1.0, tried=4), edges, 0), Prefill(1, 0.1))

    assert found.reached == (0.75, 0.25)
    assert (found.hit_rate, found.nodes_reused) == (0.25, 1.5)
    assert found.reply_p50_ms == pytest.approx(15.0)


def test_a_column_in_which_nothing_was_generated_or_computed_has_no_figures() -> None:
    nothing = Observed([answer([], [])], 1.0, counted(1.0), Reading({}, {}), 0)
    idle = Observed([answer([0.1], [1])], 1.0, counted(0.0), Reading({}, {}), 0)

    for seen in (nothing, idle):
        with pytest.raises(ValueError, match=r"nothing|no busy time"):
            figures_of(seen, Prefill(0, 0.0))


def figures(*, per_busy_s: float, per_token_ms: float) -> Figures:
    timed = [answer([0.0, per_token_ms / 1000], [1, 1])]
    return figures_of(
        Observed(timed, 1.0, counted(2 / per_busy_s), Reading({}, {}), 0), Prefill(0, 0.0)
    )


def test_ratios_compare_with_the_nearest_baseline_of_as_many_streams() -> None:
    def at(kind: Kind, streams: int, ms: float, **more: bool) -> Column:
        return Column(kind, streams, ms, setting=Setting(3, 4), **more)

    results = Results(
        columns=[
            Measured(at(Kind.PLAIN, 1, 14), figures(per_busy_s=1, per_token_ms=1)),
            Measured(at(Kind.PLAIN, 1, 0), figures(per_busy_s=10, per_token_ms=80)),
            Measured(at(Kind.PLAIN, 2, 0), figures(per_busy_s=1, per_token_ms=1)),
            Measured(at(Kind.SERVER_ONLY, 1, 0), figures(per_busy_s=16, per_token_ms=60)),
            Measured(at(Kind.SPECEDGE, 1, 14), figures(per_busy_s=20, per_token_ms=64)),
            Measured(
                at(Kind.SPECEDGE, 1, 14, proactive=True), figures(per_busy_s=20, per_token_ms=48)
            ),
        ]
    )

    found = compare_report.ratios(results)

    place = "1_streams_1_edges_14_ms"
    assert found[f"busy_over_plain_{place}"] == pytest.approx(2.0)
    assert found[f"busy_over_server_only_{place}"] == pytest.approx(1.25)
    assert found[f"time_over_server_only_{place}"] == pytest.approx(0.8)
    assert found[f"time_over_waiting_{place}"] == pytest.approx(0.75)
    assert all(key.endswith(place) for key in found)


def test_an_edge_that_adapts_is_compared_with_the_best_fixed_size() -> None:
    def at(setting: Setting, *, proactive: bool) -> Column:
        return Column(Kind.SPECEDGE, 1, 14, 1, proactive, setting)

    tried = figures(per_busy_s=1, per_token_ms=1)
    results = Results(
        sweeps=[Measured(at(Setting(2, 4), proactive=True), tried)],
        columns=[
            Measured(at(Setting(2, 4), proactive=True), figures(per_busy_s=1, per_token_ms=50)),
            Measured(at(Setting(2, 4), proactive=False), figures(per_busy_s=1, per_token_ms=80)),
            Measured(at(Setting(), proactive=True), figures(per_busy_s=1, per_token_ms=55)),
        ],
    )

    found = compare_report.ratios(results)

    place = "1_streams_1_edges_14_ms"
    assert found[f"time_over_fixed_{place}_adaptive"] == pytest.approx(1.1)
    assert found[f"time_over_waiting_{place}"] == pytest.approx(50 / 80)
    assert f"time_over_waiting_{place}_adaptive" not in found
    names = [each.column.name for each in results.columns]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(("streams", "ms"), [(1, 0.0), (2, 14.0)])
def test_a_size_that_is_the_best_of_another_load_is_not_called_the_best(
    streams: int, ms: float
) -> None:
    """Server-only's size is none of an edge's, wherever it was tried."""

    def at(setting: Setting, streams: int, ms: float) -> Measured:
        column = Column(Kind.SPECEDGE, streams, ms, 1, True, setting)
        return Measured(column, figures(per_busy_s=1, per_token_ms=50))

    beside = figures(per_busy_s=1, per_token_ms=1)
    swept = [at(Setting(2, 4), 1, 14), Measured(Column(Kind.SERVER_ONLY, streams, ms), beside)]
    columns = [at(Setting(2, 4), streams, ms), at(Setting(), streams, ms)]

    found = compare_report.ratios(Results(sweeps=swept, columns=columns))

    assert not [key for key in found if key.startswith("time_over_fixed")]


def test_the_column_that_texts_are_held_against_is_not_held_against_itself() -> None:
    def seen(*tokens: int) -> Observed:
        texts = [answer([0.1, 0.2], [token, 2]) for token in tokens]
        return Observed(texts, 1.0, counted(1.0), Reading({}, {}), 0)

    near, far = Column(Kind.PLAIN, 1, 0), Column(Kind.PLAIN, 1, 14)
    ours = Column(Kind.SPECEDGE, 1, 14, 1, True, Setting(2, 4))
    none = Prefill(0, 0.0)

    found = measured(
        {near: seen(1, 3), far: seen(1, 3), ours: seen(1, 4)}, dict.fromkeys((True, False), none)
    )

    told = {each.column: (each.same_texts, each.texts) for each in found}
    assert told == {near: (0, 0), far: (2, 2), ours: (1, 2)}


def test_settings_are_read_as_they_are_shown() -> None:
    assert str(Setting.parse("4x8")) == "4x8"
    with pytest.raises(ValueError, match="invalid literal"):
        Setting.parse("deep")
