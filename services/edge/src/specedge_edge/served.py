"""Which model the cloud serves, and whether a session could be opened now.

Owns the edge's knowledge of the other side: the verifier's identity and limits as the last
successful opening told them, and why the last one failed. Knows nothing of HTTP.
"""

import asyncio
import secrets
from dataclasses import dataclass
from typing import Final

import structlog

from specedge.errors import (
    FingerprintMismatch,
    InvalidRequest,
    LinkTimeout,
    NoResponders,
    RetryableError,
    SpecEdgeError,
)
from specedge.ids import EdgeId, SessionId, SessionKey
from specedge.link.base import Link
from specedge.protocol.codec import decode_open_reply, encode
from specedge.protocol.opening import Identity, Limits, Opened, OpenRequest, Refused
from specedge.protocol.refusals import error_of
from specedge.protocol.subjects import up_open

OPEN_TIMEOUT_S: Final = 1.0
RETRY_S: Final = 0.5
RECHECK_S: Final = 5.0

_log = structlog.get_logger("specedge.edge")


@dataclass(frozen=True, slots=True)
class Served:
    """What a session may count on."""

    identity: Identity
    limits: Limits
    verifier: str

    @property
    def max_context_tokens(self) -> int:
        """Prompt and generated tokens together."""
        return min(self.limits.context, self.identity.max_context)


class ServedModel:
    """Finds out by trial openings, which take no place. Lives on the event loop.

    problem       why the last trial failed; None after one that succeeded
    round_trip_s  usual time from a draft to its verdict, as the last session measured it
    """

    def __init__(
        self, link: Link, edge: EdgeId, *, model: str, tokenizer: str, drafter: str
    ) -> None:
        self._link = link
        self._edge = edge
        self._request = OpenRequest(
            model=model, tokenizer=tokenizer, context=1, drafter=drafter, trial=True
        )
        self._served: Served | None = None
        self.round_trip_s: float | None = None
        self.problem: SpecEdgeError | None = RetryableError("no verifier was asked yet")

    @property
    def name(self) -> str:
        """The model wanted, which is also the name it is served under."""
        return self._request.model

    @property
    def last_known(self) -> Served | None:
        """From the last successful opening, however long ago."""
        return self._served

    async def get(self) -> Served:
        """What is served; asks the cloud if it was never reached. Raises what ``ask`` raises."""
        return self._served if self._served is not None else await self.ask()

    async def ask(self) -> Served:
        """One trial opening. Raises RetryableError or FingerprintMismatch."""
        key = SessionKey(self._edge, new_session_id())
        try:
            answer = await self._link.request(
                up_open(key), encode(self._request), timeout_s=OPEN_TIMEOUT_S
            )
            opened = decode_open_reply(answer)
            if isinstance(opened, Refused):
                raise error_of(opened, self._request.tokenizer)
        except (NoResponders, LinkTimeout) as error:
            # In these words alone, always the same: the link's name the trial, each another.
            self.problem = RetryableError("no scheduler answers")
            raise self.problem from error
        except (RetryableError, FingerprintMismatch) as error:
            self.problem = error
            raise
        except InvalidRequest as error:
            # Of the edge's own asking (a model that nobody serves, say), not of the client's.
            self.problem = RetryableError(f"the cloud refuses this edge: {error}")
            raise self.problem from error
        return self.learn(opened)

    def learn(self, opened: Opened) -> Served:
        """Take over what an opening said, a trial's or a real session's."""
        self.problem = None
        self._served = Served(opened.identity, opened.limits, opened.at)
        return self._served

    async def watch(self) -> None:
        """Ask again and again, sooner while it fails. Runs until cancelled."""
        told: str | None = None
        while True:
            try:
                await self.ask()
            except SpecEdgeError as error:
                reason = spell_out(error)
                if told != reason:
                    _log.warning("trial_open_failed", reason=reason)
                told = reason
                await asyncio.sleep(_pause_s(error))
            else:
                if told is not None or self._served is None:
                    _log.info("trial_open_succeeded", model=self.name)
                told = None
                await asyncio.sleep(RECHECK_S)


def _pause_s(error: SpecEdgeError) -> float:
    """Before the next trial: as long as the cloud asked for, within reason."""
    asked_ms = error.retry_ms if isinstance(error, RetryableError) else None
    return RETRY_S if asked_ms is None else min(max(RETRY_S, asked_ms / 1000), RECHECK_S)


def spell_out(error: SpecEdgeError) -> str:
    """An error in one line; a mismatch with both fingerprints, whoever worded it."""
    if isinstance(error, FingerprintMismatch):
        return f"{error} (edge: {error.ours}, verifier: {error.theirs})"
    return str(error)


def new_session_id() -> SessionId:
    """128 random bits."""
    return SessionId(secrets.token_hex(16))
