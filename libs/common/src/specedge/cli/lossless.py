"""`specedge verify-lossless`: starts a system if none is named, and the measurement as a process.

The measurement loads the model with torch, which the command itself must not import.
"""

import asyncio
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from specedge.cli.failure import EXIT_INTERRUPTED, EXIT_USAGE, CommandFailed
from specedge.cli.running import Interrupted, RunningStack, run_with_stack
from specedge.cli.stack import StackOptions

MEASUREMENT = "specedge.lossless"


@dataclass(frozen=True, slots=True)
class LosslessOptions:
    """What to measure; see the options of ``specedge verify-lossless``."""

    prompts: int
    tokens: int
    prompts_file: Path | None
    url: str | None
    dtype: str
    temperatures: tuple[float, ...]
    seed: int
    parallel: int
    threads: int
    model: str | None
    api_key: str | None
    as_json: bool


def run_verify_lossless(options: LosslessOptions, stack_options: StackOptions) -> None:
    """Ends the command with the measurement's exit code when that is not 0."""
    if options.dtype not in ("fp32", "bf16"):
        raise CommandFailed("--dtype is fp32 or bf16", exit_code=EXIT_USAGE)
    if options.url is not None:
        code = subprocess.run(_command(options, options.url), check=False).returncode
    else:
        code = _with_own_stack(options, stack_options)
    if code:
        sys.exit(code)


def _with_own_stack(options: LosslessOptions, stack_options: StackOptions) -> int:
    async def measure(stack: RunningStack) -> int:
        process = await asyncio.create_subprocess_exec(*_command(options, stack.base_url))
        try:
            return await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    try:
        return run_with_stack(stack_options, measure)
    except Interrupted:
        raise CommandFailed("interrupted", exit_code=EXIT_INTERRUPTED) from None


def _command(options: LosslessOptions, url: str) -> list[str]:
    flags: dict[str, object] = {
        "--url": url,
        "--prompts": options.prompts,
        "--tokens": options.tokens,
        "--prompts-file": options.prompts_file,
        "--dtype": options.dtype,
        "--seed": options.seed,
        "--parallel": options.parallel,
        "--threads": options.threads,
        "--model": options.model,
        "--api-key": options.api_key,
    }
    command = [sys.executable, "-m", MEASUREMENT]
    for flag, value in flags.items():
        if value is not None:
            command += [flag, str(value)]
    for temperature in options.temperatures:
        command += ["--temperature", str(temperature)]
    return [*command, "--json"] if options.as_json else command
