"""One run of the measurement: ask the system, decode plainly, compare.

Loads the model itself, by the engine's plain decoder, which shares nothing with the engine that is
tested. Runs in a process of its own: see ``specedge.cli.lossless``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from specedge.cli.edge_client import Answer, EdgeClient
from specedge.engine.reference import Decoded, ReferenceDecoder
from specedge.lossless.asking import Task, ask_all
from specedge.lossless.comparison import Divergence, Outcome, Report, first_difference, token_at
from specedge.params import SamplingParams
from specedge.sampling.noise import choice_seed
from specedge.tree.token_tree import IntArray

Advance = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Measurement:
    """What to measure. ``temperatures`` each get a report; 0 is greedy."""

    prompts: Sequence[str]
    max_tokens: int
    temperatures: Sequence[float]
    seed: int
    parallel: int
    dtype: str


class PlainDecoding:
    """What the plain decoder says, at any temperature. ``stop_ids`` are the model's own."""

    def __init__(self, decoder: ReferenceDecoder, stop_ids: Sequence[int]) -> None:
        self._decoder = decoder
        self._stop_ids = tuple(stop_ids)

    def decode(self, prompt: IntArray, task: Task, *, with_scores: bool = False) -> Decoded:
        """Greedy by ``transformers.generate``; sampled by the reference sampler."""
        decoded: Decoded
        if task.temperature == 0:
            decoded = self._decoder.greedy(
                prompt,
                max_tokens=task.max_tokens,
                stop_ids=self._stop_ids,
                with_scores=with_scores,
            )
        else:
            decoded = self._decoder.sample(
                prompt,
                SamplingParams(temperature=task.temperature, seed=choice_seed(task.seed, 0)),
                max_tokens=task.max_tokens,
                stop_ids=self._stop_ids,
                with_scores=with_scores,
            )
        return decoded


def measure(
    measurement: Measurement,
    client: EdgeClient,
    model: str,
    plain: PlainDecoding,
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
        reports.append(Report(temperature, measurement.dtype, tuple(outcomes)))
    return reports


def compare(index: int, task: Task, answer: Answer, plain: PlainDecoding) -> Outcome:
    """One answer against the plain decoder's, from the very prompt ids that the system used."""
    prompt = np.array(answer.prompt_token_ids, dtype=np.int32)
    expected = plain.decode(prompt, task).tokens.tolist()
    emitted = list(answer.token_ids)
    at = first_difference(expected, emitted)
    if at is None:
        return Outcome(index, len(expected), None)
    ours, theirs = token_at(expected, at), token_at(emitted, at)
    gap = None
    if ours is not None and theirs is not None:
        scores = plain.decode(prompt, task, with_scores=True).scores
        assert scores is not None, "asked for"
        gap = float(scores[at, ours] - scores[at, theirs])
    return Outcome(index, at + 1, Divergence(index, at, ours, theirs, gap))
