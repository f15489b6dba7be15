"""Request bodies of the OpenAI API, with the extensions that clients of vLLM send.

Only shapes and ranges: what depends on the model (ids, lengths, names) is checked in
``specedge_edge.openai.planning``. Unknown fields are ignored, as other servers do; a known field
that is not supported is refused by name, since ignoring it would change the answer silently.
"""

from typing import Annotated, Any, ClassVar, Final, Self

from pydantic import Field, model_validator

from specedge.errors import InvalidRequest
from specedge.protocol.body import Bias
from specedge_edge.openai.conversation import Messages, TemplateOptions
from specedge_edge.openai.values import BodyPart, StopString, TokenIds, TokenLimit, Whole

MAX_CHOICES: Final = 16
MAX_STOPS: Final = 16
MAX_LOGPROBS: Final = 20
MAX_PROMPTS: Final = 64
MAX_BIASED: Final = 1024


class StreamOptions(BodyPart):
    """What a stream reports besides text."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class GenerationBody(BodyPart):
    """What both kinds of completion share. ``None`` always means: not given."""

    model: Annotated[str, Field(max_length=500)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[Whole, Field(ge=-1, lt=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[Whole, Field(ge=-(2**63), lt=2**64)] | None = None
    max_tokens: TokenLimit | None = None
    min_tokens: Annotated[Whole, Field(ge=0, lt=2**31)] | None = None
    n: Annotated[Whole, Field(ge=1, le=MAX_CHOICES)] | None = None
    stop: (
        StopString | Annotated[list[StopString], Field(max_length=MAX_STOPS, fail_fast=True)] | None
    ) = None
    stop_token_ids: Annotated[TokenIds, Field(max_length=64)] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    logit_bias: dict[str, Bias] | None = None
    return_token_ids: bool | None = None

    # Field → (values that ask for nothing, and so are accepted).
    UNSUPPORTED: ClassVar[dict[str, tuple[Any, ...]]] = {
        "response_format": ({"type": "text"},),
        "structured_outputs": (),
        "guided_json": (),
        "guided_regex": (),
        "guided_choice": (),
        "guided_grammar": (),
        "use_beam_search": (False,),
        "prompt_logprobs": (),
        "bad_words": ([],),
        "allowed_token_ids": (),
        "truncate_prompt_tokens": (),
    }

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, body: Any) -> Any:
        if isinstance(body, dict):
            for name, harmless in cls.UNSUPPORTED.items():
                value = body.get(name)
                if value is not None and value not in harmless:
                    raise InvalidRequest(f"{name} is not supported by this server", field=name)
            biases = body.get("logit_bias")
            if isinstance(biases, dict) and len(biases) > MAX_BIASED:
                raise InvalidRequest(
                    f"logit_bias is of {len(biases)} tokens; {MAX_BIASED} are taken",
                    field="logit_bias",
                )
        return body

    @property
    def num_choices(self) -> int:
        """Choices per prompt."""
        return self.n or 1

    @property
    def stops(self) -> tuple[str, ...]:
        """Stop strings, however they were given."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with a usage chunk."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def wants_usage_in_every_chunk(self) -> bool:
        """Whether each chunk of a stream carries the usage so far."""
        return bool(self.stream_options and self.stream_options.continuous_usage_stats)


class ChatBody(GenerationBody, TemplateOptions):
    """``POST /v1/chat/completions``."""

    messages: Messages
    max_completion_tokens: TokenLimit | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[Whole, Field(ge=0, le=MAX_LOGPROBS)] | None = None

    UNSUPPORTED: ClassVar[dict[str, tuple[Any, ...]]] = {
        **GenerationBody.UNSUPPORTED,
        "tools": ([],),
        "tool_choice": ("none", "auto"),
        "functions": ([],),
        "function_call": ("none", "auto"),
        "modalities": (["text"],),
        "audio": (),
        "chat_template": (),
        "documents": ([],),
        "echo": (False,),
        "web_search_options": (),
    }

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequest("top_logprobs needs logprobs to be true", field="top_logprobs")
        return self

    @property
    def token_limit(self) -> int | None:
        """Generated tokens at most, or AS_MANY_AS_FIT; the newer name wins."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def num_logprobs(self) -> int:
        """As ``SessionParams.logprobs``: -1 is none at all."""
        return (self.top_logprobs or 0) if self.logprobs else -1


class CompletionBody(GenerationBody):
    """``POST /v1/completions``. ``prompt``: a text, texts, token ids, or lists of token ids."""

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True)]
        | Annotated[TokenIds, Field(min_length=1)]
        | Annotated[
            list[Annotated[TokenIds, Field(min_length=1)]],
            Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True),
        ]
    )
    echo: bool | None = None
    logprobs: Annotated[Whole, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    best_of: Whole | None = None
    add_special_tokens: bool | None = None

    UNSUPPORTED: ClassVar[dict[str, tuple[Any, ...]]] = {
        **GenerationBody.UNSUPPORTED,
        "suffix": ("",),
        "prompt_embeds": (),
    }

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.best_of is not None and self.best_of != self.num_choices:
            raise InvalidRequest("best_of other than n is not supported", field="best_of")
        if self.echo and self.logprobs is not None:
            raise InvalidRequest("echo together with logprobs is not supported", field="echo")
        return self

    @property
    def token_limit(self) -> int | None:
        """Generated tokens at most, or AS_MANY_AS_FIT."""
        return self.max_tokens

    @property
    def num_logprobs(self) -> int:
        """As ``SessionParams.logprobs``: -1 is none at all."""
        return -1 if self.logprobs is None else self.logprobs

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each prompt, as text or as ids."""
        prompt = self.prompt
        if isinstance(prompt, str):
            return [prompt]
        if all(isinstance(entry, int) for entry in prompt):
            return [[int(entry) for entry in prompt if isinstance(entry, int)]]
        return [entry for entry in prompt if not isinstance(entry, int)]
