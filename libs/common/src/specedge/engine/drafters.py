"""Drafters by name: what the ``drafter`` setting of an edge stands for, or that of a verifier which
drafts for hosted sessions.

Blocking: called on the thread that will own the drafter. torch is imported only for a draft model.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from specedge.engine.emulated import EmulatedDrafter, EmulatedText, read_agreement
from specedge.engine.loading import (
    DEFAULT_MODEL,
    Progress,
    no_progress,
    num_stored_weights,
    resolve_model,
)
from specedge.engine.ports import Drafter
from specedge.engine.prompt_lookup import PromptLookupDrafter
from specedge.engine.shipped import chosen_drafter
from specedge.errors import FingerprintMismatch, ModelUnusable
from specedge.profiles import INSTANT, DeviceProfile
from specedge.tree.calibration import Tally

CALIBRATION: Final = "calibration.json"


@dataclass(frozen=True, slots=True)
class EmulatedOptions:
    """An emulated drafter.

    seed       of its target's text       agreement  see ``read_agreement``; empty: the usual
    profile    what a pass costs          run        takes the seconds of each pass
    begin      is told when a pass begins
    """

    seed: int = 0
    profile: DeviceProfile = INSTANT
    agreement: str = ""
    run: Callable[[float], None] = time.sleep
    begin: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class DrafterOptions:
    """How a drafter is made. What is not said to be for others counts for a draft model only.

    branch     children proposed per node, by any drafter
    num_slots  sessions that may draft at a time
    kv_bytes   of KV cache at most
    dtype      ``auto``: int8 on a CPU, if small or on one thread; else bf16 where the hardware
               computes in it
    threads    compute threads on the CPU; None leaves it to torch
    coupled    rank children with the target's own noise, where it draws any
    recalls    blend in what followed the same words before in the session's own text
    target     name or folder of the model that verifies: what ``auto`` is chosen for, and what a
               drafter borrows its embedding and head from
    emulated   of the emulated drafter; None: one that takes no time
    """

    cache_dir: Path
    branch: int = 8
    num_slots: int = 8
    kv_bytes: int = 1 << 30
    dtype: Literal["auto", "fp32", "bf16"] = "auto"
    device: str = "auto"
    threads: int | None = None
    coupled: bool = True
    recalls: bool = True
    target: str = DEFAULT_MODEL
    emulated: EmulatedOptions | None = None


def load_drafter(
    name: str, fingerprint: str, options: DrafterOptions, on_progress: Progress = no_progress
) -> Drafter | None:
    """The drafter called ``name``; None for ``none``. ``fingerprint`` is that of the tokenizer of
    the model that verifies.

    Raises ModelUnusable, or FingerprintMismatch for a draft model of another vocabulary.
    """
    name = chosen_drafter(name, options.target)
    match name:
        case "none":
            return None
        case "prompt-lookup":
            return PromptLookupDrafter(branch=options.branch)
        case "emulated":
            return _emulated(options)
    return _load_draft_model(name, fingerprint, options, on_progress)


def load_tally(name: str, target: str) -> Tally:
    """What verdicts taught of the drafter called ``name`` when it was made, if it is a folder that
    tells; else nothing. ``target`` as in ``DrafterOptions``. Raises ModelUnusable for nonsense."""
    path = Path(chosen_drafter(name, target)).expanduser() / CALIBRATION
    if not path.is_file():
        return Tally()
    try:
        return Tally.from_json(json.loads(path.read_bytes()))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ModelUnusable(f"{path} cannot be read: {error!r}") from error


def save_tally(tally: Tally, folder: Path) -> None:
    """Let the drafter in ``folder`` start with what ``tally`` has learned."""
    (folder / CALIBRATION).write_text(json.dumps(tally.as_json()) + "\n")


def _emulated(options: DrafterOptions) -> EmulatedDrafter:
    emulated = options.emulated or EmulatedOptions()
    return EmulatedDrafter(
        EmulatedText(seed=emulated.seed),
        agreement=read_agreement(emulated.agreement) if emulated.agreement else (0.8,),
        branch=options.branch,
        profile=emulated.profile,
        sleep=emulated.run,
        begin=emulated.begin,
    )


def _load_draft_model(
    name: str, fingerprint: str, options: DrafterOptions, on_progress: Progress
) -> Drafter:
    # Here, since everything else that drafts runs without torch.
    from specedge.engine.drafter_folder import is_drafter_folder, load_borrowing_drafter
    from specedge.engine.packed_linear import computes_in_int8
    from specedge.engine.torch_draft import TorchDrafter
    from specedge.engine.torch_host import prepare_host
    from specedge.engine.torch_model import load_target_model

    device = prepare_host(options.device, options.threads)
    may_round = options.dtype == "auto" and computes_in_int8(device, num_stored_weights(name))
    dtype = "fp32" if may_round else options.dtype
    folder = Path(name).expanduser()
    if is_drafter_folder(folder):
        target = resolve_model(options.target, options.cache_dir, on_progress)
        loaded = load_borrowing_drafter(folder, target, dtype=dtype, device=device)
    else:
        loaded = load_target_model(
            name,
            cache_dir=options.cache_dir,
            dtype=dtype,
            may_round=True,
            device=device,
            on_progress=on_progress,
        )
    theirs = loaded.identity.tokenizer_fingerprint
    if theirs != fingerprint:
        raise FingerprintMismatch(
            f"the draft model {name} has tokenizer {theirs}, the served model {fingerprint}",
            field="drafter",
            ours=theirs,
            theirs=fingerprint,
        )
    return TorchDrafter(
        loaded,
        kv_bytes=options.kv_bytes,
        may_round=may_round,
        num_slots=options.num_slots,
        num_children=options.branch,
        coupled=options.coupled,
        recalls=options.recalls,
    )
