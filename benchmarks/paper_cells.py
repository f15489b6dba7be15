"""The cells of the paper's table: which systems are measured, on what devices, with which settings.

Every setting follows from the pair's own costs by a rule that is stated here, not from a search for
the best result. Runs nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from benchmarks.paper_stack import CellFlags
from benchmarks.traces import TRACES
from specedge.pairs import PAIRS, SERVER_ONLY_DEPTH, TREE_NODES, Pair, tokens_per_round
from specedge.profiles import PAPER_WAN
from specedge_scheduler.config import SchedulerSettings

BATCHES: Final = (1, 4, 8, 16)
EDGES_PER_SLOT: Final = 2
TREE_ROWS: Final = 1 + TREE_NODES
# Beside link and drafting, between a verdict's step and the next draft's: broker, scheduler, edge.
OVERHEAD_MS: Final = 2.5
PROMPT_ROWS: Final = 64  # of a step, beside its trees: a new session's few
HEAD_START: Final = 6  # levels that drafting ahead may add to what is drafted after the verdict
MAX_DEPTH: Final = 16
EDGES_PER_FLEET: Final = 4  # of a process: the arithmetic of one edge makes the others late
RECORDED: Final = "recorded pair"
# Of SmolLM2-135M-Instruct and its shipped drafter; and server-only's best depth with it.
TRACE: Final = TRACES / "smollm2-135m.npz"
RECORDED_DEPTH: Final = 3
SEED: Final = 1  # of a cell's first fleet; each further one has the next
STATIC: Final = "static, fixed depth"
# Tokens of a round vary, so what matters is the number of rounds: a larger batch needs less time.
LONG_S: Final = {1: 45.0, 4: 24.0, 8: 16.0, 16: 14.0}
PLAIN_S, ROOFLINE_S, WARM_UP_S = 8.0, 10.0, 2.0


@dataclass(frozen=True, slots=True)
class Cell:
    """One measurement.

    system    plain, server-only or specedge       variant   what is special about it
    batch     trees or rows of sessions in a step at most
    sessions  at a time: streams of a baseline, or edges
    depth     levels of a tree at most             passes    run after a verdict at most
    """

    pair: str
    system: str
    variant: str
    batch: int
    sessions: int
    measure_s: float
    depth: int = 0
    passes: int = 0
    policy: str = ""
    is_proactive: bool = True
    agreement: str = ""
    extra: Sequence[str] = field(default=())

    @property
    def name(self) -> str:
        """Unique in a run."""
        return f"{self.pair}/{self.batch}/{self.system}/{self.variant}"

    @property
    def num_edges(self) -> int:
        """Edge devices that are paid for."""
        return self.sessions if self.system == "specedge" else 0


def best_depth(pair: Pair, batch: int) -> int:
    """Of server-only speculation at that batch, by the pair's own costs."""

    def token_ms(depth: int) -> float:
        round_ms = pair.verify_ms(batch) + pair.draft_ms(depth)
        return round_ms / tokens_per_round(pair.acceptance, depth)

    return min(range(1, MAX_DEPTH + 1), key=token_ms)


def best_passes(pair: Pair, batch: int, edges_per_slot: int = EDGES_PER_SLOT) -> int:
    """Passes after a verdict that yield most tokens a second: while the other edges' trees are
    verified there is time for some; each beyond lets the verifier wait."""
    window_ms = (edges_per_slot - 1) * pair.verify_ms(batch)
    pass_ms = pair.edge_drafter.draft_pass_ms

    def rate(passes: int) -> float:
        away_ms = passes * pass_ms + PAPER_WAN.round_trip_ms + OVERHEAD_MS
        step_ms = max(window_ms, away_ms) / (edges_per_slot - 1)
        return tokens_per_round(pair.acceptance, passes) / step_ms

    return max(range(1, MAX_DEPTH + 1), key=rate)


def plain(pair: Pair, batch: int) -> Cell:
    """One token a step for each session."""
    return Cell(pair.name, "plain", "", batch, batch, PLAIN_S)


def server_only(
    pair: Pair, batch: int, variant: str, depth: int, streams: int, measure_s: float
) -> Cell:
    """The verifier drafts, then verifies, on the same device."""
    return Cell(pair.name, "server-only", variant, batch, streams, measure_s, depth=depth)


def specedge(  # noqa: PLR0913  (each is one thing that an ablation changes)
    pair: Pair,
    batch: int,
    variant: str,
    measure_s: float,
    *,
    policy: str = "jit",
    is_proactive: bool = True,
    depth: int | None = None,
    edges_per_slot: int = EDGES_PER_SLOT,
) -> Cell:
    """Edges draft. ``depth``: a fixed one; by default as deep as the verifier's time allows."""
    passes = best_passes(pair, batch, edges_per_slot) if depth is None else depth
    return Cell(
        pair.name,
        "specedge",
        variant,
        batch,
        edges_per_slot * batch,
        measure_s,
        depth=min(MAX_DEPTH, passes + HEAD_START) if depth is None else depth,
        passes=passes,
        policy=policy,
        is_proactive=is_proactive,
    )


def plan(*, quick: bool) -> list[Cell]:
    """All cells, in the order of measuring: the first pair in full, with the ablation; the other at
    batch 1; the rooflines' three systems."""
    share = 0.2 if quick else 1.0
    batches = (1, 4) if quick else BATCHES
    short_s = share * LONG_S[1] / 2
    cells: list[Cell] = []
    for batch in batches:
        cells += _ablation(PAIRS["14b"], batch, share * LONG_S[batch])
    cells += _three(PAIRS["32b"], 1, share * LONG_S[1])
    for batch in batches:
        cells += _three(PAIRS["14b-roofline"], batch, max(4.0, share * ROOFLINE_S))
    cells.append(specedge(PAIRS["14b"], 1, "three edges a slot", short_s, edges_per_slot=3))
    cells += _recorded(PAIRS["14b"], short_s)
    return [cell for cell in cells if cell.policy in ("", *known_policies())]


def known_policies() -> tuple[str, ...]:
    """Of the scheduler that is installed."""
    field_ = SchedulerSettings.model_fields.get("policy")
    return ("jit",) if field_ is None else ("static", "greedy", "jit")


def flags_of(cell: Cell) -> CellFlags:
    """What its processes are started with."""
    rows = cell.batch * TREE_ROWS
    scheduler = ["--max-batch-sessions", str(cell.batch)]
    scheduler += ["--max-batch-nodes", str(rows + PROMPT_ROWS)]
    if cell.policy and "policy" in SchedulerSettings.model_fields:
        scheduler += ["--policy", cell.policy]
    verifier = ["--emulated-pair", cell.pair, "--slots", "256"]
    agreement = ["--agreement", cell.agreement] if cell.agreement else []
    if cell.system == "server-only":
        verifier += ["--drafter", "emulated", "--depth", str(cell.depth), "--floor", "0"]
        verifier += ["--max-grant", "256"]
        if cell.agreement:
            verifier += ["--emulated-agreement", cell.agreement]
    load = ["--pair", cell.pair, "--measure-s", f"{cell.measure_s:g}", *agreement]
    load += ["--warm-up-s", f"{WARM_UP_S:g}", *cell.extra]
    if cell.system != "specedge":
        return CellFlags(scheduler, verifier, [_hosted(cell, load)])
    verifier += ["--max-step-tokens", str(rows + PROMPT_ROWS)]
    load += ["--round-trip-ms", f"{PAPER_WAN.round_trip_ms:g}", "--depth", str(cell.depth)]
    load += ["--paced", str(cell.variant != STATIC).lower()]
    load += ["--passes", str(cell.passes), "--proactive", str(cell.is_proactive).lower()]
    return CellFlags(scheduler, verifier, _split(cell.sessions, load))


def _hosted(cell: Cell, load: Sequence[str]) -> list[str]:
    """A baseline's clients: they hardly feel the link, so there is none."""
    grant = ["--grant-tokens", "256"]
    seed = ["--seed", str(SEED)]
    return ["--mode", "hosted", "--edges", str(cell.sessions), *seed, *grant, *load]


def _split(edges: int, load: Sequence[str]) -> list[list[str]]:
    """Of different seeds: fleets would else ask the same prompts at the same moments."""
    fleets = -(-edges // EDGES_PER_FLEET)
    sizes = [edges // fleets + (number < edges % fleets) for number in range(fleets)]
    return [
        ["--fleet", f"fleet-{number}", "--edges", str(size), "--seed", str(SEED + number), *load]
        for number, size in enumerate(sizes)
    ]


def _three(pair: Pair, batch: int, measure_s: float) -> list[Cell]:
    return [
        plain(pair, batch),
        server_only(pair, batch, "", SERVER_ONLY_DEPTH, batch, measure_s),
        specedge(pair, batch, "", measure_s),
    ]


def _recorded(pair: Pair, measure_s: float) -> list[Cell]:
    """Agreeing as a real pair did, position by position, in place of the dial."""
    both = [
        server_only(pair, 1, RECORDED, RECORDED_DEPTH, 1, measure_s),
        specedge(pair, 1, RECORDED, measure_s),
    ]
    return [replace(cell, agreement=str(TRACE)) for cell in both]


def _ablation(pair: Pair, batch: int, long_s: float) -> list[Cell]:
    depth, short_s = best_depth(pair, batch), long_s / 2
    return [
        *_three(pair, batch, long_s),
        server_only(pair, batch, "its best depth", depth, batch, short_s),
        server_only(pair, batch, "twice the batch", SERVER_ONLY_DEPTH, 2 * batch, short_s),
        specedge(pair, batch, "not proactive", short_s, is_proactive=False),
        specedge(pair, batch, "greedy", short_s, policy="greedy"),
        specedge(pair, batch, STATIC, long_s, policy="static", depth=SERVER_ONLY_DEPTH),
    ]
