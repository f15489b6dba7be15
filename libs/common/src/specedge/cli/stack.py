"""Which processes make up a running system on one machine, and with which settings.

Values only: starts nothing and imports no service. ``specedge.cli.supervisor`` runs what is
planned here.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

SCHEDULER_MODULE: Final = "specedge_scheduler"
VERIFIER_MODULE: Final = "specedge_verifier"
EDGE_MODULE: Final = "specedge_edge"
LOOPBACK: Final = "127.0.0.1"
API_KEY_VARIABLE: Final = "SPECEDGE_API_KEY"

# What a shell may hold for an edge elsewhere, and what is not so here: the broker is our own, it
# asks for no identity and speaks no TLS, and who may use the API is the command's to say. One file
# of spans is one process's. An empty variable is none given.
_NOT_INHERITED: Final[Mapping[str, str]] = {
    API_KEY_VARIABLE: "",
    "SPECEDGE_API_KEY_FILE": "",
    "SPECEDGE_IDENTITY_FILE": "",
    "SPECEDGE_NATS_CA_FILE": "",
    "SPECEDGE_SPANS_FILE": "",
}


@dataclass(frozen=True, slots=True)
class StackOptions:
    """What a person chose. None leaves a setting to the service's own default.

    verifier_drafter  of the verifiers' own, for hosted sessions. Always said, so that a variable
             meant for the edges does not set it
    host     where edges listen; everything else does on loopback
    port     of the first edge; 0 picks a free one. Everything else listens on free ports
    threads  compute threads of each verifier; None divides the machine's cores among them, less
             one for everything else: a compute thread that has to wait for its core holds up all
             others of its step
    api_key  that the edges ask for; several with commas between. None: they ask for none
    patience_s  that an answer waits for a verifier which says nothing
    """

    model: str | None = None
    drafter: str | None = None
    verifier_drafter: str = "none"
    dtype: str | None = None
    verifiers: int = 1
    edges: int = 1
    host: str = LOOPBACK
    port: int = 8000
    threads: int | None = None
    api_key: str | None = field(default=None, repr=False)
    patience_s: float | None = None
    log_level: str | None = None
    extra_flags: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def verifier_threads(self) -> int:
        """Compute threads for one verifier."""
        return self.threads or max(1, (available_cores() - 1) // self.verifiers)

    @property
    def edge_threads(self) -> int:
        """Compute threads for one edge's draft model: of what the verifiers leave."""
        left = available_cores() - self.verifiers * self.verifier_threads
        return max(1, left // self.edges)


@dataclass(frozen=True, slots=True)
class ProcessPlan:
    """One service process: ``python -m <module> <flags>``, called ``name`` in logs and messages.

    keeps_port   its clients know where it listens, so a later run listens there again
    environment  put over the command's own. Secrets are here: flags are for everybody to read
    """

    name: str
    module: str
    flags: tuple[str, ...]
    keeps_port: bool = False
    environment: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)


def plan_processes(options: StackOptions, *, nats_url: str, run_dir: Path) -> list[ProcessPlan]:
    """The processes, in the order in which they are best started."""
    common: dict[str, object] = {"nats-url": nats_url, "http-host": LOOPBACK, "log-format": "json"}
    common |= {"log-level": options.log_level}
    scheduler = common | {"http-port": 0}
    verifier = common | {
        "http-port": 0,
        "model": options.model,
        "dtype": options.dtype,
        "threads": options.verifier_threads,
        "drafter": options.verifier_drafter,
    }
    edge = common | {
        "http-host": options.host,
        "patience-s": options.patience_s,
        "model": options.model,
        "drafter": options.drafter,
        "threads": options.edge_threads,
    }
    plans = [_plan("scheduler", SCHEDULER_MODULE, scheduler, options)]
    for number in range(1, options.verifiers + 1):
        own = verifier | {"verifier-id": f"verifier-{number}"}
        plans.append(_plan(f"verifier-{number}", VERIFIER_MODULE, own, options))
    for index, name in enumerate(edge_names(options)):
        own = edge | {
            "http-port": options.port if index == 0 else 0,
            "identity-file": run_dir / f"{name}.nk",
        }
        plan = _plan(name, EDGE_MODULE, own, options)
        keys = {**plan.environment, API_KEY_VARIABLE: options.api_key or ""}
        plans.append(replace(plan, keeps_port=True, environment=keys))
    return plans


def available_cores() -> int:
    """Cores that this process may run on; a container may allow fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def edge_names(options: StackOptions) -> list[str]:
    """Names of the edges, the one on the chosen port first."""
    if options.edges == 1:
        return ["edge"]
    return [f"edge-{number}" for number in range(1, options.edges + 1)]


def _plan(
    name: str, module: str, settings: dict[str, object], options: StackOptions
) -> ProcessPlan:
    flags: list[str] = []
    for key, value in settings.items():
        if value is not None:
            flags += [f"--{key}", str(value)]
    flags += options.extra_flags.get(module, ())
    return ProcessPlan(name, module, tuple(flags), environment=_NOT_INHERITED)
