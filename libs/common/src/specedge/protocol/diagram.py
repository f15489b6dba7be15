"""Draws both transition tables into docs/protocol.md: a diagram and the whole table of each.

``python -m specedge.protocol.diagram docs/protocol.md`` rewrites what stands between the markers;
everything outside them is prose. A test holds the file to what ``fill`` gives.
"""

import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from specedge.protocol.edge_states import EDGE_TRANSITIONS
from specedge.protocol.verifier_states import VERIFIER_TRANSITIONS

Table = Mapping[Any, Mapping[type, frozenset[Any]]]  # keyed by either StrEnum of states

TABLES: Final[Mapping[str, Table]] = {"edge": EDGE_TRANSITIONS, "verifier": VERIFIER_TRANSITIONS}


def fill(document: str) -> str:
    """``document`` with the text between each pair of markers made anew.

    Raises ValueError if a marker is missing.
    """
    for name, table in TABLES.items():
        start, end = f"<!-- {name}: generated -->\n", f"<!-- {name}: end -->"
        before, _, rest = document.partition(start)
        _, found, after = rest.partition(end)
        if not found:
            raise ValueError(f"the document lacks the markers of {name}")
        document = f"{before}{start}{draw(table)}\n{tabulate(table)}{end}{after}"
    return document


def draw(table: Table) -> str:
    """A Mermaid diagram of the changes of state; what leaves a state as it is, is in the table."""
    first, last = next(iter(table)), list(table)[-1]
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {first}"]
    for state, row in table.items():
        events: dict[StrEnum, list[str]] = {}
        for kind, targets in row.items():
            for target in sorted(targets - {state}):
                events.setdefault(target, []).append(kind.__name__)
        lines += [
            f"    {state} --> {target}: {', '.join(sorted(events[target]))}"
            for target in table
            if target in events
        ]
    lines += [f"    {last} --> [*]", "```", ""]
    return "\n".join(lines)


def tabulate(table: Table) -> str:
    """Event × state as a Markdown table: the states that may follow; ``·`` is the same state, and
    an empty cell a wrong local call."""
    kinds = sorted({kind.__name__ for row in table.values() for kind in row})
    lines = [
        f"| event | {' | '.join(table)} |",
        f"|---|{'---|' * len(table)}",
    ]
    for kind in kinds:
        cells = [_cell(state, row, kind) for state, row in table.items()]
        lines.append(f"| `{kind}` | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _cell(state: StrEnum, row: Mapping[type, frozenset[StrEnum]], name: str) -> str:
    targets = next((row[kind] for kind in row if kind.__name__ == name), frozenset())
    others = sorted(targets - {state})
    return ", ".join(["·", *others] if state in targets else others)


def main() -> None:
    """Rewrite the file named on the command line."""
    path = Path(sys.argv[1])
    path.write_text(fill(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
