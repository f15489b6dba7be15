"""What a comparison is asked, and what it answers."""

from dataclasses import dataclass, field

from benchmarks.columns import Column, Figures, Setting
from benchmarks.prompt_set import Prompt


@dataclass(frozen=True, slots=True)
class Plan:
    """What to compare. ``sweep`` settings are tried on the first ``sweep_prompts`` with
    ``sweep_tokens`` each; the prompts of a column are asked in ``turns``, between which the others
    have theirs; delays are round trips in milliseconds."""

    model: str
    drafter: str
    prompts: tuple[Prompt, ...]
    max_tokens: int
    temperature: float
    streams: tuple[int, ...]
    delays_ms: tuple[float, ...]
    sweep: tuple[Setting, ...]
    sweep_prompts: int
    sweep_tokens: int
    turns: int = 4
    verifier_flags: tuple[str, ...] = ()
    edge_flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """A column's figures; how many texts were held against the plain column's (of that column
    itself and of a sweep none), and how many of these are equal."""

    column: Column
    figures: Figures
    texts: int = 0
    same_texts: int = 0


@dataclass(slots=True, eq=False)
class Results:
    """Everything a comparison found."""

    sweeps: list[Measured] = field(default_factory=list)
    columns: list[Measured] = field(default_factory=list)
