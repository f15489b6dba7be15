"""Events of an answer as OpenAI JSON: chunks of a stream, and whole responses.

Two subclasses say what differs between chat and text completions. Builds dictionaries; frames and
sends nothing.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from specedge import __version__
from specedge_edge.account import Account
from specedge_edge.answer_events import Admitted, Finished, Piece
from specedge_edge.openai import figures
from specedge_edge.openai.logprobs import TextOffsets, chat_logprobs, completion_logprobs
from specedge_edge.plan import ChoicePlan
from specedge_edge.text import TextCodec

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Heading:
    """What every part of one response repeats."""

    id: str
    created: int
    model: str
    drafter: str


class Rendering(ABC):
    """One response. ``plans`` are its choices, in order of their index."""

    chunk_object: ClassVar[str]
    whole_object: ClassVar[str]

    def __init__(
        self,
        heading: Heading,
        plans: Sequence[ChoicePlan],
        codec: TextCodec,
        *,
        num_prompts: int,
        with_token_ids: bool,
    ) -> None:
        self._heading = heading
        self._plans = plans
        self._codec = codec
        self._with_token_ids = with_token_ids
        self._weights: set[str] = set()
        per_prompt = len(plans) // num_prompts
        self.prompt_tokens = sum(len(plan.prompt) for plan in plans[::per_prompt])

    def note_admitted(self, admitted: Admitted) -> None:
        """A choice has its place: which weights compute it is known from here on. Before anything
        of that choice is rendered."""
        self._weights.add(admitted.weights)

    @abstractmethod
    def opening(self, plan: ChoicePlan) -> Json | None:
        """A choice's first chunk, before any token; None if there is nothing to say."""

    @abstractmethod
    def _delta(self, text: str) -> Json:
        """What a chunk's choice calls its text."""

    @abstractmethod
    def _whole(self, plan: ChoicePlan, text: str) -> Json:
        """What a whole choice calls its text."""

    @abstractmethod
    def _logprobs(self, piece: Piece) -> Json | None:
        """A piece's log-probabilities."""

    def chunk(self, piece: Piece) -> Json:
        """More of a choice."""
        return self._chunk(self._choice(piece, self._delta(piece.text), None))

    def last_chunks(self, finished: Finished) -> list[Json]:
        """What ends a choice: its last text, if any, then the chunk with the reason."""
        chunks: list[Json] = []
        rest = finished.rest
        if rest.text or rest.logprobs:
            chunks.append(self.chunk(rest))
            rest = Piece(rest.index, "", (), None if rest.logprobs is None else ())
        choice = self._choice(rest, self._delta(""), finished.reason)
        chunks.append(self._chunk({**choice, "stop_reason": finished.stopped_by}))
        return chunks

    def usage_chunk(self, account: Account) -> Json:
        """The chunk without choices that ends a stream."""
        return {
            **self._head(self.chunk_object),
            "choices": [],
            "usage": self.usage(account.num_tokens),
            "metrics": figures.metrics(account),
        }

    def whole(
        self, pieces: Mapping[int, Piece], ends: Mapping[int, Finished], account: Account
    ) -> Json:
        """The whole response: by index, each choice's text and tokens as one piece, and its end."""
        choices = []
        for plan in self._plans:
            piece, end = pieces[plan.index], ends[plan.index]
            choice = self._choice(piece, self._whole(plan, piece.text), end.reason)
            choices.append({**choice, **self._prompt_ids(plan), "stop_reason": end.stopped_by})
        return {
            **self._head(self.whole_object),
            "choices": choices,
            "usage": self.usage(account.num_tokens),
            "metrics": figures.metrics(account),
        }

    def usage(self, completion_tokens: int) -> Json:
        """The ``usage`` object after so many generated tokens."""
        return figures.usage(self.prompt_tokens, completion_tokens)

    def _head(self, kind: str) -> Json:
        heading, weights = self._heading, "+".join(sorted(self._weights))
        return {
            "id": heading.id,
            "object": kind,
            "created": heading.created,
            "model": heading.model,
            "system_fingerprint": f"specedge-{__version__}-{weights}-{heading.drafter}",
        }

    def _chunk(self, choice: Json) -> Json:
        return {**self._head(self.chunk_object), "choices": [choice]}

    def _choice(self, piece: Piece, content: Json, reason: str | None) -> Json:
        choice: Json = {
            "index": piece.index,
            **content,
            "logprobs": self._logprobs(piece),
            "finish_reason": reason,
        }
        if self._with_token_ids:
            choice["token_ids"] = list(piece.tokens)
        return choice

    def _prompt_ids(self, plan: ChoicePlan) -> Json:
        return {"prompt_token_ids": plan.prompt.tolist()} if self._with_token_ids else {}


class ChatRendering(Rendering):
    """``/v1/chat/completions``."""

    chunk_object = "chat.completion.chunk"
    whole_object = "chat.completion"

    def opening(self, plan: ChoicePlan) -> Json:
        """The chunk that says who speaks."""
        choice = {
            "index": plan.index,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
            **self._prompt_ids(plan),
        }
        return {**self._chunk(choice), **self._prompt_ids(plan)}

    def whole(
        self, pieces: Mapping[int, Piece], ends: Mapping[int, Finished], account: Account
    ) -> Json:
        """See ``Rendering.whole``. A chat has one prompt, so its ids stand at the root too."""
        return {**super().whole(pieces, ends, account), **self._prompt_ids(self._plans[0])}

    def _delta(self, text: str) -> Json:
        return {"delta": {"content": text} if text else {}}

    def _whole(self, plan: ChoicePlan, text: str) -> Json:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def _logprobs(self, piece: Piece) -> Json | None:
        return chat_logprobs(piece, self._codec)


class CompletionRendering(Rendering):
    """``/v1/completions``."""

    chunk_object = "text_completion"
    whole_object = "text_completion"

    def __init__(
        self,
        heading: Heading,
        plans: Sequence[ChoicePlan],
        codec: TextCodec,
        *,
        num_prompts: int,
        with_token_ids: bool,
    ) -> None:
        super().__init__(
            heading, plans, codec, num_prompts=num_prompts, with_token_ids=with_token_ids
        )
        self._offsets = TextOffsets()

    def opening(self, plan: ChoicePlan) -> Json | None:
        """An echoed prompt and the prompt's ids, where they were asked for."""
        if not plan.shown_before and not self._with_token_ids:
            return None
        choice = self._choice(Piece(plan.index, "", ()), {"text": plan.shown_before}, None)
        return self._chunk({**choice, **self._prompt_ids(plan)})

    def _delta(self, text: str) -> Json:
        return {"text": text}

    def _whole(self, plan: ChoicePlan, text: str) -> Json:
        return {"text": plan.shown_before + text}

    def _logprobs(self, piece: Piece) -> Json | None:
        return completion_logprobs(piece, self._codec, self._offsets)
