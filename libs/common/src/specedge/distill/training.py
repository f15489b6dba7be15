"""One training run: steps, checkpoints, and the measurements that decide when it ends.

Interrupted anywhere, it goes on from its last checkpoint as if it had not been: the order of
batches depends on counters alone. One owner thread.
"""

import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from errno import EIO
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from specedge.distill.batches import Batch, BatchMaker
from specedge.distill.evaluation import HeldOut
from specedge.distill.schedule import Schedule, has_stalled
from specedge.distill.student import Student
from specedge.distill.workspace import CHECKPOINT
from specedge.errors import ModelUnusable

GRADIENT_NORM: Final = 1.0
BETAS: Final = (0.9, 0.95)
WEIGHT_DECAY: Final = 0.01
# What torch and this file make of a checkpoint that is none, or only half of one.
_BROKEN: Final = (
    OSError,
    RuntimeError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    pickle.UnpicklingError,
)


@dataclass(slots=True)
class Progress:
    """Where a run stands: counters, and what was measured when."""

    epoch: int = 0
    batch: int = 0
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    loss: float = 0.0  # running mean of the training loss
    history: list[dict[str, float]] = field(default_factory=list)
    stalled_at: int | None = None  # tokens seen when held-out acceptance stopped rising


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """When to measure and to save.

    patience  measurements without a better one after which the decay begins early
    """

    schedule: Schedule
    measure_every_tokens: int
    save_every_s: float = 120.0
    patience: int = 4


class Trainer:
    """Trains ``student`` on what ``batches()`` makes (asked anew for every epoch, so that a corpus
    may grow meanwhile); keeps its state in ``folder``."""

    def __init__(
        self,
        student: Student,
        batches: Callable[[], BatchMaker],
        measure: Callable[[Student], HeldOut],
        plan: TrainingPlan,
        folder: Path,
    ) -> None:
        self.student = student
        self.progress = Progress()
        self._batches = batches
        self._measure = measure
        self._plan = plan
        self._path = folder / CHECKPOINT
        self._optimizer = torch.optim.AdamW(
            list(student.learned().values()), lr=0.0, betas=BETAS, weight_decay=WEIGHT_DECAY
        )
        self._saved_s = time.perf_counter()

    def resume(self) -> bool:
        """Go on from the folder's checkpoint, if there is one; whether there was.

        Raises ModelUnusable for a file that cannot be read, or is another drafter's.
        """
        if not self._path.is_file():
            return False
        try:
            stored: dict[str, Any] = torch.load(self._path, map_location="cpu", weights_only=True)
            self.student.load_learned(stored["learned"])
            self._optimizer.load_state_dict(stored["optimizer"])
            self.progress = Progress(**stored["progress"])
        except _BROKEN as error:
            raise ModelUnusable(f"{self._path} cannot be read: {error!r}") from error
        return True

    def save(self) -> None:
        """Write the checkpoint; a crash meanwhile leaves the one before."""
        scratch = self._path.with_suffix(".new")
        state = {
            "learned": {name: p.detach() for name, p in self.student.learned().items()},
            "optimizer": self._optimizer.state_dict(),
            "progress": asdict(self.progress),
        }
        try:
            torch.save(state, scratch)
        except (OSError, RuntimeError) as error:  # torch's own, of a disk that is full
            scratch.unlink(missing_ok=True)
            raise OSError(EIO, "a checkpoint cannot be written there", str(scratch)) from error
        scratch.rename(self._path)
        self._saved_s = time.perf_counter()

    def run(self, goes_on: Callable[[Progress], bool]) -> bool:
        """Train until done, or until ``goes_on`` (asked after every step) says no; whether done.
        Saves and measures on the way, and at the end."""
        if not self.progress.history:
            self._note_measurement()
        for batch in self._remaining():
            self._step(batch)
            if self._is_time_to_measure():
                self._note_measurement()
            if time.perf_counter() - self._saved_s > self._plan.save_every_s:
                self.save()
            if not goes_on(self.progress):
                self.save()
                return False
        if self.progress.history[-1]["tokens"] < self.progress.tokens:
            self._note_measurement()
        self.save()
        return True

    @property
    def is_done(self) -> bool:
        """Whether there is nothing left to train on."""
        return self.progress.tokens >= self.end_tokens

    @property
    def end_tokens(self) -> int:
        """Tokens after which training is over: earlier than planned once acceptance stalled."""
        schedule = self._plan.schedule
        if self.progress.stalled_at is None:
            return schedule.total_tokens
        early = self.progress.stalled_at + int(schedule.decay * schedule.total_tokens)
        return min(schedule.total_tokens, early)

    def _remaining(self) -> Iterator[Batch]:
        while self.progress.tokens < self.end_tokens:
            maker = self._batches()
            order = maker.epoch(self.progress.epoch)
            while self.progress.batch < len(order):
                batch = maker.batch(order[self.progress.batch]).to(self.student.device)
                self.progress.batch += 1
                yield batch
                if self.progress.tokens >= self.end_tokens:
                    return
            self.progress.epoch += 1
            self.progress.batch = 0

    def _step(self, batch: Batch) -> None:
        began_s = time.perf_counter()
        # Cut short, the decay takes the place of what is left out before it.
        skipped = self._plan.schedule.total_tokens - self.end_tokens
        seen = self.progress.tokens + (skipped if self.progress.stalled_at is not None else 0)
        for group in self._optimizer.param_groups:
            group["lr"] = self._plan.schedule.rate(seen)
        loss = batch_loss(self.student, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.student.learned().values(), GRADIENT_NORM)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        progress = self.progress
        blend = 0.05 if progress.steps else 1.0
        progress.loss += blend * (float(loss.detach()) - progress.loss)
        progress.steps += 1
        progress.tokens += batch.num_tokens
        progress.seconds += time.perf_counter() - began_s

    def _is_time_to_measure(self) -> bool:
        last = self.progress.history[-1]["tokens"]
        return self.progress.tokens - last >= self._plan.measure_every_tokens

    def _note_measurement(self) -> None:
        held_out = self._measure(self.student)
        progress = self.progress
        progress.history.append(
            {"tokens": progress.tokens, "seconds": progress.seconds, **asdict(held_out)}
        )
        chains = [entry["chain"] for entry in progress.history]
        if progress.stalled_at is None and has_stalled(chains, self._plan.patience):
            progress.stalled_at = progress.tokens


def batch_loss(student: Student, batch: Batch) -> Tensor:
    """Mean cross-entropy to the target's kept probabilities by the positions' weights, in nats;
    those that the head cannot say are left out."""
    logprob = student(batch.token_ids, batch.rows).log_softmax(dim=1)
    of_row = -(logprob.gather(1, batch.next_row) * batch.next_p).sum(dim=1)
    return (of_row * batch.weight).sum() / batch.weight.sum()
