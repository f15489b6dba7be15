"""Events of an answer as OpenAI JSON."""

from typing import Any, Final

import numpy as np

from specedge.engine.emulated import EmulatedText
from specedge.protocol.messages import SessionParams
from specedge_edge.answer_events import Admitted, Piece
from specedge_edge.emulated_tokenizer import EmulatedTokenizer
from specedge_edge.openai.rendering import CompletionRendering, Heading
from specedge_edge.plan import ChoicePlan
from specedge_edge.text import TextCodec

CODEC: Final = TextCodec(EmulatedTokenizer(EmulatedText()))
PROMPT: Final = np.array([20, 21], dtype=np.int32)


def rendering(num_choices: int, **params: Any) -> CompletionRendering:
    """Of a text completion of one prompt."""
    wanted = SessionParams(
        model="m", weights="0", tokenizer="ab", prompt=len(PROMPT), max_tokens=9, **params
    )
    plans = [ChoicePlan(index, PROMPT, wanted) for index in range(num_choices)]
    heading = Heading("cmpl-1", 1, "m", "none")
    return CompletionRendering(heading, plans, CODEC, num_prompts=1, with_token_ids=False)


def test_a_fingerprint_names_all_weights_that_the_choices_are_computed_with() -> None:
    rendered = rendering(3)
    for index, weights in enumerate(("bb", "aa", "bb")):
        rendered.note_admitted(Admitted(index, weights))

    said = rendered.chunk(Piece(1, "x", (30,)))["system_fingerprint"]

    assert "-aa+bb-" in said
