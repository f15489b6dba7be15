"""``python -m benchmarks.pinned <core> <module> …``: run a module on one core of the machine.

The core is taken before the module is, so all its threads have it. ``any`` leaves the choice to the
system, for machines where cores cannot be taken.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

ANY: Final = "any"


@dataclass(frozen=True, slots=True)
class Cores:
    """Who computes where: a verifier on one core, what is measured beside it on another."""

    others: str
    verifier: str

    @classmethod
    def of_this_machine(cls) -> "Cores":
        """Two of those that this process may run on; ANY where there are no two, or no way."""
        if not hasattr(os, "sched_getaffinity"):
            return cls(ANY, ANY)
        allowed = sorted(os.sched_getaffinity(0))
        return cls(str(allowed[0]), str(allowed[1])) if len(allowed) > 1 else cls(ANY, ANY)


def pin_to(core: str) -> None:
    """The calling thread, and all that it starts from now on."""
    if core != ANY:
        os.sched_setaffinity(0, {int(core)})


def main(argv: Sequence[str]) -> None:
    """Never returns."""
    core, *program = argv
    pin_to(core)
    os.execv(sys.executable, [sys.executable, "-m", *program])


if __name__ == "__main__":
    main(sys.argv[1:])
