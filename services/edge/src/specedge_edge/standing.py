"""Whether the drafter can be trusted with the next round. One per service, on its loop.

A drafter that fails rests, longer each time, and every session is hosted by the verifier meanwhile:
a failing drafter costs speed, never a stream.
"""

from typing import Final

import structlog

REST_S: Final = 5.0
LONGEST_REST_S: Final = 300.0

_log = structlog.get_logger("specedge.edge")


class DrafterStanding:
    """What became of the drafter's rounds.

    problem       why the drafter rests or is missing, in words; None while it serves
    num_failures  rounds that it failed in
    num_refusals  rounds that it had no room for
    """

    def __init__(self, problem: str | None = None) -> None:
        self.problem = problem
        self.num_failures = 0
        self.num_refusals = 0
        self._rest_s = REST_S
        self._rests_until_s = 0.0

    def may_draft(self, now_s: float) -> bool:
        """Whether a round may be drafted now."""
        return self.problem is None or now_s >= self._rests_until_s

    def on_failure(self, error: Exception, now_s: float) -> None:
        """A round failed, for any reason but want of room. Sessions that fail side by side count
        as one."""
        self.num_failures += 1
        self.problem = spell_out(error)
        if now_s < self._rests_until_s:
            return
        _log.error("drafting_failed", reason=self.problem, rest_s=self._rest_s)
        self._rests_until_s = now_s + self._rest_s
        self._rest_s = min(2 * self._rest_s, LONGEST_REST_S)

    def on_refusal(self) -> None:
        """There was no room for a session or its tree."""
        self.num_refusals += 1

    def on_success(self) -> None:
        """A round was drafted."""
        if self.problem is not None:
            _log.info("drafting_resumed", after=self.problem)
            self.problem = None
            self._rest_s = REST_S


def spell_out(error: Exception) -> str:
    """What happened to a drafter, in one line: libraries tell stories."""
    return f"{type(error).__name__}: {error}".splitlines()[0]
