"""Emulated engines: real ports, real costs, and tokens that can be checked, without a model.

For tests, demonstrations and load: hundreds of sessions on a laptop, device time slept, everything
else real. Imports no torch.
"""

from specedge.engine.emulated_agreement import (
    Agreement,
    GeometricAgreement,
    LevelAgreement,
    TraceAgreement,
    read_agreement,
)
from specedge.engine.emulated_device import EmulatedDevice
from specedge.engine.emulated_drafter import EmulatedDrafter, EmulatedDraftSession
from specedge.engine.emulated_target import EmulatedTarget
from specedge.engine.emulated_text import EmulatedText, emulated_continuation

__all__ = [
    "Agreement",
    "EmulatedDevice",
    "EmulatedDraftSession",
    "EmulatedDrafter",
    "EmulatedTarget",
    "EmulatedText",
    "GeometricAgreement",
    "LevelAgreement",
    "TraceAgreement",
    "emulated_continuation",
    "read_agreement",
]
