"""How often what happens again and again is logged: often enough to be seen, and never a flood."""


def is_worth_a_line(count: int) -> bool:
    """Whether the ``count``-th occurrence is logged: the 1st, 2nd, 4th, 8th and so on."""
    return count & (count - 1) == 0
