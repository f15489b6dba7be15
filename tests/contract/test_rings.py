"""The rings are held: each rule, broken on purpose, is reported by the contract that states it."""

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = [
    ROOT / "libs/common/src/specedge",
    ROOT / "services/edge/src/specedge_edge",
    ROOT / "services/scheduler/src/specedge_scheduler",
    ROOT / "services/verifier/src/specedge_verifier",
]
CONTRACTS = {
    contract["id"]: contract["name"]
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
        "contracts"
    ]
}

VIOLATIONS = [
    ("ring-a-pure", "specedge/tree/path.py", "import asyncio"),
    ("ring-a-pure", "specedge/protocol/messages.py", "import time"),
    ("ring-a-pure", "specedge/sampling/rules.py", "import torch"),
    ("ring-a-pure", "specedge/params.py", "import structlog"),
    ("policy-pure", "specedge_scheduler/cluster.py", "import time"),
    ("policy-pure", "specedge_scheduler/policy/batching.py", "import random"),
    ("rings", "specedge/sampling/noise.py", "import specedge.engine.ports"),
    ("rings", "specedge/engine/ports.py", "import specedge.link.base"),
    ("rings", "specedge/service/runtime.py", "import specedge.cli.main"),
    ("ring-b-synchronous", "specedge/engine/loading.py", "import asyncio"),
    ("torch-free-engine", "specedge/engine/ports.py", "import torch"),
    ("torch-free-engine", "specedge/engine/prompt_lookup.py", "import transformers"),
    ("only-engine-torch", "specedge_verifier/__init__.py", "import torch"),
    ("only-link-nats", "specedge_edge/__init__.py", "import nats"),
    ("only-link-nats", "specedge/link/memory.py", "import nats"),
    ("services-apart", "specedge_edge/__init__.py", "import specedge_verifier"),
    ("library-below-services", "specedge/cli/main.py", "import specedge_edge"),
    (
        "scheduler-without-torch",
        "specedge_scheduler/__init__.py",
        "import specedge.engine.torch_target",
    ),
    ("adapters-where-put-together", "specedge_edge/router.py", "import specedge.link.nats"),
    ("command-without-torch", "specedge/cli/main.py", "import specedge.engine.torch_target"),
]


@pytest.fixture(scope="module")
def copied_trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All packages side by side in one folder, with the linter's settings."""
    folder = tmp_path_factory.mktemp("trees")
    for package in PACKAGES:
        shutil.copytree(
            package, folder / package.name, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


@pytest.fixture
def trees(copied_trees: Path) -> Iterator[Path]:
    """The copies, put right again after a test that broke one file."""
    before = {path: path.read_bytes() for path in copied_trees.rglob("*.py")}
    yield copied_trees
    for path, content in before.items():
        if path.read_bytes() != content:
            path.write_bytes(content)


def lint(folder: Path) -> tuple[int, str]:
    """Exit code and output of ``lint-imports`` there, reading the copies, not what is installed."""
    program = "from importlinter.cli import lint_imports_command as run; run(['--no-logo'])"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_the_tree_as_it_is_keeps_every_contract(trees: Path) -> None:
    code, said = lint(trees)

    assert code == 0, said
    for name in CONTRACTS.values():
        assert f"{name} KEPT" in said


@pytest.mark.parametrize(("contract", "file", "line"), VIOLATIONS)
def test_a_violation_is_reported_by_its_contract(
    trees: Path, contract: str, file: str, line: str
) -> None:
    broken = trees / file
    broken.write_text(f"{broken.read_text()}\n{line}\n")

    code, said = lint(trees)

    assert code != 0
    assert f"{CONTRACTS[contract]} BROKEN" in said


def test_every_contract_is_broken_by_some_violation() -> None:
    assert {contract for contract, _, _ in VIOLATIONS} == set(CONTRACTS)


def test_only_the_runtime_creates_tasks() -> None:
    """The linter bans ``asyncio.create_task`` by name; this finds the methods of that name too."""
    creators = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in package.rglob("*.py")
        if ".create_task(" in path.read_text() or "asyncio.TaskGroup(" in path.read_text()
    }

    assert creators == {"libs/common/src/specedge/service/runtime.py"}
