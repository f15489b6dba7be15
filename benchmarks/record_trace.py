"""``python -m benchmarks trace``: record how a drafter's proposals fare beside its target.

For every position of the target's own texts, one pass of the drafter: its proposals' scores, and at
which rank the target's token is among them. ``controller`` replays what this writes.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.drafters import named_drafter
from benchmarks.figures import say
from benchmarks.prompt_set import choose, load_prompts
from benchmarks.reference_texts import Reference, ReferenceTexts
from benchmarks.traces import TRACES, Trace
from specedge.engine.loading import DEFAULT_MODEL
from specedge.engine.ports import Drafter
from specedge.tree.path import reroot
from specedge.tree.token_tree import FloatArray, TokenTree

CACHE_DIR: Final = Path("~/.cache/specedge").expanduser()
BRANCH: Final = 8
ROOT: Final = np.zeros(1, dtype=np.int32)


def main(argv: Sequence[str]) -> None:
    """Record, and say what was found."""
    options = _parser().parse_args(argv)
    texts = ReferenceTexts(options.model, max_tokens=options.tokens, cache_dir=CACHE_DIR)
    references = texts.of(choose(load_prompts(), options.prompts), 0.0)
    drafter = named_drafter(
        options.drafter, model=options.model, cache_dir=CACHE_DIR, branch=BRANCH, threads=1
    )
    source = f"{drafter.name} beside {options.model}, {len(references)} prompts at temperature 0"
    trace = record(drafter, references, source)
    path = Path(options.out)
    trace.save(path)
    say(
        f"{len(trace)} positions to {path} ({path.stat().st_size >> 10} KiB): "
        f"first guess right {trace.top_1:.1%}, among {BRANCH} {(trace.rank < BRANCH).mean():.1%}"
    )


def record(drafter: Drafter, references: Sequence[Reference], source: str) -> Trace:
    """One position after the other, text by text."""
    rank: list[int] = []
    logprob: list[FloatArray] = []
    for number, reference in enumerate(references):
        if number % 12 == 0:
            say(f"the drafter reads text {number + 1} of {len(references)}")
        for at, scores in _along(drafter, reference):
            rank.append(at)
            logprob.append(scores)
    return Trace(np.array(rank, dtype=np.int16), np.stack(logprob), source)


def _along(drafter: Drafter, reference: Reference) -> Iterator[tuple[int, FloatArray]]:
    """At every position of the output: the rank of the target's token, and the scores."""
    session = drafter.open(reference.prompt, reference.params)
    try:
        tree = TokenTree.root_only(int(reference.prompt[-1]))
        for token in reference.output.tolist():
            proposed = session.expand(tree, ROOT)
            scores = np.full(BRANCH, -np.inf, dtype=np.float32)
            count = min(BRANCH, proposed.logprob.shape[1])
            scores[:count] = proposed.logprob[0, :count]
            found = np.flatnonzero(proposed.token[0, :count] == token)
            yield (int(found[0]) if len(found) else BRANCH), scores
            rerooting, tree = reroot(tree, np.array([token], dtype=np.int32))
            session.reroot(rerooting)
    finally:
        session.close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks trace", description=__doc__)
    parser.add_argument("--model", default=DEFAULT_MODEL, help="the target")
    parser.add_argument("--drafter", default="auto", help="as for an edge")
    parser.add_argument("--prompts", type=int, default=None, help="the first so many; all")
    parser.add_argument("--tokens", type=int, default=64, help="of each text, at most")
    parser.add_argument("--out", default=str(TRACES / "recorded.npz"), help="where to")
    return parser
