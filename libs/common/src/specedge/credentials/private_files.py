"""Files written whole or not at all, with the mode and owner that they are meant to have.

A file that already holds what it should is left alone; what was changed is remembered, so that a
command can say what it did. Folders may be mount points: they are emptied, never replaced.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, Self

from specedge.errors import SpecEdgeError

PUBLIC: Final = 0o644
SECRET: Final = 0o600
OPEN_FOLDER: Final = 0o755
CLOSED_FOLDER: Final = 0o700


class FolderUnusable(SpecEdgeError):
    """The folder cannot be read or written as asked; the message says why. Tell the operator."""


class Deed(StrEnum):
    """What happened to a file."""

    CREATED = "created"
    REWRITTEN = "rewritten"
    GUARDED = "mode or owner put right"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class Change:
    """One file, by its path below the folder."""

    path: str
    deed: Deed


@dataclass(frozen=True, slots=True)
class Owner:
    """Who shall own the files."""

    uid: int
    gid: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """From "uid" or "uid:gid"; the group is the user's number unless given."""
        uid, _, gid = text.partition(":")
        return cls(int(uid), int(gid or uid))


class PrivateFiles:
    """Writes below ``root``. Used by one command at a time: see ``locked``."""

    def __init__(self, root: Path, owner: Owner | None) -> None:
        """``owner`` None: root gives files to whoever owns the folder; others keep them."""
        self._root = root
        self._owner = owner if owner is not None else _owner_of(root)
        self.changes: list[Change] = []

    def ensure_folder(self, path: str, mode: int = OPEN_FOLDER) -> None:
        """Make it, and those above it. One that exists keeps its mode: it may be a mount."""
        folder = self._root / path
        with self._explained(path):
            if not folder.is_dir():
                if folder != self._root:
                    self.ensure_folder(str(Path(path).parent))
                folder.mkdir(mode=mode, parents=True, exist_ok=True)
                folder.chmod(mode)  # whatever the umask
            if os.geteuid() == 0:
                self._own(folder)

    def ensure(self, path: str, content: bytes, mode: int) -> None:
        """Have exactly this file. Never a moment without it, or with half of it."""
        target = self._root / path
        with self._explained(path):
            before = target.read_bytes() if target.exists() else None
            if before == content:
                self.guard(path, mode)
                return
            _replace(target, content, mode, self._owner)
        self._note(path, Deed.CREATED if before is None else Deed.REWRITTEN)

    def guard(self, path: str, mode: int) -> None:
        """Have a file that exists in the right hands."""
        target = self._root / path
        with self._explained(path):
            is_right = target.stat().st_mode & 0o777 == mode
            if not is_right:
                target.chmod(mode)
            if self._own(target) or not is_right:
                self._note(path, Deed.GUARDED)

    def read(self, path: str) -> bytes | None:
        """A file's content; None if there is no such file."""
        with self._explained(path):
            try:
                return (self._root / path).read_bytes()
            except FileNotFoundError:
                return None

    def remove(self, path: str) -> None:
        """Have no such file."""
        with self._explained(path):
            try:
                (self._root / path).unlink()
            except FileNotFoundError:
                return
        self._note(path, Deed.REMOVED)

    def remove_folder_if_empty(self, path: str) -> None:
        """One that holds something else, or is a mount, stays."""
        with contextlib.suppress(OSError):
            (self._root / path).rmdir()

    def _own(self, target: Path) -> bool:
        status = target.stat()
        owner = self._owner
        if owner is None or (status.st_uid, status.st_gid) == (owner.uid, owner.gid):
            return False
        os.chown(target, owner.uid, owner.gid)
        return True

    def _note(self, path: str, deed: Deed) -> None:
        self.changes.append(Change(path, deed))

    @contextlib.contextmanager
    def _explained(self, path: str) -> Iterator[None]:
        try:
            yield
        except PermissionError as error:
            raise FolderUnusable(
                f"{self._root / path}: {error.strerror}. Only root gives files to somebody else, "
                "and only their owner reads and writes them"
            ) from error
        except OSError as error:
            raise FolderUnusable(f"{self._root / path}: {error.strerror}") from error


@contextlib.contextmanager
def locked(root: Path, *, make: bool = False) -> Iterator[None]:
    """Hold the folder for this command alone; others wait. ``make``: also if there is none yet.
    Raises FolderUnusable."""
    try:
        if make and not root.is_dir():
            root.mkdir(parents=True, exist_ok=True)
            root.chmod(OPEN_FOLDER)  # whatever the umask; secrets have modes of their own
        # The folder itself is held: no file is needed, and reading it is enough.
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise FolderUnusable(f"{root}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _owner_of(root: Path) -> Owner | None:
    if os.geteuid() != 0 or not root.exists():
        return None
    status = root.stat()
    return Owner(status.st_uid, status.st_gid)


def _replace(target: Path, content: bytes, mode: int, owner: Owner | None) -> None:
    unnamed = target.with_name(f".{target.name}.{os.getpid()}.{os.urandom(4).hex()}")
    descriptor = os.open(unnamed, os.O_WRONLY | os.O_CREAT | os.O_EXCL, SECRET)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            if owner is not None and (os.geteuid(), os.getegid()) != (owner.uid, owner.gid):
                os.fchown(descriptor, owner.uid, owner.gid)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        unnamed.replace(target)
    except BaseException:
        unnamed.unlink(missing_ok=True)
        raise
