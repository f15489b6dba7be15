"""Parameters that travel as values: how to sample, when to stop, how much to draft.

Validation of what people send is done where it comes in (pydantic); these check only what would
make an algorithm meaningless.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the target picks a token. Order of effect: penalties, bias, min_tokens mask,
    division by temperature, top-k, top-p, min-p (that of transformers and vLLM).

    temperature         0 means argmax, without noise
    top_k               0 means off
    top_p, min_p        1 and 0 mean off
    repetition_penalty  1 means off; counts prompt and generated tokens, as transformers does
    presence_penalty, frequency_penalty   0 means off; count generated tokens
    logit_bias          (token id, added logit), each token at most once, ascending by token
    min_tokens          end-of-text and stop ids are masked before so many tokens were generated
    seed                64 bits, unsigned
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    min_tokens: int = 0
    seed: int = 0

    @property
    def is_greedy(self) -> bool:
        """Whether no noise is drawn."""
        return self.temperature == 0.0

    @property
    def truncates(self) -> bool:
        """Whether unlikely tokens are masked before the noise is drawn."""
        return self.top_k > 0 or self.top_p < 1.0 or self.min_p > 0.0

    @property
    def has_penalties(self) -> bool:
        """Whether the choice depends on which tokens came before, beyond the logits."""
        return (
            self.repetition_penalty != 1.0
            or self.presence_penalty != 0.0
            or self.frequency_penalty != 0.0
        )


@dataclass(frozen=True, slots=True)
class StopRule:
    """When a sequence is final.

    stop_ids    end-of-text ids of the model plus the request's own stop ids (empty with ignore_eos
                and no stop ids); the stopping token is committed and is the last one
    max_tokens  generated tokens at most, at least 1
    """

    stop_ids: frozenset[int] = field(default_factory=frozenset)
    max_tokens: int = 1


@dataclass(frozen=True, slots=True)
class DraftPolicy:
    """How much to draft in one round.

    depth   passes of the drafter at most, so levels of the tree; 0 sends an empty tree
    budget  nodes sent at most
    beams   nodes expanded in one pass at most
    branch  children considered per expanded node
    floor   nodes less likely to be accepted than this are neither sent nor expanded: each costs the
            verifier a row, in every batch it is part of
    passes  run after the verdict at most, beside the levels that were there already; None: as many
            as the depth takes
    """

    depth: int = 5
    budget: int = 32
    beams: int = 8
    branch: int = 8
    floor: float = 0.0
    passes: int | None = None
