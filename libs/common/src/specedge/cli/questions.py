"""What the demo asks. One question is copying-heavy: there prompt lookup drafts whole phrases."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Question:
    """``title`` heads a column of the demo's table."""

    title: str
    text: str
    max_tokens: int


QUESTIONS: Final[tuple[Question, ...]] = (
    Question(
        "copy",
        "Repeat the following text exactly, without changes:\n\n"
        "The ferry leaves the old harbour at seven in the morning and returns to the old harbour "
        "at nine in the evening.",
        max_tokens=60,
    ),
    Question("question", "What is the capital of France? Answer in one sentence.", max_tokens=40),
    Question("explain", "Why is the sky blue? Answer in one short sentence.", max_tokens=40),
)
