"""From committed tokens to text that may be shown now: whole characters only, and nothing that may
still turn out to be part of a stop string.

Pure: no I/O, no clock. One ``AnswerText`` belongs to one choice of one request.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from specedge_edge.text import TextCodec

REPLACEMENT: Final = "\ufffd"
# Characters are at most four bytes, so a window that decodes to a broken end for longer than this
# holds bytes that will never become a character.
MAX_OPEN_TOKENS: Final = 8
# Tokens in a row that spell nothing (special ones that are left out) before they are dropped.
MAX_SILENT_TOKENS: Final = 8


class IncrementalDecoder:
    """Text of a growing token sequence, one token at a time.

    Tokens are decoded in a window that starts before the text already given out, because a
    tokenizer may spell a token differently at the start of a text than inside it. What was given
    out, joined, is always a prefix of the text of all tokens decoded at once, and holds no half
    characters.
    """

    def __init__(self, codec: TextCodec, *, skip_special_tokens: bool = True) -> None:
        self._codec = codec
        self._skip_special_tokens = skip_special_tokens
        self._window: list[int] = []
        self._num_spoken = 0  # tokens of the window that its context consists of
        self._num_given = 0  # tokens of the window whose text was given out
        self._given = ""  # that text, as the window spells it

    def push(self, token_id: int) -> str:
        """Text that ``token_id`` completes; empty while a character is still open."""
        self._window.append(token_id)
        text = self._decode(self._window)
        if text.endswith(REPLACEMENT) and len(self._window) - self._num_given < MAX_OPEN_TOKENS:
            return ""
        new = text[len(self._given) :]
        if new:
            self._slide()
        else:
            self._pass_over()
        return new

    def flush(self) -> str:
        """What is left at the end, without the bytes of a character that was never finished."""
        new = self._decode(self._window)[len(self._given) :].rstrip(REPLACEMENT)
        self._given += new
        self._num_given = len(self._window)
        return new

    def _slide(self) -> None:
        """Keep the newest piece as the context in which the next one is spelled."""
        self._window = self._window[self._num_given :]
        self._num_given = self._num_spoken = len(self._window)
        self._given = self._decode(self._window)

    def _pass_over(self) -> None:
        """The newest token spells nothing: it is no part of a character that is still open, and
        however many come, the window stays short."""
        if len(self._window) - self._num_spoken > MAX_SILENT_TOKENS:
            del self._window[self._num_spoken :]
        self._num_given = len(self._window)

    def _decode(self, tokens: Sequence[int]) -> str:
        return self._codec.decode(tokens, skip_special_tokens=self._skip_special_tokens)


class StopStrings:
    """Finds the first of several strings in a growing text, giving out what cannot be part of one.

    ``include`` keeps the found string in the text.
    """

    def __init__(self, stops: Sequence[str], *, include: bool = False) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._include = include
        self._held = ""
        self.found: str | None = None

    def push(self, text: str, *, may_stop: bool = True) -> str:
        """Text that may be shown after ``text`` came. When a stop string ends in it, and one
        ``may_stop`` there, ``found`` is set, and what is returned ends before it (or with it)."""
        num_before = len(self._held)
        self._held += text
        if may_stop and (hits := self._hits(num_before)):
            start, self.found = min(hits, key=lambda hit: (hit[0], -len(hit[1])))
            end = start + len(self.found) if self._include else start
            return self._give(end, drop_rest=True)
        return self._give(len(self._held) - self._num_suspect())

    def flush(self) -> str:
        """What was held back, when nothing more will come."""
        return self._give(len(self._held))

    def _hits(self, num_before: int) -> list[tuple[int, str]]:
        """Where stop strings begin in the held text that end after its first ``num_before``
        characters: those that ended there might not stop anything."""
        hits: list[tuple[int, str]] = []
        for stop in self._stops:
            at = self._held.find(stop, max(0, num_before + 1 - len(stop)))
            if at >= 0:
                hits.append((at, stop))
        return hits

    def _num_suspect(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            tail = self._held[-length:]
            if any(stop.startswith(tail) for stop in self._stops):
                return length
        return 0

    def _give(self, end: int, *, drop_rest: bool = False) -> str:
        given, rest = self._held[:end], self._held[end:]
        self._held = "" if drop_rest else rest
        return given


@dataclass(frozen=True, slots=True)
class Shown:
    """What a run of committed tokens adds to an answer.

    num_tokens  of the tokens given, how many belong to the answer: all, or up to the one that
                completed a stop string
    stopped_by  the stop string found, or None
    """

    text: str
    num_tokens: int
    stopped_by: str | None = None


class AnswerText:
    """One choice's text: decoding and stop strings together.

    ``stop_token_ids`` are final tokens whose text is not shown (end-of-text and the request's own).
    A stop string counts if no fewer than ``min_tokens`` tokens were generated when it was complete.
    """

    def __init__(
        self,
        codec: TextCodec,
        *,
        stops: Sequence[str] = (),
        include_stop: bool = False,
        skip_special_tokens: bool = True,
        stop_token_ids: frozenset[int] = frozenset(),
        min_tokens: int = 0,
    ) -> None:
        self._decoder = IncrementalDecoder(codec, skip_special_tokens=skip_special_tokens)
        self._stops = StopStrings(stops, include=include_stop)
        self._include_stop = include_stop
        self._stop_token_ids = stop_token_ids
        self._min_tokens = min_tokens
        self._num_tokens = 0

    def push(self, tokens: Sequence[int]) -> Shown:
        """Take committed tokens in order. After a ``Shown`` with ``stopped_by`` nothing may be
        pushed any more."""
        pieces: list[str] = []
        for count, token in enumerate(tokens, start=1):
            self._num_tokens += 1
            if token in self._stop_token_ids and not self._include_stop:
                continue
            new = self._decoder.push(token)
            pieces.append(self._stops.push(new, may_stop=self._is_stoppable))
            if self.stopped_by is not None:
                return Shown("".join(pieces), count, self.stopped_by)
        return Shown("".join(pieces), len(tokens))

    def flush(self) -> str:
        """The rest, when the answer ended by itself."""
        if self.stopped_by is not None:
            return ""
        rest = self._stops.push(self._decoder.flush(), may_stop=self._is_stoppable)
        return rest + self._stops.flush()

    @property
    def stopped_by(self) -> str | None:
        """The stop string found; also in what only ``flush`` brought."""
        return self._stops.found

    @property
    def _is_stoppable(self) -> bool:
        return self._num_tokens >= self._min_tokens
