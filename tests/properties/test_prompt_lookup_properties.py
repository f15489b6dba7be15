"""The n-gram index finds what a search through the whole text finds."""

from hypothesis import given
from hypothesis import strategies as st

from specedge.engine.prompt_lookup import MAX_OCCURRENCES, NgramIndex
from tests.properties.tree_strategies import relaxed

texts = st.lists(st.integers(0, 3), max_size=60)


def searched(text: list[int], suffix: list[int], max_ngram: int) -> list[list[int]]:
    found = []
    for n in range(min(max_ngram, len(suffix)), 0, -1):
        gram = suffix[-n:]
        after = [text[i + n] for i in range(len(text) - n) if text[i : i + n] == gram]
        if after:
            found.append(after[::-1][:MAX_OCCURRENCES])
    return found


@given(texts, texts, st.integers(1, 5))
@relaxed
def test_followers_are_those_of_a_full_search(
    text: list[int], path: list[int], max_ngram: int
) -> None:
    index = NgramIndex(max_ngram)
    for token in text:
        index.append(token)
    suffix = (text + path)[-max_ngram:]

    assert list(index.followers(suffix)) == searched(text, suffix, max_ngram)
    assert len(index) == len(text)
    assert index.suffix(3) == text[-3:]
    assert index.suffix(0) == []
