"""The prompts that losslessness is measured on: the built-in set, and files of one's own.

Varied on purpose: questions, lists, code, tables, other scripts, repetition (where prompt lookup
drafts well) and nonsense (where it drafts badly).
"""

from itertools import cycle, islice
from pathlib import Path
from typing import Final

import orjson

from specedge.errors import InvalidRequest

BUILT_IN: Final[tuple[str, ...]] = (
    "The lighthouse keeper had not spoken to anyone for eleven days when",
    "Question: Why does ice float on water?\nAnswer:",
    "def fibonacci(n: int) -> int:\n    ",
    "Shopping list:\n- two lemons\n- a bag of rice\n- ",
    "Once more, word for word: the quick brown fox jumps over the lazy dog. the quick brown fox",
    "Les trois plus grandes villes de France sont",
    "SELECT name, population FROM cities WHERE country = 'Norway' ORDER BY",
    "To make a paper boat, first fold the sheet in half. Then",
    "1, 4, 9, 16, 25, 36,",
    "Dear neighbour,\n\nI am writing because your dog",
    '{"name": "Ada", "born": 1815, "fields": ["mathematics", "computing"]}\n{"name": "Alan", ',
    "The difference between weather and climate is that",
    "In summary, the committee recommends three changes. First,",
    "| planet | moons |\n|---|---|\n| Earth | 1 |\n| Mars |",
    "Ein alter Fischer erzählte mir einmal, dass",
    "qx zvv 7# plorn, mibble; 44 ((",
    "A short poem about a bicycle left in the rain:\n\n",
    "import asyncio\n\n\nasync def main() -> None:\n    async with",
    "The following sentence is repeated three times.\nRivers find the sea.\nRivers find the sea.\n",
    "Interviewer: What did you learn from the failure?\nEngineer:",
    "日本で一番高い山は",
    "The recipe needs 250 g of flour, so for half as many people you need",
    "<ul>\n  <li>Monday</li>\n  <li>Tuesday</li>\n  <li>",
    "He looked at the map again. North of the river there was nothing but",
)


def choose_prompts(count: int, file: Path | None) -> list[str]:
    """``count`` prompts from the built-in set or, when given, from ``file``.

    A shorter set is gone through again with a number in front, so that no two prompts are equal.
    Raises InvalidRequest naming the line of a file that is not one JSON string.
    """
    available = read_prompts(file) if file is not None else list(BUILT_IN)
    chosen = list(islice(cycle(available), count))
    return [
        prompt if index < len(available) else f"{index + 1}. {prompt}"
        for index, prompt in enumerate(chosen)
    ]


def read_prompts(file: Path) -> list[str]:
    """One JSON string a line; empty lines are skipped."""
    prompts = []
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            prompt = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise InvalidRequest(f"{file}, line {number}: {error}", field="prompts-file") from error
        if not isinstance(prompt, str) or not prompt:
            raise InvalidRequest(
                f"{file}, line {number}: expected a non-empty JSON string", field="prompts-file"
            )
        prompts.append(prompt)
    if not prompts:
        raise InvalidRequest(f"{file} holds no prompt", field="prompts-file")
    return prompts
