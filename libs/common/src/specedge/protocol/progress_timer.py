"""When a verifier owes an edge a sign of life, and the one timer that a session has. Changed by
the verifier session alone."""

from specedge.protocol.effects import SetTimer
from specedge.protocol.moments import is_up


class ProgressTimer:
    """``period_s`` between two signs of life. ``set_at_s`` is the moment the driver was told last;
    None: no timer is set."""

    __slots__ = ("_due_s", "_period_s", "set_at_s")

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._due_s: float | None = None
        self.set_at_s: float | None = None

    def restart(self) -> None:
        """The edge just heard something."""
        self._due_s = None

    def rings(self, now_s: float) -> bool:
        """Whether the moment that was asked for has come. If it rang early, or for a moment that
        counts no more, ``arm`` asks again."""
        at_s, self.set_at_s = self.set_at_s, None
        return is_up(at_s, now_s)

    def is_progress_due(self, now_s: float) -> bool:
        """Whether a sign of life is."""
        return is_up(self._due_s, now_s)

    def arm(self, now_s: float, expires_at_s: float | None) -> SetTimer | None:
        """Something is to be done: the next moment to look at it, if that is another than the one
        that is set."""
        if self._due_s is None:
            self._due_s = now_s + self._period_s
        at_s = self._due_s if expires_at_s is None else min(self._due_s, expires_at_s)
        return self._set(at_s)

    def stop(self) -> SetTimer | None:
        """Nothing is to be done."""
        self._due_s = None
        return self._set(None)

    def _set(self, at_s: float | None) -> SetTimer | None:
        if at_s == self.set_at_s:
            return None
        self.set_at_s = at_s
        return SetTimer(at_s)
