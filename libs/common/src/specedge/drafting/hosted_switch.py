"""Whether a session drafts or leaves generating to its verifier, by what each took. Pure.

The better way is chosen, by a margin; a change holds for some verdicts. The other way is tried now
and then, paid for from the allowance of all experiments.
"""

import math
from dataclasses import dataclass
from typing import Final

from specedge.drafting.pace import DevicePace, doubt

# The other way of working must be better by so much. Near a tie it does not matter which one runs,
# and changing costs part of a round trip.
HYSTERESIS: Final = 1.02

_SETTLE: Final = 12  # verdicts after a change to hosted
_SETTLE_ROUNDS: Final = 8  # drafted, after a change back
_TOKENS_OF_A_ROUND: Final = 2.0  # roughly
_BEFORE_TRIALS: Final = 2  # rounds of drafting
_TRIAL_TOKENS: Final = 12  # hosted
_TRIAL_ROUNDS: Final = 3  # drafted
# Drafted by all sessions of a drafter, after which a third is left of what was seen of hosted ones.
_STALE_TOKENS: Final = 2048.0
_TRY_EVERY_TOKENS: Final = 96  # of all sessions of a drafter
_GRANT_ROUND_TRIPS: Final = 4.0


@dataclass(slots=True)
class _Trial:
    """Of drafting: what was paid for it, what its rounds took, and what tokens came meanwhile."""

    paid_ms: float
    took_ms: float = 0.0
    num_tokens: int = 0

    def unpaid_ms(self, hosted_ms: float) -> float:
        """What it lost, beside generating as many tokens hosted, and was not paid for."""
        return max(0.0, self.took_ms - self.num_tokens * hosted_ms - self.paid_ms)


class HostedSwitch:
    """One session's. ``grant_tokens`` is what a grant holds at least, where it may."""

    def __init__(self, pace: DevicePace, grant_tokens: int) -> None:
        self._pace = pace
        self._grant_tokens = grant_tokens
        self._num_settling = 0  # verdicts until the way of working may change again
        self._trial: _Trial | None = None
        self.is_hosted = False

    def note_verdict(
        self, num_tokens: int, *, was_hosted: bool, took_ms: float | None = None
    ) -> None:
        """A round ended, or a grant said so many tokens more. ``took_ms``: of a drafted round, from
        the verdict before it. What was under way when the way of working changed says nothing of
        the new one: on a quick verifier, a grant has said more tokens than a trial has rounds
        before the first draft is there. They came while that draft was on its way, though."""
        self._num_settling -= was_hosted == self.is_hosted
        if self._trial is not None:
            self._trial.num_tokens += num_tokens
            self._trial.took_ms += took_ms or 0.0
        self._pace.experiments_after_tokens -= num_tokens
        if not self.is_hosted:
            self._pace.hosted_ratio.weight *= math.exp(-num_tokens / _STALE_TOKENS)

    def choose_run(self, rate: float, max_grant: int) -> int:
        """Tokens to grant, at most ``max_grant``; 0: draft, which yields ``rate`` tokens per
        millisecond. May change ``is_hosted``."""
        if max_grant == 0:
            self.is_hosted = False
            return 0
        if self._num_settling > 0:
            return self._grant(max_grant) if self.is_hosted else 0
        drafted_ms, hosted_ms = 1.0 / rate, self._pace.hosted_ms()
        self._end_trial(hosted_ms)
        if self.is_hosted:
            return self._stay_hosted(drafted_ms, hosted_ms, max_grant)
        return self._stay_drafted(drafted_ms, hosted_ms, max_grant)

    def _stay_drafted(self, drafted_ms: float, hosted_ms: float, max_grant: int) -> int:
        """Unless it is the other's turn: tokens to grant, or 0. Drafting is given the benefit of
        the doubt while few rounds were measured: the way back from a mistake is slow."""
        hopeful_ms = drafted_ms * (1.0 - doubt(self._pace.num_rounds))
        if hosted_ms * HYSTERESIS < hopeful_ms:
            self._change(_SETTLE)
            return self._grant(max_grant)
        loss_ms = _TRIAL_TOKENS * (hosted_ms - drafted_ms) + self._pace.network_ms.mean
        # The more hosted tokens were seen, and the later, the less can they surprise.
        num_seen = self._pace.hosted_ratio.weight
        is_promising = hosted_ms * (1.0 - doubt(num_seen)) < drafted_ms
        if num_seen == 0.0:
            loss_ms, is_promising = 0.0, True  # nobody knows: once in the life of an edge
        if self._pace.num_rounds >= _BEFORE_TRIALS and is_promising and self._may_try(loss_ms):
            self._change(_TRIAL_TOKENS // 2)
            return min(max_grant, _TRIAL_TOKENS)
        return 0

    def _stay_hosted(self, drafted_ms: float, hosted_ms: float, max_grant: int) -> int:
        """Unless it is the other's turn: tokens to grant, or 0."""
        if drafted_ms * HYSTERESIS < hosted_ms:
            self._change(_SETTLE_ROUNDS)
            return 0
        loss_ms = _TRIAL_ROUNDS * _TOKENS_OF_A_ROUND * (drafted_ms - hosted_ms)
        loss_ms = max(0.0, loss_ms + self._pace.network_ms.mean)
        if self._may_try(loss_ms):
            self._trial = _Trial(loss_ms)
            self._change(_TRIAL_ROUNDS)
            return 0
        return self._grant(max_grant)

    def _end_trial(self, hosted_ms: float) -> None:
        """What it lost is known now. If it is more than was feared, the rest is paid as well, or
        trials would cost more than they may."""
        if self._trial is not None:
            self._pace.allowance.charge(self._trial.unpaid_ms(hosted_ms))
            self._trial = None

    def _may_try(self, loss_ms: float) -> bool:
        """Whether the other way of working may be tried, which is expected to lose so much. What
        nobody lives is never known better: however much is feared, some day it is tried."""
        pace = self._pace
        loss_ms = min(loss_ms, pace.allowance.most_ms)
        if pace.experiments_after_tokens > 0 or not pace.allowance.try_spend(loss_ms):
            return False
        pace.experiments_after_tokens = _TRY_EVERY_TOKENS
        return True

    def _change(self, num_settling: int) -> None:
        self.is_hosted = not self.is_hosted
        self._num_settling = num_settling
        self._pace.allowance.await_nothing()

    def _grant(self, max_grant: int) -> int:
        """So much that its renewal, at half, arrives before it is used up."""
        per_token_ms = max(self._pace.hosted_ms(), 1e-3)
        needed = math.ceil(_GRANT_ROUND_TRIPS * self._pace.network_ms.mean / per_token_ms)
        return min(max_grant, max(self._grant_tokens, needed))
