"""The edge's end of a session: verdicts that no verifier may give."""

import pytest

from specedge.errors import RetryableError
from specedge.protocol.edge_states import EdgeState
from specedge.protocol.effects import Committed
from specedge.protocol.messages import TokenLogprobs
from specedge.protocol.subjects import Up
from tests.unit.edge_bench import IDENTITY, Bench, ended, find, sent

OUTSIDE = IDENTITY.vocab_size
LIKELY = TokenLogprobs(lp=-0.5, top=((7, -0.5),))


@pytest.mark.parametrize(
    ("tokens", "changed", "said"),
    [
        ((7, OUTSIDE), {}, "chose 50, outside"),
        ((OUTSIDE, 7), {}, "chose 50, outside"),
        ((2**31 - 1,), {}, "outside the vocabulary"),
        (tuple(range(21)), {}, "more than the 20 tokens"),
        ((7, 9), {"lp": (LIKELY,)}, "of 1 tokens, and chose 2"),
        ((7,), {"lp": (TokenLogprobs(lp=-1.0, top=((OUTSIDE, -0.5),)),)}, "tokens outside"),
    ],
)
def test_what_no_verifier_may_say_ends_the_session_and_is_told_to_nobody_as_text(
    tokens: tuple[int, ...], changed: dict[str, object], said: str
) -> None:
    bench = Bench()
    bench.awaiting()

    effects = bench.answer(bench.verdict(*tokens, **changed))

    error = ended(effects).error
    assert isinstance(error, RetryableError)
    assert said in str(error)
    assert find(effects, Committed) == []
    assert sent(effects, Up.CONTEXT) == [], "it would be answered the same, again and again"
    assert sent(effects, Up.CLOSE)
    assert bench.session.base == 3
    assert bench.session.counters["faulty_verdict"] == 1


def test_log_probabilities_that_were_asked_for_must_come() -> None:
    """Later ones would else be told of the tokens before theirs."""
    bench = Bench(logprobs=0)
    bench.awaiting()

    effects = bench.answer(bench.verdict(7))

    assert "no log-probabilities" in str(ended(effects).error)
    assert find(effects, Committed) == []


def test_a_faulty_verdict_on_another_prefix_is_none_of_this_session() -> None:
    bench = Bench()
    bench.awaiting()

    bench.answer(bench.verdict(OUTSIDE, hash="0" * 16))

    assert bench.session.state is EdgeState.AWAITING
    assert bench.session.counters["mismatched_verdict"] == 1


def test_the_last_token_asked_for_and_the_last_one_of_the_vocabulary_are_no_faults() -> None:
    bench = Bench()
    bench.awaiting()

    effects = bench.answer(bench.verdict(*[OUTSIDE - 1] * 20, lp=(LIKELY,) * 20, final="length"))

    assert ended(effects).error is None
    assert len(find(effects, Committed)[0].tokens) == 20
