"""``python -m benchmarks acceptance``: how much of a drafter's trees the target accepts.

Offline and quick: the target's texts are decoded once (``reference_texts``) and verdicts are read
from them, so another drafter, or another size of tree, costs only its own passes. Nothing is
reported of speed but the drafter's own: that is ``compare``'s.
"""

import argparse
import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks.acceptance_rounds import Acceptance, Drafted, draft_along, sum_up
from benchmarks.drafters import named_drafter
from benchmarks.figures import OUT, machine, say
from benchmarks.prompt_set import CATEGORIES, choose, load_prompts
from benchmarks.reference_texts import Reference, ReferenceTexts
from benchmarks.watched_drafter import WatchedDrafter
from specedge.engine.loading import DEFAULT_MODEL
from specedge.engine.shipped import AUTO, chosen_drafter
from specedge.params import DraftPolicy
from specedge.tree.calibration import Tally

CACHE_DIR: Final = Path("~/.cache/specedge").expanduser()
SAY_EVERY: Final = 12
ALL: Final = "all"


def main(argv: Sequence[str]) -> None:
    """Measure, print the tables, write the JSON."""
    options = _parser().parse_args(argv)
    results = measure(options)
    name = Path(chosen_drafter(options.drafter, options.model)).name
    path = Path(options.json) if options.json else OUT / f"acceptance-{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    body = {"options": vars(options), **machine(), "results": results}
    path.write_text(json.dumps(body, indent=2) + "\n")
    show(name, results)
    say(f"written to {path}")


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One entry per temperature, budget and depth; each holds figures by category, and of all."""
    prompts = choose(load_prompts(), options.prompts)
    texts = ReferenceTexts(options.model, max_tokens=options.tokens, cache_dir=CACHE_DIR)
    wanted = {
        temperature: texts.of(prompts, temperature, also=options.temperatures)
        for temperature in options.temperatures
    }
    drafter = WatchedDrafter(
        named_drafter(
            options.drafter,
            model=options.model,
            cache_dir=CACHE_DIR,
            branch=options.branch,
            threads=options.threads,
            coupled=options.coupled,
        )
    )
    results = []
    for temperature, nodes, depth in itertools.product(wanted, options.nodes, options.depth):
        policy = DraftPolicy(depth, nodes, options.beams, options.branch, options.floor)
        say(f"temperature {temperature:g}, at most {nodes} nodes, depth {depth}:")
        drafted = _draft_all(drafter, wanted[temperature], policy)
        figures = {
            category: dataclasses.asdict(sum_up(of_category))
            for category in CATEGORIES
            if (of_category := [each for each in drafted if each.category == category])
        }
        whole = dataclasses.asdict(sum_up(drafted))
        results.append(
            {"temperature": temperature, "budget": nodes, "depth": depth, ALL: whole, **figures}
        )
    return results


def _draft_all(
    drafter: WatchedDrafter, references: Sequence[Reference], policy: DraftPolicy
) -> list[Drafted]:
    """In the order given: what earlier texts taught about the drafter holds for later ones."""
    tally = Tally()
    drafted: list[Drafted] = []
    for number, reference in enumerate(references, start=1):
        drafted.append(draft_along(drafter, reference, policy, tally))
        if number % SAY_EVERY == 0 or number == len(references):
            so_far: Acceptance = sum_up(drafted)
            say(f"  {number}/{len(references)} texts, acceptance length {so_far.length:.2f}")
    return drafted


def show(name: str, results: Sequence[dict[str, Any]]) -> None:
    """A table for each entry of ``measure``."""
    console = Console(width=110)
    for result in results:
        table = Table(
            title=f"{name}, temperature {result['temperature']:g}, "
            f"at most {result['budget']} nodes, depth {result['depth']}"
        )
        table.add_column("prompts")
        headings = ("texts", "rounds", "length", "expected", "top-1", "top-4")
        for heading in (*headings, "nodes", "passes", "pass ms", "draft ms"):
            table.add_column(heading, justify="right")
        for key in (*(each for each in CATEGORIES if each in result), ALL):
            table.add_row(key, *_cells(result[key]), end_section=key == CATEGORIES[-1])
        console.print(table)
        reached = "  ".join(
            f"{depth}: {share:.1%}" for depth, share in enumerate(result[ALL]["reached"], start=1)
        )
        console.print(f"rounds whose path reached depth  {reached}\n")


def _cells(figures: dict[str, Any]) -> list[str]:
    shown = [str(figures["texts"]), str(figures["rounds"])]
    shown += [f"{figures[key]:.2f}" for key in ("length", "expected")]
    shown += [f"{figures[key]:.1%}" for key in ("top_1", "top_4")]
    return shown + [f"{figures[key]:.1f}" for key in ("nodes", "passes", "pass_ms", "draft_ms")]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks acceptance",
        description="How much of a drafter's trees the target accepts, on the held-out prompts.",
    )
    parser.add_argument("--model", default=DEFAULT_MODEL, help="the target, by name or folder")
    parser.add_argument(
        "--drafter", default=AUTO, help="auto, prompt-lookup, or a draft model, by name or folder"
    )
    parser.add_argument("--coupled", action="store_true", help="rank with the target's own noise")
    parser.add_argument("--nodes", type=_ints, default=[32], help="at most so many; 16,32 for both")
    parser.add_argument("--depth", type=_ints, default=[6], help="levels at most; 4,6,8 for each")
    parser.add_argument("--beams", type=int, default=8, help="nodes expanded in one pass")
    parser.add_argument("--branch", type=int, default=8, help="children tried of a node")
    parser.add_argument("--floor", type=float, default=0.0, help="least value of a node")
    parser.add_argument("--temperatures", type=_floats, default=[0.0, 0.8])
    parser.add_argument("--tokens", type=int, default=64, help="length of each text at most")
    parser.add_argument("--prompts", type=int, help="only so many, spread over the categories")
    parser.add_argument("--threads", type=int, default=1, help="compute threads")
    parser.add_argument("--json", help="where to write the figures")
    return parser


def _ints(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _floats(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]
