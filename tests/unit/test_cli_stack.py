"""What `specedge up` would start, and how its output of progress reads."""

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from typer.testing import CliRunner

from specedge import __version__
from specedge.cli.api_keys import keys_from
from specedge.cli.commands import app
from specedge.cli.failure import CommandFailed
from specedge.cli.stack import (
    EDGE_MODULE,
    SCHEDULER_MODULE,
    VERIFIER_MODULE,
    StackOptions,
    available_cores,
    plan_processes,
)
from specedge.cli.waiting import ProgressDisplay, Progression, read_progress
from specedge.service.settings import (
    LogLevel,
    ServiceSettings,
    environment_for,
    settings_from_command_line,
)
from specedge_edge.config import EdgeSettings
from specedge_scheduler.config import SchedulerSettings
from specedge_verifier.config import VerifierSettings


def flags(options: StackOptions, name: str) -> dict[str, str]:
    """Flags of one planned process."""
    plans = plan_processes(options, nats_url="nats://127.0.0.1:4333", run_dir=Path("/run"))
    given = next(plan.flags for plan in plans if plan.name == name)
    return dict(zip(given[::2], given[1::2], strict=True))


def test_scheduler_comes_first_and_edges_come_last() -> None:
    options = StackOptions(verifiers=2, edges=2)

    plans = plan_processes(options, nats_url="nats://x:1", run_dir=Path("/run"))

    assert [plan.name for plan in plans] == [
        "scheduler",
        "verifier-1",
        "verifier-2",
        "edge-1",
        "edge-2",
    ]


def test_only_the_first_edge_gets_the_chosen_port() -> None:
    options = StackOptions(edges=2, port=8123)

    assert flags(options, "edge-1")["--http-port"] == "8123"
    assert flags(options, "edge-2")["--http-port"] == "0"
    assert flags(options, "scheduler")["--http-port"] == "0"


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[StackOptions]:
    """The systems that commands would have started; nothing is."""
    made: list[StackOptions] = []

    def run(*arguments: object, **_: object) -> None:
        made.extend(each for each in arguments if isinstance(each, StackOptions))

    monkeypatch.setattr("specedge.cli.up.run_up", run)
    monkeypatch.setattr("specedge.cli.demo.run_demo", run)
    monkeypatch.setattr("specedge.cli.lossless.run_verify_lossless", run)
    return made


def invoke(*arguments: str, **variables: str) -> tuple[int, str]:
    """The exit code of `specedge`, and what it said."""
    said = CliRunner().invoke(app, arguments, env=variables)
    return said.exit_code, said.output


def test_edges_alone_listen_where_a_person_wants_them() -> None:
    options = StackOptions(edges=2, host="0.0.0.0")

    assert flags(options, "edge-1")["--http-host"] == "0.0.0.0"
    assert flags(options, "edge-2")["--http-host"] == "0.0.0.0"
    assert flags(options, "scheduler")["--http-host"] == "127.0.0.1"
    assert flags(options, "verifier-1")["--http-host"] == "127.0.0.1"


def test_where_edges_listen_may_be_an_option_or_a_variable(chosen: list[StackOptions]) -> None:
    assert invoke("up")[0] == 0
    assert invoke("up", SPECEDGE_HTTP_HOST="::1")[0] == 0
    assert invoke("up", "--host", "0.0.0.0", SPECEDGE_HTTP_HOST="::1")[0] == 0

    assert [options.host for options in chosen] == ["127.0.0.1", "::1", "0.0.0.0"]


def test_streams_outlast_a_verifier_that_starts_again_unless_a_person_has_less_patience(
    chosen: list[StackOptions],
) -> None:
    assert invoke("up")[0] == 0
    assert invoke("up", SPECEDGE_PATIENCE_S="5")[0] == 0

    waits_s = [float(flags(options, "edge")["--patience-s"]) for options in chosen]
    assert waits_s == [120.0, 5.0]
    assert "--patience-s" not in flags(chosen[0], "verifier-1")


@pytest.mark.parametrize("command", ["up", "demo", "verify-lossless"])
def test_a_dtype_that_there_is_not_is_wrong_usage(command: str, chosen: list[StackOptions]) -> None:
    code, said = invoke(command, "--dtype", "fp99")

    assert code == 2
    assert "fp99" in said and "bf16" in said
    assert not chosen


def test_a_log_level_is_one_that_services_know(chosen: list[StackOptions]) -> None:
    for level in get_args(LogLevel):
        assert invoke("up", "--log-level", level)[0] == 0
    code, said = invoke("up", "--log-level", "loud")

    assert code == 2
    assert "loud" in said and "warning" in said
    assert [options.log_level for options in chosen] == list(get_args(LogLevel))


@pytest.mark.parametrize("name", ["scheduler", "edge"])
def test_a_program_of_its_own_goes_by_the_command_that_was_typed(name: str) -> None:
    command = [sys.executable, "-m", "specedge.cli.main", name, "--colour", "red"]

    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert said.returncode == 2
    assert said.stderr.startswith(f"usage: specedge {name} ")
    assert "--colour" in said.stderr.splitlines()[1]


def test_every_process_listens_on_loopback_and_knows_the_broker() -> None:
    options = StackOptions(verifiers=2)

    for name in ("scheduler", "verifier-1", "verifier-2", "edge"):
        assert flags(options, name)["--http-host"] == "127.0.0.1"
        assert flags(options, name)["--nats-url"] == "nats://127.0.0.1:4333"


def test_verifiers_are_told_apart_and_share_the_cores() -> None:
    options = StackOptions(verifiers=2)

    assert flags(options, "verifier-1")["--verifier-id"] == "verifier-1"
    assert flags(options, "verifier-2")["--verifier-id"] == "verifier-2"
    assert 2 * options.verifier_threads <= max(2, available_cores() - 1)
    assert StackOptions(threads=7).verifier_threads == 7


def test_what_was_not_chosen_is_left_to_the_service() -> None:
    given = flags(StackOptions(), "verifier-1")

    assert "--model" not in given
    assert "--dtype" not in given


def test_a_key_is_given_to_edges_alone_and_where_nobody_else_reads_it() -> None:
    options = StackOptions(api_key="sk-secret")

    plans = plan_processes(options, nats_url="nats://x:1", run_dir=Path("/run"))

    assert not any("sk-secret" in flag for plan in plans for flag in plan.flags)
    assert {p.name: p.environment["SPECEDGE_API_KEY"] for p in plans} == {
        "scheduler": "",
        "verifier-1": "",
        "edge": "sk-secret",
    }
    assert "sk-secret" not in repr((options, plans))


def test_what_a_shell_holds_for_an_edge_elsewhere_changes_no_system_of_our_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("NATS_URL", "NATS_CA_FILE", "IDENTITY_FILE", "API_KEY_FILE", "API_KEY"):
        monkeypatch.setenv(f"SPECEDGE_{name}", "nats://elsewhere:1")
    classes: dict[str, type[ServiceSettings]] = {
        SCHEDULER_MODULE: SchedulerSettings,
        VERIFIER_MODULE: VerifierSettings,
        EDGE_MODULE: EdgeSettings,
    }

    for plan in plan_processes(StackOptions(), nats_url="nats://x:1", run_dir=Path("/run")):
        for name, value in environment_for(plan.environment).items():
            monkeypatch.setenv(name, value)
        settings = settings_from_command_line(classes[plan.module], plan.flags)

        assert settings.nats_servers == ("nats://x:1",)
        assert settings.nats_ca_file is None
        if isinstance(settings, EdgeSettings):
            assert settings.api_keys() == frozenset()
            assert settings.identity_file == Path("/run/edge.nk")
        else:
            assert settings.identity_file is None


def test_keys_come_from_the_option_and_from_the_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("two\n\n three \n")

    assert keys_from("one", file) == "one,two,three"
    assert keys_from(None, file) == "two,three"
    assert keys_from("one", None) == "one"
    assert keys_from(None, None) is None


def test_a_file_without_a_key_opens_no_door(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("\n")

    with pytest.raises(CommandFailed, match="holds no key"):
        keys_from(None, file)


@pytest.mark.parametrize("empty", ["", " ", ","])
def test_an_empty_key_opens_no_door(empty: str) -> None:
    with pytest.raises(CommandFailed, match="empty"):
        keys_from(empty, None)


@pytest.mark.parametrize("command", ["up", "demo", "verify-lossless"])
def test_a_variable_names_the_model_of_every_system(
    command: str, chosen: list[StackOptions]
) -> None:
    code, said = invoke(command, SPECEDGE_MODEL="of-the-shell")

    assert code == 0, said
    assert [options.model for options in chosen] == ["of-the-shell"]


def test_only_verifiers_asked_to_draft_do() -> None:
    server_only = StackOptions(drafter="none", verifier_drafter="prompt-lookup")

    assert flags(StackOptions(drafter="emulated"), "verifier-1")["--drafter"] == "none"
    assert flags(server_only, "verifier-1")["--drafter"] == "prompt-lookup"
    assert flags(server_only, "edge")["--drafter"] == "none"


def test_edges_have_identities_of_their_own() -> None:
    options = StackOptions(edges=2)

    assert (
        flags(options, "edge-1")["--identity-file"] != flags(options, "edge-2")["--identity-file"]
    )


def test_progress_is_read_from_an_unready_answer() -> None:
    body = {"phase": "weights", "percent": 40.0, "reasons": ["loading: weights"]}

    assert read_progress(body) == Progression("weights", 40.0)


def test_a_loaded_process_that_is_not_ready_says_why() -> None:
    body = {"phase": "loaded", "percent": 100.0, "reasons": ["no verifier"]}

    assert read_progress(body).phase == "no verifier"


def test_without_a_terminal_progress_is_lines_and_not_too_many(
    capsys: pytest.CaptureFixture[str],
) -> None:
    display = ProgressDisplay(["verifier-1"])

    with display:
        for percent in range(0, 101, 5):
            display.show("verifier-1", Progression("weights", float(percent)))

    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "verifier-1: weights"
    assert 3 <= len(lines) <= 6


def test_the_version_is_said() -> None:
    said = CliRunner().invoke(app, ["--version"])

    assert said.exit_code == 0
    assert said.output == f"specedge {__version__}\n"


def test_every_command_explains_itself() -> None:
    for command in ("up", "demo", "chat", "verify-lossless"):
        said = CliRunner().invoke(app, [command, "--help"])

        assert said.exit_code == 0, said.output
