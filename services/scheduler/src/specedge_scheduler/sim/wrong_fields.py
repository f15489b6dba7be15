"""What a scenario's reader says of a field that is wrong: which one, as people wrote it, and why.

A field may be one thing or another (a name or figures), and each reading that was tried has a
complaint of its own: the one that got farthest is of what people meant.
"""

from collections.abc import Sequence
from typing import Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from specedge.errors import InvalidRequest

Location = tuple[int | str, ...]

# Fields of several readings, and pydantic's names of these, which stand behind the field's.
UNIONS: Final = {
    "device": ("str", "DeviceSpec"),
    "link": ("str", "LinkSpec"),
    "depth": ("constrained-int", "DepthRange"),
}

# Where pydantic speaks of Python, not of a file.
_OURS: Final = {
    "extra_forbidden": "there is no such field",
    "tuple_type": "must be a list",
    "model_type": "must be a mapping of fields",
}


def refusal_of(error: ValidationError) -> InvalidRequest:
    """In one sentence, about one field."""
    said = error.errors(include_url=False, include_input=False, include_context=False)
    # A field that is missing may be there, with a typing error.
    first = next((one for one in said if one["type"] != "missing"), said[0])
    field = _field(first["loc"])
    if (union := _union_of(first["loc"])) is not None:
        first = _farthest([one for one in said if one["loc"][: len(union)] == union])
        field = _field(first["loc"])
    message = _OURS.get(first["type"]) or first["msg"].removeprefix("Value error, ")
    return InvalidRequest(f"{field}: {message}", field=field)


def _farthest(said: Sequence[ErrorDetails]) -> ErrorDetails:
    """The deepest; of those the one in our own words, which say most."""
    return max(said, key=lambda one: (len(one["loc"]), one["type"] == "value_error"))


def _union_of(location: Location) -> Location | None:
    """The place of the field with several readings that it is in."""
    for index in range(1, len(location)):
        if _is_reading(location, index):
            return location[:index]
    return None


def _field(location: Location) -> str:
    """As people wrote it: dotted, without the readings."""
    parts = [
        str(part) or "''" for index, part in enumerate(location) if not _is_reading(location, index)
    ]
    return ".".join(parts) or "scenario"


def _is_reading(location: Location, index: int) -> bool:
    return index > 0 and location[index] in UNIONS.get(str(location[index - 1]), ())
