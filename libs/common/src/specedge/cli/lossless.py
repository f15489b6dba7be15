"""`specedge verify-lossless`: starts a system for each mode if none is named, and the measurement
as a process.

The measurement loads the model with torch, which the command itself must not import.
"""

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import orjson

from specedge.cli.becoming import LAUNCH
from specedge.cli.cache import cache_dir
from specedge.cli.console import err, out
from specedge.cli.failure import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, CommandFailed
from specedge.cli.running import Interrupted, RunningStack, run_with_stack
from specedge.cli.stack import API_KEY_VARIABLE, EDGE_MODULE, StackOptions
from specedge.engine.default_model import DEFAULT_MODEL
from specedge.engine.shipped import AUTO, chosen_drafter
from specedge.errors import InvalidRequest
from specedge.lossless.comparison import Report
from specedge.lossless.modes import NO_DRAFTER, Mode, parse_modes, settings_of
from specedge.lossless.report import as_json, is_lossless, not_shown, show
from specedge.service.settings import environment_for

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
    as_json: bool
    modes: str
    api_key: str | None = field(default=None, repr=False)


def run_verify_lossless(options: LosslessOptions, stack_options: StackOptions) -> None:
    """Ends the command with an exit code other than 0 when the check does not hold."""
    if options.dtype not in ("fp32", "bf16"):
        raise CommandFailed("--dtype is fp32 or bf16", exit_code=EXIT_USAGE)
    if options.url is not None:
        flags = ["--json"] if options.as_json else []
        command = [*_command(options, options.url), *flags]
        code = subprocess.run(command, check=False, env=_environment(options)).returncode
    else:
        code = _on_own_stacks(options, stack_options)
    if code:
        sys.exit(code)


def stack_for(mode: Mode, options: StackOptions, drafter: str) -> StackOptions:
    """The system that works in ``mode``; ``drafter`` is whosever turn it is to draft."""
    settings = settings_of(mode)
    switches = [
        part for name, on in settings.edge.items() for part in (f"--{name}", str(on).lower())
    ]
    return replace(
        options,
        drafter=drafter if settings.edge_drafts else NO_DRAFTER,
        verifier_drafter=drafter if settings.verifier_drafts else NO_DRAFTER,
        extra_flags={EDGE_MODULE: tuple(switches)},
    )


def _on_own_stacks(options: LosslessOptions, stack_options: StackOptions) -> int:
    target = options.model or DEFAULT_MODEL
    drafter = chosen_drafter(stack_options.drafter or AUTO, target)
    try:
        modes = parse_modes(options.modes, drafter)
    except InvalidRequest as error:
        raise CommandFailed(f"--modes: {error}", exit_code=EXIT_USAGE) from None
    reports: list[Report] = []
    with tempfile.TemporaryDirectory(prefix="specedge-plain-") as folder:
        plain_file = Path(folder) / "plain.json"
        for mode in modes:
            err().print(f"\nmode {mode}", style="bold", markup=False)
            stack = stack_for(mode, stack_options, drafter)
            reports += _measure_in(mode, options, stack, plain_file)
    if options.as_json:
        sys.stdout.write(orjson.dumps(as_json(reports)).decode() + "\n")
    else:
        show(reports, out())
    return 0 if is_lossless(reports) and not not_shown(reports) else EXIT_FAILED


def _measure_in(
    mode: Mode, options: LosslessOptions, stack_options: StackOptions, plain_file: Path
) -> list[Report]:
    """Start a system, measure it, end it."""

    async def measure(stack: RunningStack) -> bytes:
        own = {"--mode": mode, "--plain-file": plain_file}
        command = [*_command(options, stack.base_url, own), "--json"]
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, env=_environment(options)
        )
        try:
            said, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return said

    try:
        said = run_with_stack(stack_options, measure)
    except Interrupted:
        raise CommandFailed("interrupted", exit_code=EXIT_INTERRUPTED) from None
    try:
        return [Report.from_json(run) for run in orjson.loads(said)["runs"]]
    except orjson.JSONDecodeError:
        raise CommandFailed(f"mode {mode} could not be measured") from None


def _environment(options: LosslessOptions) -> dict[str, str]:
    """The key is in it, and not among the flags, which everybody on the machine may read."""
    return environment_for({API_KEY_VARIABLE: options.api_key or ""})


def _command(
    options: LosslessOptions, url: str, more: Mapping[str, object] | None = None
) -> list[str]:
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
        "--cache-dir": cache_dir(),
        **(more or {}),
    }
    command = [sys.executable, "-m", LAUNCH, MEASUREMENT]
    for flag, value in flags.items():
        if value is not None:
            command += [flag, str(value)]
    for temperature in options.temperatures:
        command += ["--temperature", str(temperature)]
    return command
