"""Run a program that dies with its parent: ``python tether.py <parent pid> <program> [args…]``.

A script of its own, run with ``-I -S`` so that it starts in milliseconds: the kernel must be asked
from inside the child, and between fork and exec nothing of ours runs safely in a process that has
threads. Where there is no such request (elsewhere than on Linux) the program runs untethered.
Imports nothing of the project.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Tie this process to its parent, then become the program. Never returns."""
    parent, program = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the tie was made
            sys.exit(1)
    os.execv(program[0], program)


if __name__ == "__main__":
    main()
