"""What a whole verifier is given in place of a model, in virtual time: an engine that keeps the
tokens of every row, spoils what does not count, and holds whoever calls it to the contract; and a
compute thread that takes no thread."""

import asyncio
from collections.abc import Callable, Sequence
from random import Random
from types import SimpleNamespace

import numpy as np

from specedge.clock import ManualClock
from specedge.engine.ports import KvUse, ModelIdentity, NodeChoices, StepItem
from specedge.errors import Busy
from specedge.ids import Slot
from specedge.tree.token_tree import IntArray
from tests.properties.session_nodes import choose

BLOCK_ROWS = 64
SPOILT = -1  # what stands in a row that counts for nothing


class DeviceLost(RuntimeError):
    """What this engine raises by chance."""


class RowsEngine:
    """``TargetEngine`` over rows of tokens. ``wrong``: how it was called against its contract,
    which the service would take for an engine's failure."""

    def __init__(
        self, random: Random, identity: ModelIdentity, slots: int, kv_rows: int, fail_rate: float
    ) -> None:
        self.identity = identity
        self.wrong: list[str] = []
        self.rows: dict[Slot, list[int]] = {}
        self._random, self._kv_rows, self._fail_rate = random, kv_rows, fail_rate
        self._free = [Slot(number) for number in range(slots)]
        self._capacity: dict[Slot, int] = {}

    def lease(self, num_tokens: int) -> Slot:
        if not self._free:
            raise Busy("no slot is free")
        self._take(BLOCK_ROWS)
        slot = self._free.pop(self._random.randrange(len(self._free)))
        self.rows[slot], self._capacity[slot] = [], BLOCK_ROWS
        return slot

    def release(self, slot: Slot) -> None:
        self._check(slot in self.rows, "a slot that is not leased is released")
        del self.rows[slot], self._capacity[slot]
        self._free.append(slot)

    def step(self, items: Sequence[StepItem]) -> list[NodeChoices | None]:
        self._check(len({item.slot for item in items}) == len(items), "a slot is stepped twice")
        for item in items:
            self._grow(item.slot, item.start + item.num_rows, item.start)
        if self._random.random() < self._fail_rate:
            for item in items:
                self.rows[item.slot][item.start :] = [SPOILT] * item.num_rows
            raise DeviceLost("by chance")
        return [self._run(item) for item in items]

    def keep(self, slot: Slot, base: int, path: IntArray) -> None:
        rows = self.rows[slot]
        rows[base:] = [rows[base + node - 1] for node in path.tolist()]

    def copy_rows(self, source: Slot, destination: Slot, num_rows: int) -> None:
        raise NotImplementedError

    def kv_use(self) -> KvUse:
        return KvUse(len(self.rows), len(self.rows) + len(self._free), 0)

    def _run(self, item: StepItem) -> NodeChoices | None:
        rows, choosing = self.rows[item.slot], item.choosing
        self._check(len(rows) >= item.start, "a step starts on rows that are not there")
        rows[item.start :] = item.chain.tolist()
        self._check(SPOILT not in rows, "a step starts on rows that are spoilt")
        if item.tree is None or choosing is None:
            return None
        self._check(rows == choosing.committed.tolist(), "rows are not of what was committed")
        # As the model sees a session: ``choose`` asks no more of its parameters.
        seen = SimpleNamespace(
            seed=choosing.params.seed,
            prompt=choosing.prompt_len,
            min_tokens=choosing.params.min_tokens,
            stop=tuple(choosing.stop_ids),
        )
        paths = [list(rows)]
        for token, parent in zip(item.tree.token[1:], item.tree.parent[1:], strict=True):
            paths.append([*paths[parent], int(token)])
        rows += item.tree.token[1:].tolist()
        return NodeChoices(np.array([choose(path, seen) for path in paths], dtype=np.int32))

    def _grow(self, slot: Slot, num_rows: int, valid_rows: int) -> None:
        if num_rows > self._capacity[slot]:
            size = 1 << (num_rows - 1).bit_length()
            self._take(size)  # beside the old one
            self._capacity[slot] = size
            del self.rows[slot][valid_rows:]

    def _take(self, num_rows: int) -> None:
        if sum(self._capacity.values()) + num_rows > self._kv_rows:
            raise Busy("no memory is left")

    def _check(self, is_right: bool, message: str) -> None:
        if not is_right:
            self.wrong.append(message)
            raise AssertionError(message)


class VirtualCompute:
    """A compute thread that takes virtual time. What it is asked for is done when that time begins
    or when it ends: a thread may get to it at any moment between."""

    def __init__(self, clock: ManualClock, random: Random) -> None:
        self._clock, self._random = clock, random

    def start(self, function: Callable[..., object], *args: object) -> "asyncio.Future[object]":
        outcome: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        is_early = self._random.random() < 0.5
        early = function(*args) if is_early else None

        def end() -> None:
            if not outcome.done():
                outcome.set_result(early if is_early else function(*args))

        took_s = self._random.choice((0.0, 0.01, 0.03, 0.2))
        self._clock.call_at(self._clock.now_s() + took_s, end)
        return outcome
