"""``python -m specedge_verifier``: reads the settings and runs the service.

What takes time to import is imported where a Ctrl-C is caught already.
"""

import secrets
import sys

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
# The event loop must not wait long for the interpreter while the compute thread prepares a step.
SWITCH_INTERVAL_S = 0.0005


def main() -> int:
    """Run until told to stop; the exit code."""
    try:
        return _run()
    except KeyboardInterrupt:  # before the service listens for it
        return EXIT_INTERRUPTED


def _run() -> int:
    from specedge.errors import SpecEdgeError
    from specedge.service.logging import configure_logging
    from specedge.service.runtime import run_service
    from specedge.service.settings import settings_from_command_line
    from specedge_verifier.app import SERVICE, run
    from specedge_verifier.config import VerifierSettings

    try:
        settings = settings_from_command_line(
            VerifierSettings, sys.argv[1:], prog="python -m specedge_verifier"
        )
    except SpecEdgeError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_USAGE
    configure_logging(SERVICE, level=settings.log_level, log_format=settings.log_format)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    incarnation = secrets.token_hex(8)
    return run_service(lambda context: run(settings, incarnation, context))


if __name__ == "__main__":
    sys.exit(main())
