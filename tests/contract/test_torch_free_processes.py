"""What must run on a machine that has no torch does, with every import of it refused."""

import subprocess
import sys

import pytest

REFUSING = """
import runpy, sys

class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {refused}:
            raise ModuleNotFoundError(f"no module named {{name}} on this machine")

sys.meta_path.insert(0, Refusing())
sys.argv = ["program", "--help"]
runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
"""


def start(module: str, refused: set[str]) -> subprocess.CompletedProcess[str]:
    """``python -m module --help`` where ``refused`` cannot be imported."""
    program = REFUSING.format(refused=refused, module=module)
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    ("module", "refused"),
    [
        ("specedge_scheduler", {"torch", "transformers", "tokenizers", "safetensors"}),
        ("specedge_edge", {"torch"}),
        ("specedge.cli.main", {"torch", "transformers", "tokenizers"}),
    ],
)
def test_it_starts_without_torch(module: str, refused: set[str]) -> None:
    done = start(module, refused)

    assert done.returncode == 0, done.stderr
    assert "--" in done.stdout


def test_the_refusal_would_be_noticed() -> None:
    done = start("specedge.engine.reference", {"torch"})

    assert done.returncode != 0
    assert "no module named torch on this machine" in done.stderr
