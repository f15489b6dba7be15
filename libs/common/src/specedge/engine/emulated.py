"""Emulated engines: real ports, real costs, and tokens that can be checked, without a model.

For tests, demonstrations and load: hundreds of sessions on a laptop, device time slept, everything
else real. Imports no torch.
"""

from specedge.engine.emulated_drafter import EmulatedDrafter, EmulatedDraftSession
from specedge.engine.emulated_target import EmulatedTarget
from specedge.engine.emulated_text import EmulatedText, emulated_continuation

__all__ = [
    "EmulatedDraftSession",
    "EmulatedDrafter",
    "EmulatedTarget",
    "EmulatedText",
    "emulated_continuation",
]
