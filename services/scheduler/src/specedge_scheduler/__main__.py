"""``python -m specedge_scheduler``: reads the settings and runs the service.

What takes time to import is imported where a Ctrl-C is caught already.
"""

import secrets
import sys
import time

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def main() -> int:
    """Run until told to stop; the exit code."""
    try:
        return _run()
    except KeyboardInterrupt:  # before the service listens for it
        return EXIT_INTERRUPTED


def _run() -> int:
    from specedge.errors import SpecEdgeError
    from specedge.ids import Epoch, GroupId, SchedulerId
    from specedge.service.logging import configure_logging
    from specedge.service.runtime import run_service
    from specedge.service.settings import settings_from_command_line
    from specedge_scheduler.app import SERVICE, SchedulerIdentity, run
    from specedge_scheduler.config import SchedulerSettings

    try:
        settings = settings_from_command_line(
            SchedulerSettings, sys.argv[1:], prog="python -m specedge_scheduler"
        )
    except SpecEdgeError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_USAGE
    configure_logging(SERVICE, level=settings.log_level, log_format=settings.log_format)
    who = SchedulerIdentity(
        SchedulerId(settings.scheduler_id),
        GroupId(settings.group),
        # Of one scheduler at a time, the later start is the later term.
        Epoch(time.time_ns(), 0),
        secrets.token_hex(8),
    )
    return run_service(lambda context: run(settings, who, context))


if __name__ == "__main__":
    sys.exit(main())
