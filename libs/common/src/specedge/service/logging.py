"""Logs of a service: structlog to stderr, JSON for machines, colours for people.

What libraries say through the standard ``logging`` comes out in the same form. Event names are
constants in the past tense; what varies goes into fields.
"""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Final, TextIO

import structlog
from structlog.typing import Processor

from specedge.service.settings import LogFormat, LogLevel

# Libraries whose "info" is of no use to an operator.
_CHATTY: Final = ("nats", "uvicorn", "uvicorn.error", "asyncio", "httpx", "httpx2", "httpcore")


def configure_logging(
    service: str,
    *,
    level: LogLevel = "info",
    log_format: LogFormat = "auto",
    stream: TextIO | None = None,
) -> None:
    """Set up the process's logs; every line carries ``service``.

    ``stream`` is stderr unless a test says otherwise. Called once, before anything is logged: a
    logger that has spoken keeps the level and the ``service`` of then.
    """
    out = sys.stderr if stream is None else stream
    is_json = log_format == "json" or (log_format == "auto" and not out.isatty())
    shared = _shared_processors(service)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(_number(level)),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_rendering(is_json=is_json, has_colours=out.isatty()),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(_number(level))
    for name in _CHATTY:
        chatty = logging.getLogger(name)
        chatty.setLevel(max(logging.WARNING, _number(level)))
        chatty.handlers = []
        chatty.propagate = True


def _shared_processors(service: str) -> list[Processor]:
    def add_service(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event.setdefault("service", service)
        return event

    return [
        structlog.contextvars.merge_contextvars,
        add_service,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]


def _rendering(*, is_json: bool, has_colours: bool) -> list[Processor]:
    if is_json:
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    return [structlog.dev.ConsoleRenderer(colors=has_colours)]


def _number(level: LogLevel) -> int:
    return logging.getLevelNamesMapping()[level.upper()]
