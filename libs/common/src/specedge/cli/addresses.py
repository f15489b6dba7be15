"""Where edges of an own system listen: by which URL this machine reaches them, and who else does.

Knows nothing of processes.
"""

import errno
import ipaddress
import socket

from specedge.cli.failure import EXIT_USAGE, CommandFailed
from specedge.cli.stack import LOOPBACK


def check_address(host: str, port: int) -> None:
    """Raise CommandFailed unless one may listen there: better said before a model is loaded than
    after. Port 0 is any free one."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise _refusal(host, port, error) from error


def url_from_here(host: str, port: int) -> str:
    """The URL by which this machine reaches what listens on ``host``."""
    if is_every_address(host):
        host = "::1" if ":" in host else LOOPBACK
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_every_address(host: str) -> bool:
    """Whether who listens there listens on all addresses of this machine."""
    address = _read(host)
    return not host or (address is not None and address.is_unspecified)


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine reaches it."""
    address = _read(host)
    return host == "localhost" if address is None else address.is_loopback


def _read(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _refusal(host: str, port: int, error: OSError) -> CommandFailed:
    if error.errno == errno.EADDRINUSE:
        return CommandFailed(
            f"port {port} is taken ({error.strerror})",
            hint="Choose another with --port, or let --port 0 find a free one.",
            exit_code=EXIT_USAGE,
        )
    return CommandFailed(
        f"nothing can listen on {host}, port {port}: {error.strerror}",
        hint="Choose others with --host and --port.",
        exit_code=EXIT_USAGE,
    )
