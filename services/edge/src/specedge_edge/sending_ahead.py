"""Drafting on while a round is out, and sending what came of it before the verdict.

A ``DraftingOn`` is one round's; its ``step`` is the compute thread's.
"""

from collections.abc import Callable
from dataclasses import dataclass

from specedge.tree.ahead import AheadPolicy, OfferPolicy
from specedge.tree.token_tree import TokenTree
from specedge_edge.session_drafter import SessionDrafter


@dataclass(frozen=True, slots=True)
class Offer:
    """What is sent before the verdict, and when.

    leave_by_s  the latest moment that is of use, as far as is known; None: unknown
    send        called once at most, on the compute thread, with what is worth sending
    """

    policy: OfferPolicy
    leave_by_s: float | None
    send: Callable[[TokenTree], None]


class DraftingOn:
    """Pass by pass, until ``due_s`` or nothing is worth another pass. ``offer`` is made just before
    the pass that would make it late; None: nothing is offered."""

    def __init__(
        self,
        session: SessionDrafter,
        policy: AheadPolicy,
        due_s: float | None,
        offer: Offer | None = None,
    ) -> None:
        self._session = session
        self._policy = policy
        self._due_s = due_s
        self._offer = offer

    def step(self) -> bool:
        """One pass, if there is time for it; whether it was run."""
        if self._is_last_moment():
            self._make_offer()
        did_step = self._session.step_ahead(self._policy, self._due_s)
        if not did_step:
            self._make_offer()
        return did_step

    def _is_last_moment(self) -> bool:
        by_s = None if self._offer is None else self._offer.leave_by_s
        return by_s is not None and not self._session.has_time_until(by_s)

    def _make_offer(self) -> None:
        offer, self._offer = self._offer, None
        if offer is not None and (tree := self._session.offer(offer.policy)) is not None:
            offer.send(tree)
