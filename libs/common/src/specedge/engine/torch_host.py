"""What a process tells torch about its machine: the device to compute on, and how many threads.

Called once, on the thread that will own the engine, before a model is loaded.
"""

import torch

from specedge.errors import ModelUnusable


def prepare_host(device: str, threads: int | None = None) -> str:
    """Choose the device (``auto``: CUDA if there is one) and set the number of compute threads;
    None leaves it to torch. A GPU that is chosen by number becomes the thread's own: what asks
    torch about "the" GPU asks about that one. Returns the device's name. Raises ModelUnusable if
    it is not there."""
    if threads is not None:
        torch.set_num_threads(threads)
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    _check_device(device)
    return device


def _check_device(name: str) -> None:
    try:
        device = torch.device(name)
    except RuntimeError:
        known = "cpu, cuda, cuda:1 and so on, or auto"
        raise ModelUnusable(f"torch knows no device {name!r}: it is {known}") from None
    if device.type != "cuda":
        return
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (device.index or 0) >= count:
        raise ModelUnusable(f"device {name} was asked for; CUDA devices that torch finds: {count}")
    if device.index is not None:
        torch.cuda.set_device(device)
