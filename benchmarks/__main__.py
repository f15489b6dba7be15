"""``python -m benchmarks <which> …``: which benchmark to run."""

import importlib
import sys
from typing import Final

from specedge.errors import SpecEdgeError

# Each is a module with ``main(argv)``; imported only when it runs.
BENCHMARKS: Final = {
    "engine": "benchmarks.engine",
    "acceptance": "benchmarks.acceptance",
    "calibrate": "benchmarks.calibrate",
    "compare": "benchmarks.compare",
    "trace": "benchmarks.record_trace",
    "costs": "benchmarks.pair_costs",
    "controller": "benchmarks.controller_grid",
    "paper": "benchmarks.paper",
    "policy": "benchmarks.policy_grid",
    "scale": "benchmarks.scale",
    "emulate": "benchmarks.emulate",
    "against": "benchmarks.against",
}


NOT_RUN: Final = 3  # exit code, unlike those that benchmarks judge with


def main() -> None:
    """Run the named benchmark with what follows its name. What people can mend is one sentence."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in BENCHMARKS:
        sys.exit(f"usage: python -m benchmarks {{{','.join(BENCHMARKS)}}} …")
    try:
        importlib.import_module(BENCHMARKS[name]).main(sys.argv[2:])
    except SpecEdgeError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(NOT_RUN)


if __name__ == "__main__":
    main()
