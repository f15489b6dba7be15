"""``python -m specedge_verifier``: reads the settings and runs the service."""

import secrets
import sys

from specedge.errors import SpecEdgeError
from specedge.service.logging import configure_logging
from specedge.service.runtime import run_service
from specedge.service.settings import settings_from_command_line
from specedge_verifier.app import SERVICE, run
from specedge_verifier.config import VerifierSettings

# The event loop must not wait long for the interpreter while the compute thread prepares a step.
SWITCH_INTERVAL_S = 0.0005


def main() -> int:
    """Run until told to stop; the exit code."""
    try:
        settings = settings_from_command_line(
            VerifierSettings, sys.argv[1:], prog="python -m specedge_verifier"
        )
    except SpecEdgeError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    configure_logging(SERVICE, level=settings.log_level, log_format=settings.log_format)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    incarnation = secrets.token_hex(8)
    return run_service(lambda context: run(settings, incarnation, context))


if __name__ == "__main__":
    sys.exit(main())
