"""Cost models of devices and links, as values. Every figure has a source, named beside it.

Used by the emulated engines (which sleep these times), by simulation, and as the estimator's
starting point. Knows nothing of how time passes.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """What a model costs on a device.

    A step takes fixed_ms + row_ms * rows + context_token_ms * context + prefill_token_ms * prefill,
    where rows are those of trees and their chains, prefill the tokens of prefill chunks, and
    context the KV rows read, summed over sessions.

    draft_pass_ms    one pass of the model as a drafter, whatever its few rows
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

# Weights 29.5 GB at 1.555 TB/s are 19.0 ms a pass. A row costs 2 * 14.77e9 operations at the
# 312 TFLOP/s of dense bf16; KV is 40 layers * 8 heads * 128 * 2 * 2 bytes = 163 840 bytes a token,
# read at the memory's rate.
A100_40_QWEN3_14B_ROOFLINE: Final = DeviceProfile(
    name="a100-40/qwen3-14b/roofline",
    source="roofline from NVIDIA's A100 40 GB data sheet and Qwen3-14B's config; price: arXiv "
    "2505.17052",
    fixed_ms=29.5e9 / 1.555e12 * 1e3,
    row_ms=2 * 14.77e9 / 312e12 * 1e3,
    context_token_ms=163_840 / 1.555e12 * 1e3,
    prefill_token_ms=2 * 14.77e9 / 312e12 * 1e3,
    usd_per_hour=4.05,
    kv_token_bytes=163_840,
)

# Plain decoding at 59.90 $ per million tokens on a device of 4.05 $/h is 53.2 ms a token. The
# other terms are the roofline's: the paper does not give them.
A100_40_QWEN3_14B_PAPER: Final = DeviceProfile(
    name="a100-40/qwen3-14b/paper",
    source="arXiv 2505.17052: $ per million tokens, plain decoding at batch 1, without CUDA "
    "graphs; slopes from the roofline",
    fixed_ms=59.90 / 1e6 / 4.05 * 3600 * 1e3,
    row_ms=A100_40_QWEN3_14B_ROOFLINE.row_ms,
    context_token_ms=A100_40_QWEN3_14B_ROOFLINE.context_token_ms,
    prefill_token_ms=A100_40_QWEN3_14B_ROOFLINE.prefill_token_ms,
    usd_per_hour=4.05,
    kv_token_bytes=163_840,
)

# Weights of 0.596e9 parameters in bf16 at 1.008 TB/s.
RTX_4090_QWEN3_0_6B_ROOFLINE: Final = DeviceProfile(
    name="rtx-4090/qwen3-0.6b/roofline",
    source="roofline from NVIDIA's RTX 4090 data sheet and Qwen3-0.6B's config; price: arXiv "
    "2505.17052",
    draft_pass_ms=2 * 0.596e9 / 1.008e12 * 1e3,
    usd_per_hour=0.35,
)

DEVICES: Final = {
    profile.name: profile
    for profile in (
        INSTANT,
        A100_40_QWEN3_14B_ROOFLINE,
        A100_40_QWEN3_14B_PAPER,
        RTX_4090_QWEN3_0_6B_ROOFLINE,
    )
}
LINKS: Final = {profile.name: profile for profile in (LOOPBACK, PAPER_WAN)}
