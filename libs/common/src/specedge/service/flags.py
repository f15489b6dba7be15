"""The flags of a service: one for each field of its settings, and ``--config``.

Takes apart what was typed, and checks no value.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NoReturn, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

EXIT_USAGE: Final = 2

_SWITCH: Final[Mapping[str, Any]] = {"nargs": "?", "const": "true"}


def flags_given(
    fields: Mapping[str, FieldInfo], arguments: Sequence[str], *, prog: str = ""
) -> dict[str, Any]:
    """Values as text by field name, None where none was given, and ``config``: a Path or None.

    Exits like any command on ``--help``, and on a flag that does not exist.
    """
    parser = _Parser(
        prog=prog or None,
        usage="%(prog)s [--SETTING VALUE ...]",
        allow_abbrev=False,
        description="Each setting is also a variable: --http-port is SPECEDGE_HTTP_PORT, and "
        "http_port in the file. A flag goes before the variable, the variable before the file.",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file with settings")
    for name, field in fields.items():
        default = "" if field.default in (None, PydanticUndefined) else f" ({field.default})"
        parser.add_argument(
            flag_of(name),
            dest=name,
            metavar=_shown_value(field.annotation),
            help=f"{field.description or name}{default}".replace("%", "%%"),
            **_SWITCH if field.annotation is bool else {},
        )
    return vars(parser.parse_args(arguments))


def flag_of(name: str) -> str:
    """A field's flag."""
    return "--" + name.replace("_", "-")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """As in the base class, in two lines."""
        self.exit(EXIT_USAGE, f"{self.format_usage()}{message}; --help lists all settings\n")


def _shown_value(annotation: Any) -> str:
    """What may stand for a value: the choices, where it is one of a few."""
    if annotation is bool:
        return "{true,false}"
    kinds = (annotation, *get_args(annotation))
    choices = next((get_args(kind) for kind in kinds if get_origin(kind) is Literal), ())
    return "{" + ",".join(map(str, choices)) + "}" if choices else "VALUE"
