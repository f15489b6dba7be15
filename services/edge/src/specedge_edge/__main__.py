"""``python -m specedge_edge``: reads the settings and runs the service.

What takes time to import is imported where a Ctrl-C is caught already.
"""

import sys

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def main() -> int:
    """The process's exit code."""
    try:
        return _run()
    except KeyboardInterrupt:  # before the service listens for it
        return EXIT_INTERRUPTED


def _run() -> int:
    from specedge.errors import InvalidRequest
    from specedge.service.logging import configure_logging
    from specedge.service.runtime import run_service
    from specedge.service.settings import settings_from_command_line
    from specedge_edge.app import SERVICE, run_edge
    from specedge_edge.config import EdgeSettings

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
