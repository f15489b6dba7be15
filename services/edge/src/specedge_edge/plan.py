"""What is to be generated for one choice of a request, as a value."""

from dataclasses import dataclass

from specedge.protocol.messages import SessionParams
from specedge.tree.token_tree import IntArray


@dataclass(frozen=True, slots=True, eq=False)
class ChoicePlan:
    """One choice of a request.

    index           its index in the response
    prompt          (p,) int32
    end_ids         ids that end the text and are not shown: the model's and the request's
    own_stop_ids    those that the request named, reported as the reason for stopping
    shown_before    text shown before the first token (an echoed prompt)
    """

    index: int
    prompt: IntArray
    params: SessionParams
    stops: tuple[str, ...] = ()
    include_stop: bool = False
    skip_special_tokens: bool = True
    own_stop_ids: frozenset[int] = frozenset()
    shown_before: str = ""

    @property
    def end_ids(self) -> frozenset[int]:
        """See above."""
        return frozenset(self.params.stop)
