"""What all bodies are made of: the version they carry, and the kinds of fields they have. Strict
frozen pydantic models: validation happens where bytes come in.
"""

import math
from typing import Annotated, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _least_if_null(value: object) -> object:
    return -math.inf if value is None else value


PROTOCOL_VERSION: Final = 1
HASH_PATTERN: Final = r"^[0-9a-f]{16}$"
TokenIdField = Annotated[int, Field(ge=0, lt=2**31)]
Count = Annotated[int, Field(ge=0, lt=2**31)]
Hash = Annotated[str, Field(pattern=HASH_PATTERN)]
Fingerprint = Annotated[str, Field(pattern=r"^[0-9a-f]{1,64}$")]
Name = Annotated[str, Field(min_length=1, max_length=200)]
ServiceName = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,32}$")]
Bias = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
Logprob = Annotated[float, BeforeValidator(_least_if_null)]  # JSON says minus infinity as null
# At most some eleven days: what is reckoned with it stays a number.
Milliseconds = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]


class Body(BaseModel):
    """What every body shares: the protocol's version."""

    # No strings are kept: most are seen once, and a cache of 16 thousand of them looks for minutes
    # as if memory grew.
    model_config = ConfigDict(
        strict=True, frozen=True, extra="ignore", populate_by_name=True, cache_strings="none"
    )

    v: Annotated[int, Field(ge=1, le=1)] = PROTOCOL_VERSION


class Part(BaseModel):
    """A piece of a body."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", populate_by_name=True)
