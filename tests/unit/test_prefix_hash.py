"""The hash of a session's prefix, and the log of committed tokens that carries it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specedge.protocol import codec
from specedge.protocol.messages import ContextHeader, SessionParams
from specedge.protocol.prefix_hash import (
    PrefixHash,
    fold_params,
    hash_tokens,
    splitmix64,
    to_hex,
)
from specedge.protocol.token_log import TokenLog

PARAMS = SessionParams(model="m", weights="ab", tokenizer="cd", prompt=3, max_tokens=9)
tokens_lists = st.lists(st.integers(0, 2**31 - 1), max_size=40)


def test_splitmix64_gives_the_published_first_numbers() -> None:
    # The sequence of the reference implementation seeded with 1234567.
    state, gamma = 1234567, 0x9E3779B97F4A7C15

    numbers = [splitmix64((state + step * gamma) % 2**64) for step in range(3)]

    assert numbers == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_the_hash_of_a_known_prefix_never_changes() -> None:
    assert PrefixHash(PARAMS).at(0) == to_hex(fold_params(PARAMS)) == "ead1088db45d1691"
    assert TokenLog(PARAMS, [5, 0, 2**31 - 1]).hash_at(3) == "cbff273b69ea786e"


@given(tokens_lists, tokens_lists)
def test_extending_by_pieces_or_at_once_or_without_keeping_is_the_same(
    one: list[int], two: list[int]
) -> None:
    hashes = PrefixHash(PARAMS)
    hashes.extend(one)
    after = hashes.after(two)
    hashes.extend(two)

    assert hashes.at(len(one + two)) == after
    assert after == to_hex(hash_tokens(fold_params(PARAMS), one + two))
    assert len(hashes) == len(one + two)


@pytest.mark.parametrize(
    "changed",
    [{"seed": 1}, {"max_tokens": 10}, {"temperature": 0.5}, {"stop": (1,)}, {"model": "n"},
     {"logit_bias": ((1, 2.0),)}, {"min_tokens": 1}, {"weights": "ac"}],
)  # fmt: skip
def test_every_parameter_counts(changed: dict[str, object]) -> None:
    assert fold_params(PARAMS.model_copy(update=changed)) != fold_params(PARAMS)


@given(
    st.builds(
        SessionParams,
        model=st.just("m"),
        weights=st.just("ab"),
        tokenizer=st.just("cd"),
        prompt=st.just(3),
        max_tokens=st.integers(1, 9),
        temperature=st.floats(0, 2),
        top_p=st.floats(0.1, 1),
        presence_penalty=st.floats(-2, 2) | st.just(-0.0),
        logit_bias=st.lists(
            st.tuples(st.integers(0, 99), st.floats(-100, 100) | st.just(-0.0)), max_size=3
        ).map(tuple),
        seed=st.integers(0, 2**64 - 1),
    )
)
def test_parameters_hash_the_same_after_a_trip_over_the_wire(params: SessionParams) -> None:
    header = ContextHeader(round=0, off=0, total=3, hash="0" * 16, params=params)

    read = codec.decode(ContextHeader, codec.encode(header)).params

    assert fold_params(read) == fold_params(params)


@given(tokens_lists.filter(bool), st.data())
def test_going_back_to_a_base_and_on_again_equals_never_having_left(
    tokens: list[int], data: st.DataObject
) -> None:
    base = data.draw(st.integers(0, len(tokens)))
    log = TokenLog(PARAMS, tokens)
    view = log.view()

    log.truncate(base)
    log.extend([1, 2, 3])

    fresh = TokenLog(PARAMS, [*tokens[:base], 1, 2, 3])
    assert log.view().tolist() == fresh.view().tolist()
    assert log.hash_at(len(log)) == fresh.hash_at(len(fresh))
    assert view.tolist() == tokens, "a view handed out stays as it was"


def test_a_log_agrees_with_its_own_prefixes_only() -> None:
    log = TokenLog(PARAMS, np.arange(600, dtype=np.int32))
    other = TokenLog(PARAMS, [*range(599), 7])

    assert log.root == 599
    assert log.agrees(300, other.hash_at(300))
    assert not log.agrees(600, other.hash_at(600))
    assert not log.agrees(601, "0" * 16)


def test_views_are_read_only() -> None:
    with pytest.raises(ValueError, match="read-only"):
        TokenLog(PARAMS, [1, 2]).view()[0] = 3


def test_a_log_grows_past_its_first_capacity() -> None:
    log = TokenLog(PARAMS, [1])

    for token in range(700):
        log.extend([token])

    assert log.view().tolist() == [1, *range(700)]
    assert log.hash_at(701) == TokenLog(PARAMS, [1, *range(700)]).hash_at(701)
