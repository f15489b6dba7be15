"""Loads what an edge computes with: the tokenizer, and the drafter that the settings name.

Blocking: runs on the compute thread. torch is imported only for a draft model.
"""

from dataclasses import dataclass

from specedge.engine.emulated import EmulatedDrafter, EmulatedText
from specedge.engine.fingerprints import logical_vocab_size, tokenizer_fingerprint
from specedge.engine.loading import Progress, load_tokenizer, model_name, resolve_model
from specedge.engine.ports import Drafter
from specedge.engine.prompt_lookup import PromptLookupDrafter
from specedge.errors import FingerprintMismatch
from specedge_edge.config import EdgeSettings
from specedge_edge.emulated_tokenizer import EMULATED_MODEL, EmulatedTokenizer
from specedge_edge.text import TextCodec


@dataclass(frozen=True, slots=True)
class Loaded:
    """What is there now. ``model`` is the name that the verifiers are asked for."""

    model: str
    codec: TextCodec
    fingerprint: str
    drafter: Drafter | None


def load(settings: EdgeSettings, on_progress: Progress) -> Loaded:
    """Everything, with ``on_progress(phase, fraction)`` from this thread. Raises ModelUnusable, or
    FingerprintMismatch for a draft model of another vocabulary."""
    model, codec, fingerprint = _load_text(settings, on_progress)
    drafter = _load_drafter(settings, fingerprint, on_progress)
    return Loaded(model, codec, fingerprint, drafter)


def _load_text(settings: EdgeSettings, on_progress: Progress) -> tuple[str, TextCodec, str]:
    if settings.model == EMULATED_MODEL:
        emulated = EmulatedTokenizer(EmulatedText())
        return EMULATED_MODEL, TextCodec(emulated), emulated.fingerprint
    resolved = resolve_model(settings.model, settings.cache_dir, on_progress)
    on_progress("tokenizer", 0.0)
    tokenizer = load_tokenizer(resolved)
    codec = TextCodec(tokenizer, vocab_size=logical_vocab_size(tokenizer))
    on_progress("tokenizer", 1.0)
    return model_name(settings.model), codec, tokenizer_fingerprint(tokenizer)


def _load_drafter(
    settings: EdgeSettings, fingerprint: str, on_progress: Progress
) -> Drafter | None:
    match settings.drafter:
        case "none":
            return None
        case "prompt-lookup":
            return PromptLookupDrafter(branch=settings.branch)
        case "emulated":
            return EmulatedDrafter(EmulatedText(), branch=settings.branch)
    return _load_draft_model(settings, fingerprint, on_progress)


def _load_draft_model(settings: EdgeSettings, fingerprint: str, on_progress: Progress) -> Drafter:
    # Here, since every other edge runs without torch.
    from specedge.engine.torch_draft import TorchDrafter
    from specedge.engine.torch_host import prepare_host
    from specedge.engine.torch_model import load_target_model

    loaded = load_target_model(
        settings.drafter,
        cache_dir=settings.cache_dir,
        dtype=settings.draft_dtype,
        device=prepare_host(settings.draft_device, settings.threads),
        on_progress=on_progress,
    )
    theirs = loaded.identity.tokenizer_fingerprint
    if theirs != fingerprint:
        raise FingerprintMismatch(
            f"the draft model {settings.drafter} has tokenizer {theirs}, the served model "
            f"{fingerprint}",
            field="drafter",
            ours=theirs,
            theirs=fingerprint,
        )
    return TorchDrafter(
        loaded,
        kv_bytes=settings.draft_kv_bytes,
        num_slots=settings.max_concurrent,
        num_children=settings.branch,
    )
