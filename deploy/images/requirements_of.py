"""Print what packages of this repository need from elsewhere, one pinned requirement a line.

An image installs these in a layer of their own, which is built again when a ``pyproject.toml``
changes and not whenever a line of the source does. Runs before anything is installed: standard
library only.

    requirements_of.py PYPROJECT... [--extra NAME] [--without NAME | --only NAME]

The last PYPROJECT is the package that is wanted; the others are where its requirements on packages
of this repository, extras included, are looked up. ``--extra`` is one more extra of all of them.
"""

import argparse
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

REQUIREMENT = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(\[(?P<extras>[^\]]*)\])?")


def external_requirements(
    wanted: str, projects: Mapping[str, Mapping[str, Any]], extras: frozenset[str]
) -> Iterator[str]:
    """What ``wanted`` needs with ``extras``, itself and all packages of ``projects`` left out.

    A requirement may come twice: pip does not mind.
    """
    project = projects[wanted]
    optional = project.get("optional-dependencies", {})
    lines = list(project.get("dependencies", []))
    for extra in sorted(extras & optional.keys()):
        lines += optional[extra]
    for line in lines:
        found = REQUIREMENT.match(line)
        if found is None:
            raise SystemExit(f"{wanted} has a requirement that cannot be read: {line}")
        if found["name"] not in projects:
            yield line
            continue
        named = frozenset(part.strip() for part in (found["extras"] or "").split(",") if part)
        yield from external_requirements(found["name"], projects, extras | named)


def main(arguments: list[str]) -> None:
    """Print the requirements to stdout."""
    parser = argparse.ArgumentParser(description="Third-party requirements of a package here.")
    parser.add_argument("pyproject", nargs="+", type=Path)
    parser.add_argument("--extra", action="append", default=[])
    parser.add_argument("--without", help="leave this requirement out")
    parser.add_argument("--only", help="print this requirement alone")
    options = parser.parse_args(arguments)
    projects = {}
    for path in options.pyproject:
        project = tomllib.loads(path.read_text())["project"]
        projects[project["name"]] = project
        wanted = project["name"]
    for line in external_requirements(wanted, projects, frozenset(options.extra)):
        found = REQUIREMENT.match(line)
        name = "" if found is None else found["name"]
        if (options.only or name) == name and name != options.without:
            sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
