"""From the target's choices to a verdict: the accepted path, cut where the sequence ends.

Pure; knows nothing of states or slots.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from specedge.protocol.messages import SessionParams, Timing, TokenLogprobs, Verdict
from specedge.protocol.token_log import TokenLog
from specedge.protocol.verifier_effects import Stepped
from specedge.protocol.verifier_job import Job
from specedge.tree.path import walk
from specedge.tree.token_tree import IntArray, TokenTree

Final = Literal["stop", "length"]


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What a step decided.

    tokens  path + bonus, at least one, cut at the first that ends the sequence
    path    (len(tokens) - 1,) int32 node ids whose KV rows are kept
    final   why nothing follows, or None
    lp      one per token, or None
    """

    tokens: tuple[int, ...]
    path: IntArray
    final: Final | None
    lp: tuple[TokenLogprobs, ...] | None


def decide(
    tree: TokenTree,
    choice: IntArray,
    logprobs: Sequence[TokenLogprobs] | None,
    params: SessionParams,
    base: int,
    limit: int | None = None,
) -> Outcome:
    """Walk ``tree`` by the target's ``choice`` ((n,) int32) after ``base`` committed tokens. At
    most ``limit`` tokens of path and bonus count, if it is given."""
    walked = walk(tree, choice)
    tokens = [*tree.token[walked.path].tolist(), walked.bonus][:limit]
    end, final = _find_end(tokens, params, base - params.prompt)
    path = walked.path[: end - 1]
    return Outcome(tuple(tokens[:end]), path, final, _along(path, logprobs))


def verdict_of(
    outcome: Outcome,
    job: Job,
    log: TokenLog,
    *,
    at: str,
    num_tried: int,
    num_ahead: int,
    step: Stepped,
) -> Verdict:
    """The message, once ``log`` holds the outcome's tokens; ``num_tried`` nodes were tried, and
    ``num_ahead`` of what was sent ahead are tried next. Figures rounded: they are for people, and
    every digit costs a byte."""
    timing = Timing(
        held=round(job.item.held_ms, 2),
        queue=round(step.queue_ms, 2),
        draft=round(step.draft_ms, 2),
        step=round(step.step_ms, 2),
        rows=step.step_rows,
        next=job.item.next_ms,
    )
    return Verdict(
        round=job.round,
        try_=job.try_,
        at=at,
        path=outcome.tokens[:-1],
        bonus=outcome.tokens[-1],
        kept=0 if job.is_hosted else num_tried,
        own=num_tried if job.is_hosted else 0,
        ahead=num_ahead,
        base=len(log),
        hash=log.hash_at(len(log)),
        final=outcome.final,
        lp=outcome.lp,
        timing=timing,
    )


def _find_end(
    tokens: Sequence[int], params: SessionParams, num_generated: int
) -> tuple[int, Final | None]:
    """How many of ``tokens`` stand, and why they end. The stopping token is the last one."""
    for index, token in enumerate(tokens):
        generated = num_generated + index
        if token in params.stop and generated >= params.min_tokens:
            return index + 1, "stop"
        if generated + 1 >= params.max_tokens:
            return index + 1, "length"
    return len(tokens), None


def _along(
    path: IntArray, logprobs: Sequence[TokenLogprobs] | None
) -> tuple[TokenLogprobs, ...] | None:
    """Of each token, the log-probabilities found at the node it was chosen at."""
    if logprobs is None:
        return None
    nodes = (0, *path.tolist())
    return tuple(logprobs[node] for node in nodes)
