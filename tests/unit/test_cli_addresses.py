"""Where edges of an own system may listen and are reached, and which folders must be there."""

import socket
from pathlib import Path

import pytest

from specedge.cli.addresses import check_address, is_every_address, is_loopback, url_from_here
from specedge.cli.chosen_models import check_folders
from specedge.cli.failure import EXIT_USAGE, CommandFailed
from specedge.cli.stack import StackOptions


def test_a_port_is_taken_on_the_address_that_is_asked_for() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.2", 0))
        taken.listen()
        port = taken.getsockname()[1]

        with pytest.raises(CommandFailed, match=f"port {port} is taken") as failure:
            check_address("127.0.0.2", port)
        check_address("127.0.0.1", port)

    assert failure.value.exit_code == EXIT_USAGE


@pytest.mark.parametrize("host", ["192.0.2.1", "no host", "999.1.1.1"])
def test_what_is_no_address_of_this_machine_is_named(host: str) -> None:
    with pytest.raises(CommandFailed, match=f"listen on {host}") as failure:
        check_address(host, 0)

    assert failure.value.exit_code == EXIT_USAGE


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("192.0.2.1", "http://192.0.2.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("::1", "http://[::1]:80"),
        ("there.example", "http://there.example:80"),
    ],
)
def test_a_url_is_one_that_can_be_asked(host: str, url: str) -> None:
    assert url_from_here(host, 80) == url


def test_who_reaches_an_address_is_known() -> None:
    assert all(map(is_loopback, ["127.0.0.1", "127.0.0.9", "::1", "localhost"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "192.0.2.1", "there.example", ""]))
    assert all(map(is_every_address, ["0.0.0.0", "::", ""]))
    assert not any(map(is_every_address, ["127.0.0.1", "there.example"]))


@pytest.mark.parametrize("name", ["/none", "./none", "../none", "~/none", "a/b/none", "none/"])
@pytest.mark.parametrize("setting", ["model", "drafter", "verifier_drafter"])
def test_a_folder_that_is_not_there_is_wrong_usage(
    setting: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))

    with pytest.raises(CommandFailed, match="there is no folder") as failure:
        check_folders(StackOptions(**{setting: name}))

    assert failure.value.exit_code == EXIT_USAGE
    assert str(failure.value).startswith(f"--{setting.replace('_', '-')}:")
    assert name in str(failure.value)


def test_folders_that_are_there_and_names_are_let_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "of" / "old").mkdir(parents=True)

    folders = ("mine/of/old", "./mine", str(tmp_path))
    for name in (None, "auto", "prompt-lookup", "some-model", "Org/Model-1.5_b", *folders):
        check_folders(StackOptions(model=name, drafter=name))
