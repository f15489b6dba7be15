"""How programs end: those that the command starts or turns into, by an early Ctrl-C, and itself."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from specedge.cli.becoming import PROGRAMS, become
from specedge.cli.lossless import MEASUREMENT

SPECEDGE = [sys.executable, "-m", "specedge.cli.main"]

# Presses Ctrl-C, as it were, when the first import of the program's own begins.
INTERRUPTED = """
import os, signal, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == {awaited!r}:
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)  # programs in the background ignore it
sys.meta_path.insert(0, Interrupting())
sys.argv = ["launch", {module!r}, "--help"]
from specedge.cli.launch import main
main()
"""


@pytest.mark.parametrize(
    ("module", "awaited"),
    [
        ("specedge.distill", "specedge.distill.stages"),
        ("specedge_scheduler.sim", "specedge_scheduler.sim.plots"),
        (MEASUREMENT, "specedge.lossless.measuring"),
    ],
)
def test_a_ctrl_c_while_a_program_imports_itself_ends_it_in_silence(
    module: str, awaited: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED.format(module=module, awaited=awaited)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize(("press", "code", "is_told"), [(True, 130, False), (False, 1, True)])
def test_what_an_import_makes_of_a_ctrl_c_is_no_error_of_the_program(
    press: bool, code: int, is_told: bool, tmp_path: Path
) -> None:
    (tmp_path / "program.py").write_text(
        "import os, signal\n"
        "try:\n"
        f"    if {press}:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "except KeyboardInterrupt:\n"
        "    pass\n"
        "raise ModuleNotFoundError('Could not import it')\n"
    )

    def as_in_a_terminal() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)

    done = subprocess.run(
        [sys.executable, "-m", "specedge.cli.launch", "program"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        preexec_fn=as_in_a_terminal,
    )

    assert done.returncode == code
    assert ("Could not import it" in done.stderr) == is_told


@pytest.mark.parametrize("module", [module for module, _ in PROGRAMS.values()])
def test_the_command_turns_into_a_program_that_such_a_ctrl_c_ends(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    became: list[list[str]] = []
    monkeypatch.setattr("os.putenv", lambda *_: None)
    monkeypatch.setattr("os.execv", lambda _, command: became.append(command))

    become(module, ["--some", "flag"], called_as="specedge it")

    assert became == [[sys.executable, "-m", "specedge.cli.launch", module, "--some", "flag"]]


def test_a_launched_program_has_its_own_name_arguments_and_exit_code(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("import sys; print(__name__, sys.argv); sys.exit(3)")

    done = subprocess.run(
        [sys.executable, "-m", "specedge.cli.launch", "program", "--flag", "value"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    own = str(tmp_path / "program.py")
    assert (done.returncode, done.stdout) == (3, f"__main__ {[own, '--flag', 'value']}\n")


@pytest.mark.parametrize("said_by", [["--version"], ["creds", "list"]])
def test_a_full_disk_under_the_output_is_told_in_a_sentence(
    said_by: list[str], tmp_path: Path
) -> None:
    subprocess.run([*SPECEDGE, "creds", "init"], cwd=tmp_path, capture_output=True, check=True)

    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*SPECEDGE, *said_by],
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )

    assert done.returncode != 0
    assert "the output: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
