"""What the broker reads: its configuration, its users, its certificate. Follows from the roster."""

import datetime
from pathlib import Path
from typing import Final

from specedge.credentials import authority
from specedge.credentials.authority import Certified
from specedge.credentials.broker_config import (
    DIRECT,
    OVER_WEBSOCKET,
    USERS_FILE,
    BrokerSettings,
    BrokerTls,
    BrokerUser,
    broker_config,
    include_users,
    users_config,
)
from specedge.credentials.private_files import PUBLIC, SECRET, PrivateFiles
from specedge.credentials.roles import Role, permissions_of
from specedge.credentials.roster import OFF, Choices, Member, Roster

FOLDER: Final = "broker"
CONFIG: Final = f"{FOLDER}/nats-server.conf"
USERS: Final = f"{FOLDER}/{USERS_FILE}"
CERT: Final = f"{FOLDER}/server.pem"
KEY: Final = f"{FOLDER}/server.key"
SERVER_NAME: Final = "specedge"

_GENERATED: Final = "# Written by `specedge creds`, which will write it again: change it there.\n"


def write(
    files: PrivateFiles, root: Path, roster: Roster, certifier: Certified, now: datetime.datetime
) -> None:
    """Have them all, as the roster says."""
    files.ensure_folder(FOLDER)
    names = roster.choices.tls_names
    certificate = Certified(files.read(CERT) or b"", files.read(KEY) or b"")
    if authority.why_renew(certificate, certifier.cert, names, now) is not None:
        certificate = authority.new_broker_certificate(certifier, names, now)
    files.ensure(KEY, certificate.key, SECRET)
    files.ensure(CERT, certificate.cert, PUBLIC)
    users = users_config(tuple(_user(member) for member in roster.members))
    files.ensure(USERS, (_GENERATED + users).encode(), PUBLIC)
    config = broker_config(settings_of(roster.choices, root)) + include_users()
    files.ensure(CONFIG, (_GENERATED + config).encode(), PUBLIC)


def settings_of(choices: Choices, root: Path) -> BrokerSettings:
    """What the broker of the folder at ``root`` is told."""
    folder = Path(choices.broker_dir or (root / FOLDER).resolve())
    return BrokerSettings(
        name=SERVER_NAME,
        listen=choices.listen,
        store_dir=Path(choices.store_dir or folder / "store"),
        tls=BrokerTls(folder / Path(CERT).name, folder / Path(KEY).name),
        monitor=_served(choices.monitor),
        websocket=_served(choices.websocket),
    )


def _user(member: Member) -> BrokerUser:
    return BrokerUser(
        public_key=member.public_key,
        permissions=permissions_of(member.role, name=member.name, public_key=member.public_key),
        label=f"{member.name}, {member.role}",
        connection_types=((DIRECT, OVER_WEBSOCKET) if member.role is Role.EDGE else (DIRECT,)),
    )


def _served(address: str) -> str | None:
    return None if address == OFF else address
