"""Values of request bodies that several fields share."""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from pydantic_core import PydanticCustomError

AS_MANY_AS_FIT: Final = -1  # of tokens to generate, as clients of other servers say it


class BodyPart(BaseModel):
    """A body, or a piece of one. Unknown fields are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


def _whole(value: Any) -> Any:
    """To JSON 8.0 is the same number as 8, and some clients know no other kind."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _only_text(value: Any) -> Any:
    if value != "text":
        raise PydanticCustomError("only_text", "only text content is served")
    return value


# A number without a fraction, of a field that counts something.
Whole = Annotated[int, BeforeValidator(_whole)]
TokenLimit = Annotated[Annotated[int, Field(ge=1, lt=2**31)] | Literal[-1], BeforeValidator(_whole)]
OnlyText = Annotated[Literal["text"], BeforeValidator(_only_text)]
StopString = Annotated[str, StringConstraints(min_length=1, max_length=256)]
# Of what a client sends by the hundred thousand, the first fault is enough: to collect them all
# would take the event loop minutes, and gigabytes.
TokenIds = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(fail_fast=True)]
