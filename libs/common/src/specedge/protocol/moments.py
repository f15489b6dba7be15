"""Whether a moment has come, for timers that ring a little early. Pure."""

from typing import Final

SAME_MOMENT_S: Final = 1e-3  # event loops fire timers early by up to their clock's resolution


def is_up(at_s: float | None, now_s: float) -> bool:
    """Whether that moment has come, or nearly; None never comes."""
    return at_s is not None and now_s + SAME_MOMENT_S >= at_s
