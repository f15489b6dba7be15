"""A real nats-server on a generated credentials folder, and links and probes as its members."""

import contextlib
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from specedge.credentials import folder
from specedge.credentials.folder import CredentialsFolder, Outcome, home_of
from specedge.credentials.nkey import UserKey
from specedge.credentials.roles import Role
from specedge.credentials.roster import Member
from specedge.ids import EdgeId
from specedge.link import tether
from specedge.link.broker import find_broker_binary
from specedge.link.broker_probe import BrokerProbe
from specedge.link.nats import NatsOptions
from specedge.protocol.subjects import edge_inbox, service_inbox

PATIENCE_S = 60.0
HOST = "127.0.0.1"

_LISTENING = re.compile(r"Listening for client connections on .*:(\d+)$")
_LISTENING_WEBSOCKET = re.compile(r"Listening for websocket clients on wss://.*:(\d+)$")


class GeneratedBroker:
    """nats-server, with the configuration that ``specedge creds`` wrote. Ends with this process."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.port = 0
        self.websocket_port = 0
        config = root / "broker" / "nats-server.conf"
        tied = [sys.executable, "-I", "-S", tether.__file__, str(os.getpid())]
        self._process = subprocess.Popen(
            [*tied, find_broker_binary(), "-c", str(config)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, name="broker-log")
        self._reader.start()
        self._until("Server is ready")

    @property
    def url(self) -> str:
        return f"tls://{HOST}:{self.port}"

    @property
    def websocket_url(self) -> str:
        return f"wss://{HOST}:{self.websocket_port}"

    def reload(self) -> None:
        """Have it read its configuration again, and return when it has."""
        self.send_signal(signal.SIGHUP)
        self._until("Reloaded server configuration")

    def send_signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def member(self, name: str) -> Member:
        member = open_folder(self.root).roster().member(name)
        assert member is not None
        return member

    def key(self, name: str) -> UserKey:
        return UserKey.load(self.home(name) / folder.IDENTITY)

    def home(self, name: str) -> Path:
        return self.root / home_of(self.member(name))

    def options(self, name: str, **changes: object) -> NatsOptions:
        """To connect as ``name``, as its service would."""
        member = self.member(name)
        is_edge = member.role is Role.EDGE
        inbox = edge_inbox(EdgeId(member.public_key)) if is_edge else service_inbox(name)
        settings: dict[str, object] = {
            "servers": (self.url,),
            "name": name,
            "inbox_prefix": inbox,
            "seed": self.key(name).seed,
            "tls_ca_file": self.home(name) / folder.CA,
        }
        return NatsOptions(**(settings | changes))  # type: ignore[arg-type]

    def probe(self, name: str) -> BrokerProbe:
        return BrokerProbe(self.url, key=self.key(name), ca_file=self.home(name) / folder.CA)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if found := _LISTENING.search(line):
                self.port = int(found[1])
            if found := _LISTENING_WEBSOCKET.search(line):
                self.websocket_port = int(found[1])
            self._lines.put(line)

    def _until(self, words: str) -> None:
        said = []
        try:
            while words not in (line := self._lines.get(timeout=PATIENCE_S)):
                said.append(line)
        except queue.Empty:
            raise AssertionError(f"never said {words!r}:\n{''.join(said)}") from None


@dataclass(frozen=True, slots=True)
class Names:
    edges: tuple[str, ...] = ("alice", "bob")
    observers: tuple[str, ...] = ("onlooker",)


def open_folder(root: Path) -> CredentialsFolder:
    return CredentialsFolder(root, now=datetime.now(UTC))


def make_credentials(root: Path, names: Names = Names(), **choices: object) -> Outcome:
    """A folder for a broker of this machine, on free ports."""
    wanted = (
        *((name, Role.EDGE) for name in names.edges),
        *((name, Role.OBSERVER) for name in names.observers),
    )
    chosen = {"listen": f"{HOST}:-1", "monitor": "off", "tls_names": (HOST,)} | choices
    return open_folder(root).init(wanted, chosen)


@contextlib.contextmanager
def generated_broker(root: Path) -> Iterator[GeneratedBroker]:
    broker = GeneratedBroker(root)
    try:
        yield broker
    finally:
        broker.stop()
