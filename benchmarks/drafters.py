"""The drafter that a benchmark was asked for by name, loaded as an edge or a verifier loads it."""

from pathlib import Path
from typing import Final

from specedge.engine.drafters import DrafterOptions, load_drafter
from specedge.engine.fingerprints import tokenizer_fingerprint
from specedge.engine.loading import load_tokenizer, resolve_model
from specedge.engine.ports import Drafter
from specedge.errors import InvalidRequest

KV_BYTES: Final = 512 << 20
NUM_SLOTS: Final = 2


def named_drafter(
    name: str, *, model: str, cache_dir: Path, branch: int, threads: int, coupled: bool = False
) -> Drafter:
    """See ``load_drafter``; in fp32 on the CPU, for ``model``'s vocabulary. Raises InvalidRequest
    for ``none``."""
    options = DrafterOptions(
        cache_dir=cache_dir,
        target=model,
        branch=branch,
        num_slots=NUM_SLOTS,
        kv_bytes=KV_BYTES,
        dtype="auto",
        device="cpu",
        threads=threads,
        coupled=coupled,
    )
    fingerprint = tokenizer_fingerprint(load_tokenizer(resolve_model(model, cache_dir)))
    drafter = load_drafter(name, fingerprint, options)
    if drafter is None:
        raise InvalidRequest("there is nothing to measure without a drafter", field="drafter")
    return drafter
