"""`specedge creds`: who may speak to the broker. Options in, the right function called.

The folder's layout and rules are in ``specedge.credentials.folder``, imported only when a command
runs.
"""

from pathlib import Path
from typing import Annotated

import typer

creds = typer.Typer(
    name="creds",
    help="Keys, certificates and permissions: who may speak to the broker, and of what.",
    no_args_is_help=True,
)

Folder = Annotated[
    Path,
    typer.Option(
        "--dir",
        envvar="SPECEDGE_CREDENTIALS_DIR",
        file_okay=False,
        help="Folder that holds all credentials.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Results as JSON on stdout.")]
Name = Annotated[str, typer.Argument(help="Up to 32 of a-z, 0-9 and -.")]
DEFAULT_FOLDER = Path("credentials")


@creds.command()
def init(  # noqa: PLR0913  (each argument is an option that a person may give)
    directory: Folder = DEFAULT_FOLDER,
    scheduler: Annotated[list[str] | None, typer.Option(help="Name of a scheduler.")] = None,
    verifier: Annotated[list[str] | None, typer.Option(help="Name of a verifier.")] = None,
    observer: Annotated[list[str] | None, typer.Option(help="Name of an observer.")] = None,
    edge: Annotated[list[str] | None, typer.Option(help="Name of an edge.")] = None,
    tls_name: Annotated[
        list[str] | None,
        typer.Option(help="Host name or address that the broker is reached by."),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            help="What edges dial.", show_default="tls:// and the first name, with the port"
        ),
    ] = None,
    listen: Annotated[
        str | None, typer.Option(help="Where the broker listens.", show_default="0.0.0.0:4222")
    ] = None,
    monitor: Annotated[
        str | None,
        typer.Option(help="Its monitoring page, or off.", show_default="127.0.0.1:8222"),
    ] = None,
    websocket: Annotated[
        str | None, typer.Option(help="Its WebSocket listener, or off.", show_default="off")
    ] = None,
    broker_dir: Annotated[
        str | None,
        typer.Option(help="Where the broker sees its folder.", show_default="where it is"),
    ] = None,
    store_dir: Annotated[
        str | None,
        typer.Option(help="Where the broker keeps its store.", show_default="in its folder"),
    ] = None,
    edge_dir: Annotated[
        str | None,
        typer.Option(help="Where an edge sees its folder.", show_default="/credentials"),
    ] = None,
    owner: Annotated[
        str | None,
        typer.Option(metavar="UID[:GID]", help="Who shall own the files, e.g. 10001:10001."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make keys, certificates and the broker's configuration, or complete what is there.

    Doing it again changes nothing: keys are kept, new names are added, options not given stay as
    they were.
    """
    from specedge.cli.creds_folder import run_init
    from specedge.credentials.roles import Role

    named = {
        Role.SCHEDULER: scheduler,
        Role.VERIFIER: verifier,
        Role.OBSERVER: observer,
        Role.EDGE: edge,
    }
    changes: dict[str, object] = {
        "tls_names": None if tls_name is None else tuple(dict.fromkeys(tls_name)),
        "url": url,
        "listen": listen,
        "monitor": monitor,
        "websocket": websocket,
        "broker_dir": broker_dir,
        "store_dir": store_dir,
        "edge_dir": edge_dir,
        "owner": owner,
    }
    wanted = tuple((name, role) for role, names in named.items() for name in names or ())
    run_init(directory, wanted, changes, as_json=as_json)


@creds.command("add-edge")
def add_edge(name: Name, directory: Folder = DEFAULT_FOLDER, as_json: AsJson = False) -> None:
    """Make the credentials of one more edge: a folder to carry to where it runs."""
    from specedge.cli.creds_folder import run_add_edge

    run_add_edge(directory, name, as_json=as_json)


@creds.command("list")
def list_members(directory: Folder = DEFAULT_FOLDER, as_json: AsJson = False) -> None:
    """Show names, roles and public keys."""
    from specedge.cli.creds_folder import run_list

    run_list(directory, as_json=as_json)


@creds.command()
def remove(name: Name, directory: Folder = DEFAULT_FOLDER, as_json: AsJson = False) -> None:
    """Take somebody's credentials away, for good."""
    from specedge.cli.creds_folder import run_remove

    run_remove(directory, name, as_json=as_json)


@creds.command()
def check(
    name: Name,
    directory: Folder = DEFAULT_FOLDER,
    url: Annotated[
        str | None, typer.Option(help="The broker.", show_default="what edges dial")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Try on the running broker all that NAME must be able to do, and much that it must not.

    Does no harm: whoever is addressed does not exist. Exits with 1 if anything is not as the role
    says.
    """
    from specedge.cli.creds_check import run_check

    run_check(directory, name, url, as_json=as_json)
