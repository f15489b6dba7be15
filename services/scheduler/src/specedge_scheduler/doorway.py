"""How many bytes an edge may send, asked before anything of a message is read. Pure.

To read a long message costs milliseconds, whatever becomes of it, and it is read before the policy
is asked about its sender. Short ones are bounded by their number, which is the policy's.
"""

from typing import Final

from specedge.ids import EdgeId
from specedge_scheduler.policy.admission import TokenBucket

# A round is a few hundred bytes.
SHORT_BYTES: Final = 2048
BURST_S: Final = 4.0


class Doorway:
    """Lets in ``bytes_per_s`` of each edge's long messages, and ``BURST_S`` worth at once."""

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._buckets: dict[EdgeId, TokenBucket] = {}

    def __len__(self) -> int:
        return len(self._buckets)

    def lets_in(self, edge: EdgeId, num_bytes: int, now_s: float) -> bool:
        """Whether a message of that length may be read. It is paid then."""
        if num_bytes <= SHORT_BYTES:
            return True
        bucket = self._buckets.get(edge)
        if bucket is None:
            burst = self._bytes_per_s * BURST_S
            bucket = self._buckets[edge] = TokenBucket(self._bytes_per_s, burst, now_s)
        return bucket.take(num_bytes, now_s)

    def forget_unused(self, now_s: float) -> None:
        """Drop what a new one would allow as well."""
        for edge, bucket in list(self._buckets.items()):
            if bucket.is_full(now_s):
                del self._buckets[edge]
