"""The flags of ``specedge distill``, and the bounds of each. Knows no model."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from specedge.engine.drafter_folder import StoredAs
from specedge.engine.loading import DEFAULT_MODEL


class _KnownDefaults(argparse.ArgumentDefaultsHelpFormatter):
    """Of a flag that has no default, or says in words what it is, nothing more is told."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        has_none = action.default in (None, False)
        return action.help if has_none else super()._get_help_string(action)


def read_flags() -> argparse.Namespace:
    """The command line's; exits with a usage error for what is none."""
    parser = argparse.ArgumentParser(
        prog="specedge distill",
        description="Make a drafter for a model from that model alone: it samples its own "
        "conversations, and a few of its layers learn from its own probabilities. Every stage goes "
        "on where it stopped when the same command is run again.",
        formatter_class=_KnownDefaults,
    )
    add = parser.add_argument
    add("--model", default=DEFAULT_MODEL, help="the target: name or folder")
    add("--out", type=Path, required=True, help="folder of the drafter")
    add("--work", type=Path, required=True, help="folder for corpus and checkpoints")
    add("--layers", type=_layers, help="numbers of the target's layers to start from, by commas; "
        "none: the first three and the last")  # fmt: skip
    add("--start-from", type=Path, metavar="FOLDER", help="begin as the drafter there: its layers "
        "are the first ones and the last, others begin by adding nothing")  # fmt: skip
    add("--vocabulary", type=_at_least(1), default=8192, help="tokens the drafter's head speaks of")
    add("--corpus-tokens", type=_at_least(1), default=500_000, help="tokens to sample for "
        "training; those of the conversations held out come on top")  # fmt: skip
    add(
        "--train-tokens",
        type=_at_least(1),
        default=2_000_000,
        help="tokens to train on, repeats counted",
    )
    add("--rate", type=_above_0, default=2e-3, help="peak learning rate")
    add("--batch-tokens", type=_at_least(1), default=2048, help="tokens of a training step")
    add(
        "--patience",
        type=_at_least(1),
        default=8,
        help="measurements without progress before it ends",
    )
    add("--minutes", type=_above_0, help="stop after so long; run again to go on")
    add("--only", choices=("sample", "train", "write"), help="one stage; write: from a checkpoint")
    add("--share", type=_share, default="1/1", help="sampling beside others: 1/2 and 2/2 are two "
        "processes that fill one folder")  # fmt: skip
    add("--lanes", type=_at_least(1), default=64, help="conversations sampled at a time")
    add(
        "--max-prompt",
        type=_at_least(1),
        default=128,
        help="tokens that the model writes of a user's turn at most",
    )
    add("--max-answer", type=_at_least(1), default=192, help="tokens of an answer at most")
    add("--piece", type=_at_least(1), default=256, help="conversations of one file of the corpus")
    add("--held-out", type=_at_least(1), default=64, help="conversations to measure on")
    add("--seed", type=_at_least(0), default=1, help="decides all sampling and orders")
    add("--store", choices=get_args(StoredAs), default="bf16", help="the layers' matrices in the "
        "folder; int8 is half the size")  # fmt: skip
    add("--device", default="auto", help="where to compute: cpu, cuda or cuda:N; auto is a GPU if "
        "there is one")  # fmt: skip
    add("--threads", type=_at_least(1), help="compute threads on the CPU; none: what torch takes")
    add("--cache-dir", type=Path, default=Path("~/.cache/specedge"), help="cache of models")
    add("--json", action="store_true", help="results as JSON on stdout")
    flags = parser.parse_args()
    if flags.held_out > flags.piece:  # one piece is held out
        parser.error(f"argument --held-out: {flags.held_out} are more than --piece {flags.piece}")
    return flags


def _layers(text: str) -> tuple[int, ...]:
    try:
        layers = tuple(int(part) for part in text.split(","))
    except ValueError:
        layers = (-1,)
    if any(layer < 0 for layer in layers):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of layers, as 0,1,2,29 is one")
    return layers


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is under {least}")
        return value

    return number


def _above_0(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no number above 0")
    return value


def _share(text: str) -> tuple[int, int]:
    try:
        index, of = (int(part) for part in text.split("/"))
    except ValueError:
        index, of = 0, 0
    if not 1 <= index <= of:
        raise argparse.ArgumentTypeError(f"{text!r} is no share, as 1/2 and 2/2 are two")
    return index - 1, of
