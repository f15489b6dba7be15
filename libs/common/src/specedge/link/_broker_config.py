"""The configuration of the embedded broker, as text: values in, text out."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from specedge.credentials.roles import Permissions

MAX_PAYLOAD_BYTES: Final = 131_072

# no_fast_producer_stall: without it one client that stops reading slows all others down.
# max_pending, write_deadline, ping_interval: a client that is gone is noticed, and dropped, soon.
# sync_interval always: what was acknowledged to a holder of the lease survives a power cut.
_TEMPLATE: Final = """\
server_name: {name}
listen: {listen}
max_payload: {max_payload}
max_control_line: 1024
max_subscriptions: 64
max_sub_tokens: 8
max_pending: 4194304
write_deadline: "3s"
no_fast_producer_stall: true
ping_interval: "15s"
ping_max: 2
jetstream {{
  store_dir: {store_dir}
  max_file_store: 1GB
  max_memory_store: 64MB
  sync_interval: always
}}
"""


@dataclass(frozen=True, slots=True)
class BrokerUser:
    """Somebody who may connect: the owner of the secret of ``public_key``."""

    public_key: str
    permissions: Permissions


@dataclass(frozen=True, slots=True)
class BrokerTls:
    """The broker's certificate, in PEM files."""

    cert_file: Path
    key_file: Path


def broker_config(
    *,
    host: str,
    port: int,
    store_dir: Path,
    users: tuple[BrokerUser, ...] = (),
    tls: BrokerTls | None = None,
    max_payload_bytes: int = MAX_PAYLOAD_BYTES,
) -> str:
    """The text of the file. Port 0: any free one. Without users anybody may do everything."""
    text = _TEMPLATE.format(
        name=_quoted(f"specedge-{store_dir.name}"),
        listen=_quoted(f"{host}:{port or -1}"),
        max_payload=max_payload_bytes,
        store_dir=_quoted(str(store_dir)),
    )
    if tls is not None:
        text += f"tls {{ cert_file: {_quoted(str(tls.cert_file))}, "
        text += f'key_file: {_quoted(str(tls.key_file))}, timeout: 5, min_version: "1.2" }}\n'
    if users:
        entries = "".join(f"  {_user(user)}\n" for user in users)
        text += f"authorization {{ timeout: 5, users: [\n{entries}] }}\n"
    return text


def _user(user: BrokerUser) -> str:
    allowed = {
        "publish": _rule(user.permissions.publish),
        "subscribe": _rule(user.permissions.subscribe),
    }
    return json.dumps({"nkey": user.public_key, "permissions": allowed})


def _rule(patterns: tuple[str, ...]) -> dict[str, list[str]]:
    return {"allow": list(patterns)} if patterns else {"deny": [">"]}


def _quoted(text: str) -> str:
    return json.dumps(text)
