"""How a conversation begins: from nothing, after a few words, about a text, or with another's end.

Owns what stands before the first token that the target writes itself. Knows the tokenizer, no
model. What is opened depends on the seeds given alone.
"""

import re
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jinja2 import TemplateError

from specedge.distill.corpus import Conversation
from specedge.distill.openers import CONTINUED, OPENERS, QUOTED, TASKS, UNPROMPTED, Task
from specedge.errors import ModelUnusable

# Characters of a text that a task is about; a sentence may be shorter.
SHORTEST_PASSAGE: Final = 160
LONGEST_PASSAGE: Final = 900
SHORTEST_SENTENCE: Final = 20
LONGEST_SENTENCE: Final = 240
# Keeps what is opened apart from what is said, which is drawn from the seed alone: and that is the
# seed with zeros behind it.
_OPENING: Final = 2
_MARKS: Final = ("\N{BLACK STAR}", "\N{WHITE STAR}", "\N{BLACK DIAMOND}")
_SENTENCE_END: Final = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True, slots=True)
class TurnFrame:
    """The chat template around turns, as ids: before the first user's turn, between a user's turn
    and its answer, and between an answer and the next user's turn (empty where a template takes no
    second turn). All empty without a template: a base model's text is all answer."""

    before: tuple[int, ...]
    between: tuple[int, ...]
    again: tuple[int, ...] = ()

    @classmethod
    def of(cls, tokenizer: Any) -> "TurnFrame":
        """From the tokenizer's template. Raises ModelUnusable where it drops the user's text."""
        if not getattr(tokenizer, "chat_template", None):
            bos = tokenizer.bos_token_id
            return cls((bos,) if bos is not None else (), ())
        before, found, between = _rendered(tokenizer, _MARKS[:1]).partition(_MARKS[0])
        if not found:
            raise ModelUnusable("the chat template does not show the user's turn")
        again = _second_turn(tokenizer, before, between)
        return cls(*(ids_of(tokenizer, text) for text in (before, between, again)))


@dataclass(frozen=True, slots=True)
class Opening:
    """What a conversation starts from. ``seed`` decides all that the target says in it.

    token_ids   from the very first token on
    turn_from   where the user's turn begins in them
    is_asked    the user's turn is whole: the answer comes next
    follows     it goes back to another conversation; none goes back to it
    """

    seed: tuple[int, ...]
    token_ids: tuple[int, ...]
    turn_from: int
    is_asked: bool = False
    follows: bool = False


class Openings:
    """The openings of conversations with the model of ``tokenizer``, which ends an answer with one
    of ``stop_ids``."""

    def __init__(self, tokenizer: Any, frame: TurnFrame, stop_ids: Set[int]) -> None:
        self._tokenizer = tokenizer
        self._frame = frame
        self._stop_ids = stop_ids
        self._openers = [ids_of(tokenizer, opener) for opener in OPENERS]

    def fresh(self, seed: Sequence[int]) -> Opening:
        """A first turn: from nothing, or after a few words of ours."""
        before = self._frame.before
        opener: tuple[int, ...] = ()
        rng = np.random.default_rng([*seed, _OPENING])
        if self._frame.between and rng.random() > UNPROMPTED:
            opener = self._openers[rng.integers(len(self._openers))]
        return Opening(tuple(seed), (*before, *opener), len(before), not self._frame.between)

    def after(self, conversation: Conversation, opening: Opening) -> Opening | None:
        """What follows a conversation that began by ``opening``: a task about its answer, the
        user's next turn, or nothing. Nothing ever follows what followed."""
        if opening.follows or not self._frame.between:
            return None
        seed = (*opening.seed, 1)
        rng = np.random.default_rng([*seed, _OPENING])
        luck = rng.random()
        if luck < QUOTED:
            return self._about(conversation, seed, rng)
        *said, last = conversation.tokens.tolist()
        was_ended = last in self._stop_ids  # else the answer was cut
        if luck < QUOTED + CONTINUED and self._frame.again and was_ended:
            token_ids = (*said, *self._frame.again)
            return Opening(seed, token_ids, len(token_ids), follows=True)
        return None

    def _about(
        self, conversation: Conversation, seed: tuple[int, ...], rng: np.random.Generator
    ) -> Opening | None:
        answer = conversation.tokens[conversation.prompt_len :]
        text = self._tokenizer.decode(answer.tolist(), skip_special_tokens=True).strip()
        task = TASKS[rng.integers(len(TASKS))]
        quoted = _quoted(text, task, rng)
        if not quoted:
            return None
        turn = ids_of(self._tokenizer, f"{task.before}{quoted}{task.after}")
        before = self._frame.before
        return Opening(seed, (*before, *turn), len(before), not task.asks, follows=True)


def ids_of(tokenizer: Any, text: str) -> tuple[int, ...]:
    """The ids of ``text`` and nothing around it."""
    return tuple(int(token) for token in tokenizer.encode(text, add_special_tokens=False))


def _rendered(tokenizer: Any, turns: Sequence[str]) -> str:
    """The template's text of a user's, the model's, the user's ... turn, before an answer."""
    messages = [
        {"role": "assistant" if place % 2 else "user", "content": turn}
        for place, turn in enumerate(turns)
    ]
    text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return text


def _second_turn(tokenizer: Any, before: str, between: str) -> str:
    """What stands between an answer and the next user's turn; empty where that differs from the
    first one's frame, or no conversation goes on."""
    try:
        text = _rendered(tokenizer, _MARKS)
    except TemplateError:
        return ""
    pieces = re.split("|".join(_MARKS), text)
    is_the_same = len(pieces) == len(_MARKS) + 1 and pieces[:2] == [before, between]
    return pieces[2] if is_the_same and pieces[3] == between else ""


def _quoted(text: str, task: Task, rng: np.random.Generator) -> str:
    """The part of ``text`` that ``task`` is about: whole sentences; empty where there is none."""
    sentences = _SENTENCE_END.split(text)
    if task.of_sentence:
        fit = [one for one in sentences if SHORTEST_SENTENCE <= len(one) <= LONGEST_SENTENCE]
        return fit[rng.integers(len(fit))] if fit else ""
    cut = text[: LONGEST_PASSAGE + 1]
    if len(text) > LONGEST_PASSAGE:
        ends = [found.start() for found in _SENTENCE_END.finditer(cut)]
        cut = cut[: ends[-1]] if ends else ""
    return cut if len(cut) >= SHORTEST_PASSAGE else ""
