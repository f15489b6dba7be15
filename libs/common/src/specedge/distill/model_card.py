"""The drafter's README: what it is, the command that made it, what it learned from, how good it is.
Values in, text out."""

from specedge.distill.training import Progress
from specedge.distill.workspace import DistillPlan
from specedge.engine.drafter_folder import CARD, WEIGHTS

_TEXT = """---
library_name: transformers
base_model: {target}
tags: [speculative-decoding, drafter]
---

# Drafter for {target}

A draft model for speculative decoding with {target}, made from that model alone. It proposes;
every token of the text is still chosen by {target}.

- **Layers**: {num_layers}, started from the target's layers {layers}
- **Embedding and head**: the target's own; not stored here (see `{card}`). The head speaks of the
  {vocabulary} tokens that are likeliest in the target's own text
- **Stored**: `{weights}` in bfloat16, {megabytes:.1f} MB

## How it was made

```
{command}
```

Data: {conversations} conversations ({corpus_tokens} tokens), all written by the target itself: it
made up a user's turn, about seven times in ten after one of a few dozen opening words, and
answered it, half of the time greedily, else at temperature 0.8. No data set was used. The
target's {top_k} likeliest next tokens at every position were kept once; training lowers the
cross-entropy to them. {tokens} tokens were trained on in {steps} steps of about {batch_tokens}
(AdamW, peak rate {rate:g}, warm-up, constant, linear decay), in {minutes:.0f} minutes.

## How good it is

On {held_out} conversations held out, at the positions of their answers. *Chain* is the mean number
of tokens a round commits that drafts five tokens in a row, on greedy answers; trees do better.

| tokens trained on | loss | top-1 agreement | top-4 agreement | chain |
|---:|---:|---:|---:|---:|
{history}
"""


def model_card(
    plan: DistillPlan,
    progress: Progress,
    *,
    command: str,
    conversations: int,
    corpus_tokens: int,
    top_k: int,
    stored_bytes: int,
) -> str:
    """The text of README.md."""
    history = "\n".join(
        f"| {entry['tokens']:,.0f} | {entry['loss']:.3f} | {entry['top_1']:.3f} "
        f"| {entry['top_4']:.3f} | {entry['chain']:.2f} |"
        for entry in progress.history
    )
    return _TEXT.format(
        target=plan.target,
        num_layers=len(plan.layers),
        layers=", ".join(str(layer) for layer in plan.layers),
        card=CARD,
        vocabulary=f"{plan.vocabulary:,}",
        weights=WEIGHTS,
        megabytes=stored_bytes / 1e6,
        command=command,
        conversations=f"{conversations:,}",
        corpus_tokens=f"{corpus_tokens:,}",
        top_k=top_k,
        tokens=f"{progress.tokens:,}",
        steps=f"{progress.steps:,}",
        batch_tokens=f"{plan.batch_tokens:,}",
        rate=plan.peak_rate,
        minutes=progress.seconds / 60,
        held_out=plan.held_out,
        history=history,
    )
