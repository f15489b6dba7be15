"""Where `specedge` begins: expected errors end in one sentence, an early Ctrl-C in silence.

What takes time to import is imported where a Ctrl-C is caught already.
"""

import errno
import sys
from typing import Final

from specedge.cli.failure import EXIT_INTERRUPTED, CommandFailed

FULL: Final = (errno.ENOSPC, errno.EDQUOT)


def main() -> None:
    """Entry point. Expected errors end in one sentence and an exit code, never in a traceback."""
    try:
        _obey()
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


def _obey() -> None:
    from specedge.cli.commands import app
    from specedge.cli.console import report
    from specedge.errors import SpecEdgeError

    try:
        app()
    except CommandFailed as failure:
        report(failure)
        sys.exit(failure.exit_code)
    except SpecEdgeError as error:
        report(CommandFailed(str(error)))
        sys.exit(1)
    except OSError as error:  # a folder or file of the person's: what is ours says more itself
        if error.filename is None and error.errno not in FULL:
            raise
        report(CommandFailed(f"{error.filename or 'the output'}: {error.strerror}"))
        sys.exit(1)


if __name__ == "__main__":
    main()
