"""Cost models: their arithmetic, and that their figures are what their sources say."""

import pytest

from specedge.pairs import (
    PAIRS,
    QWEN3_14B_PAPER,
    QWEN3_32B_PAPER,
    SERVER_ONLY_DEPTH,
    Pair,
    tokens_per_round,
)
from specedge.profiles import DEVICES, INSTANT, LINKS, PAPER_WAN, DeviceProfile


def test_a_step_costs_the_sum_of_its_terms() -> None:
    profile = DeviceProfile(
        "d", "test", fixed_ms=10, row_ms=0.5, context_token_ms=0.01, prefill_token_ms=0.25
    )

    assert profile.step_ms(8, context_tokens=100, prefill_tokens=4) == pytest.approx(16.0)
    assert profile.step_ms(0) == 10


def test_an_instant_device_takes_no_time() -> None:
    assert INSTANT.step_ms(100, 10_000, 1000) == 0


def test_the_roofline_streams_the_weights_in_nineteen_milliseconds() -> None:
    roofline = DEVICES["a100-40/qwen3-14b/roofline"]

    assert roofline.step_ms(1) == pytest.approx(19.0, abs=0.2)


@pytest.mark.parametrize("pair", [QWEN3_14B_PAPER, QWEN3_32B_PAPER])
def test_a_published_pair_costs_what_was_published_at_batch_one(pair: Pair) -> None:
    assert pair.published is not None
    target = pair.target
    round_ms = pair.verify_ms() + pair.draft_ms(SERVER_ONLY_DEPTH)
    server_only_ms = round_ms / tokens_per_round(pair.acceptance, SERVER_ONLY_DEPTH)

    plain_usd = target.step_ms(1) / 3.6e6 * target.usd_per_hour * 1e6
    server_only_usd = server_only_ms / 3.6e6 * target.usd_per_hour * 1e6

    assert plain_usd == pytest.approx(pair.published.plain_usd, rel=1e-3)
    assert server_only_usd == pytest.approx(pair.published.server_only_usd, rel=1e-3)


def test_the_depth_taken_for_server_only_is_within_two_percent_of_its_best() -> None:
    for pair in (QWEN3_14B_PAPER, QWEN3_32B_PAPER):
        token_ms = {
            depth: (pair.verify_ms() + pair.draft_ms(depth))
            / tokens_per_round(pair.acceptance, depth)
            for depth in range(1, 12)
        }

        assert token_ms[SERVER_ONLY_DEPTH] <= 1.02 * min(token_ms.values())


def test_roofline_pairs_agree_as_often_as_the_published_ones() -> None:
    assert PAIRS["14b-roofline"].acceptance == PAIRS["14b"].acceptance
    assert PAIRS["32b-roofline"].acceptance == PAIRS["32b"].acceptance


def test_the_published_verify_time_is_that_of_its_rows() -> None:
    assert QWEN3_32B_PAPER.verify_ms() == pytest.approx(94.2)


def test_every_profile_names_its_source() -> None:
    assert all(profile.source for profile in [*DEVICES.values(), *LINKS.values()])


def test_one_way_is_half_of_the_round_trip() -> None:
    assert pytest.approx(7.035) == PAPER_WAN.one_way_ms
