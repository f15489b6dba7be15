"""Who belongs to a system and how its broker is reached: the one file that commands read back.

Holds no secret: names, roles, public keys, and what was chosen at earlier commands.
"""

from typing import Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from specedge.credentials.nkey import is_public_key
from specedge.credentials.roles import Role
from specedge.errors import InvalidRequest
from specedge.ids import SERVICE_NAME

OFF: Final = "off"
_SAFE: Final = ("tls://", "wss://")


class Member(BaseModel):
    """Somebody with a key. ``name`` is unique among all; an edge's is only a label."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    role: Role
    public_key: str

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        check_name(name)
        return name

    @field_validator("public_key")
    @classmethod
    def _check_key(cls, public_key: str) -> str:
        if not is_public_key(public_key):
            raise ValueError(f"no public key of a user: {public_key}")
        return public_key


class Choices(BaseModel):
    """What an operator chose for the broker and its files.

    tls_names   what the broker's certificate vouches for: host names and addresses
    url         what edges dial; None: the first of ``tls_names``, at the port of ``listen``
    listen, monitor, websocket   "host:port" of the broker; "off": not served
    broker_dir  where the broker sees its folder; None: where it is
    store_dir   where the broker keeps JetStream's files; None: in its folder
    edge_dir    where an edge sees its own folder
    owner       "uid" or "uid:gid" of all files; None: whoever owns the folder
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tls_names: tuple[str, ...] = Field(default=("localhost", "127.0.0.1", "::1"), min_length=1)
    url: str | None = None
    listen: str = "0.0.0.0:4222"
    monitor: str = "127.0.0.1:8222"
    websocket: str = OFF
    broker_dir: str | None = None
    store_dir: str | None = None
    edge_dir: str = "/credentials"
    owner: str | None = Field(default=None, pattern=r"^\d+(:\d+)?$")

    @field_validator("listen", "monitor", "websocket")
    @classmethod
    def _check_address(cls, address: str) -> str:
        host, _, port = address.rpartition(":")
        if address != OFF and not (host and port.lstrip("-").isdecimal() and int(port) < 65536):
            raise ValueError(f"an address looks like 0.0.0.0:4222, not {address!r}")
        return address

    @field_validator("listen")
    @classmethod
    def _check_listens(cls, listen: str) -> str:
        if listen == OFF:
            raise ValueError("the broker has to listen somewhere")
        return listen

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str | None) -> str | None:
        servers = [] if url is None else [part.strip() for part in url.split(",")]
        if not all(server.startswith(_SAFE) for server in servers):
            raise ValueError(f"edges dial tls://host:port or wss://host:port, not {url!r}")
        if len({server.partition(":")[0] for server in servers}) > 1:
            raise ValueError(f"edges dial wss:// servers only, or none of them, not {url!r}")
        return url

    @property
    def edge_url(self) -> str:
        """What an edge dials."""
        if self.url is not None:
            return self.url
        first = self.tls_names[0]
        host = f"[{first}]" if ":" in first else first
        return f"tls://{host}:{self.listen.rpartition(':')[2]}"


class Roster(BaseModel):
    """All members, in the order in which they came."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    choices: Choices = Choices()
    members: tuple[Member, ...] = ()

    @model_validator(mode="after")
    def _check_unique(self) -> Self:
        for values in ([m.name for m in self.members], [m.public_key for m in self.members]):
            if len(set(values)) != len(values):
                raise ValueError("a name or key stands for two")
        return self

    @classmethod
    def read(cls, text: bytes) -> Self:
        """Raises InvalidRequest."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            message = f"not understood: {where}: {first['msg']}"
            raise InvalidRequest(message, field="roster") from error

    def written(self) -> bytes:
        """For the file."""
        return (self.model_dump_json(indent=2) + "\n").encode()

    def member(self, name: str) -> Member | None:
        """The one of that name."""
        return next((member for member in self.members if member.name == name), None)

    def with_member(self, member: Member) -> "Roster":
        """With ``member`` in the place of whoever had its name, else behind all others."""
        others = tuple(member if old.name == member.name else old for old in self.members)
        added = others if member in others else (*others, member)
        return self.model_copy(update={"members": added})

    def without(self, name: str) -> "Roster":
        """With nobody of that name."""
        left = tuple(member for member in self.members if member.name != name)
        return self.model_copy(update={"members": left})


def check_name(name: str) -> None:
    """Names become parts of subjects and of paths. Raises InvalidRequest."""
    if not SERVICE_NAME.fullmatch(name):
        message = f"a name has up to 32 of a-z, 0-9 and -: not {name!r}"
        raise InvalidRequest(message, field="name")


def chosen(base: Choices, changes: dict[str, object]) -> Choices:
    """``base`` with what was given anew: None leaves a choice as it was. Raises InvalidRequest."""
    given = {key: value for key, value in changes.items() if value is not None}
    try:
        return Choices.model_validate(base.model_dump() | given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = str(first["loc"][0]) if first["loc"] else "choices"
        said = str(first["msg"]).removeprefix("Value error, ")
        raise InvalidRequest(f"{field.replace('_', '-')}: {said}", field=field) from None
