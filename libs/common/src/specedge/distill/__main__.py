"""``python -m specedge.distill``: makes a drafter for a target; `specedge distill` becomes this.

Exit code 0 when the drafter is written, 3 when it was stopped before (run it again to go on), 1
when it failed.
"""

import argparse
import shlex
import sys
from pathlib import Path
from typing import Final, get_args

import orjson

from specedge.cli.console import err, out, quiet_logs, report
from specedge.cli.failure import EXIT_FAILED, CommandFailed
from specedge.distill import stages
from specedge.distill.model_card import Earlier, Making, model_card
from specedge.distill.self_sampling import SamplingPlan, SelfSampler
from specedge.distill.student import StudentShape
from specedge.distill.training import Trainer
from specedge.distill.watching import Watch
from specedge.distill.workspace import DistillPlan, Workspace
from specedge.engine.drafter_folder import StoredAs
from specedge.engine.loading import DEFAULT_MODEL
from specedge.engine.torch_host import prepare_host
from specedge.engine.torch_model import DType, LoadedModel, load_target_model
from specedge.errors import SpecEdgeError

EXIT_STOPPED: Final = 3
KV_BYTES: Final = 4 << 30


def main() -> int:
    """Run the stages that the flags ask for."""
    quiet_logs()
    arguments = _arguments()
    try:
        return _distill(arguments, prepare_host(arguments.device, arguments.threads))
    except SpecEdgeError as error:
        report(CommandFailed(str(error)))
        return EXIT_FAILED


def _distill(arguments: argparse.Namespace, device: str) -> int:
    loaded = _load(arguments, device)
    plan = _plan(arguments, loaded)
    workspace = Workspace(arguments.work)
    workspace.begin(plan)
    limit_s = arguments.minutes * 60 if arguments.minutes else None
    with Watch(limit_s) as watch:
        if arguments.only in (None, "sample"):
            del loaded  # sampling has the target to itself, in the arithmetic that is quickest
            _sample(arguments, device, workspace, plan, watch)
            if watch.is_stopped or arguments.only == "sample":
                return _stopped(watch)
            loaded = _load(arguments, device)
        if arguments.only == "write":
            stages.check_trained(workspace)
        trainer = stages.resume_training(
            loaded, workspace, plan, arguments.train_tokens, patience=arguments.patience
        )
        if arguments.only != "write":
            stages.train(trainer, watch)
            if not trainer.is_done or arguments.only == "train":
                return _stopped(watch)
    _write(arguments, loaded, workspace, plan, trainer)
    _tell(arguments, trainer.progress.history)
    return 0


def _plan(arguments: argparse.Namespace, loaded: LoadedModel) -> DistillPlan:
    num_layers = int(loaded.model.config.get_text_config().num_hidden_layers)
    return DistillPlan(
        target=arguments.model,
        target_weights=loaded.identity.weights_fingerprint,
        layers=arguments.layers or StudentShape.spread(min(4, num_layers), num_layers).layers,
        start_from=str(arguments.start_from or ""),
        vocabulary=min(arguments.vocabulary, loaded.identity.vocab_size),
        seed=arguments.seed,
        peak_rate=arguments.rate,
        batch_tokens=arguments.batch_tokens,
        piece_conversations=arguments.piece,
        held_out=arguments.held_out,
    )


def _sampling(arguments: argparse.Namespace) -> SamplingPlan:
    return SamplingPlan(
        lanes=arguments.lanes,
        max_prompt_tokens=arguments.max_prompt,
        max_answer_tokens=arguments.max_answer,
    )


def _sample(
    arguments: argparse.Namespace,
    device: str,
    workspace: Workspace,
    plan: DistillPlan,
    watch: Watch,
) -> None:
    loaded = _load(arguments, device, "auto")
    stages.sample_corpus(
        SelfSampler(loaded, _sampling(arguments), kv_bytes=KV_BYTES),
        workspace,
        plan,
        arguments.corpus_tokens,
        stages.Share(*arguments.share),
        watch,
    )


def _write(
    arguments: argparse.Namespace,
    loaded: LoadedModel,
    workspace: Workspace,
    plan: DistillPlan,
    trainer: Trainer,
) -> None:
    """The drafter's folder and its model card."""
    # Read before a folder is written, which may be the same one.
    earlier = Earlier.of(Path(plan.start_from)) if plan.start_from else None
    stages.write(loaded, plan, trainer.student, arguments.out, arguments.store)
    corpus = stages.Corpus(workspace).conversations()
    making = Making(
        _command(arguments, plan),
        conversations=len(corpus),
        corpus_tokens=sum(len(one.tokens) for one in corpus),
        top_k=_sampling(arguments).top_k,
        earlier=earlier,
    )
    text = model_card(plan, trainer.progress, making, arguments.out, arguments.store)
    (arguments.out / "README.md").write_text(text)


def _load(arguments: argparse.Namespace, device: str, dtype: DType = "fp32") -> LoadedModel:
    """``auto`` is what a drafter would be computed in: a corpus need not be exact."""
    return load_target_model(
        arguments.model,
        cache_dir=arguments.cache_dir.expanduser(),
        dtype=dtype,
        device=device,
        may_round=True,
    )


def _stopped(watch: Watch) -> int:
    if not watch.is_stopped:
        return 0
    err().print("stopped; the same command goes on from here")
    return EXIT_STOPPED


def _tell(arguments: argparse.Namespace, history: list[dict[str, float]]) -> None:
    if arguments.json:
        body = {"folder": str(arguments.out), "history": history}
        sys.stdout.write(orjson.dumps(body).decode() + "\n")
        return
    first, last = history[0], history[-1]
    out().print(
        f"{arguments.out}: top-1 agreement {first['top_1']:.3f} before, {last['top_1']:.3f} now; "
        f"chain {first['chain']:.2f} before, {last['chain']:.2f} now"
    )


def _command(arguments: argparse.Namespace, plan: DistillPlan) -> str:
    """The command that makes this drafter anew. Defaults are spelled out, since they may change;
    paths, and what may differ by machine, are not."""
    flags = {
        "--model": arguments.model,
        "--layers": ",".join(str(layer) for layer in plan.layers),
        **({"--start-from": Path(plan.start_from).name} if plan.start_from else {}),
        "--vocabulary": plan.vocabulary,
        "--corpus-tokens": arguments.corpus_tokens,
        "--train-tokens": arguments.train_tokens,
        "--rate": plan.peak_rate,
        "--batch-tokens": plan.batch_tokens,
        "--patience": arguments.patience,
        "--lanes": arguments.lanes,
        "--max-prompt": arguments.max_prompt,
        "--max-answer": arguments.max_answer,
        "--piece": plan.piece_conversations,
        "--held-out": plan.held_out,
        "--seed": plan.seed,
        "--store": arguments.store,
    }
    words = ["specedge", "distill"]
    for flag, value in flags.items():
        words += [flag, str(value)]
    return shlex.join([*words, "--work", "DIR", "--out", arguments.out.name])


def _layers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _share(text: str) -> tuple[int, int]:
    index, of = (int(part) for part in text.split("/"))
    if not 1 <= index <= of:
        raise ValueError(text)
    return index - 1, of


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="specedge distill",
        description="Make a drafter for a model from that model alone: it samples its own "
        "conversations, and a few of its layers learn from its own probabilities. Every stage goes "
        "on where it stopped when the same command is run again.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--model", default=DEFAULT_MODEL, help="the target: name or folder")
    add("--out", type=Path, required=True, help="folder of the drafter")
    add("--work", type=Path, required=True, help="folder for corpus and checkpoints")
    add("--layers", type=_layers, help="numbers of the target's layers to start from, by commas; "
        "none: the first three and the last")  # fmt: skip
    add("--start-from", type=Path, metavar="FOLDER", help="begin as the drafter there: its layers "
        "are the first ones and the last, others begin by adding nothing")  # fmt: skip
    add("--vocabulary", type=int, default=8192, help="tokens the drafter's head speaks of")
    add("--corpus-tokens", type=int, default=500_000, help="tokens to sample for training; "
        "those of the conversations held out come on top")  # fmt: skip
    add("--train-tokens", type=int, default=2_000_000, help="tokens to train on, repeats counted")
    add("--rate", type=float, default=2e-3, help="peak learning rate")
    add("--batch-tokens", type=int, default=2048, help="tokens of a training step")
    add("--patience", type=int, default=8, help="measurements without progress before it ends")
    add("--minutes", type=float, help="stop after so long; run again to go on")
    add("--only", choices=("sample", "train", "write"), help="one stage; write: from a checkpoint")
    add("--share", type=_share, default=(0, 1), help="sampling beside others: 1/2 and 2/2 are two "
        "processes that fill one folder")  # fmt: skip
    add("--lanes", type=int, default=64, help="conversations sampled at a time")
    add("--max-prompt", type=int, default=128, help="tokens of a made-up user's turn at most")
    add("--max-answer", type=int, default=192, help="tokens of an answer at most")
    add("--piece", type=int, default=256, help="conversations of one file of the corpus")
    add("--held-out", type=int, default=64, help="conversations to measure on")
    add("--seed", type=int, default=1, help="decides all sampling and orders")
    add("--store", choices=get_args(StoredAs), default="bf16", help="the layers' matrices in the "
        "folder; int8 is half the size")  # fmt: skip
    add("--device", default="auto", help="where to compute: cpu, cuda or cuda:N; auto is a GPU if "
        "there is one")  # fmt: skip
    add("--threads", type=int, help="compute threads on the CPU")
    add("--cache-dir", type=Path, default=Path("~/.cache/specedge"), help="cache of models")
    add("--json", action="store_true", help="results as JSON on stdout")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
