"""Settings of a verifier process, and what follows from them."""

from typing import Literal

from pydantic import Field

from specedge.engine.loading import DEFAULT_MODEL
from specedge.params import DraftPolicy
from specedge.service.settings import ServiceSettings

GIB = 1 << 30


class VerifierSettings(ServiceSettings):
    """Settings of a verifier."""

    verifier_id: str = Field(
        default="verifier-1", pattern=r"^[a-z0-9-]{1,32}$", description="this verifier's name"
    )
    engine: Literal["torch", "emulated"] = Field(
        default="torch", description="torch, or emulated: no model, made-up tokens, slept time"
    )
    model: str = Field(
        default=DEFAULT_MODEL, description="name or folder of the model that verifies"
    )
    dtype: Literal["fp32", "bf16", "auto"] = Field(
        default="auto",
        description="fp32, bf16, or auto: bf16 on a GPU that computes in it, else fp32",
    )
    device: str = Field(default="auto", description="cpu, cuda, cuda:1, or auto")
    threads: int | None = Field(default=None, ge=1, description="compute threads on the CPU")
    weights: Literal["least", "whole"] = Field(
        default="least",
        description="how a CPU holds fp32 weights: least, in as few bits as hold them exactly, or "
        "whole, so that memory bounds a step and rows are nearly free, as on a GPU: to compare",
    )
    slots: int = Field(default=64, ge=1, le=65536, description="sessions with KV at a time")
    kv_bytes: int = Field(default=GIB, ge=1 << 20, description="bound of the KV cache, in bytes")
    max_context_tokens: int | None = Field(
        default=None, ge=2, description="prompt plus generated tokens, below the model's own limit"
    )
    max_step_tokens: int | None = Field(
        default=None, ge=8, description="rows of one step; 128 on a CPU, 2048 elsewhere"
    )
    max_prefill_tokens: int | None = Field(
        default=None,
        ge=1,
        description="rows of a step for prompts while others generate; 32 on a CPU, all that is "
        "left elsewhere",
    )
    max_nodes: int = Field(default=128, ge=0, le=1024, description="drafted nodes of a round")
    max_append: int = Field(default=256, ge=0, le=8192, description="tokens appended by a draft")
    max_grant: int = Field(
        default=128, ge=0, description="tokens of one hosted grant; 0: no hosted sessions"
    )
    max_ahead: int = Field(
        default=128,
        ge=0,
        le=1024,
        description="nodes that an edge may send ahead of a verdict; 0: none are taken",
    )
    drafter: str = Field(
        default="none",
        description="what drafts here for hosted sessions: none, auto (the drafter shipped for the "
        "model, else prompt-lookup), prompt-lookup, emulated, or the name or folder of a draft "
        "model",
    )
    depth: int = Field(default=5, ge=0, le=64, description="levels of its trees at most")
    budget: int = Field(default=32, ge=0, le=1024, description="nodes of its trees at most")
    beams: int = Field(default=8, ge=1, le=256, description="nodes expanded in one pass at most")
    branch: int = Field(default=8, ge=1, le=256, description="children tried of a node")
    floor: float = Field(
        default=0.05, ge=0, le=1, description="nodes less likely to be accepted are not tried"
    )
    draft_dtype: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="dtype of a draft model: fp32, bf16, or auto (may round)"
    )
    draft_kv_bytes: int = Field(
        default=GIB, ge=1 << 20, description="bytes of KV cache of a draft model at most"
    )
    hosted_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="of a step's rows, what hosted sessions may take while edges' drafts wait",
    )
    emulated_step_ms: float = Field(default=0.0, ge=0, description="emulated: a step's time")
    emulated_row_ms: float = Field(default=0.0, ge=0, description="emulated: more, for each row")
    emulated_prefill_token_ms: float = Field(
        default=0.0, ge=0, description="emulated: more, for each token of prefill"
    )
    emulated_draft_ms: float = Field(
        default=0.0, ge=0, description="emulated: one pass of an emulated drafter"
    )
    emulated_pair: str = Field(
        default="",
        description="emulated: costs and agreement of a pair of models (14b, 32b, 14b-roofline, "
        "32b-roofline) in place of the times above",
    )
    emulated_agreement: str = Field(
        default="",
        description="emulated drafter: how often a level is accepted, by depth with commas "
        "between, or the path of a recorded trace",
    )
    emulated_seed: int = Field(default=0, ge=0, description="emulated: tells models apart")
    idle_s: float = Field(
        default=30.0, gt=0, description="a session without a word for so long is given up"
    )
    drain_s: float = Field(
        default=10.0, ge=0, description="on SIGTERM, time for rounds under way to end"
    )

    @property
    def policy(self) -> DraftPolicy:
        """How much to draft for a hosted round."""
        return DraftPolicy(self.depth, self.budget, self.beams, self.branch, self.floor)
