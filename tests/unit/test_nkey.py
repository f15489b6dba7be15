"""User NKeys: their spelling, their files, and what a broker thinks of them."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specedge.credentials import roles
from specedge.credentials.nkey import UserKey, is_public_key, verify
from specedge.errors import InvalidRequest
from specedge.ids import EDGE_ID, EdgeId, VerifierId
from specedge.link.broker import Broker, BrokerUser
from specedge.link.nats import NatsLink, NatsOptions
from specedge.service.runtime import Tasks

# The pair that the broker's own documentation shows.
SEED = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY"
PUBLIC = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4"


def test_a_documented_seed_has_its_documented_public_key() -> None:
    key = UserKey.from_seed(SEED)

    assert key.public_key == PUBLIC
    assert key.seed == SEED


@given(st.binary(min_size=32, max_size=32))
def test_a_seed_reads_back_as_the_same_key(raw: bytes) -> None:
    key = UserKey(raw)

    again = UserKey.from_seed(key.seed)

    assert again.public_key == key.public_key
    assert EDGE_ID.match(key.public_key)
    assert len(key.seed) == 58
    assert is_public_key(key.public_key)


@given(st.integers(0, 55), st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"))
def test_a_public_key_with_a_changed_letter_is_none(place: int, letter: str) -> None:
    changed = PUBLIC[:place] + letter + PUBLIC[place + 1 :]

    assert is_public_key(changed) == (changed == PUBLIC)


@pytest.mark.parametrize("text", ["", "U", SEED, PUBLIC.lower(), PUBLIC + "A", "ü" * 56])
def test_what_is_no_public_key_is_told_apart(text: str) -> None:
    assert not is_public_key(text)


@pytest.mark.parametrize("text", ["", "SU", PUBLIC, SEED[:-1], SEED[:-1] + "A", "not base32!"])
def test_a_bad_seed_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        UserKey.from_seed(text)

    assert refusal.value.field == "seed"
    assert not text or text not in str(refusal.value)


def test_the_signature_is_the_owners() -> None:
    key, other = UserKey.create(), UserKey.create()

    signature = key.sign(b"message")

    assert verify(key.public_key, b"message", signature)
    assert not verify(key.public_key, b"another", signature)
    assert not verify(other.public_key, b"message", signature)


def test_printing_a_key_does_not_show_its_secret() -> None:
    assert SEED not in repr(UserKey.from_seed(SEED))


def test_a_saved_key_is_its_owners_alone_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "edge.nk"
    key = UserKey.create()

    key.save(path)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert UserKey.load(path).public_key == key.public_key
    with pytest.raises(FileExistsError):
        UserKey.create().save(path)
    assert [entry.name for entry in path.parent.iterdir()] == ["edge.nk"]


def test_all_who_start_at_once_get_the_same_key(tmp_path: Path) -> None:
    path = tmp_path / "edge.nk"

    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(lambda _: UserKey.load_or_create(path), range(32)))

    assert len({key.public_key for key in keys}) == 1
    assert UserKey.load_or_create(path).public_key == keys[0].public_key


def test_an_unusable_key_file_is_named(tmp_path: Path) -> None:
    bad = tmp_path / "bad.nk"
    bad.write_text("nonsense")

    for path in (bad, tmp_path / "missing.nk"):
        with pytest.raises(InvalidRequest, match=path.name):
            UserKey.load(path)


def test_a_link_that_leads_nowhere_is_no_key(tmp_path: Path) -> None:
    path = tmp_path / "edge.nk"
    path.symlink_to(tmp_path / "missing" / "edge.nk")

    with pytest.raises(InvalidRequest, match=path.name):
        UserKey.load_or_create(path)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a place for no files")
def test_where_no_key_can_be_kept_it_is_said() -> None:
    with pytest.raises(InvalidRequest, match="kept in"):
        UserKey.load_or_create(Path("/proc/nothing/edge.nk"))


async def test_a_broker_lets_the_owner_of_a_saved_key_in(tmp_path: Path, tasks: Tasks) -> None:
    UserKey.create().save(tmp_path / "edge.nk")
    key = UserKey.load(tmp_path / "edge.nk")
    users = (BrokerUser(key.public_key, roles.edge(EdgeId(key.public_key))),)

    async with Broker(store_dir=tmp_path / "broker", users=users) as broker:
        options = NatsOptions(servers=(broker.url,), name="edge", seed=key.seed)
        link = await NatsLink.connect(options, tasks=tasks)
        assert link.is_connected
        await link.close()


def test_an_edge_is_confined_to_its_own_subjects() -> None:
    permissions = roles.edge(EdgeId(PUBLIC))

    assert all(PUBLIC in pattern.split(".") for pattern in permissions.publish)
    assert all(PUBLIC in pattern.split(".") for pattern in permissions.subscribe)


def test_an_observer_says_nothing_and_a_verifier_reports_under_its_own_name() -> None:
    assert roles.observer().publish == ()
    assert "se.ver.v1.>" in roles.verifier(VerifierId("v1")).publish
    assert "se.work.v1.>" in roles.verifier(VerifierId("v1")).subscribe
