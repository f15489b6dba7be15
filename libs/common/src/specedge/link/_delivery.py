"""Handing a message to a handler that may fail, and saying so without flooding the log."""

import asyncio

import structlog

from specedge.link.base import Handler, LinkCounters, LinkState, Message, StateListener
from specedge.log_pace import is_worth_a_line

_log = structlog.get_logger("specedge.link")


def deliver(handler: Handler, message: Message, counters: LinkCounters) -> None:
    """Count ``message`` in and call ``handler``. What it raises is counted and logged, not raised.

    A CancelledError is treated the same: a handler awaits nothing, so it can only come from a
    cancelled future that the handler looked into, never from a cancellation of the caller.
    """
    counters.messages_in += 1
    counters.bytes_in += len(message.payload)
    try:
        handler(message)
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001, RUF100 - a task's root
        counters.handler_errors += 1
        if is_worth_a_line(counters.handler_errors):
            _log.error(
                "link_handler_failed",
                subject=message.subject,
                so_far=counters.handler_errors,
                exc_info=error,
            )


def note_drop(subject: str, counters: LinkCounters) -> None:
    """Count one message that a full subscription dropped."""
    counters.dropped_in += 1
    if is_worth_a_line(counters.dropped_in):
        _log.warning("link_message_dropped", subject=subject, so_far=counters.dropped_in)


def tell(listeners: list[StateListener], state: LinkState) -> None:
    """Call every listener; one that raises does not keep the others from hearing."""
    for listener in list(listeners):
        try:
            listener(state)
        except Exception:  # noqa: BLE001, RUF100 - a callback's root
            _log.exception("link_listener_failed", state=state)
