"""How many passes to run when it is known until when a draft is wanted."""

import pytest

from specedge.drafting.time_left import LevelAcceptance, passes_worth


def tokens(depth: int) -> float:
    return sum(0.8**level for level in range(depth + 1))


def test_passes_that_are_over_in_time_are_run_however_little_they_yield() -> None:
    assert passes_worth(9.0, 0.2, lambda depth: 1.0 + depth * 1e-9) == 9


def test_a_pass_that_is_nearly_over_in_time_is_run_where_its_level_is_worth_the_wait() -> None:
    # The fourth level makes 14 % more tokens; the last fifth of a pass costs 4 % of a step.
    assert passes_worth(3.8, 0.2, tokens) == 4
    assert passes_worth(3.2, 0.5, tokens) == 3


def test_deep_drafts_are_not_waited_for() -> None:
    assert passes_worth(9.5, 0.2, tokens) == 9
    assert passes_worth(12.99, 0.2, tokens) == 12  # 1.3 % more tokens for 0.2 % of a step


def test_what_is_wanted_already_gets_a_pass_only_where_that_is_worth_all_of_it() -> None:
    assert passes_worth(-3.0, 0.2, tokens) == 1
    assert passes_worth(-3.0, 0.9, tokens) == 0


@pytest.mark.parametrize("depth", [1, 4])
def test_acceptance_of_a_level_is_that_of_the_levels_that_were_reached(depth: int) -> None:
    levels = LevelAcceptance()
    # Of three rounds one is accepted to its end, and two fail at their first level.
    for _ in range(200):
        for accepted in (depth, 0, 0):
            levels.note(accepted, depth)

    share = depth / (depth + 2)
    assert levels.tokens(0) == 1.0
    assert levels.tokens(1) == pytest.approx(1.0 + share, abs=0.05)


def test_acceptance_follows_a_text_that_becomes_harder() -> None:
    levels = LevelAcceptance()
    for _ in range(50):
        levels.note(4, 4)
    easy = levels.tokens(4)
    for _ in range(100):
        levels.note(0, 4)

    assert levels.tokens(4) < easy / 2
