"""Keep cores from sleeping, and take nothing from others.

A core that has nothing to do sleeps, and on a virtual machine it is given away: who wakes on it
finds his caches and predictions gone, and takes up to twice as long for what he does. That is the
machine's cost, not the program's. Where it may be asked for, the system's own idle loop polls:
nobody else runs there meanwhile. Elsewhere ``python -m benchmarks.awake <core>`` pauses there at
idle priority: whoever has something to do goes first, at once, but pays for the change between
two processes each time.
"""

import asyncio
import contextlib
import os
import platform
import struct
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.pinned import ANY, pin_to
from specedge.cli.failure import CommandFailed

# What a processor is told in a loop that waits, as LLVM calls it: it needs no units and no caches
# for that.
_X86: Final = ("llvm.x86.sse2.pause", ())
_ARM: Final = ("llvm.aarch64.hint", (1,))
PAUSES: Final = {"x86_64": _X86, "AMD64": _X86, "aarch64": _ARM, "arm64": _ARM}
# While it is held open with a 0 in it, no core sleeps so deep that waking takes any time.
LATENCY: Final = Path("/dev/cpu_dma_latency")
GROUP: Final = Path("/proc/self/autogroup")
LEAST_SHARE: Final = "19"  # as a niceness
NUM_PAUSES: Final = 10_000_000  # between two looks for whoever started it


def can_keep_awake() -> bool:
    """Whether this system polls when it is asked to, or has a priority for whoever only waits, and
    this processor an instruction for that."""
    return os.access(LATENCY, os.W_OK) or _can_pause()


@contextlib.asynccontextmanager
async def kept_awake(cores: Sequence[str]) -> AsyncIterator[None]:
    """None of these cores sleeps meanwhile. Raises CommandFailed if one did: nobody is to take what
    was measured for something else."""
    if not cores:
        yield
        return
    with polling(LATENCY) as is_polling:
        async with pausing(() if is_polling else cores):
            yield


@contextlib.contextmanager
def polling(latency: Path) -> Iterator[bool]:
    """Every core's idle loop polls, if this may be asked for; whether it does."""
    try:
        held = latency.open("wb", buffering=0)
    except OSError:
        yield False
        return
    with held:
        held.write(struct.pack("i", 0))
        yield True


@contextlib.asynccontextmanager
async def pausing(cores: Sequence[str]) -> AsyncIterator[None]:
    """A process on each of these cores pauses whenever nobody else has anything to do there. Raises
    CommandFailed if one of them ended."""
    command = (sys.executable, "-m", "benchmarks.awake")
    # In sessions of their own: a kernel that groups processes by session shares a core among the
    # groups, and looks at priorities within each only.
    options = {"stdin": asyncio.subprocess.DEVNULL, "start_new_session": True}
    started = [
        await asyncio.create_subprocess_exec(*command, core, **options)
        for core in cores
        if core != ANY and _can_pause()
    ]
    try:
        yield
        if any(process.returncode is not None for process in started):
            raise CommandFailed("a core was not kept awake", hint="it wrote why above")
    finally:
        for process in started:
            if process.returncode is None:
                process.terminate()
            await process.wait()


def _can_pause() -> bool:
    return hasattr(os, "SCHED_IDLE") and platform.machine() in PAUSES


def main(argv: Sequence[str]) -> None:
    """Until terminated, or whoever started it is gone."""
    pin_to(argv[0])
    with contextlib.suppress(OSError):  # a kernel that does not group
        GROUP.write_text(LEAST_SHARE)
    if sys.platform == "linux":
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    parent, wait = os.getppid(), _waiting_loop(*PAUSES[platform.machine()])
    while os.getppid() == parent:
        wait(NUM_PAUSES)


def _waiting_loop(instruction: str, operands: Sequence[int]) -> Callable[[int], None]:
    """So many of this instruction, compiled. A loop of the interpreter's would fill the caches that
    are to be spared."""
    from llvmlite import ir
    from numba import njit, types
    from numba.core import cgutils
    from numba.extending import intrinsic

    @intrinsic
    def pause(_: Any) -> Any:
        def generate(context: Any, builder: Any, _signature: Any, _args: Any) -> Any:
            number = ir.IntType(32)
            kind = ir.FunctionType(ir.VoidType(), [number] * len(operands))
            function = cgutils.get_or_insert_function(builder.module, kind, instruction)
            builder.call(function, [number(value) for value in operands])
            return context.get_dummy_value()

        return types.void(), generate

    @njit
    def wait(times: int) -> None:
        for _ in range(times):
            pause()

    loop: Callable[[int], None] = wait
    return loop


if __name__ == "__main__":
    main(sys.argv[1:])
