"""Which waiting rounds make up a verifier's next batch: fair queueing by rows, over edges and then
over each edge's sessions. Pure; keeps only the rings' own counts.

Source: Goyal, Vin and Cheng, "Start-time fair queueing" (1996). Nobody who asks for more gets more
than his share of rows while others wait, nor while they are away between two rounds; alone, one
gets everything.
"""

from collections.abc import Collection, Iterable, Mapping
from heapq import heappop, heappush
from typing import Final, Generic, NamedTuple, TypeVar

from specedge.ids import EdgeId, SessionKey
from specedge.protocol.messages import MAX_NODES
from specedge_scheduler.pipeline import PendingDraft

K = TypeVar("K")

FORGET_BEYOND: Final = 1024
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


class FairRing(Generic[K]):
    """Keys by the rows that each was served: whose turn it is has the lowest tag.

    A tag is what its key was served, in rows, on a common count that goes on with the one being
    served. Who comes back after a while starts at that count, or at his own old tag if that is
    higher: neither is absence saved up, nor does anybody get ahead by always being there.
    """

    def __init__(self) -> None:
        self._tag: dict[K, int] = {}  # of members
        self._past: dict[K, int] = {}  # of those who left ahead of the count
        self._turns: list[tuple[int, int, K]] = []  # members' tags as a heap, and outdated ones
        self._num_turns = 0
        self._count = 0

    def set_members(self, keys: Iterable[K]) -> None:
        """Newcomers join; who is not named leaves."""
        wanted = dict.fromkeys(keys)
        for key in [key for key in self._tag if key not in wanted]:
            self.leave(key)
        for key in wanted:
            if key not in self._tag:
                self._set(key, max(self._past.pop(key, 0), self._count))
        if len(self._past) > FORGET_BEYOND:
            self._past = {key: tag for key, tag in self._past.items() if tag > self._count}

    def choose(self) -> K:
        """Whose turn it is. The answer stays until ``pay`` or ``leave``. There must be a member."""
        while True:
            tag, _, key = self._turns[0]
            if self._tag.get(key) == tag:
                return key
            heappop(self._turns)

    def pay(self, key: K, cost: int) -> None:
        """Charge what was served."""
        tag = self._tag[key]
        self._count = max(self._count, tag)
        self._set(key, tag + cost)

    def leave(self, key: K) -> None:
        """It waits for nothing more."""
        self._drop(key, self._tag.pop(key))

    def serve_and_leave(self, key: K, cost: int) -> None:
        """``pay`` and ``leave`` at once: without a turn that nobody takes."""
        tag = self._tag.pop(key)
        self._count = max(self._count, tag)
        self._drop(key, tag + cost)

    def _drop(self, key: K, tag: int) -> None:
        if not self._tag:  # nobody was passed over: all start alike again
            self._count = max(self._count, tag, max(self._past.values(), default=0))
            self._past.clear()
            self._turns.clear()
        elif tag > self._count:
            self._past[key] = tag

    def in_turn(self) -> list[K]:
        """All members, whose turn is first first; for those who are served once and then leave."""
        tag = self._tag
        self._turns = sorted([turn for turn in self._turns if tag.get(turn[2]) == turn[0]])
        return list(dict.fromkeys([key for _, _, key in self._turns]))

    def _set(self, key: K, tag: int) -> None:
        self._tag[key] = tag
        self._num_turns += 1
        heappush(self._turns, (tag, self._num_turns, key))


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
