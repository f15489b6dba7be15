"""``python -m specedge_scheduler.sim FILE.yaml``: reads a scenario, simulates it, and reports."""

import argparse
import gc
import math
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import orjson
import yaml  # type: ignore[import-untyped]
from rich.console import Console

from specedge.errors import InvalidRequest, SpecEdgeError
from specedge_scheduler.sim.plots import draw
from specedge_scheduler.sim.report import as_json, show, show_capacity
from specedge_scheduler.sim.scenario import read_scenario
from specedge_scheduler.sim.sweeps import find_capacity, run_all
from specedge_scheduler.sim.waiting import Waiting

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
WIDE = 1000  # columns, which no table has
MERGE = "tag:yaml.org,2002:merge"


def main(arguments: Sequence[str]) -> int:
    """Run the command; its exit code."""
    options = _parser().parse_args(arguments)
    try:
        _check_places(options)
        _run(options)
    except _PlaceUnusable as error:
        return _fail(str(error), EXIT_USAGE)
    except SpecEdgeError as error:
        return _fail(f"{options.file}: {error}", EXIT_USAGE)
    except OSError as error:
        return _fail(f"{error.filename or 'output'}: {error.strerror}", EXIT_FAILED)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return 0


class _PlaceUnusable(Exception):
    """Nothing can be written there."""


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"{message}\n")
    return code


def _check_places(options: argparse.Namespace) -> None:
    """Better said before the simulation than after it."""
    json = None if options.json in (None, "-") else Path(options.json)
    for place in filter(None, (json, options.plot)):
        if not place.parent.is_dir():
            raise _PlaceUnusable(f"{place}: there is no folder {place.parent}")
        if place.is_dir():
            raise _PlaceUnusable(f"{place} is a folder")
    if options.plot is not None:
        if options.plot.suffix.lower() != ".png":
            raise _PlaceUnusable(f"{options.plot}: pictures are PNG, so a name ends in .png")
        if find_spec("matplotlib") is None:
            raise _PlaceUnusable("--plot needs matplotlib: pip install matplotlib")
    for place in filter(None, (json, options.plot)):
        _check_writable(place)


def _check_writable(place: Path) -> None:
    """Leaves what is there as it is. Where there is something else than a file, such as a pipe,
    the writing itself will tell."""
    is_new = not place.exists()
    if not is_new and not place.is_file():
        return
    try:
        place.open("ab").close()
    except OSError as error:
        raise _PlaceUnusable(f"{place}: {error.strerror}") from None
    if is_new:
        place.unlink()


def _run(options: argparse.Namespace) -> None:
    fields, console = read_file(options.file), _console(to_stderr=options.json == "-")
    with Waiting() as waiting:
        runs = run_all(fields, waiting)
    show(runs, console)
    capacity = None
    if options.capacity is not None:
        with Waiting() as waiting:
            capacity = find_capacity(read_scenario(fields), options.capacity, waiting)
        show_capacity(capacity, console)
    if options.json is not None:
        told = orjson.dumps(as_json(runs, capacity), option=orjson.OPT_INDENT_2)
        if options.json == "-":
            sys.stdout.write(told.decode() + "\n")
        else:
            Path(options.json).write_bytes(told + b"\n")
    if options.plot is not None:
        draw(runs, options.plot)


def _console(*, to_stderr: bool) -> Console:
    """As wide as the terminal; where there is none, as wide as what is said."""
    stream = sys.stderr if to_stderr else sys.stdout
    is_terminal = stream.isatty()
    width = None if is_terminal else WIDE
    return Console(file=stream, highlight=False, width=width, soft_wrap=not is_terminal)


class _EachKeyOnce(yaml.SafeLoader):  # type: ignore[misc]
    """Of two fields of one name, YAML's reader would take the last and say nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        """The mapping. Raises a YAMLError that says where a key stands again."""
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen and key.tag != MERGE:
                raise yaml.MarkedYAMLError(
                    problem=f"{key.value!r} stands here twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_file(file: Path) -> dict[str, object]:
    """What a YAML file holds. Raises InvalidRequest."""
    try:
        fields = yaml.load(file.read_bytes(), _EachKeyOnce)
    except OSError as error:
        raise InvalidRequest(f"cannot be read: {error.strerror}", field="file") from None
    except yaml.YAMLError as error:
        raise InvalidRequest(f"is not YAML: {error}", field="file") from None
    if not isinstance(fields, dict):
        raise InvalidRequest("a scenario is a mapping of fields", field="file")
    return fields


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="specedge simulate",
        description="Simulate edges, links, verifiers and the real scheduler in virtual time.",
    )
    parser.add_argument("file", type=Path, help="the scenario, YAML; see docs/simulator.md")
    parser.add_argument("--json", help="write the figures there; - for stdout")
    parser.add_argument("--plot", type=Path, help="draw them as PNG there")
    parser.add_argument(
        "--capacity",
        type=_positive_ms,
        metavar="MS",
        help="also find how many edges keep a time per token of so many milliseconds",
    )
    return parser


def _positive_ms(text: str) -> float:
    """An objective: argparse names the option."""
    try:
        objective_ms = float(text)
    except ValueError:
        objective_ms = math.nan
    if not (math.isfinite(objective_ms) and objective_ms > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number of milliseconds")
    return objective_ms


if __name__ == "__main__":
    # Large worlds live long and die at once: looking for cycles in them again and again is waste.
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)
    sys.exit(main(sys.argv[1:]))
