"""Settings of a service: flags over SPECEDGE_* environment over YAML file over defaults.

The only file that reads the environment. A service subclasses ``ServiceSettings`` and reads it
once, in its ``__main__``; everything else gets values:

    class VerifierSettings(ServiceSettings):
        \"""Settings of a verifier.\"""

        model: str = Field(default="...", description="name or folder of the target model")
        threads: int | None = Field(default=None, ge=1, description="compute threads")

    def main() -> int:
        settings = settings_from_command_line(VerifierSettings, sys.argv[1:])
        ...

``threads`` is then ``--threads 4``, ``SPECEDGE_THREADS=4``, or ``threads: 4`` in the file that
``--config`` or SPECEDGE_CONFIG names. Fields are flat, and secrets are ``SecretStr``.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, get_args

import yaml  # type: ignore[import-untyped]
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_core import ErrorDetails, PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    YamlConfigSettingsSource,
)

from specedge.credentials.nkey import UserKey
from specedge.errors import InvalidRequest
from specedge.link.nats import NatsOptions
from specedge.service.flags import flag_of, flags_given

PREFIX: Final = "SPECEDGE_"
CONFIG_VARIABLE: Final = "SPECEDGE_CONFIG"
CALLED_AS_VARIABLE: Final = "SPECEDGE_CALLED_AS"  # what a person typed, if another command was it

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "json", "text"]


class SettingsInvalid(InvalidRequest):
    """One line for each bad setting, with its name and where it came from. Tell the user."""


class ServiceSettings(BaseSettings):
    """What all services have in common. Made by ``load_settings``; frozen."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="forbid", frozen=True
    )

    nats_url: str = Field(
        default="nats://127.0.0.1:4222",
        description="broker: nats://host:port, tls://host:port or wss://host:port, several with "
        "commas between",
    )
    nats_ca_file: Path | None = Field(
        default=None, description="certificate authority that the broker must be vouched for by"
    )
    identity_file: Path | None = Field(
        default=None, description="file with the seed of the NKey to prove oneself with"
    )
    http_host: str = Field(default="127.0.0.1", description="address to serve HTTP on")
    http_port: int = Field(default=0, ge=0, le=65535, description="port of it; 0: any free one")
    log_level: LogLevel = Field(default="info", description="least severity to log")
    log_format: LogFormat = Field(
        default="auto", description="auto: json unless stderr is a terminal"
    )
    cache_dir: Path = Field(
        default=Path("~/.cache/specedge"),
        validate_default=True,
        description="where models and other things worth keeping are kept",
    )
    spans_file: Path | None = Field(
        default=None,
        description="record what is done when, and write it there at the end: `specedge trace`",
    )

    @field_validator("nats_url", mode="after")
    @classmethod
    def _check_servers(cls, value: str) -> str:
        try:
            NatsOptions(servers=_servers_in(value), name="")
        except InvalidRequest as error:  # nothing else of it can be wrong
            raise PydanticCustomError("servers", "{reason}", {"reason": str(error)}) from None
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _expand_home(cls, value: Any) -> Any:
        return value.expanduser() if isinstance(value, Path) else value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Made by hand, a settings object holds what it was given and defaults: ``load_settings``
        is who looks elsewhere."""
        return (init_settings,)

    @property
    def nats_servers(self) -> tuple[str, ...]:
        """``nats_url``, taken apart."""
        return _servers_in(self.nats_url)

    def nats_options(self, *, name: str, inbox_prefix: str, key: UserKey | None) -> NatsOptions:
        """How to connect as ``name``; ``key`` from ``identity_file``, if the broker wants one."""
        return NatsOptions(
            servers=self.nats_servers,
            name=name,
            inbox_prefix=inbox_prefix,
            seed=None if key is None else key.seed,
            tls_ca_file=self.nats_ca_file,
        )


S = TypeVar("S", bound=ServiceSettings)


def load_settings(cls: type[S], flags: Mapping[str, object], config_file: Path | None = None) -> S:
    """Read all sources and check them together.

    ``flags`` by field name; None means not given. Without ``config_file``, SPECEDGE_CONFIG may name
    one. Raises SettingsInvalid.
    """
    if config_file is None and os.environ.get(CONFIG_VARIABLE):
        config_file = Path(os.environ[CONFIG_VARIABLE])
    layers = (
        _from_file(cls, config_file),
        _from_environment(cls),
        _Layer({name: v for name, v in flags.items() if v is not None}, "the flag {flag}"),
    )
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in layers:
        values |= layer.values
        origins |= {name: layer.origin(name) for name in layer.values}
    try:
        return cls(**values)
    except ValidationError as error:
        raise _explained(cls, error, origins) from None


def settings_from_command_line(cls: type[S], arguments: Sequence[str], *, prog: str = "") -> S:
    """``load_settings`` with a flag for each field, and ``--config``. A field is a scalar here.

    Exits like any command on ``--help``, and on a flag that does not exist. Raises SettingsInvalid.
    """
    called_as = variable(CALLED_AS_VARIABLE) or prog
    flags = flags_given(cls.model_fields, arguments, prog=called_as)
    config_file = flags.pop("config")
    return load_settings(cls, flags, config_file)


def environment_for(given: Mapping[str, str]) -> dict[str, str]:
    """For a process that this one starts: what it has itself, under ``given``. A variable given
    empty is none given."""
    return dict(os.environ) | dict(given)


def variable(name: str) -> str | None:
    """One variable, for a command that is no service; None: not set, or empty."""
    return os.environ.get(name) or None


def _servers_in(nats_url: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in nats_url.split(",") if part.strip())


@dataclass(frozen=True, slots=True)
class _Layer:
    """What one source says; ``origin`` names the source of one field in the user's own spelling."""

    values: dict[str, Any]
    called: str

    def origin(self, name: str) -> str:
        return self.called.format(
            flag=flag_of(name), variable=f"{PREFIX}{name.upper()}", field=name
        )


def _from_environment(cls: type[ServiceSettings]) -> _Layer:
    try:
        values = EnvSettingsSource(cls)()
    except SettingsError as error:
        raise SettingsInvalid(f"environment: {error}", field="environment") from error
    return _Layer(values, "{variable}")


def _from_file(cls: type[ServiceSettings], path: Path | None) -> _Layer:
    if path is None:
        return _Layer({}, "")
    path = path.expanduser()
    if not path.is_file():
        raise SettingsInvalid(f"no such file: {path}", field="config")
    try:
        values = YamlConfigSettingsSource(cls, yaml_file=path)()
    except AttributeError:  # of a name that is no word, on the way to a setting's
        raise SettingsInvalid(f"{path}: a setting's name is a word", field="config") from None
    except (yaml.YAMLError, ValueError, TypeError, OSError) as error:
        message = f"{path} is no YAML file of settings: {error}"
        raise SettingsInvalid(message, field="config") from None
    return _Layer({str(name): value for name, value in values.items()}, f"{{field}} in {path}")


def _explained(
    cls: type[ServiceSettings], error: ValidationError, origins: Mapping[str, str]
) -> SettingsInvalid:
    problems = error.errors(include_url=False, include_context=False)
    lines = [_line(cls, problem, origins) for problem in problems]
    first = str(problems[0]["loc"][0]) if problems[0]["loc"] else "settings"
    return SettingsInvalid("\n".join(lines), field=first)


def _line(cls: type[ServiceSettings], problem: ErrorDetails, origins: Mapping[str, str]) -> str:
    name = str(problem["loc"][0]) if problem["loc"] else "settings"
    origin = origins.get(name, "not given")
    said = problem["msg"]
    if problem["type"] == "extra_forbidden":
        return f"{name} (from {origin}): there is no such setting"
    if name in cls.model_fields and not _is_secret(cls, name) and name in origins:
        said += f", not {problem['input']!r}"
    return f"{name} (from {origin}): {said}"


def _is_secret(cls: type[ServiceSettings], name: str) -> bool:
    """``nats_url`` may hold a password; its check shows what may be shown."""
    annotation = cls.model_fields[name].annotation
    return name == "nats_url" or annotation is SecretStr or SecretStr in get_args(annotation)
