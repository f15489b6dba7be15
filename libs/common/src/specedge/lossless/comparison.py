"""Compares two token sequences, and sums up. Values in, values out: no model, no network."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from specedge.lossless.modes import Mode, Work


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first place where the system's tokens differ from the plain decoder's.

    index      0-based, among the generated tokens
    logit_gap  score (processed logit, with its noise when sampled) of the plain decoder's choice
               less that of the system's token: how near the tie was. None if not known
    """

    prompt: int
    index: int
    expected: int | None
    emitted: int | None
    logit_gap: float | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """One prompt at one temperature. ``compared`` counts tokens up to the first divergence, or the
    longer of both when there is none."""

    prompt: int
    compared: int
    divergence: Divergence | None


@dataclass(frozen=True, slots=True)
class Report:
    """All prompts at one temperature.

    mode    how the system worked; None for one that was found running
    tokens  compared
    work    what the system did to get there
    """

    mode: Mode | None
    temperature: float
    dtype: str
    prompts: int
    tokens: int
    divergences: tuple[Divergence, ...]
    work: Work = field(default_factory=Work)

    @classmethod
    def of(
        cls,
        outcomes: Sequence[Outcome],
        *,
        temperature: float,
        dtype: str,
        mode: Mode | None = None,
        work: Work | None = None,
    ) -> "Report":
        """Sum up; divergences are the first ones, by prompt."""
        return cls(
            mode,
            temperature,
            dtype,
            len(outcomes),
            sum(outcome.compared for outcome in outcomes),
            tuple(o.divergence for o in outcomes if o.divergence is not None),
            work or Work(),
        )

    @property
    def equal(self) -> int:
        """Prompts whose every token is equal."""
        return self.prompts - len(self.divergences)

    @property
    def divergence_rate(self) -> float:
        """First divergences per compared token."""
        return len(self.divergences) / self.tokens if self.tokens else 0.0

    def as_json(self) -> dict[str, Any]:
        """Flat, for scripts."""
        return {
            "mode": self.mode,
            "temperature": self.temperature,
            "dtype": self.dtype,
            "prompts": self.prompts,
            "tokens": self.tokens,
            "prompts_equal": self.equal,
            "divergence_rate": self.divergence_rate,
            "divergences": [asdict(divergence) for divergence in self.divergences],
            "work": asdict(self.work),
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> "Report":
        """What ``as_json`` gave."""
        return cls(
            None if body["mode"] is None else Mode(body["mode"]),
            body["temperature"],
            body["dtype"],
            body["prompts"],
            body["tokens"],
            tuple(Divergence(**each) for each in body["divergences"]),
            Work(**body["work"]),
        )


def first_difference(expected: Sequence[int], emitted: Sequence[int]) -> int | None:
    """Index of the first difference, a missing token counting as one; None if all are equal."""
    for index, (ours, theirs) in enumerate(zip(expected, emitted, strict=False)):
        if ours != theirs:
            return index
    shorter, longer = sorted((len(expected), len(emitted)))
    return None if shorter == longer else shorter


def token_at(tokens: Sequence[int], index: int) -> int | None:
    """The token there, or None past the end."""
    return tokens[index] if index < len(tokens) else None
