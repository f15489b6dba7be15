"""What `specedge up` tells a person to try."""

from pathlib import Path

import pytest

from specedge.cli.child import Child
from specedge.cli.running import RunningStack
from specedge.cli.stack import ProcessPlan, StackOptions
from specedge.cli.up import _first_key, _introduce, _own_name, run_up


@pytest.mark.parametrize(
    ("held", "keys", "shown"),
    [
        ("a", "a", "$SPECEDGE_API_KEY"),
        ("a,b", "a,b", "${SPECEDGE_API_KEY%%,*}"),
        (None, "a", "YOUR_KEY"),  # from a file
    ],
)
def test_a_key_is_never_shown_and_its_variable_only_to_a_shell_that_has_it(
    monkeypatch: pytest.MonkeyPatch, held: str | None, keys: str, shown: str
) -> None:
    monkeypatch.delenv("SPECEDGE_API_KEY", raising=False)
    if held is not None:
        monkeypatch.setenv("SPECEDGE_API_KEY", held)

    assert _first_key(keys) == shown


@pytest.mark.parametrize(
    ("host", "key", "is_open"),
    [("0.0.0.0", None, True), ("0.0.0.0", "sk", False), ("127.0.0.1", None, False)],
)
def test_a_door_that_stands_open_to_others_is_warned_of(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    host: str,
    key: str | None,
    is_open: bool,
) -> None:
    monkeypatch.setattr("specedge.cli.up.run_with_stack", lambda *_: None)

    run_up(StackOptions(host=host, api_key=key), as_json=True)

    said = capsys.readouterr()
    assert ("no key is asked for" in said.err) == is_open
    assert said.out == ""


def test_a_person_is_told_a_url_that_works_here_and_how_others_come_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edge = Child(ProcessPlan("edge", "specedge_edge", ()), run_dir=tmp_path)
    edge._on_line(b'{"event": "http_listening", "host": "0.0.0.0", "port": 8123}')
    stack = RunningStack([edge], [edge], "nats://127.0.0.1:2", tmp_path, [])

    _introduce(stack, "tiny", StackOptions(host="0.0.0.0"))

    said = capsys.readouterr().out
    assert "http://127.0.0.1:8123/v1" in said
    assert "any address of this machine" in said


@pytest.mark.parametrize("is_on_path", [True, False])
def test_a_person_is_told_a_command_that_their_shell_finds(
    is_on_path: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    (folder / "specedge").touch(mode=0o755)
    monkeypatch.setattr("sys.executable", str(folder / "python"))
    monkeypatch.setenv("PATH", str(folder) if is_on_path else "")

    assert _own_name() == ("specedge" if is_on_path else f"'{folder}/specedge'")
