"""`specedge creds check`: what an identity may do, tried on the broker that runs."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import orjson
import typer

from specedge.cli.console import out
from specedge.cli.creds_folder import explained
from specedge.cli.failure import EXIT_USAGE, CommandFailed
from specedge.credentials.attempts import attempts_of
from specedge.credentials.folder import CA, IDENTITY, CredentialsFolder, home_of
from specedge.credentials.nkey import UserKey
from specedge.credentials.roster import Member
from specedge.link.broker_probe import BrokerProbe, Finding, turns_strangers_away


def run_check(root: Path, name: str, url: str | None, *, as_json: bool) -> None:
    """Raises CommandFailed, also when anything is not as it should be."""
    with explained():
        roster = CredentialsFolder(root, now=datetime.now(UTC)).roster()
    member = roster.member(name)
    if member is None:
        raise CommandFailed(f"there is no {name}", exit_code=EXIT_USAGE)
    url = url or roster.choices.edge_url.split(",")[0].strip()
    findings, is_closed = asyncio.run(_try_all(member, root / home_of(member), url))
    wrong = [finding for finding in findings if not finding.is_as_meant]
    if as_json:
        typer.echo(orjson.dumps(_described(member, url, findings, is_closed)))
    elif not wrong and is_closed:
        allowed = sum(finding.got_through for finding in findings)
        out().print(
            f"{name}, {member.role}, at {url}: {allowed} attempts allowed, "
            f"{len(findings) - allowed} denied, all as they should be; strangers are refused",
            soft_wrap=True,
        )
    if wrong or not is_closed:
        raise CommandFailed("\n".join(_complaints(wrong, is_closed)))


async def _try_all(member: Member, home: Path, url: str) -> tuple[list[Finding], bool]:
    key, ca_file = UserKey.load(home / IDENTITY), home / CA
    attempts = attempts_of(member.role, name=member.name, public_key=member.public_key)
    async with BrokerProbe(url, key=key, ca_file=ca_file) as probe:
        findings = await probe.findings(attempts)
    return findings, await turns_strangers_away(url, ca_file=ca_file)


def _described(
    member: Member, url: str, findings: list[Finding], is_closed: bool
) -> dict[str, object]:
    return {
        "name": member.name,
        "role": str(member.role),
        "url": url,
        "strangers_refused": is_closed,
        "attempts": [
            {
                "verb": str(finding.attempt.verb),
                "subject": finding.attempt.subject,
                "queue": finding.attempt.queue,
                "should": finding.attempt.is_allowed,
                "did": finding.got_through,
            }
            for finding in findings
        ],
    }


def _complaints(wrong: list[Finding], is_closed: bool) -> list[str]:
    lines = [
        f"{finding.attempt}: {'got through' if finding.got_through else 'was denied'}"
        for finding in wrong
    ]
    return lines if is_closed else [*lines, "somebody without credentials is let in"]
