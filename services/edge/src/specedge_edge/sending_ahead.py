"""Drafting on while a round is out, and sending what came of it before the verdict.

``OfferTerms`` are one session's, on the loop. A ``DraftingOn`` is one round's; its ``step`` is the
compute thread's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from specedge.drafting.growth_rule import GrowthRule
from specedge.drafting.patience import Patience
from specedge.params import DraftPolicy
from specedge.tree.ahead import AheadPolicy, OfferPolicy
from specedge.tree.token_tree import TokenTree
from specedge_edge.proactive import MovingMean
from specedge_edge.session_drafter import SessionDrafter

# The share of the newest draft in how many levels drafts have of late.
LEVELS_WEIGHT: Final = 0.1


class OfferTerms:
    """What of a session's drafts is worth sending before the verdict: no more than a draft that is
    waited for would have been worth."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._levels = MovingMean(LEVELS_WEIGHT)

    def note_draft(self, tree: TokenTree) -> None:
        """A draft was waited for, and left as ``tree``."""
        self._levels.add(float(tree.depth.max()))

    def of(self, policy: DraftPolicy, rule: GrowthRule | None, max_nodes: int) -> OfferPolicy:
        """As things are now. Where no ``rule`` says what pays, a draft that is waited for is as
        deep as it may be, and all its nodes are worth it."""
        lacking, depth = self._patience.tokens, policy.depth
        if rule is None:
            return OfferPolicy(max_nodes, lacking=lacking, levels=depth)
        levels = depth if self._levels.value is None else min(depth, round(self._levels.value))
        price = rule.price / rule.trust
        return OfferPolicy(max_nodes, lacking=lacking, levels=max(1, levels), price=price)


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
    """Pass by pass, until ``due_s`` or nothing is worth another pass. ``offer`` is made when no
    further pass, however narrow, would be over in time for it; None: nothing is offered."""

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
        did_step = self._session.step_ahead(self._policy, self._until_s)
        if not did_step and self._offer is not None:
            self._make_offer()
            did_step = self._session.step_ahead(self._policy, self._until_s)
        return did_step

    @property
    def _until_s(self) -> float | None:
        """When the next pass is to be over."""
        by_s = None if self._offer is None else self._offer.leave_by_s
        return self._due_s if by_s is None else by_s

    def _make_offer(self) -> None:
        offer, self._offer = self._offer, None
        if offer is not None and (tree := self._session.offer(offer.policy)) is not None:
            offer.send(tree)
