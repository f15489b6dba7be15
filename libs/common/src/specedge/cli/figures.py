"""The demo's table: where tokens came from and where time went, from each answer's metrics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Self

from rich.table import Table

from specedge.cli.edge_client import Answer

MISSING: Final = "–"


@dataclass(frozen=True, slots=True)
class Figures:
    """Sums over one request or several. Times are milliseconds over all rounds."""

    tokens: int
    rounds: int
    steps: int
    accepted: int
    bytes_up: int
    bytes_down: int
    verifier_calls: int
    draft_ms: float
    network_ms: float
    queue_ms: float
    verify_ms: float
    generation_ms: float

    @classmethod
    def of(cls, answer: Answer) -> Self:
        """Read one answer; what it does not say counts as zero."""
        own: Mapping[str, Any] = answer.metrics.get("specedge") or {}
        speculative: Mapping[str, Any] = answer.metrics.get("speculative_decoding") or {}
        return cls(
            tokens=int(answer.usage.get("completion_tokens") or 0),
            rounds=int(own.get("rounds") or 0),
            steps=int(speculative.get("num_spec_steps") or 0),
            accepted=int(speculative.get("num_accepted_draft_tokens") or 0),
            bytes_up=int(own.get("bytes_up") or 0),
            bytes_down=int(own.get("bytes_down") or 0),
            verifier_calls=int(own.get("verifier_calls") or 0),
            draft_ms=float(own.get("draft_ms") or 0),
            network_ms=float(own.get("network_ms") or 0),
            queue_ms=float(own.get("queue_ms") or 0),
            verify_ms=float(own.get("verify_ms") or 0),
            generation_ms=float(answer.metrics.get("generation_time_ms") or 0),
        )

    @classmethod
    def total(cls, columns: Sequence["Figures"]) -> "Figures":
        """Of one request at least."""
        return sum(columns[1:], start=columns[0])

    def __add__(self, other: "Figures") -> "Figures":
        return Figures(
            **{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        )

    @property
    def acceptance_length(self) -> float | None:
        """Tokens a drafted round yields on average, its bonus included."""
        return 1 + self.accepted / self.steps if self.steps else None

    @property
    def hosted(self) -> int:
        """Tokens that no drafted round yielded: the verifier's alone."""
        return max(0, self.tokens - self.steps - self.accepted)

    def as_json(self) -> dict[str, float | int | None]:
        """Flat, for scripts: the sums and what follows from them."""
        return {
            **{f.name: getattr(self, f.name) for f in fields(self)},
            "hosted_tokens": self.hosted,
            "acceptance_length": self.acceptance_length,
            "bytes_up_per_round": _ratio(self.bytes_up, self.rounds),
            "bytes_down_per_round": _ratio(self.bytes_down, self.rounds),
            "verifier_calls_per_token": _ratio(self.verifier_calls, self.tokens),
            "tokens_per_second": _ratio(1000 * self.tokens, self.generation_ms),
        }


def table(titles: Sequence[str], columns: Sequence[Figures]) -> Table:
    """One column a prompt and one for all, one row a figure: narrow enough for 80 characters."""
    shown = [*columns, Figures.total(columns)]
    drawn = Table(title="Where the tokens came from, and where the time went")
    drawn.add_column("", no_wrap=True)
    for title in (*titles, "all"):
        drawn.add_column(title, justify="right")
    for label, cells in _rows(shown):
        drawn.add_row(label, *cells)
    return drawn


def _rows(shown: Sequence[Figures]) -> list[tuple[str, list[str]]]:
    return [
        ("tokens", [str(f.tokens) for f in shown]),
        ("hosted tokens", [str(f.hosted) for f in shown]),
        ("rounds", [str(f.rounds) for f in shown]),
        ("acceptance length", [_number(f.acceptance_length, 2) for f in shown]),
        ("bytes a round, up", [_number(_ratio(f.bytes_up, f.rounds), 0) for f in shown]),
        ("bytes a round, down", [_number(_ratio(f.bytes_down, f.rounds), 0) for f in shown]),
        ("verifier calls a token", [_number(_ratio(f.verifier_calls, f.tokens), 2) for f in shown]),
        ("draft time", [_share(f.draft_ms, f) for f in shown]),
        ("network time", [_share(f.network_ms, f) for f in shown]),
        ("queue time", [_share(f.queue_ms, f) for f in shown]),
        ("verify time", [_share(f.verify_ms, f) for f in shown]),
        ("tokens a second", [_number(_ratio(1000 * f.tokens, f.generation_ms), 1) for f in shown]),
    ]


def _share(part_ms: float, figures: Figures) -> str:
    whole_ms = figures.draft_ms + figures.network_ms + figures.queue_ms + figures.verify_ms
    if not whole_ms:
        return MISSING
    part_s = part_ms / 1000
    digits = 2 if part_s < 10 else 1 if part_s < 100 else 0
    return f"{part_s:.{digits}f} s {part_ms / whole_ms:.0%}"


def _ratio(above: float, below: float) -> float | None:
    return above / below if below else None


def _number(value: float | None, digits: int) -> str:
    return MISSING if value is None else f"{value:.{digits}f}"
