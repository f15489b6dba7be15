"""Run a program that dies with its parent: ``python leash.py <parent pid> <program> [args…]``.

A script of its own, run with ``-I -S`` so that it starts in milliseconds, because the kernel's
request must be made inside the child, and between fork and exec nothing of ours may run safely in
a process that has threads. On systems without such a request the program runs unleashed, and only
an orderly stop of the parent stops it. Imports nothing of the project.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Leash this process to its parent, then become the program. Never returns."""
    parent, program = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the leash was on
            sys.exit(1)
    os.execv(program[0], program)


if __name__ == "__main__":
    main()
