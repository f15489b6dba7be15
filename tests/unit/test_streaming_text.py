"""Text that may be shown while it is still being generated."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specedge.engine.emulated import EmulatedText
from specedge_edge.emulated_tokenizer import EmulatedTokenizer
from specedge_edge.streaming_text import REPLACEMENT, AnswerText, IncrementalDecoder, StopStrings
from specedge_edge.text import TextCodec
from tests.edge_world import END, make_tokenizer

TEXTS = ["the fox – über 東京 🦊🏽 ok", "plain words only", "🦊" * 5, "", "a\n\n  b\tc"]


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> TextCodec:
    return TextCodec(make_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="module")
def byte_codec() -> TextCodec:
    """A tokenizer without merges: every character outside ASCII is several tokens."""
    return TextCodec(EmulatedTokenizer(EmulatedText()))


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_joined_are_the_whole_text(codec: TextCodec, text: str) -> None:
    decoder = IncrementalDecoder(codec)

    pieces = [decoder.push(token) for token in codec.encode(text)]

    assert "".join(pieces) + decoder.flush() == text


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=40))
def test_no_piece_holds_half_a_character(byte_codec: TextCodec, text: str) -> None:
    decoder = IncrementalDecoder(byte_codec)
    shown = ""

    for token in byte_codec.encode(text):
        shown += decoder.push(token)
        assert text.startswith(shown)

    assert shown + decoder.flush() == text.rstrip(REPLACEMENT)


def test_a_character_that_is_never_finished_is_not_shown(codec: TextCodec) -> None:
    decoder = IncrementalDecoder(codec)
    tokens = codec.encode("ok 🦊")[:-1]

    shown = "".join(decoder.push(token) for token in tokens) + decoder.flush()

    assert shown == "ok "


def test_bytes_that_are_no_character_do_not_hold_the_text_back_for_ever(
    byte_codec: TextCodec,
) -> None:
    decoder = IncrementalDecoder(byte_codec)
    stray = 16 + 0x80

    shown = "".join(decoder.push(stray) for _ in range(20))

    assert shown


def test_special_tokens_are_shown_only_on_demand(codec: TextCodec) -> None:
    end = codec.tokenizer.encode(END)[0]

    hidden = IncrementalDecoder(codec).push(end)
    shown = IncrementalDecoder(codec, skip_special_tokens=False).push(end)

    assert (hidden, shown) == ("", END)


@settings(max_examples=300, deadline=None)
@given(
    text=st.text("abc", max_size=30),
    stops=st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3),
    cuts=st.lists(st.integers(0, 30), max_size=6),
)
def test_stop_strings_cut_alike_however_the_text_is_split(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    bounds = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    finder = StopStrings(stops)
    shown = ""

    for start, end in itertools.pairwise(bounds):
        shown += finder.push(text[start:end])
        if finder.found is not None:
            break
    else:
        shown += finder.flush()

    first = min((text.find(stop) for stop in stops if stop in text), default=len(text))
    if len(bounds) == 2:  # in one piece, the first occurrence is the earliest
        assert shown == text[:first]
    assert text.startswith(shown)
    assert not any(stop in shown for stop in stops)
    assert (finder.found is None) == (not any(stop in text for stop in stops))


def test_what_may_begin_a_stop_string_is_held_back_and_given_when_it_does_not() -> None:
    finder = StopStrings(["END"])

    assert finder.push("the E") == "the "
    assert finder.push("N") == ""
    assert finder.push("T") == "ENT"
    assert finder.found is None


def test_a_stop_string_is_kept_when_asked_for() -> None:
    finder = StopStrings(["END"], include=True)

    assert finder.push("the END of it") == "the END"


def test_tokens_behind_a_stop_string_do_not_count(codec: TextCodec) -> None:
    tokens = codec.encode("the quick brown fox")
    answer = AnswerText(codec, stops=["quick"])

    shown = answer.push(tokens)

    assert shown.text == "the "
    assert shown.stopped_by == "quick"
    assert codec.decode(tokens[: shown.num_tokens]).endswith("quick")
    assert shown.num_tokens < len(tokens)


def test_a_stop_string_across_token_boundaries_is_found(codec: TextCodec) -> None:
    tokens = codec.encode("the quick brown fox")
    answer = AnswerText(codec, stops=["ick br"])

    pieces = [answer.push([token]) for token in tokens]

    stopped = [piece for piece in pieces if piece.stopped_by]
    assert stopped[0].stopped_by == "ick br"
    assert "".join(piece.text for piece in pieces[: pieces.index(stopped[0]) + 1]) == "the qu"


def test_stop_strings_wait_for_min_tokens(codec: TextCodec) -> None:
    tokens = codec.encode("fox fox fox fox")
    answer = AnswerText(codec, stops=["fox"], min_tokens=len(tokens))

    shown = answer.push(tokens[:-1])

    assert shown.stopped_by is None
    assert shown.text.startswith("fox fox")


@settings(max_examples=300, deadline=None)
@given(
    text=st.text("abc", min_size=1, max_size=20),
    stops=st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3),
    min_tokens=st.integers(0, 20),
)
def test_a_stop_string_counts_where_its_last_token_may_be_the_last_one(
    byte_codec: TextCodec, text: str, stops: list[str], min_tokens: int
) -> None:
    answer = AnswerText(byte_codec, stops=stops, min_tokens=min_tokens)

    shown = answer.push(byte_codec.encode(text))

    ends = [
        end
        for end in range(max(1, min_tokens), len(text) + 1)  # a token a character
        if any(text[:end].endswith(stop) for stop in stops)
    ]
    assert shown.num_tokens == (ends[0] if ends else len(text))
    assert (shown.stopped_by is not None) == bool(ends)
    if shown.stopped_by is not None:
        assert shown.text + shown.stopped_by == text[: ends[0]]
    else:
        assert shown.text + answer.flush() == text


def test_a_stop_string_before_a_character_that_is_never_finished_is_a_stop_all_the_same() -> None:
    class Halves(EmulatedTokenizer):
        def spell(self, token_id: int) -> bytes:
            return b"END\xe2" if token_id == 300 else super().spell(token_id)

    codec = TextCodec(Halves(EmulatedText()))
    answer = AnswerText(codec, stops=["END"])

    shown = answer.push([*codec.encode("the "), 300])

    assert shown.text + answer.flush() == "the "
    assert answer.stopped_by == "END"


def test_tokens_that_spell_nothing_neither_break_a_character_nor_pile_up(
    codec: TextCodec, byte_codec: TextCodec
) -> None:
    silent = codec.tokenizer.encode(END)[0]
    for texts, quiet in ((codec, silent), (byte_codec, 0)):
        decoder = IncrementalDecoder(texts)
        fox = texts.encode("a 🦊")
        shown = "".join(decoder.push(token) for token in [*texts.encode("ok"), *[quiet] * 500])
        longest = len(decoder._window)
        shown += "".join(decoder.push(token) for token in fox)

        assert shown + decoder.flush() == "ok" + "a 🦊"
        assert longest < 20
