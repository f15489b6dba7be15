"""One run of the measurement: ask the system, decode plainly, compare.

The plain decoder shares nothing with the engine that is tested. Runs in a process of its own: see
``specedge.cli.lossless``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from specedge.cli.edge_client import Answer, EdgeClient
from specedge.lossless.asking import Task, ask_all
from specedge.lossless.comparison import Divergence, Outcome, Report, first_difference, token_at
from specedge.lossless.modes import Mode, Work
from specedge.lossless.plain_texts import PlainTexts

Advance = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Measurement:
    """What to measure. ``temperatures`` each get a report; 0 is greedy. ``mode`` is how the system
    was started, if that is known."""

    prompts: Sequence[str]
    max_tokens: int
    temperatures: Sequence[float]
    seed: int
    parallel: int
    dtype: str
    mode: Mode | None = None


def measure(
    measurement: Measurement,
    client: EdgeClient,
    model: str,
    plain: PlainTexts,
    *,
    on_answered: Advance,
    on_compared: Advance,
) -> list[Report]:
    """A report for each temperature. Raises CommandFailed when the system does not answer."""
    reports = []
    for temperature in measurement.temperatures:
        tasks = [
            Task(prompt, temperature, measurement.seed + index, measurement.max_tokens)
            for index, prompt in enumerate(measurement.prompts)
        ]
        answers = ask_all(client, model, tasks, parallel=measurement.parallel, on_done=on_answered)
        outcomes = []
        for index, (task, answer) in enumerate(zip(tasks, answers, strict=True)):
            outcomes.append(compare(index, task, answer, plain))
            on_compared()
        report = Report.of(
            outcomes,
            temperature=temperature,
            dtype=measurement.dtype,
            mode=measurement.mode,
            work=work_of(answers),
        )
        reports.append(report)
    return reports


def compare(index: int, task: Task, answer: Answer, plain: PlainTexts) -> Outcome:
    """One answer against the plain decoder's, from the very prompt ids that the system used."""
    prompt = np.array(answer.prompt_token_ids, dtype=np.int32)
    expected = plain.tokens(prompt, task)
    emitted = list(answer.token_ids)
    at = first_difference(expected, emitted)
    if at is None:
        return Outcome(index, len(expected), None)
    ours, theirs = token_at(expected, at), token_at(emitted, at)
    gap = None
    if ours is not None and theirs is not None:
        scores = plain.scores(prompt, task)
        gap = float(scores[at, ours] - scores[at, theirs])
    return Outcome(index, at + 1, Divergence(index, at, ours, theirs, gap))


def work_of(answers: Sequence[Answer]) -> Work:
    """What the edge says that it, and the verifiers, did; nothing where it says nothing."""

    def total(group: str, name: str, under: str | None = None) -> int:
        return sum(_number(answer.metrics, group, under, name) for answer in answers)

    return Work(
        tokens=sum(len(answer.token_ids) for answer in answers),
        rounds=total("specedge", "rounds"),
        hosted_tokens=total("specedge", "hosted_tokens"),
        nodes_tried=total("speculative_decoding", "num_draft_tokens"),
        passes_ahead=total("specedge", "passes_ahead", under="drafting"),
        ahead_used=total("specedge", "ahead_used", under="drafting"),
    )


def _number(metrics: Any, *path: str | None) -> int:
    for name in path:
        if name is not None:
            metrics = metrics.get(name, {})
    return int(metrics) if isinstance(metrics, int) else 0
