"""What a process tells torch about its machine: the device to compute on, and how many threads.

Called once, on the thread that will own the engine, before a model is loaded.
"""

import torch

from specedge.errors import ModelUnusable


def prepare_host(device: str, threads: int | None = None) -> str:
    """Choose the device (``auto``: CUDA if there is one) and set the number of compute threads;
    None leaves it to torch. Returns the device's name. Raises ModelUnusable if it is not there."""
    if threads is not None:
        torch.set_num_threads(threads)
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ModelUnusable(f"device {device} was asked for, but torch finds no CUDA device")
    return device
