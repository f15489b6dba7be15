"""A drafter for machines without a GPU: it looks up what followed the same words before.

Children of a node are the tokens that followed, somewhere in the committed text, the longest of
its suffixes that occur there: 4 tokens down to 1. Source: prompt lookup decoding (A. Saxena, 2023);
scores as in prediction by partial matching, method C (A. Moffat, 1990). Imports no torch.
"""

import math
from collections.abc import Iterator
from typing import Final

import numpy as np

from specedge.engine.ports import Expansion
from specedge.params import SamplingParams
from specedge.tree.path import Rerooting
from specedge.tree.token_tree import IntArray, TokenTree

MAX_NGRAM: Final = 4
# Occurrences of one suffix that are looked at, newest first: bounds the time of a pass.
MAX_OCCURRENCES: Final = 32
_TOKEN_BITS: Final = 32


class NgramIndex:
    """Where every n-gram of a growing text occurred, newest first.

    Appending a token costs O(max_ngram) whatever the text's length. Per n, a dictionary maps an
    n-gram to its latest place, and each place to the one before with the same n-gram; a place is
    the index of the token that followed.
    """

    def __init__(self, max_ngram: int = MAX_NGRAM) -> None:
        self.max_ngram = max_ngram
        self._text: list[int] = []
        self._latest: list[dict[int, int]] = [{} for _ in range(max_ngram)]
        self._before: list[list[int]] = [[] for _ in range(max_ngram)]

    def __len__(self) -> int:
        """Tokens in the text."""
        return len(self._text)

    def append(self, token: int) -> None:
        """One more token of text."""
        place = len(self._text)
        grams = self._grams(self._text[-self.max_ngram :])
        for n, (latest, before) in enumerate(zip(self._latest, self._before, strict=True)):
            if n < len(grams):
                before.append(latest.get(grams[n], -1))
                latest[grams[n]] = place
            else:
                before.append(-1)
        self._text.append(token)

    def suffix(self, count: int) -> list[int]:
        """The text's last ``count`` tokens, fewer if it is shorter."""
        return self._text[-count:] if count > 0 else []

    def followers(self, tokens: list[int]) -> Iterator[list[int]]:
        """For each suffix of ``tokens`` that occurred, the longest first: the tokens that followed
        it, newest occurrence first, repeats included."""
        grams = self._grams(tokens[-self.max_ngram :])
        for n in range(len(grams) - 1, -1, -1):
            place = self._latest[n].get(grams[n], -1)
            found: list[int] = []
            while place >= 0 and len(found) < MAX_OCCURRENCES:
                found.append(self._text[place])
                place = self._before[n][place]
            if found:
                yield found

    def _grams(self, tokens: list[int]) -> list[int]:
        """The suffixes of length 1, 2, … of ``tokens``, each packed into one integer."""
        grams: list[int] = []
        packed = 0
        for n, token in enumerate(reversed(tokens)):
            packed |= token << (n * _TOKEN_BITS)
            grams.append(packed)
        return grams


class PromptLookupDrafter:
    """``Drafter`` of up to ``branch`` children a node, and of none where nothing matches."""

    def __init__(self, *, branch: int = 4, max_ngram: int = MAX_NGRAM) -> None:
        self._branch = branch
        self._max_ngram = max_ngram

    @property
    def name(self) -> str:
        """``prompt-lookup``."""
        return "prompt-lookup"

    def open(self, committed: IntArray, params: SamplingParams) -> "PromptLookupSession":
        """See ``Drafter.open``; never Busy. ``params`` have no effect: text is text."""
        return PromptLookupSession(committed, self._branch, self._max_ngram)


class PromptLookupSession:
    """One session: an index over its committed text."""

    def __init__(self, committed: IntArray, branch: int, max_ngram: int) -> None:
        self._branch = branch
        self._index = NgramIndex(max_ngram)
        self._append(committed)

    def expand(self, tree: TokenTree, nodes: IntArray) -> Expansion:
        """See ``DraftSession.expand``."""
        token = np.full((len(nodes), self._branch), -1, dtype=np.int32)
        logprob = np.full((len(nodes), self._branch), -np.inf, dtype=np.float32)
        for row, node in enumerate(nodes):
            children = rank_followers(
                self._index.followers(self._suffix(tree, int(node))), self._branch
            )
            for column, (child, score) in enumerate(children):
                token[row, column], logprob[row, column] = child, score
        return Expansion(token, logprob)

    def reroot(self, rerooting: Rerooting) -> None:
        """See ``DraftSession.reroot``."""
        self._append(rerooting.committed)

    def close(self) -> None:
        """See ``DraftSession.close``."""
        self._index = NgramIndex(self._index.max_ngram)

    def _append(self, tokens: IntArray) -> None:
        for token in tokens.tolist():
            self._index.append(token)

    def _suffix(self, tree: TokenTree, node: int) -> list[int]:
        """The last tokens of committed text and path down to ``node``; the root is committed."""
        path: list[int] = []
        while node > 0 and len(path) < self._index.max_ngram:
            path.append(int(tree.token[node]))
            node = int(tree.parent[node])
        return self._index.suffix(self._index.max_ngram - len(path)) + path[::-1]


def rank_followers(followers: Iterator[list[int]], limit: int) -> list[tuple[int, float]]:
    """At most ``limit`` distinct tokens with scores that fall: those after the longest match first,
    among them the newest first.

    A token seen c times among t occurrences of d distinct tokens has c / (t + d) of what the longer
    matches left over; d / (t + d) is left to the shorter ones. No score exceeds the one before.
    """
    ranked: list[tuple[int, float]] = []
    known: set[int] = set()
    left, ceiling = 1.0, 1.0
    for found in followers:
        distinct = list(dict.fromkeys(found))
        whole = len(found) + len(distinct)
        for token in distinct:
            if token in known:
                continue
            ceiling = min(ceiling, left * found.count(token) / whole)
            ranked.append((token, math.log(ceiling)))
            known.add(token)
            if len(ranked) == limit:
                return ranked
        left *= len(distinct) / whole
    return ranked
