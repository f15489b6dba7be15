"""Drafters that come with the package, by the target they were made for. Imports no torch."""

from importlib.util import find_spec
from pathlib import Path
from typing import Final

import specedge
from specedge.engine.default_model import DEFAULT_MODEL

AUTO: Final = "auto"
FOLDER: Final = Path(specedge.__file__).parent / "shipped"
_DRAFTER_OF: Final = {DEFAULT_MODEL: "SmolLM2-135M-Instruct-drafter"}


def shipped_drafter(target: str) -> Path | None:
    """The folder of the drafter shipped for the model called ``target``, if there is one."""
    name = _DRAFTER_OF.get(target)
    return FOLDER / name if name is not None and (FOLDER / name).is_dir() else None


def chosen_drafter(name: str, target: str) -> str:
    """What ``auto`` stands for: the drafter shipped for ``target`` where torch is installed, else
    prompt lookup. Any other name is itself."""
    if name != AUTO:
        return name
    shipped = shipped_drafter(target)
    return str(shipped) if shipped is not None and find_spec("torch") else "prompt-lookup"
