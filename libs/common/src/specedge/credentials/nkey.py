"""User NKeys: an Ed25519 key pair in the broker's own spelling. An edge is its public key.

    seed        "SU…", 58 characters; the secret, kept in a file that only its owner reads
    public key  "U…", 56 characters; the edge's id, and part of its every subject

Both are base32 without padding over prefix, 32 key bytes, and a CRC-16 (XMODEM, little-endian).
Knows nothing of connections.
"""

import base64
import binascii
import os
from pathlib import Path
from typing import Final, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from specedge.errors import InvalidRequest

_SEED_PREFIX: Final = 18 << 3  # "S"
_USER_PREFIX: Final = 20 << 3  # "U"
_KEY_LEN: Final = 32


class UserKey:
    """A user's key pair. Printing it shows the public half only."""

    def __init__(self, raw_seed: bytes) -> None:
        """``raw_seed`` is 32 secret bytes; see ``create``, ``from_seed`` and ``load``."""
        self._raw_seed = raw_seed
        self._private = Ed25519PrivateKey.from_private_bytes(raw_seed)
        public = self._private.public_key().public_bytes_raw()
        self.public_key: Final = _spell(bytes([_USER_PREFIX]) + public)

    @classmethod
    def create(cls) -> Self:
        """A new key from the system's randomness."""
        return cls(os.urandom(_KEY_LEN))

    @classmethod
    def from_seed(cls, seed: str) -> Self:
        """Read a spelled seed. Raises InvalidRequest, which never repeats the seed."""
        body = _read(seed.strip(), what="seed", size=2 + _KEY_LEN)
        kind = (body[0] & 7) << 5 | body[1] >> 3
        if body[0] & 0xF8 != _SEED_PREFIX or kind != _USER_PREFIX:
            raise InvalidRequest("not a user's seed: it starts with SU", field="seed")
        return cls(body[2:])

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file that ``save`` wrote. Raises InvalidRequest naming the file."""
        try:
            return cls.from_seed(path.read_text(encoding="ascii"))
        except (OSError, UnicodeDecodeError, InvalidRequest) as error:
            raise InvalidRequest(f"no usable key in {path}: {error}", field="seed") from error

    @classmethod
    def load_or_create(cls, path: Path) -> Self:
        """The key in ``path``; a new one, saved there, if the file does not exist. Two processes
        that start at once end up with the same key. Raises InvalidRequest as ``load`` does, and
        where none can be kept."""
        key = cls.create()
        try:
            if path.exists():
                return cls.load(path)
            key.save(path)
        except FileExistsError:
            # Another process was quicker; or a link that leads nowhere, which has no key to load.
            return cls.load(path)
        except OSError as error:
            told = f"no key can be kept in {path}: {error.strerror}"
            raise InvalidRequest(told, field="identity_file") from error
        return key

    def save(self, path: Path) -> None:
        """Write the seed, readable by its owner alone. Raises FileExistsError rather than
        overwrite: a lost seed is a lost identity."""
        path.parent.mkdir(parents=True, exist_ok=True)
        # Complete before it has its name, so that no reader sees half a seed.
        unnamed = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
        descriptor = os.open(unnamed, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(self.seed + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.link(unnamed, path)
        finally:
            unnamed.unlink()

    @property
    def seed(self) -> str:
        """The secret, spelled."""
        first = _SEED_PREFIX | _USER_PREFIX >> 5
        second = (_USER_PREFIX & 0x1F) << 3
        return _spell(bytes([first, second]) + self._raw_seed)

    def sign(self, message: bytes) -> bytes:
        """64 bytes."""
        return self._private.sign(message)

    def answer_challenge(self, nonce: str) -> bytes:
        """The broker's nonce, signed, in base64: what a connection proves itself with."""
        return base64.b64encode(self.sign(nonce.encode()))

    def __repr__(self) -> str:
        return f"UserKey({self.public_key})"


def is_public_key(text: str) -> bool:
    """Whether ``text`` is a well-spelled public key of a user, checksum included."""
    try:
        _public_bytes(text)
    except InvalidRequest:
        return False
    return True


def verify(public_key: str, message: bytes, signature: bytes) -> bool:
    """Whether the owner of ``public_key`` signed ``message``. Raises InvalidRequest for what is
    no public key of a user."""
    try:
        Ed25519PublicKey.from_public_bytes(_public_bytes(public_key)).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def _public_bytes(public_key: str) -> bytes:
    body = _read(public_key, what="public key", size=1 + _KEY_LEN)
    if body[0] != _USER_PREFIX:
        raise InvalidRequest("not a user's public key: it starts with U", field="public key")
    return body[1:]


def _spell(body: bytes) -> str:
    return base64.b32encode(body + _checksum(body)).rstrip(b"=").decode()


def _read(spelled: str, *, what: str, size: int) -> bytes:
    try:
        raw = base64.b32decode(spelled + "=" * (-len(spelled) % 8))
    except (binascii.Error, ValueError):
        raise InvalidRequest(f"the {what} is not base32", field=what) from None
    body, checksum = raw[:-2], raw[-2:]
    if len(body) != size or checksum != _checksum(body):
        raise InvalidRequest(f"the {what} has a wrong length or checksum", field=what)
    return body


def _checksum(body: bytes) -> bytes:
    return binascii.crc_hqx(body, 0).to_bytes(2, "little")
