"""From a valid request to what is to be generated: one frozen plan per choice.

Pure but for the codec it is given. All checks that depend on the model are here: names, lengths,
ids. Knows nothing of links, sessions or HTTP responses.
"""

import secrets
from collections.abc import Sequence
from typing import Final

import numpy as np

from specedge.errors import ContextTooLong, InvalidRequest
from specedge.protocol.messages import SessionParams
from specedge.protocol.refusals import ANY_WEIGHTS
from specedge.sampling.noise import choice_seed
from specedge_edge.openai.errors import UnknownModel
from specedge_edge.openai.schemas import ChatBody, CompletionBody, GenerationBody
from specedge_edge.openai.values import AS_MANY_AS_FIT
from specedge_edge.plan import ChoicePlan
from specedge_edge.served import Served
from specedge_edge.text import TextCodec

DEFAULT_TEMPERATURE: Final = 1.0  # as the OpenAI API documents
DEFAULT_COMPLETION_TOKENS: Final = 16  # likewise, for /v1/completions
SEED_BITS: Final = 64
MAX_ID_DIGITS: Final = 10  # of any vocabulary
MAX_NAME_CHARS: Final = 200  # of a wrong model's, so that the right one is said too


def check_model(wanted: str | None, served_name: str) -> None:
    """Raise UnknownModel unless ``wanted`` is what is served, or nothing."""
    if wanted is not None and wanted != served_name:
        raise UnknownModel(
            f"the model '{wanted[:MAX_NAME_CHARS]}' does not exist here; "
            f"this edge serves '{served_name}'",
            field="model",
        )


def encode_chat(body: ChatBody, codec: TextCodec, most_tokens: int) -> list[int]:
    """Token ids of a conversation. May take long: belongs on a compute thread. Raises
    ContextTooLong for a text that cannot be as few as ``most_tokens``."""
    messages = [message.for_template() for message in body.messages]
    return codec.encode_chat(messages, body.template_options, most_tokens=most_tokens)


def encode_prompts(body: CompletionBody, codec: TextCodec, most_tokens: int) -> list[list[int]]:
    """Token ids of each prompt; see ``encode_chat``."""
    add_special = body.add_special_tokens is not False
    encoded: list[list[int]] = []
    for prompt in body.prompts:
        if isinstance(prompt, str):
            encoded.append(
                codec.encode(prompt, add_special_tokens=add_special, most_tokens=most_tokens)
            )
        else:
            codec.check_ids(prompt, field="prompt")
            encoded.append(prompt)
    return encoded


def plan_chat(body: ChatBody, prompt: list[int], served: Served) -> list[ChoicePlan]:
    """The choices of a chat completion."""
    limit = _limit(prompt, served, body.token_limit, field="messages")
    return _plan(body, [prompt], [limit], served, [""])


def plan_completion(
    body: CompletionBody, prompts: list[list[int]], served: Served, codec: TextCodec
) -> list[ChoicePlan]:
    """The choices of a text completion: ``n`` for every prompt, in order."""
    wanted, limits = body.token_limit, list[int]()
    for prompt in prompts:
        limit = _limit(prompt, served, wanted, field="prompt")
        limits.append(limit if wanted is not None else min(DEFAULT_COMPLETION_TOKENS, limit))
    return _plan(body, prompts, limits, served, _echoed(body, codec))


def _echoed(body: CompletionBody, codec: TextCodec) -> list[str]:
    """What is shown before each prompt's answers: the text as it was sent, or what its ids say."""
    if not body.echo:
        return [""] * len(body.prompts)
    skips = body.skip_special_tokens is not False
    return [
        prompt if isinstance(prompt, str) else codec.decode(prompt, skip_special_tokens=skips)
        for prompt in body.prompts
    ]


def _limit(prompt: Sequence[int], served: Served, wanted: int | None, *, field: str) -> int:
    """Tokens that may be generated after ``prompt``: as many as are wanted, or as fit. Raises if
    that is none, or fewer than wanted."""
    if wanted == AS_MANY_AS_FIT:
        wanted = None
    if not prompt:
        raise InvalidRequest("the prompt holds no tokens", field=field)
    limit = served.max_context_tokens
    room = limit - len(prompt)
    if room < (wanted or 1):
        asked = f" and {wanted} to be generated" if wanted else ""
        raise ContextTooLong(
            f"This model's maximum context length is {limit} tokens; the request has "
            f"{len(prompt)} tokens in the prompt{asked}",
            field=field,
            code="context_length_exceeded",
        )
    return room if wanted is None else wanted


def _plan(
    body: GenerationBody,
    prompts: list[list[int]],
    limits: list[int],
    served: Served,
    echoed: Sequence[str],
) -> list[ChoicePlan]:
    seed = secrets.randbits(SEED_BITS) if body.seed is None else body.seed % 2**SEED_BITS
    plans: list[ChoicePlan] = []
    for prompt, limit, shown_before in zip(prompts, limits, echoed, strict=True):
        for choice in range(body.num_choices):
            plans.append(
                ChoicePlan(
                    index=len(plans),
                    prompt=np.array(prompt, dtype=np.int32),
                    params=_params(body, len(prompt), limit, choice_seed(seed, choice), served),
                    stops=body.stops,
                    include_stop=bool(body.include_stop_str_in_output),
                    skip_special_tokens=body.skip_special_tokens is not False,
                    own_stop_ids=frozenset(body.stop_token_ids or ()),
                    shown_before=shown_before,
                )
            )
    return plans


def _params(
    body: GenerationBody, prompt_len: int, max_tokens: int, seed: int, served: Served
) -> SessionParams:
    identity = served.identity
    if (body.min_tokens or 0) > max_tokens:
        raise InvalidRequest(f"min_tokens is over max_tokens ({max_tokens})", field="min_tokens")
    return SessionParams(
        model=identity.model,
        weights=ANY_WEIGHTS,  # those of the verifier that the session is given
        tokenizer=identity.tokenizer,
        prompt=prompt_len,
        max_tokens=max_tokens,
        stop=_stop_ids(body, served),
        seed=seed,
        temperature=_temperature(body),
        top_k=max(0, body.top_k or 0),
        top_p=body.top_p or 1.0,
        min_p=body.min_p or 0.0,
        repetition_penalty=1.0 if body.repetition_penalty is None else body.repetition_penalty,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        logit_bias=_logit_bias(body, served),
        min_tokens=body.min_tokens or 0,
        logprobs=_num_logprobs(body),
    )


def _temperature(body: GenerationBody) -> float:
    """A nucleus of no mass holds the likeliest token alone, which is what greedy choosing takes."""
    if body.top_p == 0:
        return 0.0
    return DEFAULT_TEMPERATURE if body.temperature is None else body.temperature


def _stop_ids(body: GenerationBody, served: Served) -> tuple[int, ...]:
    own = body.stop_token_ids or []
    _check_vocabulary(own, served, field="stop_token_ids")
    model_ids = () if body.ignore_eos else served.identity.stop
    return tuple(sorted({*own, *model_ids}))


def _logit_bias(body: GenerationBody, served: Served) -> tuple[tuple[int, float], ...]:
    bias: dict[int, float] = {}
    for name, value in (body.logit_bias or {}).items():
        if not name.isdecimal() or len(name) > MAX_ID_DIGITS:
            raise InvalidRequest(f"logit_bias: '{name[:50]}' is not a token id", field="logit_bias")
        bias[int(name)] = value
    _check_vocabulary(list(bias), served, field="logit_bias")
    return tuple(sorted(bias.items()))


def _check_vocabulary(token_ids: Sequence[int], served: Served, *, field: str) -> None:
    vocab_size = served.identity.vocab_size
    for token_id in token_ids:
        if token_id >= vocab_size:
            raise InvalidRequest(
                f"{field}: {token_id} is no token id of this model, which has {vocab_size}",
                field=field,
            )


def _num_logprobs(body: GenerationBody) -> int:
    if isinstance(body, ChatBody | CompletionBody):
        return body.num_logprobs
    return -1
