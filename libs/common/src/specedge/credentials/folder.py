"""The folder that holds everything a broker and its users prove themselves with.

    roster.json            who there is, and what was chosen; no secret
    authority/             ca.pem, ca.key: stays with the operator
    broker/                nats-server.conf, users.conf, server.pem, server.key
    services/<name>/       identity.nk, ca.pem
    edges/<name>/          identity.nk, ca.pem, api-key, edge.env: carried to where the edge is

Everything but keys follows from the roster and is written anew by every command, so that doing a
thing twice changes nothing, and a command that was interrupted is mended by the next. Keys are
made once and never overwritten.
"""

import datetime
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from specedge.credentials import authority, broker_files
from specedge.credentials.authority import Certified
from specedge.credentials.nkey import UserKey
from specedge.credentials.private_files import (
    CLOSED_FOLDER,
    PUBLIC,
    SECRET,
    Change,
    Deed,
    FolderUnusable,
    Owner,
    PrivateFiles,
    locked,
)
from specedge.credentials.roles import Role
from specedge.credentials.roster import Choices, Member, Roster, check_name, chosen
from specedge.errors import InvalidRequest

ROSTER: Final = "roster.json"
AUTHORITY_CERT: Final = "authority/ca.pem"
AUTHORITY_KEY: Final = "authority/ca.key"
IDENTITY: Final = "identity.nk"
CA: Final = "ca.pem"
API_KEY: Final = "api-key"
EDGE_ENV: Final = "edge.env"
FIRST_MEMBERS: Final = (("scheduler-1", Role.SCHEDULER), ("verifier-1", Role.VERIFIER))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command has done.

    changes   files created, rewritten, removed; empty: all was as it should be
    roster    as it is now
    """

    changes: tuple[Change, ...]
    roster: Roster

    @property
    def needs_restart(self) -> bool:
        """Whether a running broker takes the change only when started anew."""
        return Change(broker_files.CONFIG, Deed.REWRITTEN) in self.changes

    @property
    def needs_reload(self) -> bool:
        """Whether a running broker has to be told, by SIGHUP."""
        watched = {broker_files.USERS, broker_files.CERT, broker_files.KEY}
        return any(c.path in watched and c.deed is Deed.REWRITTEN for c in self.changes)


class CredentialsFolder:
    """The folder at ``root``. Blocking; several processes may use it, one waits for another.

    Every method raises FolderUnusable when it cannot be read or written, and InvalidRequest for
    what cannot be asked.
    """

    def __init__(self, root: Path, *, now: datetime.datetime) -> None:
        """``now`` is the time of day, with its zone: certificates begin and end by it."""
        self._root = root
        self._now = now

    def init(self, wanted: tuple[tuple[str, Role], ...], changes: dict[str, object]) -> Outcome:
        """Have a folder with these members and choices; what it holds already stays.

        ``changes``: see ``chosen``. A new folder gets one scheduler and one verifier where
        ``wanted`` names none.
        """
        with locked(self._root, make=True):
            before = self._read_roster()
            roster = before or Roster()
            roster = roster.model_copy(update={"choices": chosen(roster.choices, changes)})
            authority.check_names(roster.choices.tls_names)
            if before is None:
                roles = {role for _, role in wanted}
                wanted = (*(m for m in FIRST_MEMBERS if m[1] not in roles), *wanted)
            for name, role in wanted:
                _check_free(roster, name, role)
            files = self._files(roster.choices)
            for name, role in wanted:
                roster = self._with(files, roster, name, role)
            return self._write(files, roster)

    def add_edge(self, name: str) -> Outcome:
        """Have one more edge. Raises InvalidRequest if the name is taken."""
        with locked(self._root):
            roster = self._roster()
            if roster.member(name) is not None:
                raise InvalidRequest(f"there is a member called {name} already", field="name")
            check_name(name)
            files = self._files(roster.choices)
            return self._write(files, self._with(files, roster, name, Role.EDGE))

    def remove(self, name: str) -> Outcome:
        """Have nobody of that name, and none of its secrets. Raises InvalidRequest if there is
        none, or if nobody would be left."""
        with locked(self._root):
            roster = self._roster()
            member = roster.member(name)
            if member is None:
                known = ", ".join(m.name for m in roster.members)
                raise InvalidRequest(f"there is no {name}, only {known}", field="name")
            left = roster.without(name)
            if not left.members:
                raise InvalidRequest(
                    f"{name} is the last: a broker without users would be open to everybody",
                    field="name",
                )
            files = self._files(roster.choices)
            # Secrets first: left behind by an interruption, they would be who comes by that name.
            place = home_of(member)
            for file in (IDENTITY, CA, API_KEY, EDGE_ENV):
                files.remove(f"{place}/{file}")
            files.remove_folder_if_empty(place)
            return self._write(files, left)

    def roster(self) -> Roster:
        """Who there is. Raises FolderUnusable where no folder was made."""
        return self._roster()

    def has_secret(self, member: Member) -> bool:
        """Whether the member's seed is still here; an edge's may have been carried away."""
        return (self._root / home_of(member) / IDENTITY).exists()

    def _files(self, choices: Choices) -> PrivateFiles:
        owner = None if choices.owner is None else Owner.parse(choices.owner)
        return PrivateFiles(self._root, owner)

    def _read_roster(self) -> Roster | None:
        text = PrivateFiles(self._root, None).read(ROSTER)
        try:
            return None if text is None else Roster.read(text)
        except InvalidRequest as error:
            raise FolderUnusable(f"{self._root / ROSTER}: {error}") from error

    def _roster(self) -> Roster:
        roster = self._read_roster()
        if roster is None:
            raise FolderUnusable(f"{self._root} holds no credentials yet")
        return roster

    def _with(self, files: PrivateFiles, roster: Roster, name: str, role: Role) -> Roster:
        old = roster.member(name)
        if old is not None and role is Role.EDGE and not self.has_secret(old):
            return roster  # carried away to where the edge is
        place = _home(name, role)
        files.ensure_folder(place)
        key = self._key(files, f"{place}/{IDENTITY}")
        return roster.with_member(Member(name=name, role=role, public_key=key.public_key))

    def _key(self, files: PrivateFiles, path: str) -> UserKey:
        """The key in the file; a new one if there is no file."""
        is_new = files.read(path) is None
        key = UserKey.create() if is_new else UserKey.load(self._root / path)
        files.ensure(path, f"{key.seed}\n".encode(), SECRET)
        return key

    def _write(self, files: PrivateFiles, roster: Roster) -> Outcome:
        """All files that follow from the roster. Secrets of members have been made before."""
        files.ensure_folder("")
        certifier = self._authority(files)
        for member in roster.members:
            self._write_member(files, member, roster.choices, certifier.cert)
        broker_files.write(files, self._root, roster, certifier, self._now)
        files.ensure(ROSTER, roster.written(), PUBLIC)
        return Outcome(tuple(files.changes), roster)

    def _write_member(
        self, files: PrivateFiles, member: Member, choices: Choices, ca: bytes
    ) -> None:
        place = home_of(member)
        if not self.has_secret(member):
            return
        files.ensure_folder(place)
        files.guard(f"{place}/{IDENTITY}", SECRET)
        files.ensure(f"{place}/{CA}", ca, PUBLIC)
        if member.role is not Role.EDGE:
            return
        files.ensure(f"{place}/{EDGE_ENV}", edge_env(member, choices).encode(), PUBLIC)
        api_key = files.read(f"{place}/{API_KEY}") or f"{new_api_key()}\n".encode()
        files.ensure(f"{place}/{API_KEY}", api_key, SECRET)

    def _authority(self, files: PrivateFiles) -> Certified:
        """Made once. Its key may be kept elsewhere until a certificate has to be renewed."""
        files.ensure_folder("authority", CLOSED_FOLDER)
        cert, key = files.read(AUTHORITY_CERT), files.read(AUTHORITY_KEY)
        if cert is None:
            if files.read(ROSTER) is not None:
                raise FolderUnusable(
                    f"{self._root / AUTHORITY_CERT} is gone: put it back. It is also in every "
                    "member's folder"
                )
            made = authority.new_authority(self._now)
            cert, key = made.cert, made.key
        if key is not None:
            files.ensure(AUTHORITY_KEY, key, SECRET)
        files.ensure(AUTHORITY_CERT, cert, PUBLIC)
        return Certified(cert, key or b"")


def _check_free(roster: Roster, name: str, role: Role) -> None:
    check_name(name)
    old = roster.member(name)
    if old is not None and old.role is not role:
        raise InvalidRequest(f"{name} is there already, as {old.role}", field="name")


def home_of(member: Member) -> str:
    """A member's own folder, below the root."""
    return _home(member.name, member.role)


def _home(name: str, role: Role) -> str:
    return f"{'edges' if role is Role.EDGE else 'services'}/{name}"


def new_api_key() -> str:
    """A key for the OpenAI API of an edge: 256 random bits."""
    return f"sk-specedge-{secrets.token_urlsafe(32)}"


def edge_env(member: Member, choices: Choices) -> str:
    """The settings of an edge, as a file of variables for ``docker run --env-file``."""
    place = choices.edge_dir.rstrip("/")
    return (
        f"# Settings of the edge {member.name}, {member.public_key}.\n"
        f"# This folder is its identity: keep it to yourself, and mount it at {place}.\n"
        f"SPECEDGE_NATS_URL={choices.edge_url}\n"
        f"SPECEDGE_NATS_CA_FILE={place}/{CA}\n"
        f"SPECEDGE_IDENTITY_FILE={place}/{IDENTITY}\n"
        f"SPECEDGE_API_KEY_FILE={place}/{API_KEY}\n"
        "# An answer outlives a verifier that is away so long.\n"
        "SPECEDGE_PATIENCE_S=120\n"
    )
