"""The broker's configuration, as text: values in, text out. Reads and writes no file.

The embedded broker and a generated credentials folder share it, so that what runs on a laptop and
what faces the internet differ in addresses, certificates and users alone.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from specedge.credentials.roles import Permissions

MAX_PAYLOAD_BYTES: Final = 131_072
USERS_FILE: Final = "users.conf"
DIRECT: Final = "STANDARD"
OVER_WEBSOCKET: Final = "WEBSOCKET"

# no_fast_producer_stall: without it one client that stops reading slows all others down.
# max_pending, write_deadline, ping_interval: a client that is gone is noticed, and dropped, soon.
# sync_interval always: what was acknowledged to a holder of the lease survives a power cut.
_TEMPLATE: Final = """\
server_name: {name}
listen: {listen}
max_connections: 1024
max_payload: {max_payload}
max_control_line: 1024
max_subscriptions: 64
max_sub_tokens: 8
max_pending: 4194304
write_deadline: "3s"
no_fast_producer_stall: true
ping_interval: "15s"
ping_max: 2
lame_duck_duration: "30s"
lame_duck_grace_period: "2s"
jetstream {{
  store_dir: {store_dir}
  max_file_store: 1GB
  max_memory_store: 64MB
  sync_interval: always
}}
"""

# Somebody whose entry says nothing of subjects may do nothing, rather than everything.
_NOTHING: Final = '{ publish: { deny: ">" }, subscribe: { deny: ">" } }'


@dataclass(frozen=True, slots=True)
class BrokerUser:
    """Somebody who may connect: the owner of the secret of ``public_key``.

    label             for people who read the file; empty: none
    connection_types  ways to connect, of DIRECT and OVER_WEBSOCKET; empty: any
    """

    public_key: str
    permissions: Permissions
    label: str = ""
    connection_types: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BrokerTls:
    """The broker's certificate, in PEM files: paths as the broker sees them."""

    cert_file: Path
    key_file: Path


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """Everything that a broker's configuration says, users aside. Paths as the broker sees them.

    listen, monitor, websocket   "host:port"; port -1: any free one. None: not served
    tls   for clients, over TCP and WebSocket alike; WebSocket is served with TLS only
    """

    name: str
    listen: str
    store_dir: Path
    tls: BrokerTls | None = None
    monitor: str | None = None
    websocket: str | None = None
    max_payload_bytes: int = MAX_PAYLOAD_BYTES


def broker_config(settings: BrokerSettings) -> str:
    """The text of the file, without users: on its own it lets anybody do everything."""
    text = _TEMPLATE.format(
        name=_quoted(settings.name),
        listen=_quoted(settings.listen),
        max_payload=settings.max_payload_bytes,
        store_dir=_quoted(str(settings.store_dir)),
    )
    if settings.monitor is not None:
        text += f"http: {_quoted(settings.monitor)}\n"
    if settings.tls is not None:
        text += f"tls {_tls(settings.tls, 'timeout: 5, connection_rate_limit: 100')}\n"
    if settings.websocket is not None:
        assert settings.tls is not None, "WebSocket is served with TLS only"
        text += f"websocket {{\n  listen: {_quoted(settings.websocket)}\n"
        text += f'  handshake_timeout: "5s"\n  tls {_tls(settings.tls)}\n}}\n'
    return text


def users_config(users: tuple[BrokerUser, ...]) -> str:
    """Who may connect, and what each may say; nobody else may connect at all.

    Without any user the broker would let everybody in: never write that.
    """
    assert users, "a broker without users is open to everybody"
    entries = "".join(_entry(user) for user in users)
    return (
        "authorization {\n  timeout: 5\n"
        f"  default_permissions: {_NOTHING}\n  users: [\n{entries}  ]\n}}\n"
    )


def include_users() -> str:
    """The line that takes ``users_config`` from a file beside this one."""
    return f'include "./{USERS_FILE}"\n'


def _entry(user: BrokerUser) -> str:
    comment = f"    # {user.label}\n" if user.label else ""
    return f"{comment}    {_user(user)}\n"


def _user(user: BrokerUser) -> str:
    allowed = {
        "publish": _rule(user.permissions.publish),
        "subscribe": _rule(user.permissions.subscribe),
    }
    said: dict[str, object] = {"nkey": user.public_key, "permissions": allowed}
    if user.connection_types:
        said["allowed_connection_types"] = list(user.connection_types)
    return json.dumps(said)


def _rule(patterns: tuple[str, ...]) -> dict[str, list[str]]:
    return {"allow": list(patterns)} if patterns else {"deny": [">"]}


def _tls(tls: BrokerTls, more: str = "") -> str:
    files = f"cert_file: {_quoted(str(tls.cert_file))}, key_file: {_quoted(str(tls.key_file))}"
    return f'{{ {files}, min_version: "1.2"{", " + more if more else ""} }}'


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # the broker reads UTF-8 and no escapes of it
