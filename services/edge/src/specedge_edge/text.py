"""Between people's text and token ids: the chat template, encoding, single tokens' spelling.

Synchronous and without I/O; encoding long prompts belongs on a thread of its own. Knows nothing
of HTTP. Incremental decoding of an answer is in ``specedge_edge.streaming_text``.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from specedge.errors import ContextTooLong, InvalidRequest

# Of tokens in use; who knows the vocabulary can say better.
LONGEST_TOKEN_CHARS: Final = 256
# Arguments of the template call that are not the client's to give: a template is a program.
RESERVED_OPTIONS: Final = frozenset(
    {
        *("conversation", "chat_template", "tokenize", "tools", "documents", "return_dict"),
        *("return_tensors", "return_assistant_tokens_mask", "padding", "truncation"),
        *("max_length", "tokenizer_kwargs"),
    }
)


class Tokenizer(Protocol):
    """What is used of a Hugging Face tokenizer."""

    chat_template: Any

    def __len__(self) -> int: ...

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text."""
        ...

    def decode(
        self,
        token_ids: Sequence[int],
        *,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool = False,
    ) -> str:
        """Text of token ids; incomplete characters come out as U+FFFD."""
        ...

    def apply_chat_template(
        self, conversation: list[dict[str, Any]], *, tokenize: bool, **kwargs: Any
    ) -> str:
        """A conversation as one prompt text."""
        ...


class TextCodec:
    """One model's tokenizer, with the ids that may cross the wire.

    vocab_size  the logical vocabulary: ids 0 … vocab_size - 1
    longest_token_chars  characters of a text that one token can stand for, at most
    to_bytes    spells one token in bytes; None: only as text
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        vocab_size: int | None = None,
        longest_token_chars: int = LONGEST_TOKEN_CHARS,
        to_bytes: Callable[[int], bytes] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self._to_bytes = to_bytes
        self.vocab_size = len(tokenizer) if vocab_size is None else vocab_size
        self._longest_token_chars = longest_token_chars

    def encode(
        self,
        text: str,
        *,
        add_special_tokens: bool = True,
        field: str = "prompt",
        most_tokens: int | None = None,
    ) -> list[int]:
        """Token ids of a prompt text, with the model's own beginning-of-text if it has one.

        Raises InvalidRequest naming ``field`` when the text is no Unicode (a lone surrogate), and
        ContextTooLong, at once, where it is too long to be as few as ``most_tokens``: a megabyte
        takes a second to encode.
        """
        self._check_length(text, most_tokens, field)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidRequest(f"{field}: the text is not valid Unicode", field=field) from error
        return list(self.tokenizer.encode(text, add_special_tokens=add_special_tokens))

    def encode_chat(
        self,
        messages: list[dict[str, Any]],
        template_options: Mapping[str, Any],
        *,
        most_tokens: int | None = None,
    ) -> list[int]:
        """Token ids of a conversation by the model's own chat template.

        ``template_options`` go to the template (``enable_thinking`` and the like). Raises
        InvalidRequest naming ``messages`` when the template refuses the conversation, and
        ContextTooLong as ``encode`` does.
        """
        if reserved := RESERVED_OPTIONS & template_options.keys():
            raise InvalidRequest(
                f"chat_template_kwargs may not set {min(reserved)}", field="chat_template_kwargs"
            )
        if not self.tokenizer.chat_template:
            raise InvalidRequest(
                "this model has no chat template; use /v1/completions", field="messages"
            )
        try:
            text = self.tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                **{"add_generation_prompt": True, **template_options},
            )
        except Exception as error:  # a program fed by strangers: it may fail in any way
            raise InvalidRequest(
                f"the model's chat template refuses these messages: {error}"[:500],
                field="messages",
            ) from error
        # The template spells out the special tokens itself.
        return self.encode(
            text, add_special_tokens=False, field="messages", most_tokens=most_tokens
        )

    def _check_length(self, text: str, most_tokens: int | None, field: str) -> None:
        if most_tokens is not None and len(text) > most_tokens * self._longest_token_chars:
            raise ContextTooLong(
                f"This model's maximum context length is {most_tokens} tokens; the request has "
                f"{len(text)} characters, which no number of tokens up to that can spell",
                field=field,
                code="context_length_exceeded",
            )

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of token ids. An incomplete character at either end comes out as U+FFFD."""
        return self.tokenizer.decode(
            list(token_ids),
            skip_special_tokens=skip_special_tokens,
            clean_up_tokenization_spaces=False,
        )

    def spell(self, token_id: int) -> bytes:
        """One token by itself, special ones too, as log-probabilities name it: characters may begin
        in one token and end in another."""
        if self._to_bytes is not None:
            return self._to_bytes(token_id)
        return self.decode([token_id], skip_special_tokens=False).encode()

    def check_ids(self, token_ids: Sequence[int], *, field: str) -> None:
        """Raise InvalidRequest naming ``field`` if an id is outside the vocabulary."""
        for index, token_id in enumerate(token_ids):
            if not 0 <= token_id < self.vocab_size:
                raise InvalidRequest(
                    f"{field}[{index}] is {token_id}: token ids of this model are 0 to "
                    f"{self.vocab_size - 1}",
                    field=field,
                )
