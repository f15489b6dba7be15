"""Between texts and token ids for whoever asks: what comes in, and what is answered."""

from typing import Annotated

from pydantic import Field

from specedge.errors import InvalidRequest
from specedge_edge.openai.conversation import Messages, TemplateOptions
from specedge_edge.openai.values import BodyPart, TokenIds
from specedge_edge.text import TextCodec


class TokenizeBody(TemplateOptions):
    """``POST /tokenize``: a text, or messages as a chat completion would take them."""

    model: str | None = None
    prompt: str | None = None
    messages: Messages | None = None
    add_special_tokens: bool = True


class DetokenizeBody(BodyPart):
    """``POST /detokenize``."""

    model: str | None = None
    tokens: Annotated[TokenIds, Field(max_length=1_000_000)]


def tokenize_body(body: TokenizeBody, codec: TextCodec, most_tokens: int | None) -> list[int]:
    """What ``/tokenize`` answers with. May take long: belongs on a compute thread."""
    if body.messages is not None:
        messages = [message.for_template() for message in body.messages]
        return codec.encode_chat(messages, body.template_options, most_tokens=most_tokens)
    if body.prompt is None:
        raise InvalidRequest("either prompt or messages is needed", field="prompt")
    return codec.encode(
        body.prompt, add_special_tokens=body.add_special_tokens, most_tokens=most_tokens
    )


def detokenize_body(body: DetokenizeBody, codec: TextCodec) -> str:
    """What ``/detokenize`` answers with; see ``tokenize_body``."""
    codec.check_ids(body.tokens, field="tokens")
    return codec.decode(body.tokens, skip_special_tokens=False)
