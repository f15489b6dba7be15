"""Cost models: their arithmetic, and that their figures are what their sources say."""

import pytest

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


def test_the_papers_plain_decoding_costs_what_it_reports() -> None:
    paper = DEVICES["a100-40/qwen3-14b/paper"]

    usd_per_million = paper.fixed_ms / 3.6e6 * paper.usd_per_hour * 1e6

    assert usd_per_million == pytest.approx(59.9)
    assert paper.fixed_ms / DEVICES["a100-40/qwen3-14b/roofline"].fixed_ms == pytest.approx(
        2.8, abs=0.1
    )


def test_every_profile_names_its_source() -> None:
    assert all(profile.source for profile in [*DEVICES.values(), *LINKS.values()])


def test_one_way_is_half_of_the_round_trip() -> None:
    assert pytest.approx(7.035) == PAPER_WAN.one_way_ms
