"""Makes the target engine that the settings name, and the drafter beside it, if any. Runs on the
compute thread, which owns them then.

Torch is imported only if it is wanted.
"""

from dataclasses import dataclass, replace

from specedge.engine.drafters import DrafterOptions, EmulatedOptions, load_drafter, load_tally
from specedge.engine.emulated import EmulatedDevice, EmulatedTarget, EmulatedText
from specedge.engine.fingerprints import computed_fingerprint
from specedge.engine.loading import Progress, resolve_model
from specedge.engine.ports import ModelIdentity, TargetEngine
from specedge.errors import InvalidRequest
from specedge.pairs import PAIRS, Pair
from specedge.profiles import DeviceProfile
from specedge.protocol.opening import Identity, Limits
from specedge_verifier.config import VerifierSettings
from specedge_verifier.hosted_drafting import HostedDrafter

CPU_STEP_TOKENS = 128
# There a row more takes its time, however many there are: in small pieces a prompt is read about as
# soon, and nobody waits for long meanwhile.
CPU_PREFILL_TOKENS = 32
DEVICE_STEP_TOKENS = 2048


@dataclass(frozen=True, slots=True, eq=False)
class LoadedEngine:
    """The engines and what was decided while loading. Only the compute thread calls them."""

    engine: TargetEngine
    identity: ModelIdentity
    num_slots: int
    max_step_tokens: int
    drafter: HostedDrafter | None = None
    max_prefill_tokens: int | None = None


def load_engine(settings: VerifierSettings, on_progress: Progress) -> LoadedEngine:
    """Load the model, and the drafter. Raises ModelUnusable, or FingerprintMismatch for a draft
    model of another vocabulary. ``on_progress`` is called on this thread."""
    device = EmulatedDevice() if settings.engine == "emulated" else None
    if device is not None:
        loaded = _load_emulated(settings, device)
    else:
        loaded = _load_torch(settings, on_progress)
    return replace(loaded, drafter=_load_drafter(settings, loaded.identity, device, on_progress))


def identity_on_wire(identity: ModelIdentity) -> Identity:
    """As the handshake says it."""
    return Identity(
        model=identity.name,
        revision=identity.revision,
        weights=computed_fingerprint(identity.weights_fingerprint, identity.dtype),
        dtype=identity.dtype,
        tokenizer=identity.tokenizer_fingerprint,
        vocab_size=identity.vocab_size,
        stop=identity.stop_ids,
        max_context=identity.max_context_tokens,
    )


def session_limits(settings: VerifierSettings, identity: ModelIdentity) -> Limits:
    """What each session may ask for."""
    return Limits(
        nodes=settings.max_nodes,
        append=settings.max_append,
        context=min(
            identity.max_context_tokens, settings.max_context_tokens or identity.max_context_tokens
        ),
        grant=settings.max_grant,
        ahead=settings.max_ahead,
    )


def _load_drafter(
    settings: VerifierSettings,
    identity: ModelIdentity,
    device: EmulatedDevice | None,
    on_progress: Progress,
) -> HostedDrafter | None:
    options = DrafterOptions(
        cache_dir=settings.cache_dir,
        target=settings.model,
        branch=settings.branch,
        num_slots=settings.slots,
        kv_bytes=settings.draft_kv_bytes,
        dtype=settings.draft_dtype,
        device=settings.device,
        threads=settings.threads,
        emulated=None if device is None else _emulated_drafter(settings, device),
    )
    drafter = load_drafter(settings.drafter, identity.tokenizer_fingerprint, options, on_progress)
    return (
        None
        if drafter is None
        else HostedDrafter(drafter, settings.policy, load_tally(settings.drafter, settings.model))
    )


def _load_emulated(settings: VerifierSettings, device: EmulatedDevice) -> LoadedEngine:
    text = EmulatedText(seed=settings.emulated_seed)
    engine = EmulatedTarget(
        text,
        profile=_target_profile(settings),
        sleep=device.end,
        begin=device.begin,
        slots=settings.slots,
    )
    step_tokens = settings.max_step_tokens or DEVICE_STEP_TOKENS
    return LoadedEngine(
        engine,
        engine.identity,
        settings.slots,
        step_tokens,
        max_prefill_tokens=settings.max_prefill_tokens,
    )


def _target_profile(settings: VerifierSettings) -> DeviceProfile:
    if settings.emulated_pair:
        return _pair(settings).target
    return DeviceProfile(
        name="settings",
        source="this verifier's settings",
        fixed_ms=settings.emulated_step_ms,
        row_ms=settings.emulated_row_ms,
        prefill_token_ms=settings.emulated_prefill_token_ms,
    )


def _emulated_drafter(settings: VerifierSettings, device: EmulatedDevice) -> EmulatedOptions:
    """On the target's own device, so its passes and the steps take turns."""
    profile = DeviceProfile(
        "settings", "this verifier's settings", draft_pass_ms=settings.emulated_draft_ms
    )
    agreement = settings.emulated_agreement
    if settings.emulated_pair:
        pair = _pair(settings)
        profile, agreement = pair.server_drafter, agreement or str(pair.acceptance)
    return EmulatedOptions(settings.emulated_seed, profile, agreement, device.run, device.begin)


def _pair(settings: VerifierSettings) -> Pair:
    name = settings.emulated_pair
    if name not in PAIRS:
        known = ", ".join(PAIRS)
        raise InvalidRequest(f"emulated_pair: {name!r} is none of {known}", field="emulated_pair")
    return PAIRS[name]


def _load_torch(settings: VerifierSettings, on_progress: Progress) -> LoadedEngine:
    # Before torch, which takes seconds to import: a model that is not there is known at once.
    resolve_model(settings.model, settings.cache_dir, on_progress)
    from specedge.engine.torch_host import prepare_host
    from specedge.engine.torch_model import load_target_model
    from specedge.engine.torch_target import TorchTarget

    device = prepare_host(settings.device, settings.threads)
    loaded = load_target_model(
        settings.model,
        cache_dir=settings.cache_dir,
        dtype=settings.dtype,
        device=device,
        max_context_tokens=settings.max_context_tokens,
        on_progress=on_progress,
    )
    on_progress("checking the engine", 0.0)
    engine = TorchTarget(
        loaded,
        num_slots=settings.slots,
        kv_bytes=settings.kv_bytes,
        whole_weights=settings.weights == "whole",
    )
    step_tokens, prefill_tokens = settings.max_step_tokens, settings.max_prefill_tokens
    if step_tokens is None:
        step_tokens = CPU_STEP_TOKENS if device == "cpu" else DEVICE_STEP_TOKENS
    if prefill_tokens is None and device == "cpu":
        prefill_tokens = CPU_PREFILL_TOKENS
    return LoadedEngine(
        engine,
        engine.identity,
        settings.slots,
        step_tokens,
        max_prefill_tokens=prefill_tokens,
    )
