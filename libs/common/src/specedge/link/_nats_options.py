"""How to reach and to convince a NATS broker: values only."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from specedge.errors import InvalidRequest
from specedge.link._connection import RecoveryPolicy

TCP_SCHEMES: Final = frozenset({"nats", "tls"})
WEBSOCKET_SCHEMES: Final = frozenset({"wss"})


@dataclass(frozen=True, slots=True)
class NatsOptions:
    """Everything a ``NatsLink`` needs to know.

    servers            "nats://host:port" or "tls://host:port", or else "wss://host:port"; any of
                       them will do
    name               shown in the broker's monitoring
    inbox_prefix       where replies come: below the asker's own subjects, see protocol.subjects
    seed               of a user NKey ("SU…"), or None: no identity
    user_jwt           called at each connecting, for brokers in operator mode; needs ``seed``
    tls_ca_file        trust this authority only, and insist on TLS
    tls_cert_file, tls_key_file   this side's certificate, where the broker wants one
    tls_hostname       the name in the broker's certificate, if it is not the one dialled
    connect_timeout_s  for one attempt's steps: TCP, TLS, greeting
    ping_interval_s, max_outstanding_pings   a silent broker is given up after
                       ping_interval_s × (max_outstanding_pings + 1)
    flush_timeout_s    for one flush
    max_backlog_bytes  unsent bytes beyond which a publish waits, up to flush_timeout_s, and is
                       then refused
    recovery           how a lost connection is won back
    max_payload_bytes  if this user's limit is lower than the broker's
    """

    servers: tuple[str, ...] = field(repr=False)  # their user parts may be passwords
    name: str
    inbox_prefix: str = "_INBOX"
    seed: str | None = field(default=None, repr=False)
    user_jwt: Callable[[], str] | None = field(default=None, repr=False)
    tls_ca_file: Path | None = None
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = field(default=None, repr=False)
    tls_hostname: str | None = None
    connect_timeout_s: float = 3.0
    ping_interval_s: float = 5.0
    max_outstanding_pings: int = 2
    flush_timeout_s: float = 5.0
    max_backlog_bytes: int = 2 * 1024 * 1024
    max_payload_bytes: int | None = None
    recovery: RecoveryPolicy = field(default_factory=RecoveryPolicy)

    def __post_init__(self) -> None:
        if not self.servers:
            raise InvalidRequest("at least one server is needed", field="servers")
        for server in self.servers:
            _check(server)
        if len({urlsplit(server).scheme in WEBSOCKET_SCHEMES for server in self.servers}) > 1:
            raise InvalidRequest("wss:// servers go with wss:// servers only", field="servers")
        if self.is_websocket and self.tls_hostname is not None:
            raise InvalidRequest("wss:// takes the name that is dialled", field="tls_hostname")
        if self.user_jwt is not None and self.seed is None:
            raise InvalidRequest("a JWT proves nothing without its key's seed", field="seed")

    @property
    def is_websocket(self) -> bool:
        """Whether NATS is spoken inside WebSocket."""
        return urlsplit(self.servers[0]).scheme in WEBSOCKET_SCHEMES

    @property
    def wants_tls(self) -> bool:
        """Whether an unencrypted connection is refused, whatever the broker offers."""
        is_named = any(urlsplit(server).scheme in ("tls", "wss") for server in self.servers)
        return self.tls_ca_file is not None or is_named

    def ssl_context(self) -> ssl.SSLContext:
        """Reads the files. Raises InvalidRequest naming the one that is no good."""
        try:
            context = ssl.create_default_context(cafile=self.tls_ca_file)
        except (OSError, ssl.SSLError) as error:
            raise InvalidRequest(f"{self.tls_ca_file}: {error}", field="tls_ca_file") from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.tls_cert_file is not None:
            try:
                context.load_cert_chain(self.tls_cert_file, self.tls_key_file)
            except (OSError, ssl.SSLError) as error:
                raise InvalidRequest(
                    f"{self.tls_cert_file}: {error}", field="tls_cert_file"
                ) from error
        return context


def shown(server: str) -> str:
    """A server's address without its user part: that may be a password."""
    scheme, separator, rest = server.partition("://") if "://" in server else ("", "", server)
    return f"{scheme}{separator}{rest.rpartition('@')[2].partition('/')[0]}"


def _check(server: str) -> None:
    """Before anything is dialled: what comes out of a library then is no sentence."""
    try:
        parts = urlsplit(server)
        is_address = parts.hostname is not None and parts.port != 0  # reading a port checks it
    except ValueError:
        is_address = False
    if not is_address or parts.scheme not in TCP_SCHEMES | WEBSOCKET_SCHEMES:
        raise InvalidRequest(
            "a server looks like nats://host:port, tls://host:port or wss://host:port, "
            f"not {shown(server)}",
            field="servers",
        )
