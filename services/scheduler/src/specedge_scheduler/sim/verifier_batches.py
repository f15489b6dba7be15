"""Which batches of the scheduler a verifier in virtual time still holds: those with rounds that
were neither answered nor taken over by a prefill. Its reports tell them.
"""

from specedge.ids import SessionKey
from specedge.protocol.messages import Batch


class BatchesHeld:
    """Kept under the epoch of the batch that came last."""

    def __init__(self) -> None:
        self.epoch = (0, 0)
        self.last = 0
        self.begun = 0  # highest seq of which a round went into a step
        self._open: dict[int, set[SessionKey]] = {}
        self._in: dict[SessionKey, list[int]] = {}

    @property
    def held(self) -> tuple[int, ...]:
        """Sequence numbers, as they came."""
        return tuple(self._open)

    def arrive(self, batch: Batch) -> None:
        """It is here; what is in it is added one by one."""
        self.epoch = (batch.epoch[0], batch.epoch[1])
        self.last = max(self.last, batch.seq)

    def add(self, seq: int, key: SessionKey) -> None:
        """This session's work in that batch waits for a step, or runs in one."""
        self._open.setdefault(seq, set()).add(key)
        self._in.setdefault(key, []).append(seq)

    def begin(self, key: SessionKey) -> None:
        """This session's work went into a step."""
        self.begun = max(self.begun, *self._in.get(key, ()), 0)

    def settle(self, key: SessionKey) -> None:
        """Nothing of this session waits for a step any more. Idempotent."""
        for seq in self._in.pop(key, ()):
            keys = self._open[seq]
            keys.discard(key)
            if not keys:
                del self._open[seq]
