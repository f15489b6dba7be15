"""What `specedge creds` writes, on a real broker: who gets in, and what each may say and hear."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from specedge.cli.creds import creds
from specedge.cli.failure import CommandFailed
from specedge.credentials.attempts import OTHER, SESSION, STRANGER, Attempt, Verb, attempts_of
from specedge.credentials.roles import Role
from specedge.errors import AuthenticationFailed, LinkDown
from specedge.link.base import LinkState
from specedge.link.broker_probe import BrokerProbe, turns_strangers_away
from specedge.link.nats import NatsLink
from specedge.service.runtime import Tasks
from tests.contract.fake_brokers import QUICK
from tests.contract.link_networks import Received, States
from tests.generated_broker import (
    GeneratedBroker,
    Names,
    generated_broker,
    make_credentials,
    open_folder,
)

MEMBERS = ("alice", "verifier-1", "scheduler-1", "onlooker")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GeneratedBroker]:
    """One that no test changes."""
    root = tmp_path_factory.mktemp("credentials")
    make_credentials(root)
    with generated_broker(root) as running:
        yield running


@pytest.mark.parametrize("name", MEMBERS)
async def test_a_member_can_do_all_that_its_role_needs_and_nothing_else(
    broker: GeneratedBroker, name: str
) -> None:
    member = broker.member(name)
    attempts = attempts_of(member.role, name=name, public_key=member.public_key)

    async with broker.probe(name) as probe:
        findings = await probe.findings(attempts)

    assert [str(f.attempt) for f in findings if not f.is_as_meant] == []
    assert {f.got_through for f in findings} == {True, False}


def test_an_edge_tries_everything_that_must_be_denied_to_it() -> None:
    tried = {
        (attempt.verb, attempt.subject, attempt.queue is not None)
        for attempt in attempts_of(Role.EDGE, name="alice", public_key="U" + "B" * 55)
        if not attempt.is_allowed
    }

    for in_group in (False, True):
        for heard in (
            *(">", "*", "se.>", "*.up.>", "_INBOX.>", "$SYS.>", "$JS.API.>", "$KV.lease.>"),
            *("se.up.>", "se.dn.>", "se.dn.*.v.>", f"se.dn.{STRANGER}.>", "se.work.>", "se.ver.>"),
        ):
            assert (Verb.SUBSCRIBE, heard, in_group) in tried
    for said in ("$JS.API.INFO", f"se.up.{STRANGER}.open.{SESSION}", f"se.work.{OTHER}.batch"):
        assert (Verb.PUBLISH, said, False) in tried


async def test_nobody_hears_what_an_edge_forges(broker: GeneratedBroker, tasks: Tasks) -> None:
    heard, own = Received(), f"se.up.{broker.member('alice').public_key}."
    scheduler = await NatsLink.connect(broker.options("scheduler-1"), tasks=tasks)
    verifier = await NatsLink.connect(broker.options("verifier-1"), tasks=tasks)
    bob = await NatsLink.connect(broker.options("bob"), tasks=tasks)
    bobs = broker.member("bob").public_key
    await scheduler.subscribe("se.up.>", heard)
    await scheduler.subscribe("se.ver.>", heard)
    await verifier.subscribe("se.work.verifier-1.>", heard)
    await bob.subscribe(f"se.dn.{bobs}.>", heard)
    forged = (
        f"se.dn.{bobs}.v.{SESSION}",
        f"se.dn.{bobs}.inbox.x",
        f"se.up.{bobs}.open.{SESSION}",
        "se.work.verifier-1.batch",
        "se.ver.verifier-1.stat",
    )

    async with broker.probe("alice") as probe:
        for subject in forged:
            assert not await probe.gets_through(Attempt(Verb.PUBLISH, subject, False))
        assert await probe.gets_through(Attempt(Verb.PUBLISH, f"{own}renew", True))
    await heard.at_least(1)
    for link in (scheduler, verifier, bob):
        await link.flush()

    assert [message.subject for message in heard.messages] == [f"{own}renew"]


async def test_somebody_without_credentials_is_refused(broker: GeneratedBroker) -> None:
    assert await turns_strangers_away(broker.url, ca_file=broker.home("alice") / "ca.pem")


async def test_nobody_gets_in_without_encryption(broker: GeneratedBroker) -> None:
    in_the_clear = broker.url.replace("tls://", "nats://")

    with pytest.raises((LinkDown, AuthenticationFailed)):
        async with BrokerProbe(in_the_clear, key=broker.key("alice"), ca_file=None):
            pass


async def test_a_broker_of_another_authority_is_not_trusted(
    broker: GeneratedBroker, tmp_path: Path
) -> None:
    make_credentials(tmp_path)

    with pytest.raises(LinkDown, match="certificate verify failed"):
        async with BrokerProbe(
            broker.url, key=broker.key("alice"), ca_file=tmp_path / "authority" / "ca.pem"
        ):
            pass


async def test_a_removed_edge_is_cut_off_by_a_reload_and_an_added_one_let_in(
    tmp_path: Path, tasks: Tasks
) -> None:
    make_credentials(tmp_path)
    with generated_broker(tmp_path) as broker:
        removed = await NatsLink.connect(broker.options("alice", recovery=QUICK), tasks=tasks)
        other = await NatsLink.connect(broker.options("bob", recovery=QUICK), tasks=tasks)
        states = States(removed)
        key, ca_file = broker.key("alice"), broker.home("bob") / "ca.pem"

        outcome = open_folder(tmp_path).remove("alice")
        open_folder(tmp_path).add_edge("carol")
        assert outcome.needs_reload
        assert not outcome.needs_restart
        await asyncio.to_thread(broker.reload)

        await states.until(LinkState.CLOSED)
        with pytest.raises(AuthenticationFailed):
            async with BrokerProbe(broker.url, key=key, ca_file=ca_file):
                pass
        async with broker.probe("carol"):
            pass
        await other.flush()
        assert other.counters.reconnects == 0
        await other.close()


async def test_a_new_name_in_the_certificate_is_served_after_a_reload(tmp_path: Path) -> None:
    make_credentials(tmp_path, tls_names=("elsewhere.example",))
    with generated_broker(tmp_path) as broker:
        with pytest.raises(LinkDown, match="mismatch"):
            async with broker.probe("alice"):
                pass

        outcome = make_credentials(tmp_path, tls_names=("elsewhere.example", "127.0.0.1"))
        assert outcome.needs_reload
        await asyncio.to_thread(broker.reload)

        async with broker.probe("alice"):
            pass


class TestCheckCommand:
    def test_says_that_all_is_as_it_should_be(self, broker: GeneratedBroker) -> None:
        result = self._check(broker, "alice")

        assert result.exit_code == 0, result.output
        assert "all as they should be" in result.output

    def test_names_what_got_through_and_what_was_denied(self, tmp_path: Path) -> None:
        make_credentials(tmp_path, Names(edges=("alice",), observers=()))
        users = tmp_path / "broker" / "users.conf"
        wrong = users.read_text().replace(
            '"subscribe": {"allow": ["se.dn.', '"subscribe": {"allow": ["se.up.'
        )
        users.write_text(wrong)
        with generated_broker(tmp_path) as broker:
            result = self._check(broker, "alice")

        key = broker.member("alice").public_key
        assert isinstance(result.exception, CommandFailed)
        complaints = str(result.exception).splitlines()
        assert f"subscribe se.up.{key}.>: got through" in complaints
        assert f"subscribe se.dn.{key}.ctl: was denied" in complaints

    def _check(self, broker: GeneratedBroker, name: str):  # type: ignore[no-untyped-def]
        arguments = ["check", name, "--dir", str(broker.root), "--url", broker.url]
        return CliRunner().invoke(creds, arguments)
