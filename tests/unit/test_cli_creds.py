"""`specedge creds`, as a person and as a script meet it."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from specedge.cli.creds import creds
from specedge.cli.failure import EXIT_USAGE, CommandFailed

SECRETS = {"identity.nk", "api-key", "server.key", "ca.key"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "credentials"


def run(root: Path, *arguments: str) -> Result:
    return CliRunner().invoke(creds, [*arguments, "--dir", str(root)])


def run_json(root: Path, *arguments: str) -> dict[str, Any]:
    result = run(root, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.output))


def test_init_says_what_it_made_and_then_that_there_is_nothing_to_do(root: Path) -> None:
    first, second = run(root, "init", "--edge", "alice"), run(root, "init", "--edge", "alice")

    assert f"{root}/edges/alice/identity.nk" in first.output
    assert "reload" not in first.output  # no broker can be running on it yet
    assert "nothing was changed" in second.output


def test_a_script_learns_what_changed_and_what_the_broker_needs(root: Path) -> None:
    run(root, "init")

    added = run_json(root, "add-edge", "alice")
    again = run_json(root, "init")
    moved = run_json(root, "init", "--listen", "0.0.0.0:4333")

    assert {"path": "edges/alice/identity.nk", "deed": "created"} in added["changes"]
    assert added["broker"] == "reload"
    assert (again["changes"], again["broker"]) == ([], "nothing")
    assert moved["broker"] == "restart"


def test_adding_an_edge_says_how_the_broker_takes_it_and_where_it_goes(root: Path) -> None:
    run(root, "init")

    said = run(root, "add-edge", "alice").output

    assert "--signal reload" in said
    assert f"Carry {root}/edges/alice" in said


def test_list_shows_everybody_and_whether_the_secrets_are_here(root: Path) -> None:
    run(root, "init", "--edge", "alice", "--observer", "onlooker")
    (root / "edges" / "alice" / "identity.nk").unlink()

    shown, members = run(root, "list").output, run_json(root, "list")["members"]

    assert [(m["name"], m["role"], m["has_secret"]) for m in members] == [
        ("scheduler-1", "scheduler", True),
        ("verifier-1", "verifier", True),
        ("onlooker", "observer", True),
        ("alice", "edge", False),
    ]
    for member in members:
        assert f"{member['public_key']} " in shown
    assert "secrets not here" in shown


def test_no_command_prints_a_secret(root: Path) -> None:
    said = "".join(
        run(root, *command).output
        for command in (
            ("init", "--edge", "alice"),
            ("init", "--edge", "bob", "--json"),
            ("add-edge", "carol"),
            ("list",),
            ("list", "--json"),
        )
    )
    secrets = [path.read_text().strip() for path in root.rglob("*") if path.name in SECRETS]

    said += run(root, "remove", "carol").output

    assert len(secrets) == 10
    assert not any(secret in said for secret in secrets)


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        (("add-edge", "Alice"), "up to 32 of a-z"),
        (("remove", "nobody"), "there is no nobody, only scheduler-1, verifier-1"),
        (("init", "--listen", "here"), "listen: an address looks like"),
        (("init", "--url", "nats://x:1"), "edges dial tls://host:port"),
        (("init", "--tls-name", "a b"), "neither a host's name nor an address"),
        (("init", "--edge", "verifier-1"), "there already, as verifier"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_sentence(
    root: Path, command: tuple[str, ...], complaint: str
) -> None:
    run(root, "init")

    result = run(root, *command)

    assert isinstance(result.exception, CommandFailed)
    assert complaint in str(result.exception)
    assert result.exception.exit_code == EXIT_USAGE


@pytest.mark.parametrize("folder", [".", "nowhere"])
@pytest.mark.parametrize(
    "command", [("list",), ("add-edge", "x"), ("remove", "x"), ("check", "x")], ids=" ".join
)
def test_a_folder_that_was_not_made_says_how_to_make_it(
    tmp_path: Path, command: tuple[str, ...], folder: str
) -> None:
    result = run(tmp_path / folder, *command)

    assert isinstance(result.exception, CommandFailed)
    assert "holds no credentials yet" in str(result.exception)
    assert "specedge creds init" in result.exception.hint
