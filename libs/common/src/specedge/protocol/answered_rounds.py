"""The verdicts that a verifier can say again. Changed by the verifier session alone."""

from specedge.protocol.messages import Draft, Verdict
from specedge.protocol.verifier_job import Answered


class AnsweredRounds:
    """The newest verdict of a session, and the one before it if the edge may not have seen that one
    when it hears of this one."""

    __slots__ = ("_before", "_newest")

    def __init__(self) -> None:
        self._newest: Answered | None = None
        self._before: Answered | None = None

    @property
    def last_round(self) -> int:
        """The last answered round; -1: none."""
        return -1 if self._newest is None else self._newest.verdict.round

    def note(self, answered: Answered, *, was_ahead: bool) -> None:
        """One verdict more. ``was_ahead``: its draft had been sent ahead of the verdict before."""
        self._before = self._newest if was_ahead else None
        self._newest = answered

    def is_newest(self, draft: Draft) -> bool:
        """Whether the newest verdict is the answer to ``draft``."""
        return self._newest is not None and self._newest.answers(draft)

    @property
    def is_over(self) -> bool:
        """Whether the newest verdict was the session's last."""
        return self._newest is not None and self._newest.verdict.final is not None

    def again(self, draft: Draft) -> tuple[Verdict, ...]:
        """What to say if ``draft`` was answered: that, and what followed upon it, which the edge
        has not heard of either. Empty if it was not."""
        if self._newest is None:
            return ()
        for answered in (self._newest, self._before):
            if answered is not None and answered.answers(draft):
                verdict = answered.verdict.model_copy(update={"try_": draft.try_})
                return (verdict,) if answered is self._newest else (verdict, self._newest.verdict)
        return ()
