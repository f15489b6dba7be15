"""What `specedge creds` does to a folder, and how it says what it did."""

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson
import typer

from specedge.cli.console import out
from specedge.cli.failure import EXIT_USAGE, CommandFailed
from specedge.credentials.folder import CredentialsFolder, Outcome, home_of
from specedge.credentials.private_files import FolderUnusable
from specedge.credentials.roles import Role
from specedge.errors import InvalidRequest

RELOAD: Final = (
    "A running broker takes it when told to read its configuration again:\n"
    "  docker compose exec nats nats-server --signal reload=1\n"
    "  kill -HUP <pid of nats-server>"
)
MAKE_THEM: Final = "Make them with: specedge creds init"
RESTART: Final = "A running broker takes it when it is started anew:\n  docker compose restart nats"


def run_init(
    root: Path,
    wanted: tuple[tuple[str, Role], ...],
    changes: dict[str, object],
    *,
    as_json: bool,
) -> None:
    """Raises CommandFailed."""
    with explained():
        outcome = _folder(root).init(wanted, changes)
    _say(root, outcome, as_json=as_json)


def run_add_edge(root: Path, name: str, *, as_json: bool) -> None:
    """Raises CommandFailed."""
    _refuse_missing(root)
    with explained():
        outcome = _folder(root).add_edge(name)
    _say(root, outcome, as_json=as_json)
    if not as_json:
        _introduce_edge(root / "edges" / name)


def run_remove(root: Path, name: str, *, as_json: bool) -> None:
    """Raises CommandFailed."""
    _refuse_missing(root)
    with explained():
        outcome = _folder(root).remove(name)
    _say(root, outcome, as_json=as_json)
    if not as_json:
        out().print(f"Until then {name} stays connected; after it, it is cut off and kept out.")


def run_list(root: Path, *, as_json: bool) -> None:
    """Raises CommandFailed."""
    with explained():
        members = _members(_folder(root))
    if as_json:
        typer.echo(orjson.dumps({"members": members}))
        return
    for member in members:
        place = member["folder"] if member["has_secret"] else "secrets not here"
        line = f"{member['name']:<32} {member['role']:<9} {member['public_key']} {place}"
        out().print(line, markup=False, soft_wrap=True)


def _folder(root: Path) -> CredentialsFolder:
    return CredentialsFolder(root, now=datetime.now(UTC))


def _members(folder: CredentialsFolder) -> list[dict[str, Any]]:
    return [
        {
            "name": member.name,
            "role": str(member.role),
            "public_key": member.public_key,
            "folder": home_of(member),
            "has_secret": folder.has_secret(member),
        }
        for member in folder.roster().members
    ]


def _say(root: Path, outcome: Outcome, *, as_json: bool) -> None:
    broker = "restart" if outcome.needs_restart else "reload" if outcome.needs_reload else "nothing"
    if as_json:
        said = {
            "dir": str(root.resolve()),
            "changes": [{"path": c.path, "deed": str(c.deed)} for c in outcome.changes],
            "broker": broker,
            "members": _members(_folder(root)),
        }
        typer.echo(orjson.dumps(said))
        return
    console = out()
    for change in outcome.changes:
        console.print(f"{change.deed:<10} {root / change.path}", markup=False, soft_wrap=True)
    if not outcome.changes:
        console.print(f"{root}: all is as it should be; nothing was changed", soft_wrap=True)
    if broker != "nothing":
        console.print(RESTART if broker == "restart" else RELOAD, markup=False)


def _introduce_edge(home: Path) -> None:
    out().print(
        f"Carry {home} to where the edge runs. There it needs nothing else:\n"
        f"  docker run --env-file {home.name}/edge.env -v ./{home.name}:/credentials:ro ...",
        markup=False,
        soft_wrap=True,
    )


def _refuse_missing(root: Path) -> None:
    """Raises CommandFailed where ``init`` was never run."""
    if not root.is_dir():
        raise CommandFailed(f"{root} holds no credentials yet", hint=MAKE_THEM)


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """What is wrong with a folder, or with what is asked of it, for the person: CommandFailed."""
    try:
        yield
    except InvalidRequest as error:
        raise CommandFailed(str(error), exit_code=EXIT_USAGE) from error
    except FolderUnusable as error:
        hint = MAKE_THEM if "no credentials yet" in str(error) else ""
        raise CommandFailed(str(error), hint=hint) from error
