"""Loads what an edge computes with: the tokenizer, and the drafter that the settings name.

Blocking: runs on the compute thread; imports no torch, but for a draft model.
"""

from dataclasses import dataclass, field

import structlog

from specedge.engine.drafters import DrafterOptions, load_drafter, load_tally
from specedge.engine.emulated import EmulatedText
from specedge.engine.fingerprints import (
    logical_vocab_size,
    token_bytes,
    tokenizer_fingerprint,
)
from specedge.engine.loading import Progress, load_tokenizer, model_name, resolve_model
from specedge.engine.ports import Drafter
from specedge.service.loading import LoadingStopped
from specedge.tree.calibration import Tally
from specedge_edge.config import EdgeSettings
from specedge_edge.emulated_tokenizer import EMULATED_MODEL, EmulatedTokenizer
from specedge_edge.standing import spell_out
from specedge_edge.text import TextCodec

_log = structlog.get_logger("specedge.edge")


@dataclass(frozen=True, slots=True)
class Loaded:
    """What is there now. ``model`` is the name that the verifiers are asked for;
    ``drafter_problem`` says why a drafter that was asked for is not there, and ``tally`` what is
    known of one that is."""

    model: str
    codec: TextCodec
    fingerprint: str
    drafter: Drafter | None
    drafter_problem: str | None = None
    tally: Tally = field(default_factory=Tally)


def load(settings: EdgeSettings, on_progress: Progress) -> Loaded:
    """Everything, with ``on_progress(phase, fraction)`` from this thread. Raises ModelUnusable for
    the tokenizer; an edge whose drafter cannot be had serves without one."""
    model, codec, fingerprint = _load_text(settings, on_progress)
    drafter, tally, problem = _try_load_drafter(settings, fingerprint, on_progress)
    return Loaded(model, codec, fingerprint, drafter, problem, tally)


def _try_load_drafter(
    settings: EdgeSettings, fingerprint: str, on_progress: Progress
) -> tuple[Drafter | None, Tally, str | None]:
    """The drafter and what is known of it, or why there is none."""
    try:
        options = _drafter_options(settings)
        drafter = load_drafter(settings.drafter, fingerprint, options, on_progress)
        return drafter, load_tally(settings.drafter, options.target), None
    except LoadingStopped:
        raise
    except Exception as error:  # noqa: BLE001, RUF100 - bad weights fail in as many ways as they like
        problem = spell_out(error)
        _log.error("drafter_unusable", drafter=settings.drafter, reason=problem)
        return None, Tally(), problem


def _load_text(settings: EdgeSettings, on_progress: Progress) -> tuple[str, TextCodec, str]:
    if settings.model == EMULATED_MODEL:
        emulated = EmulatedTokenizer(EmulatedText())
        return EMULATED_MODEL, TextCodec(emulated, to_bytes=emulated.spell), emulated.fingerprint
    resolved = resolve_model(settings.model, settings.cache_dir, on_progress)
    on_progress("tokenizer", 0.0)
    tokenizer = load_tokenizer(resolved)
    codec = TextCodec(
        tokenizer,
        vocab_size=logical_vocab_size(tokenizer),
        longest_token_chars=max(map(len, tokenizer.get_vocab())),
        to_bytes=token_bytes(tokenizer),
    )
    on_progress("tokenizer", 1.0)
    return model_name(settings.model), codec, tokenizer_fingerprint(tokenizer)


def _drafter_options(settings: EdgeSettings) -> DrafterOptions:
    return DrafterOptions(
        cache_dir=settings.cache_dir,
        target=settings.model,
        branch=settings.branch,
        num_slots=settings.max_concurrent,
        kv_bytes=settings.draft_kv_bytes,
        dtype=settings.draft_dtype,
        device=settings.draft_device,
        threads=settings.threads,
        coupled=settings.coupled,
    )
