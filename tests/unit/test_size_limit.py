"""How large a draft had better be, from what became of those before."""

import math

from specedge.drafting.size_limit import WHOLE_ROUNDS, SizeLimit


def test_nothing_is_limited_until_a_draft_was_cut() -> None:
    size = SizeLimit()
    for _ in range(20):
        size.note(32, 32)

    assert size.most == math.inf


def test_after_a_cut_no_more_is_drafted_than_was_tried() -> None:
    size = SizeLimit()

    size.note(32, 12)

    assert size.most == 12


def test_a_few_drafts_tried_whole_allow_a_larger_one() -> None:
    size = SizeLimit()
    size.note(32, 12)
    for _ in range(WHOLE_ROUNDS):
        size.note(12, 12)

    assert size.most == 15


def test_smaller_drafts_than_allowed_tell_nothing_of_larger_ones() -> None:
    size = SizeLimit()
    size.note(32, 12)
    for _ in range(40):
        size.note(6, 6)
        size.note(6, 0)  # not tried at all: its verdict was of a grant

    assert size.most == 12
