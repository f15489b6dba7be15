"""The prompts of the comparisons: a set of the project's own, a file a category in ``prompts/``.

None of them is used to make a drafter, so that what is measured on them is held out. Each line of a
file is ``{"id": …, "category": …, "prompt": …}``; a prompt is one user turn of a chat.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Final

import orjson

PROMPTS: Final = Path(__file__).parent / "prompts"
CATEGORIES: Final = (
    "chat",
    "code",
    "mathematics",
    "summarising",
    "translation",
    "retrieval",
)


@dataclass(frozen=True, slots=True)
class Prompt:
    """One user turn. ``id`` is its category and number."""

    id: str
    category: str
    text: str


def load_prompts(folder: Path = PROMPTS) -> list[Prompt]:
    """All prompts, the categories taking turns: so any first ones of the list are a fair sample."""
    by_category = [_read(folder / f"{category}.jsonl") for category in CATEGORIES]
    in_turn = chain.from_iterable(zip_longest(*by_category))
    return [prompt for prompt in in_turn if prompt is not None]


def choose(prompts: Sequence[Prompt], count: int | None) -> list[Prompt]:
    """The first ``count`` of a list of ``load_prompts``; all of them for None or too large a
    count."""
    return list(prompts[:count])


def _read(file: Path) -> list[Prompt]:
    entries = [orjson.loads(line) for line in file.read_bytes().splitlines() if line.strip()]
    return [Prompt(entry["id"], entry["category"], entry["prompt"]) for entry in entries]
