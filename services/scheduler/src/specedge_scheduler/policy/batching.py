"""Which waiting rounds make up a verifier's next batch: deficit round robin by rows, over edges and
then over each edge's sessions. Pure; keeps only the rings' own credits.

Source: Shreedhar and Varghese, "Efficient fair queueing using deficit round robin" (1995). Nobody
who asks for more gets more than his share of rows while others wait; alone, one gets everything.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from specedge.ids import EdgeId, SessionKey
from specedge.protocol.messages import MAX_NODES
from specedge_scheduler.pipeline import PendingDraft

K = TypeVar("K")

QUANTUM_ROWS: Final = 16
BATCH_BYTES: Final = 60_000  # below ``messages.MAX_BATCH_BYTES`` with room for the frame
ITEM_BYTES: Final = 400  # a bound for everything of an item but its ids
NODE_BYTES: Final = 16  # a token of ten digits, a parent of four, two commas
APPENDED_BYTES: Final = 11


LEAST_NODES: Final = 2
UNBOUNDED: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class BatchRoom:
    """What a batch may hold: rows, rounds, KV rows attended over, nodes of each round."""

    rows: int
    sessions: int = UNBOUNDED
    context: int = UNBOUNDED
    nodes: int = MAX_NODES

    @property
    def is_none(self) -> bool:
        """Whether not even one round fits."""
        return self.rows <= 0 or self.sessions <= 0

    def rows_of(self, pending: PendingDraft) -> int:
        """Rows that a round takes here."""
        return pending.num_rows - max(0, len(pending.draft.token) - self.nodes)


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
        room: BatchRoom,
        *,
        at_least_one: bool = True,
    ) -> list[tuple[SessionKey, PendingDraft]]:
        """The next batch out of ``waiting``: no more than ``room`` and one message's bytes allow.
        ``at_least_one``: it is not empty, however large the first round is."""
        of_edge: dict[EdgeId, list[SessionKey]] = {}
        rows: dict[SessionKey, int] = {}
        for key, pending in waiting.items():
            of_edge.setdefault(key.edge, []).append(key)
            rows[key] = room.rows_of(pending)
        self._enter(of_edge)
        chosen: list[tuple[SessionKey, PendingDraft]] = []
        rows_left, context_left, bytes_left = room.rows, room.context, BATCH_BYTES
        while of_edge and len(chosen) < room.sessions:
            key = self._next(rows)
            pending = waiting[key]
            rows_left -= rows[key]
            context_left -= pending.context
            bytes_left -= message_bytes(pending)
            is_over = rows_left < 0 or context_left < 0 or bytes_left < 0
            if is_over and (chosen or not at_least_one):
                break  # it keeps its turn and its credit, and is first in the next batch
            chosen.append((key, pending))
            self._serve(key, rows[key], of_edge)
        return chosen

    def _enter(self, of_edge: Mapping[EdgeId, list[SessionKey]]) -> None:
        self._edges.set_members(of_edge)
        for edge in [edge for edge in self._sessions if edge not in of_edge]:
            del self._sessions[edge]
        for edge, keys in of_edge.items():
            self._sessions.setdefault(edge, DeficitRing()).set_members(keys)

    def _next(self, rows: Mapping[SessionKey, int]) -> SessionKey:
        cost_of = rows.__getitem__

        def head_rows(edge: EdgeId) -> int:
            return cost_of(self._sessions[edge].choose(cost_of))

        return self._sessions[self._edges.choose(head_rows)].choose(cost_of)

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


def node_cap(rounds: Collection[PendingDraft], room: BatchRoom) -> int:
    """The most nodes of each round such that all ``rounds`` fit the room's rows, if that leaves
    each at least ``LEAST_NODES``: the last nodes of a draft are worth least, so many short drafts
    yield more than a few long ones. ``MAX_NODES`` if nothing needs to be cut."""
    nodes = sorted(len(pending.draft.token) for pending in rounds)
    left = room.rows - sum(1 + len(pending.draft.append) for pending in rounds)
    if sum(nodes) <= left:
        return MAX_NODES
    for index, size in enumerate(nodes):
        share = left // (len(nodes) - index)
        if size > share:
            return max(LEAST_NODES, share)
        left -= size
    return MAX_NODES
