"""Pairs of a target and a drafter: what each costs where, how often they agree, what was published.

How often they agree is not published. It is solved from one published figure, the price of
server-only speculation at batch 1, and is the same wherever the pair is used after that: what the
edges then yield is a prediction. Pure arithmetic.
"""

from dataclasses import dataclass
from typing import Final

from specedge.profiles import (
    A100_40_QWEN3_0_6B_PAPER,
    A100_40_QWEN3_0_6B_ROOFLINE,
    A100_40_QWEN3_14B_PAPER,
    A100_40_QWEN3_14B_ROOFLINE,
    A100_80_QWEN3_1_7B_PAPER,
    A100_80_QWEN3_1_7B_ROOFLINE,
    A100_80_QWEN3_32B_PAPER,
    A100_80_QWEN3_32B_ROOFLINE,
    RTX_4090_QWEN3_0_6B_PAPER,
    RTX_4090_QWEN3_0_6B_ROOFLINE,
    RTX_4090_QWEN3_1_7B_PAPER,
    RTX_4090_QWEN3_1_7B_ROOFLINE,
    DeviceProfile,
    plain_step_ms,
)

# The paper's tree, and the depth that server-only speculation is taken to have used.
TREE_NODES: Final = 32
SERVER_ONLY_DEPTH: Final = 5


@dataclass(frozen=True, slots=True)
class Published:
    """$ per million tokens at batch 1, read off a figure, so within 0.3."""

    plain_usd: float
    server_only_usd: float
    specedge_usd: float


@dataclass(frozen=True, slots=True)
class Pair:
    """A target and its drafter, on a server and on edges.

    target     on the server              server_drafter  beside it, one after the other
    edge_drafter  on an edge's own device
    acceptance  probability that a level of the draft is accepted, given that the one above it was
    published  None: nothing was, for these devices
    """

    name: str
    target: DeviceProfile
    server_drafter: DeviceProfile
    edge_drafter: DeviceProfile
    acceptance: float
    published: Published | None = None

    def verify_ms(self, batch: int = 1, nodes: int = TREE_NODES) -> float:
        """V: a step over ``batch`` trees of ``nodes`` and their roots."""
        return self.target.step_ms(batch * (1 + nodes))

    def draft_ms(self, depth: int) -> float:
        """D: the server's drafting of so many levels, whatever the batch."""
        return depth * self.server_drafter.draft_pass_ms


def tokens_per_round(acceptance: float, depth: int) -> float:
    """τ: the bonus and the accepted levels of a draft of ``depth`` levels, on average."""
    return float(sum(acceptance**level for level in range(depth + 1)))


def solve_acceptance(
    target: DeviceProfile, drafter: DeviceProfile, server_only_usd: float, depth: int
) -> float:
    """The acceptance at which server-only speculation at batch 1 costs what was published: a round
    drafts ``depth`` levels, verifies a tree, and yields τ tokens."""
    round_ms = target.step_ms(1 + TREE_NODES) + depth * drafter.draft_pass_ms
    wanted = round_ms / plain_step_ms(server_only_usd, target.usd_per_hour)
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if tokens_per_round(middle, depth) < wanted:
            low = middle
        else:
            high = middle
    return low


def _as_published(
    name: str,
    published: Published,
    target: DeviceProfile,
    server_drafter: DeviceProfile,
    edge_drafter: DeviceProfile,
) -> Pair:
    acceptance = solve_acceptance(
        target, server_drafter, published.server_only_usd, SERVER_ONLY_DEPTH
    )
    return Pair(name, target, server_drafter, edge_drafter, round(acceptance, 4), published)


# Source of all six prices: the cost figure in the README of arXiv 2505.17052's repository.
QWEN3_14B_PAPER: Final = _as_published(
    "14b",
    Published(plain_usd=59.9, server_only_usd=36.0, specedge_usd=18.3),
    A100_40_QWEN3_14B_PAPER,
    A100_40_QWEN3_0_6B_PAPER,
    RTX_4090_QWEN3_0_6B_PAPER,
)
QWEN3_32B_PAPER: Final = _as_published(
    "32b",
    Published(plain_usd=115.1, server_only_usd=59.4, specedge_usd=30.6),
    A100_80_QWEN3_32B_PAPER,
    A100_80_QWEN3_1_7B_PAPER,
    RTX_4090_QWEN3_1_7B_PAPER,
)
# The same models, agreeing as often, on devices that reach their rooflines.
QWEN3_14B_ROOFLINE: Final = Pair(
    "14b-roofline",
    A100_40_QWEN3_14B_ROOFLINE,
    A100_40_QWEN3_0_6B_ROOFLINE,
    RTX_4090_QWEN3_0_6B_ROOFLINE,
    QWEN3_14B_PAPER.acceptance,
)
QWEN3_32B_ROOFLINE: Final = Pair(
    "32b-roofline",
    A100_80_QWEN3_32B_ROOFLINE,
    A100_80_QWEN3_1_7B_ROOFLINE,
    RTX_4090_QWEN3_1_7B_ROOFLINE,
    QWEN3_32B_PAPER.acceptance,
)

PAIRS: Final = {
    pair.name: pair
    for pair in (QWEN3_14B_PAPER, QWEN3_32B_PAPER, QWEN3_14B_ROOFLINE, QWEN3_32B_ROOFLINE)
}
