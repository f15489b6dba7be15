"""Settings of a scheduler process, and what follows from them."""

from pydantic import Field

from specedge.protocol.subjects import DEFAULT_GROUP
from specedge.service.settings import ServiceSettings
from specedge_scheduler.policy.types import PolicyName, SchedulerLimits

NAME_PATTERN = r"^[a-z0-9-]{1,32}$"


class SchedulerSettings(ServiceSettings):
    """Settings of a scheduler."""

    scheduler_id: str = Field(
        default="scheduler-1", pattern=NAME_PATTERN, description="this scheduler's name"
    )
    group: str = Field(
        default=str(DEFAULT_GROUP), pattern=NAME_PATTERN, description="its group's name"
    )
    max_batch_nodes: int = Field(
        default=SchedulerLimits.max_batch_nodes, ge=2, le=65536, description="rows of one batch"
    )
    policy: PolicyName = Field(
        default=SchedulerLimits.policy,
        description="how batches are formed: jit (as late and as full as keeps the verifier busy), "
        "greedy (what waits goes at once) or static (groups wait for all of their own)",
    )
    max_batch_sessions: int = Field(
        default=SchedulerLimits.max_batch_sessions,
        ge=0,
        description="rounds of one batch; 0: its rows alone bound it",
    )
    max_batch_context: int = Field(
        default=SchedulerLimits.max_batch_context,
        ge=0,
        description="KV rows that one batch attends over; 0: any",
    )
    objective_ms: float = Field(
        default=SchedulerLimits.objective_ms,
        ge=0,
        description="time per token that admitted sessions are to keep; 0: none",
    )
    sessions_per_edge: int = Field(
        default=SchedulerLimits.sessions_per_edge, ge=1, description="open at once, per edge"
    )
    edge_messages_per_s: float = Field(
        default=SchedulerLimits.messages_per_s, gt=0, description="messages an edge may send"
    )
    edge_nodes_per_s: float = Field(
        default=SchedulerLimits.nodes_per_s, gt=0, description="drafted nodes an edge may send"
    )
    edge_bytes_per_s: float = Field(
        default=SchedulerLimits.bytes_per_s,
        gt=0,
        description="bytes that an edge may send in messages over 2 KiB, contexts above all",
    )

    def limits(self) -> SchedulerLimits:
        """As the policy takes them."""
        return SchedulerLimits(
            max_batch_nodes=self.max_batch_nodes,
            policy=self.policy,
            max_batch_sessions=self.max_batch_sessions,
            max_batch_context=self.max_batch_context,
            objective_ms=self.objective_ms,
            sessions_per_edge=self.sessions_per_edge,
            messages_per_s=self.edge_messages_per_s,
            nodes_per_s=self.edge_nodes_per_s,
            bytes_per_s=self.edge_bytes_per_s,
        )
