"""``python -m specedge.distill``: makes a drafter for a target; `specedge distill` becomes this.

Exit code 0 when the drafter is written, 3 when it was stopped before (run it again to go on), 1
when it failed, 130 when it was interrupted before there was anything to go on from.
"""

import argparse
import shlex
import sys
from pathlib import Path
from typing import Final

import orjson

from specedge.cli.console import err, out, quiet_logs, report
from specedge.cli.failure import EXIT_FAILED, EXIT_INTERRUPTED, CommandFailed
from specedge.distill import stages
from specedge.distill.flags import read_flags
from specedge.distill.model_card import Earlier, Making, model_card
from specedge.distill.self_sampling import SamplingPlan, SelfSampler
from specedge.distill.student import StudentShape
from specedge.distill.training import Trainer
from specedge.distill.watching import Watch
from specedge.distill.workspace import DistillPlan, Workspace
from specedge.engine.torch_host import prepare_host
from specedge.engine.torch_model import DType, LoadedModel, load_target_model
from specedge.errors import InvalidRequest, SpecEdgeError

EXIT_STOPPED: Final = 3
KV_BYTES: Final = 4 << 30


def main() -> int:
    """Run the stages that the flags ask for."""
    quiet_logs()
    arguments = read_flags()
    try:
        return _distill(arguments, prepare_host(arguments.device, arguments.threads))
    except SpecEdgeError as error:
        report(CommandFailed(str(error)))
        return EXIT_FAILED
    except OSError as error:  # a disk that is full, or may not be written
        report(CommandFailed(_of_disk(error), hint=f"What was done is in {arguments.work}."))
        return EXIT_FAILED
    except KeyboardInterrupt:  # before there was anything to keep
        return EXIT_INTERRUPTED


def _of_disk(error: OSError) -> str:
    said = error.strerror or str(error)
    return said if error.filename is None else f"{error.filename}: {said}"


def _distill(arguments: argparse.Namespace, device: str) -> int:
    loaded = _load(arguments, device)
    plan = _plan(arguments, loaded)
    _check(arguments, loaded, plan)  # before hours of sampling
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


def _check(arguments: argparse.Namespace, loaded: LoadedModel, plan: DistillPlan) -> None:
    """Raise InvalidRequest or ModelUnusable for what would only be found at the end."""
    most = int(loaded.model.config.get_text_config().num_hidden_layers)
    if max(plan.layers) >= most:
        raise InvalidRequest(
            f"--layers: {plan.target} has layers 0 to {most - 1}, not {max(plan.layers)}",
            field="layers",
        )
    if plan.start_from:
        stages.check_start(loaded, Path(plan.start_from))
    try:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidRequest(f"{error.filename}: {error.strerror}", field="out") from error
    if arguments.out.exists() and not arguments.out.is_dir():
        raise InvalidRequest(f"--out: {arguments.out} is no folder", field="out")


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


if __name__ == "__main__":
    sys.exit(main())
