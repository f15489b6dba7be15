"""``make bench``: plain decoding, server-only speculation and SpecEdge, side by side.

In one invocation, on the same prompts, with the same number of streams at a time in every column.
All systems are up at once and take turns. A verifier's process has one core and one thread, edges
share another; scheduler, broker and clients are wherever there is room. Between edges and cloud
lies a link that really is as long as its column says. Each system drafts at the best setting of a
sweep that is printed too; one edge also adapts by itself, from nothing known, and is compared with
that setting. The target is in fp32, so that every column yields the same texts, which is checked.
Figures come from the services' metrics, the answers' own figures and the clients' clock.

Ratios compare with the baseline of as many streams at the shortest round trip: the harder way, for
a baseline drafts nothing over the link.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import Any, Final

from benchmarks import compare_plots, compare_report
from benchmarks.columns import Setting
from benchmarks.comparison import run_comparison
from benchmarks.figures import OUT, machine, say
from benchmarks.pinned import ANY, Cores
from benchmarks.plan import Measured, Plan, Results
from benchmarks.prompt_set import choose, load_prompts
from specedge.cli.console import quiet_logs
from specedge.cli.failure import CommandFailed
from specedge.engine.loading import DEFAULT_MODEL
from specedge.engine.shipped import AUTO, chosen_drafter

SWEEP: Final = "1x2,3x4,4x5,4x7"
QUICK: Final = {"prompts": 6, "tokens": 24, "sweep": "2x5,3x5", "sweep_prompts": 2, "turns": 2}


def main(argv: Sequence[str]) -> None:
    """Compare, write JSON and plots, print the tables."""
    options = _parse(argv)
    quiet_logs()
    cores = Cores.of_this_machine()
    if cores.verifier == ANY:
        say("there are no two cores to choose from: the verifier shares its own")
    results = _run(_plan(options), cores)
    body = described(results, options)
    OUT.mkdir(exist_ok=True)
    (OUT / "bench.json").write_text(json.dumps(body, indent=2, default=str) + "\n")
    compare_plots.draw(results, OUT / "bench.png")
    if options.json:
        print(json.dumps(body, default=str))
    else:
        compare_report.show(results)
    say(f"written to {OUT / 'bench.json'} and {OUT / 'bench.png'}")


def described(results: Results, options: argparse.Namespace) -> dict[str, Any]:
    """Everything, for scripts: ratios under flat keys, sweeps and columns as they were measured."""
    return {
        "options": vars(options),
        **machine(),
        **compare_report.ratios(results),
        "columns": [_flat(each) for each in results.columns],
        "sweeps": [_flat(each) for each in results.sweeps],
    }


def _flat(measured: Measured) -> dict[str, Any]:
    return {
        "name": measured.column.name,
        **dataclasses.asdict(measured.column),
        "setting": str(measured.column.setting) if measured.column.setting else None,
        **dataclasses.asdict(measured.figures),
        "texts": measured.texts,
        "same_texts": measured.same_texts,
    }


def _run(plan: Plan, cores: Cores) -> Results:
    try:
        return run_comparison(plan, cores)
    except BaseExceptionGroup as group:
        failures, _ = group.split(CommandFailed)
        if failures is None:
            raise
        first: BaseException = failures
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        assert isinstance(first, CommandFailed)
        sys.exit(f"{first}\n{first.hint or ''}")


def _plan(options: argparse.Namespace) -> Plan:
    return Plan(
        model=options.model,
        drafter=chosen_drafter(options.drafter, options.model),
        prompts=tuple(choose(load_prompts(), options.prompts)),
        max_tokens=options.tokens,
        temperature=options.temperature,
        streams=options.streams,
        delays_ms=options.delays,
        sweep=options.sweep,
        sweep_prompts=options.sweep_prompts,
        sweep_tokens=options.sweep_tokens,
        turns=options.turns,
        verifier_flags=tuple(options.verifier_flags.split()),
        edge_flags=tuple(options.edge_flags.split()),
    )


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks compare",
        description="Plain decoding, server-only speculation and SpecEdge, side by side.",
    )
    add = parser.add_argument
    add("--model", default=DEFAULT_MODEL, help="the target, by name or folder")
    add("--drafter", default=AUTO, help="of edges and of the server-only system")
    add("--prompts", type=int, default=12, help="so many, spread over the categories")
    add("--tokens", type=int, default=64, help="length of each answer at most")
    add("--temperature", type=float, default=0.0)
    add("--streams", type=_ints, default=(1, 2), help="at a time, in every column")
    add("--delays", type=_floats, default=(0.0, 14.0), help="round trips, milliseconds")
    add(
        "--sweep",
        type=_settings,
        default=_settings(SWEEP),
        help="depths × nodes to try",
    )
    add("--sweep-prompts", type=int, default=6, help="prompts of each try")
    add("--sweep-tokens", type=int, default=32, help="tokens of each answer of a try")
    add(
        "--turns", type=int, default=4, help="in which a column's prompts are asked, between others"
    )
    add("--quick", action="store_true", help="a few minutes: to see that it works")
    add("--json", action="store_true", help="the figures on stdout, instead of tables")
    add("--verifier-flags", default="--dtype fp32", help="more settings of the verifier, in quotes")
    add("--edge-flags", default="", help="more settings of edges that draft, in quotes")
    if "--quick" in argv:
        parser.set_defaults(**QUICK)
    return parser.parse_args(argv)


def _ints(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _floats(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def _settings(text: str) -> tuple[Setting, ...]:
    return tuple(Setting.parse(part) for part in text.split(","))
