"""The device of an edge in virtual time, which its sessions share as they do a real one's thread.

Whole drafts in the order of asking. While nobody asks, it drafts ahead for the sessions whose
drafts are out: they take turns by single passes, which comes to equal shares of the idle time. Who
asks then waits for the pass that runs, unless it could only be his own, which ends in time.
"""

import math
from dataclasses import dataclass


@dataclass(slots=True)
class _Idler:
    """``had_s``: of the device's idle time, so far; no more than ``most_s`` is of use."""

    most_s: float
    had_s: float = 0.0

    @property
    def lacks_s(self) -> float:
        """What would still be of use."""
        return self.most_s - self.had_s


class SimDevice:
    """Told of everything in the order of time, by those who stopped being idle before they ask.
    ``free_s``: when all that was asked for is done."""

    def __init__(self, pass_s: float) -> None:
        self.free_s = 0.0
        self._pass_s = pass_s
        self._shared_s = 0.0  # until when idle time was shared out
        self._ahead_s = 0.0  # when somebody wanted to draft ahead, after nobody did
        self._idlers: dict[object, _Idler] = {}

    def work(self, seconds: float, now_s: float) -> float:
        """When a draft that takes so long is done, if it is asked for now."""
        self._share_out(now_s)
        begins_s = now_s + self._rest_of_pass_s(now_s)
        self._share_out(begins_s)
        self.free_s = max(self.free_s, begins_s) + seconds
        return self.free_s

    def begin_idle(self, who: object, most_s: float, now_s: float) -> None:
        """Draft ahead for ``who`` whenever nobody asks; from nothing, if it did so already."""
        self._share_out(now_s)
        if not self._wanting():
            self._ahead_s = now_s
        self._idlers[who] = _Idler(most_s)

    def end_idle(self, who: object, now_s: float) -> float:
        """Draft ahead no longer: how long it did so for ``who``, in seconds. Idempotent."""
        self._share_out(now_s)
        idler = self._idlers.pop(who, None)
        return idler.had_s if idler is not None else 0.0

    def _wanting(self) -> list[_Idler]:
        return [one for one in self._idlers.values() if one.lacks_s > 0.0]

    def _rest_of_pass_s(self, now_s: float) -> float:
        """Until the pass ahead that runs just now is done."""
        began_s = max(self.free_s, self._ahead_s)
        if began_s >= now_s or not self._pass_s or not self._wanting():
            return 0.0
        return self._pass_s - math.fmod(now_s - began_s, self._pass_s)

    def _share_out(self, until_s: float) -> None:
        """The idle time until then, among those who still have a use for it."""
        since_s = max(self._shared_s, self.free_s)
        self._shared_s = max(self._shared_s, until_s)
        idle_s, wanting = until_s - since_s, self._wanting()
        while wanting and idle_s > 0.0:
            each_s = min(idle_s / len(wanting), *(one.lacks_s for one in wanting))
            idle_s -= each_s * len(wanting)
            for one in wanting:
                # Not the sum: what rounds to less would lack a little for ever.
                one.had_s = one.most_s if one.lacks_s <= each_s else one.had_s + each_s
            wanting = [one for one in wanting if one.lacks_s > 0.0]
