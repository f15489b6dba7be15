"""``python -m specedge.cli.launch MODULE ...``: the program MODULE, ended in silence by a Ctrl-C
that comes while it still imports itself, which takes some of them seconds.
"""

import runpy
import signal
import sys
from types import FrameType

from specedge.cli.failure import EXIT_INTERRUPTED


def main() -> None:
    """Be the program that the first argument names; the others are its own."""
    presses: list[int] = []

    def on_press(number: int, frame: FrameType | None) -> None:
        presses.append(number)
        signal.default_int_handler(number, frame)

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored
        signal.signal(signal.SIGINT, on_press)
    try:
        del sys.argv[0]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except Exception:
        if not presses:
            raise
        sys.exit(EXIT_INTERRUPTED)  # libraries that were being imported make other errors of it


if __name__ == "__main__":
    main()
