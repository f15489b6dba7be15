"""``python -m specedge_edge.fleet``: reads the settings and runs the fleet."""

import sys

from specedge.errors import InvalidRequest
from specedge.service.logging import configure_logging
from specedge.service.runtime import run_service
from specedge.service.settings import settings_from_command_line
from specedge_edge.fleet.app import run_fleet
from specedge_edge.fleet.config import FleetSettings


def main() -> int:
    """The process's exit code."""
    try:
        settings = settings_from_command_line(
            FleetSettings, sys.argv[1:], prog="python -m specedge_edge.fleet"
        )
        settings.known_pair()
        settings.known_arrivals()
    except InvalidRequest as error:
        sys.stderr.write(f"{error}\n")
        return 2
    configure_logging("fleet", level=settings.log_level, log_format=settings.log_format)
    return run_service(lambda context: run_fleet(context, settings), fine_timers=True)


if __name__ == "__main__":
    sys.exit(main())
