"""Settings of the edge service, as values; ``specedge.service.settings`` says where from."""

from pathlib import Path
from typing import Final, Literal

from pydantic import Field, SecretStr

from specedge.engine.loading import DEFAULT_MODEL
from specedge.errors import InvalidRequest
from specedge.params import DraftPolicy
from specedge.service.settings import ServiceSettings

IDENTITY_NAME: Final = "edge.nk"


class EdgeSettings(ServiceSettings):
    """An edge: drafts tokens at home, and serves the OpenAI API to whoever is there."""

    http_port: int = Field(default=8000, ge=0, le=65535, description="port; 0: any free one")
    model: str = Field(
        default=DEFAULT_MODEL,
        description="model that the verifiers serve, by name or folder; its tokenizer is used here",
    )
    drafter: str = Field(
        default="auto",
        description="auto (the drafter shipped for the model, else prompt-lookup), prompt-lookup, "
        "emulated, none (the verifier generates alone), or the name or folder of a draft model",
    )
    depth: int = Field(default=5, ge=0, le=64, description="levels of a draft tree at most")
    budget: int = Field(default=32, ge=0, le=1024, description="nodes of a draft tree at most")
    beams: int = Field(default=8, ge=1, le=256, description="nodes expanded in one pass at most")
    branch: int = Field(default=8, ge=1, le=256, description="children tried of a node")
    floor: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="nodes less likely to be accepted are not sent: each costs the verifier a row",
    )
    adaptive: bool = Field(
        default=True,
        description="draft as much as pays, up to depth and budget, and nothing where the verifier "
        "alone is quicker; false: always as much",
    )
    proactive: bool = Field(
        default=True, description="draft on while a draft is out, whenever the device is free"
    )
    ahead: bool = Field(
        default=True,
        description="send what was drafted on before the verdict, so that the verifier goes on at "
        "once where it led there; needs proactive",
    )
    coupled: bool = Field(
        default=True,
        description="where tokens are sampled, a draft model ranks with the verifier's own noise",
    )
    draft_device: str = Field(
        default="auto", description="device of a draft model: cpu, cuda, cuda:1, or auto"
    )
    threads: int | None = Field(
        default=None, ge=1, description="compute threads of a draft model on the CPU"
    )
    draft_dtype: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="dtype of a draft model: fp32, bf16, or auto (may round)"
    )
    draft_kv_bytes: int = Field(
        default=2**30, ge=2**20, description="bytes of KV cache of a draft model at most"
    )
    grant_tokens: int = Field(
        default=64, ge=1, description="where nothing is drafted: tokens the verifier may run ahead"
    )
    api_key: SecretStr | None = Field(
        default=None, description="keys that clients must show one of, with commas between"
    )
    api_key_file: Path | None = Field(default=None, description="file with one such key a line")
    allowed_origins: str = Field(
        default="",
        description="web origins that browsers may call from, with commas between; * for any",
    )
    max_concurrent: int = Field(
        default=64, ge=1, description="choices generated at a time; more are refused"
    )
    metrics_compat: bool = Field(
        default=True, description="also export metrics under the names of vLLM"
    )
    patience_s: float = Field(
        default=30.0,
        gt=0,
        description="seconds that an answer waits for a cloud that says nothing: where there is "
        "one verifier only, longer than it takes to start again",
    )
    keep_alive_s: float = Field(
        default=15.0, gt=0, description="seconds between comments on a stream that is waiting"
    )

    drain_s: float = Field(
        default=5.0, ge=0, description="on SIGTERM, time for answers under way to end"
    )

    @property
    def policy(self) -> DraftPolicy:
        """How much to draft in a round."""
        return DraftPolicy(self.depth, self.budget, self.beams, self.branch, self.floor)

    @property
    def key_path(self) -> Path:
        """Where this edge's identity is kept."""
        return self.identity_file or self.cache_dir / IDENTITY_NAME

    @property
    def origins(self) -> tuple[str, ...]:
        """``allowed_origins``, taken apart."""
        return tuple(part.strip() for part in self.allowed_origins.split(",") if part.strip())

    def api_keys(self) -> frozenset[str]:
        """All keys, from the setting and the file; empty: none is asked for.

        Raises InvalidRequest when the file cannot be read, or holds none: a typing error must not
        open the door.
        """
        given = self.api_key.get_secret_value().split(",") if self.api_key is not None else []
        if self.api_key_file is not None:
            try:
                lines = self.api_key_file.read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise InvalidRequest(f"api_key_file: {error}", field="api_key_file") from error
            given += lines
        keys = frozenset(key.strip() for key in given if key.strip())
        if not keys and (self.api_key is not None or self.api_key_file is not None):
            raise InvalidRequest("api_key: no key was given", field="api_key")
        return keys
