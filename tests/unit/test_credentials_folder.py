"""The credentials folder: what is in it, who may read it, and that doing a thing twice is free."""

import contextlib
import datetime
import os
import ssl
import threading
from pathlib import Path

import pytest

from specedge.credentials.authority import check_names
from specedge.credentials.folder import CredentialsFolder, Outcome
from specedge.credentials.nkey import UserKey
from specedge.credentials.private_files import Change, Deed, FolderUnusable
from specedge.credentials.roles import Role
from specedge.errors import InvalidRequest
from specedge.ids import EDGE_ID

NOW = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)
SECRETS = {"identity.nk", "api-key", "server.key", "ca.key"}
SERVER_CERT = "broker/server.pem"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "credentials"


def opened(root: Path, *, days_later: int = 0) -> CredentialsFolder:
    return CredentialsFolder(root, now=NOW + datetime.timedelta(days=days_later))


def init(root: Path, *edges: str, days_later: int = 0, **choices: object) -> Outcome:
    wanted = tuple((name, Role.EDGE) for name in edges)
    return opened(root, days_later=days_later).init(wanted, choices)


def contents(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def paths(outcome: Outcome) -> set[str]:
    return {change.path for change in outcome.changes}


def test_a_new_folder_has_a_scheduler_a_verifier_and_a_broker(root: Path) -> None:
    init(root)

    assert set(contents(root)) == {
        "roster.json",
        "authority/ca.pem",
        "authority/ca.key",
        "broker/nats-server.conf",
        "broker/users.conf",
        "broker/server.pem",
        "broker/server.key",
        "services/scheduler-1/identity.nk",
        "services/scheduler-1/ca.pem",
        "services/verifier-1/identity.nk",
        "services/verifier-1/ca.pem",
    }


def test_an_edge_gets_a_folder_with_all_that_it_needs(root: Path) -> None:
    init(root, "alice", tls_names=("broker.example",), listen="0.0.0.0:4333")

    home = root / "edges" / "alice"
    assert {path.name for path in home.iterdir()} == {
        "identity.nk", "ca.pem", "api-key", "edge.env",
    }  # fmt: skip
    said = (home / "edge.env").read_text()
    assert "SPECEDGE_NATS_URL=tls://broker.example:4333\n" in said
    assert "SPECEDGE_IDENTITY_FILE=/credentials/identity.nk\n" in said
    assert len((home / "api-key").read_text().strip()) > 40


def test_secrets_are_readable_by_their_owner_alone_whatever_the_umask(root: Path) -> None:
    for umask in (0o000, 0o077):
        before = os.umask(umask)
        try:
            init(root / f"{umask:o}", "alice")
        finally:
            os.umask(before)
        for path in (root / f"{umask:o}").rglob("*"):
            mode = path.stat().st_mode & 0o777
            if path.is_dir():
                assert mode == (0o700 if path.name == "authority" else 0o755), path
            else:
                assert mode == (0o600 if path.name in SECRETS else 0o644), path


def test_no_secret_is_in_a_file_that_others_read(root: Path) -> None:
    init(root, "alice")
    files = contents(root)
    secrets = [body.strip() for path, body in files.items() if path.rpartition("/")[2] in SECRETS]

    for path, body in files.items():
        if path.rpartition("/")[2] not in SECRETS:
            assert not any(secret in body for secret in secrets), path


def test_a_second_init_changes_nothing(root: Path) -> None:
    init(root, "alice", tls_names=("a.example",), websocket="0.0.0.0:8443")
    before = contents(root)

    for again in (init(root), init(root, "alice"), init(root, "alice", days_later=300)):
        assert again.changes == ()
        assert not again.needs_reload
        assert not again.needs_restart
    assert contents(root) == before


def test_names_given_later_are_added_and_no_key_changes(root: Path) -> None:
    init(root, "alice")
    before = contents(root)

    outcome = init(root, "bob")

    assert {name: body for name, body in contents(root).items() if name in before} == before | {
        name: contents(root)[name] for name in ("roster.json", "broker/users.conf")
    }
    assert [member.name for member in outcome.roster.members] == [
        "scheduler-1", "verifier-1", "alice", "bob",
    ]  # fmt: skip
    assert outcome.needs_reload
    assert not outcome.needs_restart


def test_a_choice_is_kept_until_another_is_made(root: Path) -> None:
    init(root, listen="0.0.0.0:5000", store_dir="/data")

    outcome = init(root, monitor="0.0.0.0:8222")

    said = (root / "broker" / "nats-server.conf").read_text()
    assert 'listen: "0.0.0.0:5000"' in said
    assert 'store_dir: "/data"' in said
    assert 'http: "0.0.0.0:8222"' in said
    assert outcome.needs_restart


def test_what_the_broker_reads_is_named_as_the_broker_sees_it(root: Path) -> None:
    init(root, broker_dir="/etc/nats", store_dir="/data")

    said = (root / "broker" / "nats-server.conf").read_text()
    assert 'cert_file: "/etc/nats/server.pem"' in said
    assert str(root) not in said


def test_the_certificate_is_made_anew_for_other_names_or_near_its_end_and_only_then(
    root: Path,
) -> None:
    init(root, tls_names=("a.example",))
    first = (root / SERVER_CERT).read_bytes()

    assert SERVER_CERT not in paths(init(root, tls_names=("a.example",), days_later=600))
    renamed = init(root, tls_names=("a.example", "10.0.0.1"))
    assert SERVER_CERT in paths(renamed)
    assert renamed.needs_reload
    assert SERVER_CERT in paths(init(root, days_later=701))
    assert (root / SERVER_CERT).read_bytes() != first
    assert not any("ca." in change.path for change in renamed.changes)


def test_the_certificate_satisfies_a_strict_client(root: Path) -> None:
    init(root, tls_names=("localhost", "127.0.0.1"))
    trusting = ssl.create_default_context(cafile=root / "authority" / "ca.pem")
    trusting.verify_flags |= ssl.VERIFY_X509_STRICT
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(root / SERVER_CERT, root / "broker" / "server.key")
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = serving.wrap_bio(to_server, to_client, server_side=True)
    client = trusting.wrap_bio(to_client, to_server, server_hostname="127.0.0.1")

    for side in (client, server, client, server):
        with contextlib.suppress(ssl.SSLWantReadError):
            side.do_handshake()

    assert client.getpeercert() is not None


def test_a_service_whose_seed_is_lost_gets_a_new_one(root: Path) -> None:
    before = init(root).roster.member("verifier-1")
    (root / "services" / "verifier-1" / "identity.nk").unlink()

    outcome = opened(root).init((("verifier-1", Role.VERIFIER),), {})

    after = outcome.roster.member("verifier-1")
    assert before is not None
    assert after is not None
    assert after.public_key != before.public_key
    assert after.public_key in (root / "broker" / "users.conf").read_text()
    assert outcome.needs_reload


def test_an_edge_that_was_carried_away_keeps_its_key(root: Path) -> None:
    before = init(root, "alice").roster
    for path in (root / "edges" / "alice").iterdir():
        path.unlink()

    outcome = init(root, "alice")

    assert outcome.roster == before
    assert outcome.changes == ()
    alice = before.member("alice")
    assert alice is not None
    assert not opened(root).has_secret(alice)


def test_what_an_interrupted_command_left_is_completed(root: Path) -> None:
    whole = init(root, "alice").roster
    for name in ("roster.json", "broker/users.conf", SERVER_CERT, "edges/alice/api-key"):
        (root / name).unlink()
    (root / "broker" / ".users.conf.1.dead").write_text("half")

    outcome = opened(root).init((("alice", Role.EDGE),), {})

    assert {m.public_key for m in outcome.roster.members} == {m.public_key for m in whole.members}
    assert init(root).changes == ()


@pytest.mark.parametrize("number", range(1, 16))
def test_a_first_init_that_is_interrupted_anywhere_is_completed_by_the_next(
    root: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    interrupt_write(monkeypatch, number)
    with pytest.raises(KeyboardInterrupt):
        init(root, "alice")
    monkeypatch.undo()

    whole = init(root, "alice")

    assert len(contents(root)) == 15
    assert [m.name for m in whole.roster.members] == ["scheduler-1", "verifier-1", "alice"]
    assert init(root, "alice").changes == ()


@pytest.mark.parametrize("number", [1, 2])
def test_a_removal_that_is_interrupted_leaves_no_secret_and_is_completed_by_the_next(
    root: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    before = init(root, "alice").roster.member("alice")
    interrupt_write(monkeypatch, number)
    with pytest.raises(KeyboardInterrupt):
        opened(root).remove("alice")
    monkeypatch.undo()
    assert not (root / "edges" / "alice").exists()

    if opened(root).roster().member("alice") is not None:
        opened(root).remove("alice")
    again = opened(root).add_edge("alice").roster.member("alice")

    assert before is not None
    assert again is not None
    assert again.public_key != before.public_key


def interrupt_write(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let the ``number``-th file from now not come to be."""
    replace, left = Path.replace, iter(range(1, number))

    def until(unnamed: Path, target: Path) -> Path:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return replace(unnamed, target)

    monkeypatch.setattr(Path, "replace", until)


def test_wrong_modes_are_put_right(root: Path) -> None:
    init(root, "alice")
    seed = root / "edges" / "alice" / "identity.nk"
    seed.chmod(0o644)

    outcome = init(root)

    assert outcome.changes == (Change("edges/alice/identity.nk", Deed.GUARDED),)
    assert seed.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_files_belong_to_whom_they_are_given_also_those_made_later(root: Path) -> None:
    init(root, owner="10001:10002")
    opened(root).add_edge("alice")

    for path in (root, *root.rglob("*")):
        status = path.stat()
        assert (status.st_uid, status.st_gid) == (10001, 10002), path


def test_a_removed_edge_leaves_no_secret_behind(root: Path) -> None:
    init(root, "alice", "bob")
    key = UserKey.load(root / "edges" / "alice" / "identity.nk")

    outcome = opened(root).remove("alice")

    assert not (root / "edges" / "alice").exists()
    assert (root / "edges" / "bob" / "identity.nk").exists()
    assert key.public_key not in (root / "broker" / "users.conf").read_text()
    assert outcome.needs_reload


def test_removing_empties_a_folder_that_holds_something_else_but_keeps_that(root: Path) -> None:
    init(root, "alice")
    note = root / "edges" / "alice" / "note.txt"
    note.write_text("mine")

    opened(root).remove("alice")

    assert list(note.parent.iterdir()) == [note]


def test_the_last_member_cannot_be_removed(root: Path) -> None:
    init(root)
    opened(root).remove("scheduler-1")

    with pytest.raises(InvalidRequest, match="open to everybody"):
        opened(root).remove("verifier-1")


@pytest.mark.parametrize(
    "name", ["", "Alice", "a b", "a.b", "*", ">", "../up", "x" * 33, "alice\n", "ä"]
)
def test_a_name_that_could_mean_more_than_itself_is_refused(root: Path, name: str) -> None:
    init(root)
    before = contents(root)

    with pytest.raises(InvalidRequest):
        opened(root).add_edge(name)
    with pytest.raises(InvalidRequest):
        opened(root).init(((name, Role.VERIFIER),), {})

    assert contents(root) == before


def test_a_name_stands_for_one_member_only(root: Path) -> None:
    init(root, "alice")

    with pytest.raises(InvalidRequest, match="already"):
        opened(root).add_edge("alice")
    with pytest.raises(InvalidRequest, match="already, as edge"):
        opened(root).init((("alice", Role.VERIFIER),), {})


@pytest.mark.parametrize(
    "choices",
    [
        {"listen": "nowhere"},
        {"listen": "off"},
        {"monitor": "0.0.0.0:99999"},
        {"owner": "me"},
        {"url": "nats://in-the-clear:4222"},
        {"url": "tls://one.example:4222, wss://one.example:443"},
        {"tls_names": ("bad name",)},
    ],
)
def test_a_choice_that_cannot_be_is_refused_before_anything_is_written(
    root: Path, choices: dict[str, object]
) -> None:
    with pytest.raises(InvalidRequest):
        init(root, **choices)

    assert contents(root) == {}


def test_names_of_hosts_and_addresses_are_told_from_nonsense() -> None:
    check_names(("broker", "a-b.example.org", "*.example.org", "10.0.0.1", "::1", "fe80::1"))

    for nonsense in ("", "a..b", "http://x", "x:4222", "a_b", "*.*.x"):
        with pytest.raises(InvalidRequest):
            check_names((nonsense,))


def test_a_folder_without_credentials_says_so(root: Path) -> None:
    root.mkdir()

    for ask in (opened(root).roster, lambda: opened(root).add_edge("alice")):
        with pytest.raises(FolderUnusable, match="no credentials yet"):
            ask()


def test_a_roster_that_is_not_understood_is_not_overwritten(root: Path) -> None:
    init(root)
    (root / "roster.json").write_text('{"version": 2}')

    with pytest.raises(FolderUnusable, match=r"roster\.json: not understood: version"):
        init(root)

    assert (root / "roster.json").read_text() == '{"version": 2}'


def test_an_authority_that_is_gone_is_not_replaced_in_silence(root: Path) -> None:
    init(root)
    (root / "authority" / "ca.pem").unlink()

    with pytest.raises(FolderUnusable, match="put it back"):
        init(root)


def test_an_authoritys_key_may_be_elsewhere_until_a_certificate_is_due(root: Path) -> None:
    init(root)
    (root / "authority" / "ca.key").unlink()

    opened(root).add_edge("alice")
    assert (root / "edges" / "alice" / "ca.pem").exists()
    with pytest.raises(InvalidRequest, match=r"authority/ca\.key"):
        init(root, days_later=720)


def test_a_certificate_made_while_the_clock_was_ahead_is_made_anew(root: Path) -> None:
    init(root)
    init(root, days_later=720)
    ahead = (root / SERVER_CERT).read_bytes()

    assert SERVER_CERT in paths(init(root))

    assert (root / SERVER_CERT).read_bytes() != ahead


@pytest.mark.parametrize("days_later", [-400, 3660])
def test_an_authority_that_nobody_would_believe_makes_no_certificate(
    root: Path, days_later: int
) -> None:
    init(root)
    before = contents(root)

    with pytest.raises(InvalidRequest, match=r"from 2026-03-01 to 2036-02-27, and today is"):
        init(root, days_later=days_later)

    assert contents(root) == before


def test_commands_at_the_same_time_do_not_lose_each_others_edges(root: Path) -> None:
    init(root)
    names = [f"edge-{number}" for number in range(8)]
    threads = [threading.Thread(target=opened(root).add_edge, args=(name,)) for name in names]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    roster = opened(root).roster()
    assert {member.name for member in roster.members} >= set(names)
    assert all(EDGE_ID.match(member.public_key) for member in roster.members)
