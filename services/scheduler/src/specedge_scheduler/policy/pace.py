"""How fast sessions go at a verifier, with those it has or with more: for placing, admitting and
moving them. Pure; a model, not a measurement: what it does not know it calls 0.
"""

from typing import Final

from specedge_scheduler.policy.batching import BatchRoom
from specedge_scheduler.views import Verifier

FIRST_SESSIONS: Final = 8  # at a verifier of which nothing is known, where an objective is to hold
ADMITTED_SHARE: Final = 0.75  # of the objective that may be used up: texts differ
OVERLOADED: Final = 1.25  # times as slow as elsewhere


def places_in(verifier: Verifier, room: BatchRoom) -> int:
    """How many rounds of the usual size a step takes."""
    return room.places(verifier.usual.rows)


def cycle_ms(verifier: Verifier, room: BatchRoom, num_sessions: int) -> float:
    """From one verdict of a session to the next, with so many sessions there: the time that it
    needs by itself, or its share of full steps, whichever is longer. 0: not known."""
    usual, estimator = verifier.usual, verifier.estimator
    if not estimator.num_steps or usual.num_drafts == 0:
        return 0.0
    places = places_in(verifier, room)
    num_together = min(num_sessions, places)
    step_ms = estimator.predict_ms(
        round(num_together * usual.rows), round(num_together * usual.context)
    )
    return max(usual.turnaround_s * 1000 + step_ms, num_sessions / places * step_ms)


def token_ms(verifier: Verifier, room: BatchRoom, num_sessions: int) -> float:
    """Time per token of each of so many sessions. 0: not known."""
    return cycle_ms(verifier, room, num_sessions) / max(1.0, verifier.usual.tokens)


def keeps_objective(verifier: Verifier, room: BatchRoom, objective_ms: float) -> bool:
    """Whether one more session lets all that are there keep the objective (0: there is none)."""
    if objective_ms <= 0:
        return True
    num = len(verifier.sessions) + 1
    expected_ms = token_ms(verifier, room, num)
    if expected_ms == 0.0:
        return num <= FIRST_SESSIONS
    return expected_ms <= ADMITTED_SHARE * objective_ms


def prefill_ms(verifier: Verifier) -> float:
    """What it takes to compute a usual session's context anew."""
    estimator = verifier.estimator
    return estimator.predict_ms(0, 0, round(verifier.usual.context)) - estimator.predict_ms(0)
