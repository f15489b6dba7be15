"""Which waiting rounds make up a verifier's next batch: deficit round robin by rows, over edges and
then over each edge's sessions. Pure; keeps only the rings' own credits.

Source: Shreedhar and Varghese, "Efficient fair queueing using deficit round robin" (1995). Nobody
who asks for more gets more than his share of rows while others wait; alone, one gets everything.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Generic, TypeVar

from specedge.ids import EdgeId, SessionKey
from specedge_scheduler.views import PendingDraft

K = TypeVar("K")

QUANTUM_ROWS: Final = 16
BATCH_BYTES: Final = 60_000  # below ``messages.MAX_BATCH_BYTES`` with room for the frame
ITEM_BYTES: Final = 400  # a bound for everything of an item but its ids
NODE_BYTES: Final = 16  # a token of ten digits, a parent of four, two commas
APPENDED_BYTES: Final = 11


class DeficitRing(Generic[K]):
    """Keys in turn, each with the rows it may still spend. Who leaves forfeits what it saved."""

    def __init__(self, quantum: int = QUANTUM_ROWS) -> None:
        self._quantum = quantum
        self._credit: OrderedDict[K, int] = OrderedDict()  # the head is whose turn it is

    def set_members(self, keys: Iterable[K]) -> None:
        """Newcomers join at the end of the ring; who is not named leaves."""
        wanted = dict.fromkeys(keys)
        for key in [key for key in self._credit if key not in wanted]:
            del self._credit[key]
        for key in wanted:
            self._credit.setdefault(key, 0)

    def choose(self, cost_of: Callable[[K], int]) -> K:
        """Whose turn it is: the first that can pay, others saving up for one turn each. The answer
        stays until ``pay`` or ``leave``. There must be a member."""
        while True:
            key = next(iter(self._credit))
            if self._credit[key] >= cost_of(key):
                return key
            self._credit[key] += self._quantum
            self._credit.move_to_end(key)

    def pay(self, key: K, cost: int) -> None:
        """Charge what was served."""
        self._credit[key] -= cost

    def leave(self, key: K) -> None:
        """It waits for nothing more."""
        del self._credit[key]


class BatchPlanner:
    """The rings of one verifier."""

    def __init__(self) -> None:
        self._edges: DeficitRing[EdgeId] = DeficitRing()
        self._sessions: dict[EdgeId, DeficitRing[SessionKey]] = {}

    def plan(
        self,
        waiting: Mapping[SessionKey, PendingDraft],
        max_rows: int,
        *,
        at_least_one: bool = True,
    ) -> list[tuple[SessionKey, PendingDraft]]:
        """The next batch out of ``waiting``: at most ``max_rows`` rows and one message's bytes.
        ``at_least_one``: it is not empty, however large the first round is."""
        of_edge: dict[EdgeId, list[SessionKey]] = {}
        for key in waiting:
            of_edge.setdefault(key.edge, []).append(key)
        self._enter(of_edge)
        chosen: list[tuple[SessionKey, PendingDraft]] = []
        rows_left, bytes_left = max_rows, BATCH_BYTES
        while of_edge:
            key = self._next(waiting)
            pending = waiting[key]
            rows_left -= pending.num_rows
            bytes_left -= message_bytes(pending)
            if (chosen or not at_least_one) and (rows_left < 0 or bytes_left < 0):
                break  # it keeps its turn and its credit, and is first in the next batch
            chosen.append((key, pending))
            self._serve(key, pending.num_rows, of_edge)
        return chosen

    def _enter(self, of_edge: Mapping[EdgeId, list[SessionKey]]) -> None:
        self._edges.set_members(of_edge)
        for edge in [edge for edge in self._sessions if edge not in of_edge]:
            del self._sessions[edge]
        for edge, keys in of_edge.items():
            self._sessions.setdefault(edge, DeficitRing()).set_members(keys)

    def _next(self, waiting: Mapping[SessionKey, PendingDraft]) -> SessionKey:
        def rows(key: SessionKey) -> int:
            return waiting[key].num_rows

        def head_rows(edge: EdgeId) -> int:
            return rows(self._sessions[edge].choose(rows))

        return self._sessions[self._edges.choose(head_rows)].choose(rows)

    def _serve(self, key: SessionKey, rows: int, of_edge: dict[EdgeId, list[SessionKey]]) -> None:
        self._edges.pay(key.edge, rows)
        self._sessions[key.edge].leave(key)
        of_edge[key.edge].remove(key)
        if not of_edge[key.edge]:
            del of_edge[key.edge]
            self._edges.leave(key.edge)


def message_bytes(pending: PendingDraft) -> int:
    """A bound for the bytes of this round inside a batch."""
    draft = pending.draft
    return ITEM_BYTES + NODE_BYTES * len(draft.token) + APPENDED_BYTES * len(draft.append)
