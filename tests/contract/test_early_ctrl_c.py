"""A Ctrl-C that comes while a program is still importing itself ends it, and in silence."""

import subprocess
import sys

import pytest

# Presses Ctrl-C, as it were, when the import of ``specedge.errors`` begins: all programs need it.
INTERRUPTED = """
import os, runpy, signal, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "specedge.errors":
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)  # programs in the background ignore it
sys.meta_path.insert(0, Interrupting())
sys.argv = ["program", "--help"]
runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    "module", ["specedge.cli.main", "specedge_edge", "specedge_scheduler", "specedge_verifier"]
)
def test_an_early_ctrl_c_ends_a_program_in_silence(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED.format(module=module)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
