"""A target engine without a model: it keeps the ports' contract, and holds its callers to it.

In place of KV it keeps, per row of a slot, the hash of the prefix up to that row. So a caller that
keeps, truncates or copies the wrong rows gets wrong tokens, as it would from a model. Wrong use
raises ProtocolViolation, and nothing was changed. Imports no torch.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from specedge.engine.emulated_contract import check, check_tree
from specedge.engine.emulated_text import NO_IDS, EmulatedText
from specedge.engine.ports import (
    Choosing,
    KvUse,
    ModelIdentity,
    NodeChoices,
    NodeLogprobs,
    StepItem,
)
from specedge.errors import Busy, ProtocolViolation
from specedge.ids import Slot
from specedge.profiles import INSTANT, DeviceProfile
from specedge.tree.token_tree import IntArray

Sleep = Callable[[float], None]


@dataclass(slots=True)
class _Rows:
    """One leased slot.

    prefix   prefix hash of every valid row
    drafted  prefix hash of every node of the tree just run, the root first; None once kept
    parent   the nodes' parents
    """

    capacity: int
    prefix: list[int] = field(default_factory=list)
    drafted: list[int] | None = None
    parent: IntArray | None = None


class EmulatedTarget:
    """``TargetEngine`` whose tokens come from an ``EmulatedText`` and whose time from a profile.

    ``sleep`` gets seconds, once per step, after ``begin`` was called at its beginning.
    ``kv_tokens`` bounds the rows of all slots together.
    Belongs to the thread that calls it first.
    """

    def __init__(
        self,
        text: EmulatedText | None = None,
        *,
        profile: DeviceProfile = INSTANT,
        sleep: Sleep = lambda _: None,
        begin: Callable[[], None] = lambda: None,
        slots: int = 64,
        kv_tokens: int = 1 << 22,
        identity: ModelIdentity | None = None,
    ) -> None:
        self._text = text or EmulatedText()
        self._identity = identity or self._text.identity()
        self._profile = profile
        self._sleep = sleep
        self._begin = begin
        self._free = [Slot(slot) for slot in reversed(range(slots))]
        self._num_slots = slots
        self._kv_tokens = kv_tokens
        self._leased: dict[Slot, _Rows] = {}
        self._owner: int | None = None

    @property
    def identity(self) -> ModelIdentity:
        """Names and fingerprints; may be read from any thread."""
        return self._identity

    def lease(self, num_tokens: int) -> Slot:
        """See ``TargetEngine.lease``."""
        self._assert_owner()
        if not self._free:
            raise Busy("no free slot")
        self._assert_room(num_tokens)
        slot = self._free.pop()
        self._leased[slot] = _Rows(num_tokens)
        return slot

    def release(self, slot: Slot) -> None:
        """See ``TargetEngine.release``."""
        self._rows(slot)
        del self._leased[slot]
        self._free.append(slot)

    def step(self, items: Sequence[StepItem]) -> list[NodeChoices | None]:
        """See ``TargetEngine.step``."""
        self._begin()
        check(len({item.slot for item in items}) == len(items), "slots are distinct in a step")
        for item in items:
            self._check_item(item)
        self._grow(items)
        choices = [self._run(item) for item in items]
        self._sleep(self._step_ms(items) / 1e3)
        return choices

    def keep(self, slot: Slot, base: int, path: IntArray) -> None:
        """See ``TargetEngine.keep``."""
        rows = self._rows(slot)
        drafted, parent = rows.drafted, rows.parent
        check(base == len(rows.prefix), f"base is {len(rows.prefix)}, not {base}")
        if drafted is None or parent is None:
            raise ProtocolViolation("no tree was run on this slot since the last keep")
        above = 0
        for node in path:
            check(0 < node < len(drafted) and parent[node] == above, f"{node} is off the path")
            above = int(node)
        rows.prefix.extend(drafted[node] for node in path)
        rows.drafted = rows.parent = None

    def copy_rows(self, source: Slot, destination: Slot, num_rows: int) -> None:
        """See ``TargetEngine.copy_rows``."""
        origin, copy = self._rows(source), self._rows(destination)
        check(source != destination, "a slot is not copied onto itself")
        check(0 <= num_rows <= len(origin.prefix), f"{num_rows} rows are not valid")
        self._assert_room(max(0, num_rows - copy.capacity))
        copy.capacity = max(copy.capacity, num_rows)
        copy.prefix = origin.prefix[:num_rows]
        copy.drafted = copy.parent = None

    def kv_use(self) -> KvUse:
        """See ``TargetEngine.kv_use``."""
        self._assert_owner()
        held = self._capacity() * self._profile.kv_token_bytes
        return KvUse(len(self._leased), self._num_slots, held)

    def _run(self, item: StepItem) -> NodeChoices | None:
        text, rows = self._text, self._leased[item.slot]
        del rows.prefix[item.start :]
        rows.drafted = rows.parent = None
        prefix = rows.prefix[-1] if rows.prefix else text.start
        for token in item.chain:
            prefix = text.fold(prefix, int(token))
            rows.prefix.append(prefix)
        if item.tree is None or item.choosing is None:
            return None
        drafted = [prefix]
        for token, parent in zip(item.tree.token[1:], item.tree.parent[1:], strict=True):
            drafted.append(text.fold(drafted[parent], int(token)))
        rows.drafted, rows.parent = drafted, item.tree.parent
        choice = [
            self._choose(item.choosing, hashed, int(depth))
            for hashed, depth in zip(drafted, item.tree.depth, strict=True)
        ]
        chosen = np.array(choice, dtype=np.int32)
        return NodeChoices(chosen, self._logprobs(chosen, item.choosing.num_logprobs))

    def _choose(self, choosing: Choosing, prefix: int, depth: int) -> int:
        num_generated = len(choosing.committed) - choosing.prompt_len + depth
        is_early = num_generated < choosing.params.min_tokens
        return self._text.choice(prefix, choosing.params, choosing.stop_ids if is_early else NO_IDS)

    def _logprobs(self, chosen: IntArray, num_logprobs: int) -> NodeLogprobs | None:
        """Made up, but well formed: the choice has one half, each further token half as much."""
        if num_logprobs < 0:
            return None
        rank = np.arange(num_logprobs, dtype=np.int32)
        logprob = (-(rank + 1) * np.log(2.0)).astype(np.float32)
        return NodeLogprobs(
            chosen=np.full(len(chosen), -np.log(2.0), dtype=np.float32),
            token=(chosen[:, None] + rank[None, :]) % np.int32(self._identity.vocab_size),
            logprob=np.tile(logprob, (len(chosen), 1)),
        )

    def _step_ms(self, items: Sequence[StepItem]) -> float:
        return self._profile.step_ms(
            rows=sum(item.num_rows for item in items if item.tree is not None),
            context_tokens=sum(item.start + len(item.chain) for item in items),
            prefill_tokens=sum(item.num_rows for item in items if item.tree is None),
        )

    def _check_item(self, item: StepItem) -> None:
        rows = self._rows(item.slot)
        base = item.start + len(item.chain)
        check(0 <= item.start <= len(rows.prefix), f"rows [0, {item.start}) are not all valid")
        check(len(item.chain) >= 1, "a chain holds at least the root")
        depth = 0 if item.tree is None else int(item.tree.depth.max())
        check(base + depth <= self._identity.max_context_tokens, "the context is too long")
        self._check_ids(item.chain)
        if item.tree is None or item.choosing is None:
            check(item.tree is None and item.choosing is None, "a tree needs its choosing")
            return
        self._check_ids(item.tree.token)
        check_tree(item.tree)
        committed = item.choosing.committed
        check(item.tree.token[0] == item.chain[-1], "the tree's root ends the chain")
        check(len(committed) == base, f"{len(committed)} tokens committed, not {base}")
        check(np.array_equal(committed[item.start :], item.chain), "the chain was not committed")
        check(0 <= item.choosing.prompt_len <= base, "the prompt is longer than the context")

    def _check_ids(self, tokens: IntArray) -> None:
        vocab_size = self._identity.vocab_size
        check(bool(((tokens >= 0) & (tokens < vocab_size)).all()), "a token is no token id")

    def _grow(self, items: Sequence[StepItem]) -> None:
        """Double every slot that is too small, or none."""
        grown: dict[Slot, int] = {}
        for item in items:
            needed, capacity = item.start + item.num_rows, self._leased[item.slot].capacity
            if needed > capacity:
                grown[item.slot] = max(2 * capacity, needed)
        self._assert_room(sum(size - self._leased[slot].capacity for slot, size in grown.items()))
        for slot, size in grown.items():
            self._leased[slot].capacity = size

    def _capacity(self) -> int:
        return sum(rows.capacity for rows in self._leased.values())

    def _assert_room(self, num_tokens: int) -> None:
        if self._capacity() + num_tokens > self._kv_tokens:
            raise Busy(f"no memory for {num_tokens} more KV rows")

    def _rows(self, slot: Slot) -> _Rows:
        self._assert_owner()
        if slot not in self._leased:
            raise ProtocolViolation(f"slot {slot} is not leased")
        return self._leased[slot]

    def _assert_owner(self) -> None:
        caller = threading.get_ident()
        self._owner = self._owner or caller
        check(caller == self._owner, "an engine belongs to one thread")
