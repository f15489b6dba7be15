"""``python -m specedge_edge``: reads the settings and runs the service."""

import sys

from specedge.errors import InvalidRequest
from specedge.service.logging import configure_logging
from specedge.service.runtime import run_service
from specedge.service.settings import settings_from_command_line
from specedge_edge.app import SERVICE, run_edge
from specedge_edge.config import EdgeSettings

EXIT_USAGE = 2


def main() -> int:
    """The process's exit code."""
    try:
        settings = settings_from_command_line(
            EdgeSettings, sys.argv[1:], prog="python -m specedge_edge"
        )
    except InvalidRequest as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_USAGE
    configure_logging(SERVICE, level=settings.log_level, log_format=settings.log_format)
    return run_service(lambda context: run_edge(context, settings))


if __name__ == "__main__":
    sys.exit(main())
