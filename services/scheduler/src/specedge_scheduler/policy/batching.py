"""Which waiting rounds make up a verifier's next batch: by rows, fairly over edges and then over
each edge's sessions. Pure; keeps only the rings' own counts.
"""

from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

from specedge.ids import EdgeId, SessionKey
from specedge.protocol.messages import MAX_NODES
from specedge_scheduler.pipeline import PendingDraft
from specedge_scheduler.policy.fair_ring import FairRing

BATCH_BYTES: Final = 60_000  # below ``messages.MAX_BATCH_BYTES`` with room for the frame
ITEM_BYTES: Final = 400  # a bound for everything of an item but its ids
NODE_BYTES: Final = 16  # a token of ten digits, a parent of four, two commas
APPENDED_BYTES: Final = 11

LEAST_NODES: Final = 2
UNBOUNDED: Final = 1 << 30


class BatchRoom(NamedTuple):
    """What a batch may hold: rows, rounds, KV rows attended over, nodes of each round."""

    rows: int
    sessions: int = UNBOUNDED
    context: int = UNBOUNDED
    nodes: int = MAX_NODES

    @property
    def is_none(self) -> bool:
        """Whether not even one round fits."""
        return self.rows <= 0 or self.sessions <= 0

    def places(self, usual_rows: float) -> int:
        """How many rounds of that many rows it takes: at least one."""
        return max(1, min(self.sessions, int(self.rows / max(1.0, usual_rows))))

    def rows_of(self, pending: PendingDraft) -> int:
        """Rows that a round takes here."""
        return pending.rows_of(self.nodes)


class _Left:
    """What is left of a batch's room, and of one message's bytes, while it is filled."""

    __slots__ = ("_bytes", "_context", "_rows")

    def __init__(self, room: BatchRoom) -> None:
        self._rows, self._context, self._bytes = room.rows, room.context, BATCH_BYTES

    def take(self, pending: PendingDraft, num_rows: int) -> bool:
        """Use it for a round that takes so many rows; whether there was enough."""
        self._rows -= num_rows
        self._context -= pending.context
        self._bytes -= message_bytes(pending)
        return self._rows >= 0 and self._context >= 0 and self._bytes >= 0


class BatchPlanner:
    """The rings of one verifier."""

    def __init__(self) -> None:
        self._edges: FairRing[EdgeId] = FairRing()
        self._sessions: dict[EdgeId, FairRing[SessionKey]] = {}
        self._passed_over: SessionKey | None = None  # for whom there was no room left

    def plan(
        self,
        waiting: Mapping[SessionKey, PendingDraft],
        room: BatchRoom,
        *,
        at_least_one: bool = True,
    ) -> list[tuple[SessionKey, PendingDraft]]:
        """The next batch out of ``waiting``: no more than ``room`` and one message's bytes allow.
        ``at_least_one``: it is not empty, however large the first round is."""
        key_of = {key.edge: key for key in waiting}
        if len(key_of) == len(waiting):
            return self._plan_one_each(waiting, key_of, room, at_least_one)
        of_edge: dict[EdgeId, list[SessionKey]] = {}
        rows: dict[SessionKey, int] = {}
        for key, pending in waiting.items():
            of_edge.setdefault(key.edge, []).append(key)
            rows[key] = room.rows_of(pending)
        self._enter(of_edge)
        chosen: list[tuple[SessionKey, PendingDraft]] = []
        left = _Left(room)
        while of_edge and len(chosen) < room.sessions:
            key = self._next(of_edge)
            if not left.take(waiting[key], rows[key]) and (chosen or not at_least_one):
                self._passed_over = key  # it is first in the next batch
                break
            chosen.append((key, waiting[key]))
            self._serve(key, rows[key], of_edge)
        return chosen

    def _plan_one_each(
        self,
        waiting: Mapping[SessionKey, PendingDraft],
        key_of: Mapping[EdgeId, SessionKey],
        room: BatchRoom,
        at_least_one: bool,
    ) -> list[tuple[SessionKey, PendingDraft]]:
        """``plan`` where no edge has more than one round: an order once, in place of a choice for
        each round."""
        if self._passed_over is None and not self._sessions and _fit(waiting.values(), room):
            costs = {edge: room.rows_of(waiting[key]) for edge, key in key_of.items()}
            keys = [key_of[edge] for edge in self._edges.serve_all(costs)]
            return [(key, waiting[key]) for key in keys]
        self._enter_one_each(key_of)
        order = [key_of[edge] for edge in self._edges.in_turn()][: max(0, room.sessions)]
        if order and self._passed_over is not None:
            key, self._passed_over = self._passed_over, None
            if key in waiting:
                order = [key, *[other for other in order if other != key]][: room.sessions]
        chosen: list[tuple[SessionKey, PendingDraft]] = []
        left = _Left(room)
        for key in order:
            rows = room.rows_of(waiting[key])
            if not left.take(waiting[key], rows) and (chosen or not at_least_one):
                self._passed_over = key  # it is first in the next batch
                break
            chosen.append((key, waiting[key]))
            self._edges.serve_and_leave(key.edge, rows)
            if ring := self._sessions.get(key.edge):
                ring.serve_and_leave(key, rows)
        return chosen

    def _enter_one_each(self, key_of: Mapping[EdgeId, SessionKey]) -> None:
        """Rings of edges' sessions are not begun; those that stand are kept in step."""
        self._edges.set_members(key_of)
        for edge in [edge for edge in self._sessions if edge not in key_of]:
            del self._sessions[edge]
        for edge, ring in self._sessions.items():
            ring.set_members((key_of[edge],))

    def _enter(self, of_edge: Mapping[EdgeId, list[SessionKey]]) -> None:
        self._edges.set_members(of_edge)
        for edge in [edge for edge in self._sessions if edge not in of_edge]:
            del self._sessions[edge]
        for edge, keys in of_edge.items():
            self._sessions.setdefault(edge, FairRing()).set_members(keys)

    def _next(self, of_edge: Mapping[EdgeId, list[SessionKey]]) -> SessionKey:
        key, self._passed_over = self._passed_over, None
        if key is not None and key in of_edge.get(key.edge, ()):
            return key
        return self._sessions[self._edges.choose()].choose()

    def _serve(self, key: SessionKey, rows: int, of_edge: dict[EdgeId, list[SessionKey]]) -> None:
        self._edges.pay(key.edge, rows)
        self._sessions[key.edge].serve_and_leave(key, rows)
        of_edge[key.edge].remove(key)
        if not of_edge[key.edge]:
            del of_edge[key.edge]
            self._edges.leave(key.edge)


def _fit(rounds: Collection[PendingDraft], room: BatchRoom) -> bool:
    """Whether all of them go as they are, however a batch's room is counted."""
    if len(rounds) > room.sessions:
        return False
    rows = sum([one.num_rows for one in rounds])
    most_bytes = ITEM_BYTES * len(rounds) + max(NODE_BYTES, APPENDED_BYTES) * rows
    context = sum([one.context for one in rounds])
    return rows <= room.rows and most_bytes <= BATCH_BYTES and context <= room.context


def message_bytes(pending: PendingDraft, max_nodes: int = MAX_NODES) -> int:
    """A bound for the bytes of this round inside a batch, with so many of its nodes at most."""
    num_appended = pending.num_rows - 1 - pending.num_nodes
    num_nodes = min(pending.num_nodes, max_nodes)
    return ITEM_BYTES + NODE_BYTES * num_nodes + APPENDED_BYTES * num_appended


def node_cap(rounds: Collection[PendingDraft], room: BatchRoom) -> int:
    """The most nodes of each round such that all ``rounds`` fit the room's rows, if that leaves
    each at least ``LEAST_NODES``: the last nodes of a draft are worth least, so many short drafts
    yield more than a few long ones. ``MAX_NODES`` if nothing needs to be cut."""
    if sum([pending.num_rows for pending in rounds]) <= room.rows:
        return MAX_NODES
    nodes = sorted([pending.num_nodes for pending in rounds])
    left = room.rows - sum([pending.num_rows - pending.num_nodes for pending in rounds])
    share, num_left = left // len(nodes), len(nodes)
    for size in nodes:
        if size > share:
            break  # from here on all are longer than what is left for each
        left, num_left = left - size, num_left - 1
        share = left // num_left
    return max(LEAST_NODES, share)
