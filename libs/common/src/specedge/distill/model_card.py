"""The drafter's README: what it is, the command that made it, what it learned from, how good it is.
Values in, text out."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from transformers import AutoConfig

from specedge.distill.training import Progress
from specedge.distill.workspace import DistillPlan
from specedge.engine.drafter_folder import CARD, WEIGHTS, StoredAs

_SPELLED: Final = {"bf16": "bfloat16", "int8": "int8, each output with a scale of its own"}
_BEGINNING = """;
  {} of them, the first ones and the last, went on from an earlier drafter's, and the
  others began by adding nothing"""
_GONE_ON = """;
  all of them went on from an earlier drafter's"""
_EARLIER = """
The earlier drafter, its folder's name as above, was made from the target alone too:

```
{}
```
"""

_TEXT = """---
library_name: transformers
base_model: {target}
tags: [speculative-decoding, drafter]
---

# Drafter for {target}

A draft model for speculative decoding with {target}, made from that model alone. It proposes;
every token of the text is still chosen by {target}.

- **Layers**: {num_layers}, started from the target's layers {layers}{beginning}
- **Embedding and head**: the target's own; not stored here (see `{card}`). The head speaks of the
  {vocabulary} tokens that are likeliest in the target's own text
- **Stored**: `{weights}`, {megabytes:.1f} MB; its matrices in {stored_as}

## How it was made

```
{command}
```
{earlier}
Data: {conversations} conversations ({corpus_tokens} tokens), all written by the target itself: it
made up a user's turn, about seven times in ten after one of a few dozen opening words, and
answered it, half of the time greedily, else at temperature 0.8. About half of the answers worth it
were quoted in another conversation, as the text that a task is about (to summarise, translate or
rewrite it, to answer a question from it); after a fifth the user spoke again. No data set was used.
The target's {top_k} likeliest next tokens at every position were kept once; training lowers the
cross-entropy to them. {tokens} tokens were trained on in {steps} steps of about {batch_tokens}
(AdamW, peak rate {rate:g}, warm-up, constant, linear decay), in {took}.

## How good it is

On {held_out} conversations held out, at the positions of their answers. *Chain* is the mean number
of tokens a round commits that drafts five tokens in a row, on greedy answers; trees do better.

| tokens trained on | loss | top-1 agreement | top-4 agreement | chain |
|---:|---:|---:|---:|---:|
{history}
"""


@dataclass(frozen=True, slots=True)
class Earlier:
    """The drafter that another one began as, and the command that made it."""

    num_layers: int
    command: str

    @classmethod
    def of(cls, folder: Path) -> Self:
        """As its own card tells; a folder without one has no command."""
        card = folder / "README.md"
        text = card.read_text() if card.is_file() else ""
        found = re.search(r"^```\n(.+?)\n```", text, re.MULTILINE | re.DOTALL)
        layers = int(AutoConfig.from_pretrained(str(folder)).get_text_config().num_hidden_layers)
        return cls(layers, found[1] if found else "(not told)")


@dataclass(frozen=True, slots=True)
class Making:
    """How a drafter came about.

    command        that makes it anew                  earlier     the drafter that it began as
    conversations, corpus_tokens   of its corpus       top_k       tokens kept per position there
    """

    command: str
    conversations: int
    corpus_tokens: int
    top_k: int
    earlier: Earlier | None = None


def model_card(
    plan: DistillPlan, progress: Progress, making: Making, folder: Path, stored_as: StoredAs
) -> str:
    """The text of README.md, for the drafter that is in ``folder`` already."""
    earlier = making.earlier
    history = "\n".join(
        f"| {entry['tokens']:,.0f} | {entry['loss']:.3f} | {entry['top_1']:.3f} "
        f"| {entry['top_4']:.3f} | {entry['chain']:.2f} |"
        for entry in progress.history
    )
    return _TEXT.format(
        target=plan.target,
        num_layers=len(plan.layers),
        layers=", ".join(str(layer) for layer in plan.layers),
        beginning=_beginning(earlier, len(plan.layers)),
        earlier=_EARLIER.format(earlier.command) if earlier else "",
        stored_as=_SPELLED[stored_as],
        card=CARD,
        vocabulary=f"{plan.vocabulary:,}",
        weights=WEIGHTS,
        megabytes=(folder / WEIGHTS).stat().st_size / 1e6,
        command=making.command,
        conversations=f"{making.conversations:,}",
        corpus_tokens=f"{making.corpus_tokens:,}",
        top_k=making.top_k,
        tokens=f"{progress.tokens:,}",
        steps=f"{progress.steps:,}",
        batch_tokens=f"{plan.batch_tokens:,}",
        rate=plan.peak_rate,
        took=_took(progress.seconds),
        held_out=plan.held_out,
        history=history,
    )


def _took(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes} minutes" if minutes > 1 else f"{seconds:.0f} seconds"


def _beginning(earlier: Earlier | None, num_layers: int) -> str:
    if earlier is None:
        return ""
    return _GONE_ON if earlier.num_layers == num_layers else _BEGINNING.format(earlier.num_layers)
