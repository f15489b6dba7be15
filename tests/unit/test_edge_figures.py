"""A response's figures, and the framing of a stream."""

import orjson
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from specedge.drafting.counts import DraftCounts
from specedge.protocol.effects import Committed
from specedge.protocol.messages import Timing, Verdict
from specedge_edge.account import Account, merge
from specedge_edge.metrics import EdgeMetrics, StandingCollector
from specedge_edge.openai import figures, sse
from specedge_edge.proposer import ProposerFigures
from specedge_edge.standing import DrafterStanding


def account_of(*accepted: int, started_s: float = 10.0) -> Account:
    """An account of rounds on trees of 4 nodes, 100 ms apart, that accepted so many of them."""
    account = Account(started_s=started_s, num_spec_tokens=4)
    for index, count in enumerate(accepted, start=1):
        verdict = Verdict(
            round=index,
            at="v",
            bonus=1,
            kept=4,
            base=9,
            hash="0" * 16,
            timing=Timing(held=1.0, queue=2.0, step=20.0),
        )
        tokens = tuple(range(count + 1))
        account.on_committed(Committed(tokens, True, verdict, 0.030), started_s + 0.1 * index)
        account.num_tokens += count + 1
    return account


def test_the_histogram_has_an_entry_for_every_length() -> None:
    spec = figures.metrics(account_of(0, 2, 4, 2))["speculative_decoding"]

    assert spec["acceptance_histogram"] == [1, 0, 2, 0, 1]
    assert len(spec["acceptance_histogram"]) == spec["num_spec_tokens"] + 1
    assert spec["num_spec_steps"] == 4
    assert spec["num_accepted_draft_tokens"] == 8
    assert spec["num_draft_tokens"] == 16
    assert spec["mean_acceptance_length"] == 3.0
    assert spec["draft_acceptance_rate"] == 0.5


def test_a_round_trip_is_split_without_remainder() -> None:
    own = figures.metrics(account_of(1))["specedge"]

    assert (own["queue_ms"], own["verify_ms"], own["network_ms"]) == (3.0, 20.0, 7.0)


def test_times_are_counted_from_the_request() -> None:
    told = figures.metrics(account_of(1, 1, 1))

    assert told["time_to_first_token_ms"] == 100.0
    assert told["generation_time_ms"] == 300.0
    assert told["mean_itl_ms"] == 40.0
    assert told["tokens_per_second"] == 20.0
    assert told["queue_time_ms"] == 3.0


def test_an_answer_without_tokens_has_figures_too() -> None:
    told = figures.metrics(Account(started_s=1.0))

    assert told["time_to_first_token_ms"] is None
    assert told["tokens_per_second"] == 0.0
    assert told["speculative_decoding"]["acceptance_histogram"] == [0]


def test_choices_side_by_side_add_up() -> None:
    both = merge([account_of(1, 3), account_of(2, started_s=11.0)])

    assert both.num_tokens == 9
    assert both.rounds == 3
    assert both.num_accepted == 6
    assert (both.started_s, both.first_token_s, both.last_token_s) == (10.0, 10.1, 11.1)


def test_both_families_of_metrics_agree() -> None:
    registry = CollectorRegistry()
    metrics = EdgeMetrics(registry, "m")

    metrics.on_finished("stop", 5, account_of(0, 2, 4))

    text = generate_latest(registry).decode()
    for prefix in ("specedge_", "vllm:"):
        label = '{model_name="m"}'
        assert f"{prefix}spec_decode_num_drafts_total{label} 3.0" in text
        assert f"{prefix}spec_decode_num_draft_tokens_total{label} 12.0" in text
        assert f"{prefix}spec_decode_num_accepted_tokens_total{label} 6.0" in text
        per_position = f"{prefix}spec_decode_num_accepted_tokens_per_pos_total"
        counts = [2.0, 2.0, 1.0, 1.0]
        for position, count in enumerate(counts):
            assert f'{per_position}{{model_name="m",position="{position}"}} {count}' in text


def drafted_account(*reply_ms: float) -> Account:
    """An account of a session that drafted ahead."""
    account = account_of(2, 3)
    account.reply_ms = list(reply_ms)
    counts = DraftCounts(passes=4, passes_ahead=6, passes_saved=3, verdicts=2, hits=1)
    account.on_drafting_over(ProposerFigures(counts, saved_ms=12.0))
    return account


def test_the_reply_path_is_told_by_its_percentiles() -> None:
    own = figures.metrics(drafted_account(*range(1, 101)))["specedge"]

    assert (own["reply_p50_ms"], own["reply_p99_ms"]) == (50.0, 99.0)
    assert figures.metrics(Account(started_s=1.0))["specedge"]["reply_p99_ms"] is None


def test_what_was_drafted_ahead_is_told_and_adds_up() -> None:
    both = merge([drafted_account(1.0), drafted_account(2.0)])

    told = figures.metrics(both)["specedge"]["drafting"]

    assert (told["passes"], told["passes_ahead"], told["passes_saved"]) == (8, 12, 6)
    assert (told["hit_rate"], told["saved_ms"], both.reply_ms) == (0.5, 24.0, [1.0, 2.0])


def test_drafting_ahead_and_the_drafters_standing_are_exported() -> None:
    registry, standing = CollectorRegistry(), DrafterStanding()
    registry.register(StandingCollector(standing))
    metrics = EdgeMetrics(registry, "m")

    metrics.on_finished("stop", 5, drafted_account(4.0, 6.0))
    serving = generate_latest(registry).decode()
    standing.on_failure(MemoryError("no"), 0.0)
    standing.on_refusal()
    resting = generate_latest(registry).decode()

    for line in (
        'specedge_draft_hits_total{model_name="m"} 1.0',
        'specedge_draft_passes_ahead_total{model_name="m"} 6.0',
        'specedge_draft_saved_seconds_total{model_name="m"} 0.012',
        'specedge_reply_seconds_count{model_name="m"} 2.0',
        "specedge_drafter_serves 1.0",
    ):
        assert line in serving
    for line in ("serves 0.0", "failures_total 1.0", "refusals_total 1.0"):
        assert f"specedge_drafter_{line}" in resting


def test_other_names_can_be_left_out() -> None:
    registry = CollectorRegistry()

    EdgeMetrics(registry, "m", compat=False)

    assert "vllm:" not in generate_latest(registry).decode()


def test_an_event_is_one_line_whatever_its_text() -> None:
    event = sse.event({"text": "a\n\ndata: b\r\n"})

    assert event.startswith(b"data: ") and event.endswith(b"\n\n")
    assert event.count(b"\n") == 2
    assert orjson.loads(event[6:]) == {"text": "a\n\ndata: b\r\n"}


def test_a_comment_is_no_event() -> None:
    assert sse.KEEP_ALIVE.startswith(b":") and sse.KEEP_ALIVE.endswith(b"\n\n")


def sample(registry: CollectorRegistry, name: str) -> float:
    (value,) = [
        one.value for family in registry.collect() for one in family.samples if one.name == name
    ]
    return value


def test_what_is_counted_per_token_trip_and_draft_is_what_there_was_of_them() -> None:
    account = account_of(3, 1)
    ahead = Verdict(round=9, bonus=1, kept=2, base=9, hash="0" * 16)
    account.on_committed(Committed((1, 2), True, ahead, None), 10.3)  # its draft was sent ahead
    empty = Verdict(round=10, bonus=1, base=9, hash="0" * 16)
    account.on_committed(Committed((1,), True, empty, 0.030), 10.4)
    account.num_tokens += 3
    registry = CollectorRegistry()
    metrics = EdgeMetrics(registry, "big")
    metrics.on_started(1)

    metrics.on_finished("stop", 5, account)

    assert sample(registry, "vllm:inter_token_latency_seconds_count") == 3
    assert sample(registry, "vllm:spec_decode_num_drafts_total") == 3, "one had no nodes"
    trips_s = (0.007 + 0.007 + 0.030) / 3
    assert sample(registry, "specedge_network_round_trip_seconds_sum") == pytest.approx(trips_s)
