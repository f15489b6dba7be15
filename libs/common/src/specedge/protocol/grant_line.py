"""Which rounds a grant has gone through, and from where. Changed by the verifier session alone."""


class GrantLine:
    """The rounds of the running grant, with the base that each starts from: a verifier goes along
    it without its edge, which may ask for any of them. Empty: no grant runs."""

    __slots__ = ("_base_of",)

    def __init__(self) -> None:
        self._base_of: dict[int, int] = {}

    @property
    def newest_round(self) -> int:
        """How far it went. There must be a round."""
        return max(self._base_of)

    def starts(self, round_: int, base: int) -> bool:
        """Whether this round of the grant starts at ``base``."""
        return self._base_of.get(round_) == base

    def clear(self) -> None:
        """No grant runs."""
        self._base_of = {}

    def begin(self, round_: int, base: int) -> None:
        """A new grant, and its first round."""
        self._base_of = {round_: base}

    def add(self, round_: int, base: int) -> None:
        """It goes on with this round."""
        self._base_of[round_] = base

    def drop_before(self, round_: int) -> None:
        """The edge knows of all rounds before this one."""
        self._base_of = {r: base for r, base in self._base_of.items() if r >= round_}
