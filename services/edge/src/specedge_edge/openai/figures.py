"""Usage and the ``metrics`` object of a response, from a generation's account.

The shape of ``metrics`` is vLLM's, which benchmark tools read; ``specedge`` holds our own figures.
"""

from typing import Any

from specedge_edge.account import MS_PER_S, Account


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """The ``usage`` object: exact token counts."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def metrics(account: Account) -> dict[str, Any]:
    """The ``metrics`` object.

    tokens_per_second counts from the request's arrival to its last token, the first token included.
    """
    took_s = account.generation_s
    return {
        "time_to_first_token_ms": _ms(account.time_to_first_token_s),
        "generation_time_ms": _ms(took_s),
        "queue_time_ms": _rounded(account.first_queue_ms),
        "mean_itl_ms": _ms(account.time_per_token_s),
        "tokens_per_second": _rounded(account.num_tokens / took_s if took_s > 0 else 0.0),
        "speculative_decoding": _speculative(account),
        "specedge": {
            "rounds": account.rounds,
            "bytes_up": account.bytes_up,
            "bytes_down": account.bytes_down,
            "context_bytes": account.context_bytes,
            "draft_ms": _rounded(account.draft_ms),
            "network_ms": _rounded(account.network_ms),
            "queue_ms": _rounded(account.queue_ms),
            "verify_ms": _rounded(account.verify_ms),
            "verifier_calls": account.rounds,
            "hosted_tokens": account.hosted_tokens,
            "resyncs": account.resyncs,
            "retries": account.retries,
            "verifier_id": account.verifier_id,
            "reply_p50_ms": _rounded(account.reply_percentile_ms(50)),
            "reply_p99_ms": _rounded(account.reply_percentile_ms(99)),
            "drafting": _drafting(account),
        },
    }


def _drafting(account: Account) -> dict[str, Any]:
    """Passes on the way and ahead of it; a hit is a verdict whose bonus had been drafted."""
    counts = account.drafting
    return {
        "passes": counts.passes,
        "passes_ahead": counts.passes_ahead,
        "passes_saved": counts.passes_saved,
        "saved_ms": _rounded(account.saved_ms),
        "verdicts": counts.verdicts,
        "hits": counts.hits,
        "hit_rate": _rounded(counts.hits / counts.verdicts if counts.verdicts else 0.0),
        "nodes_drafted": counts.nodes_drafted,
        "nodes_sent": counts.nodes_sent,
        "nodes_reused": counts.nodes_reused,
        "ahead_sent": account.ahead_sent,
        "ahead_used": account.ahead_used,
    }


def _speculative(account: Account) -> dict[str, Any]:
    """The histogram's entry j counts the steps that accepted exactly j drafted tokens."""
    steps, accepted, drafted = (
        len(account.accepted_counts),
        account.num_accepted,
        account.num_drafted,
    )
    deepest = max(account.num_spec_tokens, max(account.accepted_counts, default=0))
    histogram = [0] * (deepest + 1)
    for count in account.accepted_counts:
        histogram[count] += 1
    return {
        "mean_acceptance_length": _rounded(1 + accepted / steps if steps else 1.0),
        "draft_acceptance_rate": _rounded(accepted / drafted if drafted else 0.0),
        "acceptance_histogram": histogram,
        "num_spec_steps": steps,
        "num_accepted_draft_tokens": accepted,
        "num_draft_tokens": drafted,
        "num_spec_tokens": deepest,
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else _rounded(seconds * MS_PER_S)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
