"""Asks a broker what an identity may say and hear, in the protocol's own words.

The link cannot ask: it is made for clients that mean well, which try nothing of the kind. The
broker answers in order, so that whatever it refuses is known by the PONG that follows.
"""

import asyncio
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

import orjson

from specedge.credentials.attempts import Attempt, Verb
from specedge.credentials.nkey import UserKey
from specedge.errors import AuthenticationFailed, InvalidRequest, LinkDown
from specedge.link._nats_options import shown

ANSWER_TIMEOUT_S: Final = 10.0
DEFAULT_PORT: Final = 4222
SCHEMES: Final = ("tls", "nats")
LINE_LIMIT_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of an attempt."""

    attempt: Attempt
    got_through: bool

    @property
    def is_as_meant(self) -> bool:
        """Whether the broker did what the table of roles says."""
        return self.got_through == self.attempt.is_allowed


class BrokerProbe:
    """One connection as somebody, or as nobody. Alive inside the ``async with``."""

    def __init__(self, url: str, *, key: UserKey | None, ca_file: Path | None) -> None:
        """``url`` is tls://host:port or nats://host:port; with ``ca_file`` TLS is insisted on.
        Raises InvalidRequest for another kind of URL."""
        parts = urlsplit(url)
        if parts.scheme not in SCHEMES:
            message = f"the broker is asked over TCP: tls://host:port, not {shown(url)}"
            raise InvalidRequest(message, field="url")
        self._host, self._port = parts.hostname or "", parts.port or DEFAULT_PORT
        self._tls = None if ca_file is None else ssl.create_default_context(cafile=ca_file)
        if self._tls is None and parts.scheme == "tls":
            self._tls = ssl.create_default_context()
        self._key = key
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter | None = None
        self._subscriptions = 0

    async def __aenter__(self) -> Self:
        """Raises LinkDown, or AuthenticationFailed when the broker wants nothing of this key."""
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await self._connect()
        except TimeoutError:
            self._end()
            raise self._silent() from None
        except BaseException:
            self._end()
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    async def findings(self, attempts: Iterable[Attempt]) -> list[Finding]:
        """Make every attempt. Raises LinkDown if the broker ends the connection over one."""
        return [Finding(attempt, await self.gets_through(attempt)) for attempt in attempts]

    async def gets_through(self, attempt: Attempt) -> bool:
        """Whether the broker lets it happen. What was subscribed is unsubscribed again."""
        if attempt.verb is Verb.PUBLISH:
            return not await self._say(f"PUB {attempt.subject} 0\r\n")
        self._subscriptions += 1
        number = self._subscriptions
        group = "" if attempt.queue is None else f"{attempt.queue} "
        refusals = await self._say(f"SUB {attempt.subject} {group}{number}")
        await self._say(f"UNSUB {number}")
        return not refusals

    async def _connect(self) -> None:
        try:
            self._reader, self._writer = await asyncio.open_connection(
                self._host, self._port, limit=LINE_LIMIT_BYTES
            )
            greeting = await self._line()
            if self._tls is not None:
                await self._writer.start_tls(self._tls, server_hostname=self._host)
        except OSError as error:
            raise LinkDown(f"{self._host}:{self._port}: {error}") from error
        said = orjson.dumps(self._introduction(orjson.loads(greeting.removeprefix(b"INFO "))))
        refusals = await self._say(f"CONNECT {said.decode()}")
        if refusals:
            raise AuthenticationFailed(f"{self._host}:{self._port}: {refusals[0]}")

    def _introduction(self, greeting: dict[str, Any]) -> dict[str, Any]:
        said: dict[str, Any] = {
            "verbose": False,
            "pedantic": False,
            "tls_required": self._tls is not None,
            "lang": "specedge-probe",
            "version": "1",
            "protocol": 1,
        }
        if self._key is not None:
            signature = self._key.answer_challenge(greeting.get("nonce", ""))
            said |= {"nkey": self._key.public_key, "sig": signature.decode()}
        return said

    async def _say(self, line: str) -> list[str]:
        """What the broker refused of it."""
        assert self._writer is not None
        self._writer.write(f"{line}\r\nPING\r\n".encode())
        refusals: list[str] = []
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                while (answer := await self._answer(refusals)) != b"PONG":
                    if answer.startswith(b"-ERR"):
                        refusals.append(answer[4:].decode().strip(" '"))
        except TimeoutError:
            raise self._silent() from None
        return refusals

    async def _answer(self, refusals: list[str]) -> bytes:
        """The broker's next line; messages and its own pings are passed over."""
        while True:
            try:
                line = await self._line()
            except LinkDown as error:
                if refusals:  # it says why, and hangs up
                    raise AuthenticationFailed(f"{self._host}: {refusals[-1]}") from error
                raise
            verb, _, rest = line.partition(b" ")
            if verb in (b"MSG", b"HMSG"):
                await self._reader.readexactly(int(rest.split()[-1]) + 2)
            elif verb == b"PING":
                assert self._writer is not None
                self._writer.write(b"PONG\r\n")
            elif verb != b"INFO":
                return line

    async def _line(self) -> bytes:
        try:
            line = await self._reader.readuntil(b"\r\n")
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise LinkDown(f"{self._host}:{self._port} hung up") from error
        return line[:-2]

    def _silent(self) -> LinkDown:
        return LinkDown(f"{self._host}:{self._port} did not answer within {ANSWER_TIMEOUT_S:g} s")

    def _end(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()


async def turns_strangers_away(url: str, *, ca_file: Path | None) -> bool:
    """Whether somebody without credentials is refused, and somebody with a key of his own."""
    for key in (None, UserKey.create()):
        try:
            async with BrokerProbe(url, key=key, ca_file=ca_file):
                return False
        except AuthenticationFailed:
            continue
    return True
