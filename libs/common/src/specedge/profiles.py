"""Cost models of devices and links, as values. Every figure has a source, named beside it.

Used by the emulated engines (which sleep these times), by simulation, and as the estimator's
starting point. Knows nothing of how time passes, nor how well models agree: ``specedge.pairs``.
"""

from dataclasses import dataclass, replace
from typing import Final


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """What a model costs on a device.

    A step takes fixed_ms + row_ms * rows + context_token_ms * context + prefill_token_ms * prefill,
    where rows are those of trees and their chains, prefill the tokens of prefill chunks, and
    context the KV rows read, summed over sessions.

    draft_pass_ms    one pass of the model as a drafter
    draft_row_ms     more, for each node that the pass expands
    usd_per_hour     rent of the device; 0 where it is not rented
    kv_token_bytes   KV of one token, all layers
    source           where the figures are from
    """

    name: str
    source: str
    fixed_ms: float = 0.0
    row_ms: float = 0.0
    context_token_ms: float = 0.0
    prefill_token_ms: float = 0.0
    draft_pass_ms: float = 0.0
    draft_row_ms: float = 0.0
    usd_per_hour: float = 0.0
    kv_token_bytes: int = 0

    def step_ms(self, rows: int, context_tokens: int = 0, prefill_tokens: int = 0) -> float:
        """Predicted duration of one target step."""
        return (
            self.fixed_ms
            + self.row_ms * rows
            + self.context_token_ms * context_tokens
            + self.prefill_token_ms * prefill_tokens
        )

    def pass_ms(self, rows: int) -> float:
        """Duration of one pass of the model as a drafter that expands ``rows`` nodes in it."""
        return self.draft_pass_ms + self.draft_row_ms * rows


@dataclass(frozen=True, slots=True)
class LinkProfile:
    """What a message meets between an edge and the broker.

    round_trip_ms  mean, there and back
    jitter_ms      standard deviation of one way
    loss           share of messages lost, 0 … 1
    """

    name: str
    source: str
    round_trip_ms: float = 0.0
    jitter_ms: float = 0.0
    loss: float = 0.0

    @property
    def one_way_ms(self) -> float:
        """Mean delay of one message."""
        return self.round_trip_ms / 2


INSTANT: Final = DeviceProfile("instant", "by definition: a device that takes no time")
LOOPBACK: Final = LinkProfile("loopback", "by definition: a link that takes no time")
PAPER_WAN: Final = LinkProfile("paper-wan", "arXiv 2505.17052: mean round trip", 14.07)

HOUR_MS: Final = 3.6e6

# ---------------------------------------------------------------- rents
# From the cost constants of arXiv 2505.17052's own code, which bill by the second.
A100_40_USD: Final = 0.001125 * 3600
A100_80_USD: Final = 0.001402777778 * 3600
RTX_4090_USD: Final = 0.00009722222222 * 3600

# ---------------------------------------------------------------- rooflines
# A pass streams the weights once; a row costs two operations a parameter at the dense bf16 rate;
# KV is read at the memory's rate. Device figures: NVIDIA's data sheets (A100 40 GB SXM 1.555 TB/s,
# A100 80 GB SXM 2.039 TB/s, both 312 TFLOP/s; RTX 4090 1.008 TB/s, 165 TFLOP/s). Models: parameter
# counts and shapes of the Qwen3 family's configs; a token's KV is layers * kv heads * 128 * 2
# (K and V) * 2 bytes.
A100_40_BYTES_MS: Final = 1.555e9
A100_80_BYTES_MS: Final = 2.039e9
RTX_4090_BYTES_MS: Final = 1.008e9
A100_OPERATIONS_MS: Final = 312e9
RTX_4090_OPERATIONS_MS: Final = 165e9
QWEN3_32B: Final = 32.76e9  # parameters
QWEN3_14B: Final = 14.77e9
QWEN3_1_7B: Final = 1.72e9
QWEN3_0_6B: Final = 0.596e9
QWEN3_32B_KV: Final = 64 * 8 * 128 * 2 * 2  # bytes a token
QWEN3_14B_KV: Final = 40 * 8 * 128 * 2 * 2

A100_40_QWEN3_14B_ROOFLINE: Final = DeviceProfile(
    name="a100-40/qwen3-14b/roofline",
    source="roofline from NVIDIA's A100 40 GB data sheet and Qwen3-14B's config; price: arXiv "
    "2505.17052",
    fixed_ms=2 * QWEN3_14B / A100_40_BYTES_MS,
    row_ms=2 * QWEN3_14B / A100_OPERATIONS_MS,
    context_token_ms=QWEN3_14B_KV / A100_40_BYTES_MS,
    prefill_token_ms=2 * QWEN3_14B / A100_OPERATIONS_MS,
    usd_per_hour=A100_40_USD,
    kv_token_bytes=QWEN3_14B_KV,
)

A100_80_QWEN3_32B_ROOFLINE: Final = DeviceProfile(
    name="a100-80/qwen3-32b/roofline",
    source="roofline from NVIDIA's A100 80 GB data sheet and Qwen3-32B's config; price: arXiv "
    "2505.17052",
    fixed_ms=2 * QWEN3_32B / A100_80_BYTES_MS,
    row_ms=2 * QWEN3_32B / A100_OPERATIONS_MS,
    context_token_ms=QWEN3_32B_KV / A100_80_BYTES_MS,
    prefill_token_ms=2 * QWEN3_32B / A100_OPERATIONS_MS,
    usd_per_hour=A100_80_USD,
    kv_token_bytes=QWEN3_32B_KV,
)


def _roofline_drafter(
    device: str, model: str, parameters: float, bytes_ms: float, operations_ms: float, usd: float
) -> DeviceProfile:
    return DeviceProfile(
        name=f"{device}/{model}/roofline",
        source=f"roofline from NVIDIA's data sheet and the config of {model}; price: arXiv "
        "2505.17052",
        draft_pass_ms=2 * parameters / bytes_ms,
        draft_row_ms=2 * parameters / operations_ms,
        usd_per_hour=usd,
    )


RTX_4090_QWEN3_0_6B_ROOFLINE: Final = _roofline_drafter(
    "rtx-4090", "qwen3-0.6b", QWEN3_0_6B, RTX_4090_BYTES_MS, RTX_4090_OPERATIONS_MS, RTX_4090_USD
)
RTX_4090_QWEN3_1_7B_ROOFLINE: Final = _roofline_drafter(
    "rtx-4090", "qwen3-1.7b", QWEN3_1_7B, RTX_4090_BYTES_MS, RTX_4090_OPERATIONS_MS, RTX_4090_USD
)
A100_40_QWEN3_0_6B_ROOFLINE: Final = _roofline_drafter(
    "a100-40", "qwen3-0.6b", QWEN3_0_6B, A100_40_BYTES_MS, A100_OPERATIONS_MS, A100_40_USD
)
A100_80_QWEN3_1_7B_ROOFLINE: Final = _roofline_drafter(
    "a100-80", "qwen3-1.7b", QWEN3_1_7B, A100_80_BYTES_MS, A100_OPERATIONS_MS, A100_80_USD
)

# ---------------------------------------------------------------- as published
# Plain decoding at batch 1, read off the cost figure in the README of the paper's own repository
# (within 0.3 $): a step over one row, since one token comes out of it.
PUBLISHED_14B_PLAIN_USD: Final = 59.9  # $ per million tokens
PUBLISHED_32B_PLAIN_USD: Final = 115.1
# Verify and draft times of Qwen3-32B with Qwen3-1.7B, from the notes of a third party that ran the
# paper's code (FastSD, github.com/ymdxe/new_fastsd, baselines/specedge): a tree of 32 nodes and its
# root takes 94.2 ms, a pass of the drafter 11 ms.
NOTED_32B_VERIFY_MS: Final = 94.2
NOTED_VERIFY_ROWS: Final = 33
NOTED_DRAFT_PASS_MS: Final = 11.0


def plain_step_ms(usd_per_million: float, usd_per_hour: float) -> float:
    """The time of a step that yields one token, from what a million of them cost."""
    return usd_per_million / 1e6 / usd_per_hour * HOUR_MS


def _published_row_ms() -> float:
    """Of Qwen3-32B: what 32 more rows took, between plain decoding and a tree's verification."""
    plain_ms = plain_step_ms(PUBLISHED_32B_PLAIN_USD, A100_80_USD)
    return (NOTED_32B_VERIFY_MS - plain_ms) / (NOTED_VERIFY_ROWS - 1)


def _as_published(
    roofline: DeviceProfile, name: str, source: str, plain_ms: float, row_ms: float
) -> DeviceProfile:
    """The roofline's context and prefill terms, which nobody published, under measured steps."""
    return replace(roofline, name=name, source=source, fixed_ms=plain_ms - row_ms, row_ms=row_ms)


A100_80_QWEN3_32B_PAPER: Final = _as_published(
    A100_80_QWEN3_32B_ROOFLINE,
    "a100-80/qwen3-32b/paper",
    "one row: 115.1 $ per million tokens, plain, batch 1 (figure in the README of arXiv "
    "2505.17052's repository, without CUDA graphs); 33 rows: 94.2 ms (FastSD's notes); context and "
    "prefill: roofline",
    plain_step_ms(PUBLISHED_32B_PLAIN_USD, A100_80_USD),
    _published_row_ms(),
)
# Nobody noted a verify time of the 14B model: a row costs as much per parameter as the 32B's.
A100_40_QWEN3_14B_PAPER: Final = _as_published(
    A100_40_QWEN3_14B_ROOFLINE,
    "a100-40/qwen3-14b/paper",
    "one row: 59.9 $ per million tokens, plain, batch 1 (figure in the README of arXiv "
    "2505.17052's repository, without CUDA graphs); a row: Qwen3-32B's, by parameters; context and "
    "prefill: roofline",
    plain_step_ms(PUBLISHED_14B_PLAIN_USD, A100_40_USD),
    _published_row_ms() * QWEN3_14B / QWEN3_32B,
)


def _noted_drafter(roofline: DeviceProfile) -> DeviceProfile:
    """Both drafters have 28 layers, and 11 ms is three times what streaming the larger one's
    weights takes: a pass is bound by its launches, so it takes as long for either, on either
    device."""
    return replace(
        roofline,
        name=roofline.name.replace("/roofline", "/paper"),
        source="a pass: 11 ms for Qwen3-1.7B (FastSD's notes), bound by launches, and Qwen3-0.6B "
        "has as many layers; a row: roofline; price: arXiv 2505.17052",
        draft_pass_ms=NOTED_DRAFT_PASS_MS,
    )


RTX_4090_QWEN3_0_6B_PAPER: Final = _noted_drafter(RTX_4090_QWEN3_0_6B_ROOFLINE)
RTX_4090_QWEN3_1_7B_PAPER: Final = _noted_drafter(RTX_4090_QWEN3_1_7B_ROOFLINE)
A100_40_QWEN3_0_6B_PAPER: Final = _noted_drafter(A100_40_QWEN3_0_6B_ROOFLINE)
A100_80_QWEN3_1_7B_PAPER: Final = _noted_drafter(A100_80_QWEN3_1_7B_ROOFLINE)

DEVICES: Final = {
    profile.name: profile
    for profile in (
        INSTANT,
        A100_40_QWEN3_14B_ROOFLINE,
        A100_40_QWEN3_14B_PAPER,
        A100_80_QWEN3_32B_ROOFLINE,
        A100_80_QWEN3_32B_PAPER,
        A100_40_QWEN3_0_6B_ROOFLINE,
        A100_40_QWEN3_0_6B_PAPER,
        A100_80_QWEN3_1_7B_ROOFLINE,
        A100_80_QWEN3_1_7B_PAPER,
        RTX_4090_QWEN3_0_6B_ROOFLINE,
        RTX_4090_QWEN3_0_6B_PAPER,
        RTX_4090_QWEN3_1_7B_ROOFLINE,
        RTX_4090_QWEN3_1_7B_PAPER,
    )
}
LINKS: Final = {profile.name: profile for profile in (LOOPBACK, PAPER_WAN)}
