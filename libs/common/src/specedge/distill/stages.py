"""The stages of making a drafter, each of which goes on where it stopped: sample, train, write.

Owns what a stage needs and leaves behind; the workspace keeps it. Says how far it is through a
``Watcher``, which may also stop it.
"""

import copy
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from specedge.distill.batches import BatchMaker
from specedge.distill.corpus import Conversation, piece_path, read_piece, write_piece
from specedge.distill.evaluation import HeldOut, evaluate
from specedge.distill.growth import start_from
from specedge.distill.schedule import Schedule
from specedge.distill.self_sampling import SelfSampler
from specedge.distill.student import Student, StudentShape
from specedge.distill.training import Progress, Trainer, TrainingPlan
from specedge.distill.vocabulary import frequent_tokens, token_mass
from specedge.distill.workspace import HELD_OUT_PIECE, DistillPlan, Workspace
from specedge.engine.drafter_folder import (
    HEAD_TOKENS,
    DrafterCard,
    StoredAs,
    check_tokenizer,
    read_card,
    read_own,
    write_drafter,
)
from specedge.engine.torch_model import LoadedModel, torch_dtype
from specedge.errors import InvalidRequest


class Watcher(Protocol):
    """Whoever waits for a stage. Called from the stage's own thread."""

    def sampled(self, tokens: int, wanted: int) -> bool:
        """So many tokens are there, those of the piece under way included; False stops sampling."""
        ...

    def trained(self, progress: Progress, wanted_tokens: int) -> bool:
        """After every step; False stops training, at a checkpoint."""
        ...


@dataclass(frozen=True, slots=True)
class Share:
    """One of ``of`` processes that sample into the same folder at once; ``index`` from 0."""

    index: int = 0
    of: int = 1


def sample_corpus(
    sampler: SelfSampler,
    workspace: Workspace,
    plan: DistillPlan,
    wanted_tokens: int,
    share: Share,
    watcher: Watcher,
) -> None:
    """Write pieces until the folder holds ``wanted_tokens`` to train on. A piece under way when
    ``watcher`` stops it is kept as far as it is."""
    have = workspace.num_training_tokens()
    if not watcher.sampled(have, wanted_tokens) or have >= wanted_tokens:
        return
    numbers = (
        number
        for number in itertools.count(share.index, share.of)
        if not piece_path(workspace.corpus, number).exists()
    )
    first = next(numbers)
    stream = sampler.sample([plan.seed, first])
    for number in itertools.chain([first], numbers):
        piece = _sample_piece(stream, number, plan, have, wanted_tokens, watcher)
        if len(piece) < _fewest_conversations(number, plan):
            return
        write_piece(piece_path(workspace.corpus, number), piece)
        have = workspace.num_training_tokens()
        if not watcher.sampled(have, wanted_tokens) or have >= wanted_tokens:
            return


def _sample_piece(
    stream: Iterator[Conversation],
    number: int,
    plan: DistillPlan,
    have_tokens: int,
    wanted_tokens: int,
    watcher: Watcher,
) -> list[Conversation]:
    """The conversations of a piece; fewer than planned where ``watcher`` stopped it."""
    piece: list[Conversation] = []
    for one in itertools.islice(stream, plan.piece_conversations):
        piece.append(one)
        if number != HELD_OUT_PIECE:  # no text to train on
            have_tokens += len(one.tokens)
        if not watcher.sampled(min(have_tokens, wanted_tokens - 1), wanted_tokens):
            break
    return piece


def _fewest_conversations(number: int, plan: DistillPlan) -> int:
    """What a piece must hold to be written. All later measurements are made on the first one."""
    return min(plan.held_out, plan.piece_conversations) if number == HELD_OUT_PIECE else 1


class Corpus:
    """The training conversations of a workspace, read as they come."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._pieces: dict[int, list[Conversation]] = {}

    def conversations(self) -> list[Conversation]:
        """All there are now. Raises InvalidRequest when there are none."""
        for number in self._workspace.training_pieces():
            if number not in self._pieces:
                self._pieces[number] = read_piece(piece_path(self._workspace.corpus, number))
        if not self._pieces:
            raise InvalidRequest("there is nothing to train on yet: sample first", field="only")
        return [one for number in sorted(self._pieces) for one in self._pieces[number]]


def resume_training(
    loaded: LoadedModel,
    workspace: Workspace,
    plan: DistillPlan,
    total_tokens: int,
    *,
    patience: int,
) -> Trainer:
    """A trainer at the workspace's checkpoint, or at the start; ``total_tokens`` to be seen."""
    corpus = Corpus(workspace)
    vocab_size = loaded.identity.vocab_size
    head_tokens = workspace.head_tokens()
    if head_tokens is None:
        mass = token_mass(corpus.conversations(), vocab_size)
        head_tokens = frequent_tokens(mass, plan.vocabulary, loaded.identity.stop_ids)
        workspace.fix_head_tokens(head_tokens)
    held_out = workspace.held_out(plan.held_out)

    def batches() -> BatchMaker:
        return BatchMaker(
            corpus.conversations(),
            head_tokens,
            vocab_size=vocab_size,
            batch_tokens=plan.batch_tokens,
            seed=plan.seed,
        )

    def measure(student: Student) -> HeldOut:
        return evaluate(student, held_out, head_tokens, vocab_size)

    training = TrainingPlan(
        Schedule(total_tokens, plan.peak_rate),
        measure_every_tokens=max(1, total_tokens // 25),
        patience=patience,
    )
    student = Student(
        loaded.model,
        StudentShape(plan.layers),
        head_tokens,
        learns_in_bf16=torch_dtype("auto", str(loaded.model.device), may_round=True)
        == torch.bfloat16,
    )
    trainer = Trainer(student, batches, measure, training, workspace.folder)
    if not trainer.resume() and plan.start_from:
        grow(loaded, student, Path(plan.start_from))
    return trainer


def check_start(loaded: LoadedModel, folder: Path) -> None:
    """Raise ModelUnusable or FingerprintMismatch for a folder that is no drafter of this model, or
    cannot be read: before anything was done. Whether its layers fit is ``grow``'s to find out."""
    check_tokenizer(read_card(folder), loaded.identity.tokenizer_fingerprint, folder)
    read_own(folder)


def grow(loaded: LoadedModel, student: Student, folder: Path) -> None:
    """Let ``student`` begin as the drafter in ``folder``. Raises ModelUnusable, or
    FingerprintMismatch where that drafts for a model of another vocabulary."""
    check_tokenizer(read_card(folder), loaded.identity.tokenizer_fingerprint, folder)
    own = read_own(folder)
    own.pop(HEAD_TOKENS, None)
    prefix = _prefix({p: name for name, p in loaded.model.named_parameters()}, loaded.model)
    start_from(student, {name.removeprefix(prefix): tensor for name, tensor in own.items()})


def check_trained(workspace: Workspace) -> None:
    """Raise InvalidRequest where no training run left a drafter to write."""
    if not workspace.has_checkpoint():
        raise InvalidRequest("there is nothing to write yet: train first", field="only")


def train(trainer: Trainer, watcher: Watcher) -> None:
    """Train until all tokens were seen, acceptance stalls or ``watcher`` stops it."""
    trainer.run(lambda progress: watcher.trained(progress, trainer.end_tokens))


def write(
    loaded: LoadedModel, plan: DistillPlan, student: Student, folder: Path, stored_as: StoredAs
) -> None:
    """Write the drafter's folder, without its model card."""
    model = loaded.model
    names = {parameter: name for name, parameter in model.named_parameters()}
    embedding = names[model.get_input_embeddings().weight]
    head = names.get(model.get_output_embeddings().weight, embedding)
    prefix = _prefix(names, model)
    card = DrafterCard(
        target=plan.target,
        target_weights=loaded.identity.weights_fingerprint,
        target_tokenizer=loaded.identity.tokenizer_fingerprint,
        embedding=embedding,
        head=head,
    )
    own = {prefix + name: tensor for name, tensor in student.learned().items()}
    config = _cut_config(model.config, plan.layers)
    write_drafter(folder, config, own, student.head_tokens, card, stored_as)


def _prefix(names: dict[object, str], model: object) -> str:
    """How the whole model calls its decoder: what stands before the decoder's own names."""
    decoder = model.get_decoder()  # type: ignore[attr-defined]
    name, parameter = next(iter(decoder.named_parameters()))
    return names[parameter].removesuffix(name)


def _cut_config(config: object, layers: tuple[int, ...]) -> object:
    cut = copy.deepcopy(config)
    cut.num_hidden_layers = len(layers)  # type: ignore[attr-defined]
    if getattr(cut, "layer_types", None):
        cut.layer_types = [cut.layer_types[number] for number in layers]  # type: ignore[attr-defined]
    return cut
