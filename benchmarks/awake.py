"""``python -m benchmarks.awake <core>``: keep a core from sleeping, and take nothing from others.

A core that has nothing to do sleeps, and on a virtual machine it is given away: who wakes on it
finds his caches and predictions gone, and takes up to twice as long for what he does. That is the
machine's cost, not the program's. Here a core pauses at idle priority in between: whoever has
something to do there goes first, at once, and finds what he left.
"""

import asyncio
import contextlib
import os
import platform
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.pinned import ANY, pin_to
from specedge.cli.failure import CommandFailed

# What a processor is told in a loop that waits, as LLVM calls it: it needs no units and no caches
# for that.
_X86: Final = ("llvm.x86.sse2.pause", ())
_ARM: Final = ("llvm.aarch64.hint", (1,))
PAUSES: Final = {"x86_64": _X86, "AMD64": _X86, "aarch64": _ARM, "arm64": _ARM}
GROUP: Final = Path("/proc/self/autogroup")
LEAST_SHARE: Final = "19"  # as a niceness
NUM_PAUSES: Final = 10_000_000  # between two looks for whoever started it


def can_keep_awake() -> bool:
    """Whether this system has such a priority, and this processor such an instruction."""
    return hasattr(os, "SCHED_IDLE") and platform.machine() in PAUSES


@contextlib.asynccontextmanager
async def kept_awake(cores: Sequence[str]) -> AsyncIterator[None]:
    """None of these cores sleeps meanwhile. Raises CommandFailed if one did: nobody is to take what
    was measured for something else."""
    command = (sys.executable, "-m", "benchmarks.awake")
    # In sessions of their own: a kernel that groups processes by session shares a core among the
    # groups, and looks at priorities within each only.
    options = {"stdin": asyncio.subprocess.DEVNULL, "start_new_session": True}
    started = [
        await asyncio.create_subprocess_exec(*command, core, **options)
        for core in cores
        if core != ANY and can_keep_awake()
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
