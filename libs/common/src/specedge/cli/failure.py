"""How a command ends when something expected went wrong: one clear sentence and an exit code.

Exit codes: 0 done, 1 the work failed or the check did not hold, 2 wrong usage, 130 interrupted.
"""

from typing import Final

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130


class CommandFailed(Exception):
    """Shown to the user without a traceback. ``hint`` says what to do about it."""

    def __init__(self, message: str, *, hint: str = "", exit_code: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.hint = hint
        self.exit_code = exit_code
