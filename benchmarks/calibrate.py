"""``python -m benchmarks calibrate``: how far a drafter can be trusted, written into its folder.

Drafts along the target's own texts in every case that is counted apart (greedy; sampled; sampled
and coupled), and keeps what the verdicts taught: an edge then values its first round rightly. The
prompts are none of the comparisons', so that those stay held out. Says how good the estimates were.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.acceptance import CACHE_DIR
from benchmarks.acceptance_rounds import draft_along, sum_up
from benchmarks.drafters import named_drafter
from benchmarks.prompt_set import Prompt
from benchmarks.reference_texts import ReferenceTexts, say
from benchmarks.watched_drafter import WatchedDrafter
from specedge.engine.drafters import save_tally
from specedge.engine.loading import DEFAULT_MODEL
from specedge.lossless.prompts import choose_prompts
from specedge.params import DraftPolicy
from specedge.tree.calibration import Tally

TOKENS = 64
CASES = ((0.0, False), (0.8, False), (0.8, True))  # temperature, coupled


def main(argv: Sequence[str]) -> None:
    """Calibrate the drafter in a folder."""
    options = _parser().parse_args(argv)
    tally = calibrate(options)
    save_tally(tally, Path(options.drafter))
    say(f"written into {options.drafter}")


def calibrate(options: argparse.Namespace) -> Tally:
    """What verdicts in all cases teach."""
    chosen = choose_prompts(options.prompts, options.prompts_file)
    prompts = [Prompt(f"calibration-{i}", "calibration", text) for i, text in enumerate(chosen)]
    texts = ReferenceTexts(options.model, max_tokens=TOKENS, cache_dir=CACHE_DIR)
    policy = DraftPolicy(options.depth, options.nodes)
    tally = Tally()
    for temperature, coupled in CASES:
        drafter = WatchedDrafter(
            named_drafter(
                options.drafter,
                model=options.model,
                cache_dir=CACHE_DIR,
                branch=policy.branch,
                threads=options.threads,
                coupled=coupled,
            )
        )
        references = texts.of(prompts, temperature, also=[each for each, _ in CASES])
        half = len(references) // 2
        drafted = [draft_along(drafter, each, policy, tally) for each in references]
        later = sum_up(drafted[half:])
        say(
            f"temperature {temperature:g}{', coupled' if coupled else ''}: on the later half "
            f"{later.expected:.2f} tokens a round expected, {later.length:.2f} seen"
        )
    return tally


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks calibrate",
        description="Let a drafter's folder tell how far the drafter can be trusted.",
    )
    parser.add_argument("--drafter", required=True, help="the drafter's folder")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="its target, by name or folder")
    parser.add_argument("--nodes", type=int, default=32, help="nodes of a tree at most")
    parser.add_argument("--depth", type=int, default=6, help="levels of a tree at most")
    parser.add_argument("--prompts", type=int, default=24, help="how many")
    parser.add_argument("--prompts-file", type=Path, help="one JSON string a line; else our own")
    parser.add_argument("--threads", type=int, default=1, help="compute threads")
    return parser
