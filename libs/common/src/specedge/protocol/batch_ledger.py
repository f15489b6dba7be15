"""Which batches of the scheduler still have rounds at a verifier that were neither answered nor
taken over by a prefill: what its reports tell, so that the scheduler knows when to send more. Pure.

Absolute figures: a lost report heals with the next. Knows nothing of sessions' states.
"""

from specedge.ids import SessionKey
from specedge.protocol.messages import Batch


class BatchLedger:
    """Batches held, under the highest epoch seen."""

    def __init__(self) -> None:
        self.epoch: tuple[int, int] = (0, 0)
        self.last = 0
        self.begun = 0  # highest seq of which a round went into a step
        self._open: dict[int, set[SessionKey]] = {}
        self._in: dict[SessionKey, set[int]] = {}

    @property
    def held(self) -> tuple[int, ...]:
        """Sequence numbers, ascending."""
        return tuple(sorted(self._open))

    def admit(self, batch: Batch) -> bool:
        """Whether its scheduler is not of an earlier term than one already heard."""
        epoch = (batch.epoch[0], batch.epoch[1])
        if epoch < self.epoch:
            return False
        if epoch > self.epoch:
            self.epoch, self.last, self.begun = epoch, 0, 0
            self._open.clear()
            self._in.clear()
        self.last = max(self.last, batch.seq)
        return True

    def add(self, seq: int, key: SessionKey) -> None:
        """This session's round in that batch waits for a step, or runs in one."""
        self._open.setdefault(seq, set()).add(key)
        self._in.setdefault(key, set()).add(seq)

    def begin(self, key: SessionKey) -> None:
        """This session's round went into a step."""
        self.begun = max(self.begun, *self._in.get(key, ()), 0)

    def settle(self, key: SessionKey) -> None:
        """Nothing of this session waits for a step any more. Idempotent."""
        for seq in self._in.pop(key, ()):
            keys = self._open[seq]
            keys.discard(key)
            if not keys:
                del self._open[seq]
