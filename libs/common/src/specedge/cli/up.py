"""`specedge up`: a whole system on this machine until somebody says stop."""

import asyncio
import shlex
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import orjson
import typer

from specedge.cli.addresses import is_every_address, is_loopback
from specedge.cli.console import err, out
from specedge.cli.edge_client import EdgeClient
from specedge.cli.running import Interrupted, RunningStack, run_with_stack
from specedge.cli.stack import API_KEY_VARIABLE, StackOptions
from specedge.service.settings import variable

NAME: Final = "specedge"


def run_up(options: StackOptions, *, as_json: bool) -> None:
    """Returns after an orderly stop. With ``as_json`` one line on stdout says that all is ready."""
    if options.api_key is None and not is_loopback(options.host):
        where = options.host or "this machine"
        err().print(
            f"warning: whoever reaches {where} may use the API, since no key is asked for; "
            "--api-key or --api-key-file names one",
            markup=False,
        )

    async def serve(stack: RunningStack) -> None:
        model = await asyncio.to_thread(_served_model, stack, options.api_key)
        if as_json:
            typer.echo(orjson.dumps(_described(stack, model)))
        else:
            _introduce(stack, model, options)
        await asyncio.Event().wait()  # until a signal cancels it

    try:
        run_with_stack(options, serve)
    except Interrupted:
        err().print("stopped; nothing is left running", style="dim")


def _served_model(stack: RunningStack, api_key: str | None) -> str:
    with EdgeClient(stack.base_url, api_key=api_key) as client:
        return client.model()


def _described(stack: RunningStack, model: str) -> dict[str, Any]:
    notes = [asdict(note) for note in stack.notes]
    return {
        "base_url": f"{stack.base_url}/v1",
        "edges": [f"{edge.http_url}/v1" for edge in stack.edges],
        "model": model,
        "nats_url": stack.nats_url,
        "run_dir": str(stack.run_dir),
        "processes": {
            child.name: {"pid": child.pid, "url": child.http_url} for child in stack.children
        },
        **({"notes": notes} if notes else {}),
    }


def _introduce(stack: RunningStack, model: str, options: StackOptions) -> None:
    console, api_key = out(), options.api_key
    console.print("ready", style="bold green", end="  ")
    console.print(model, markup=False)
    for edge in stack.edges:
        console.print(f"  OpenAI API   {edge.http_url}/v1", soft_wrap=True)
        console.print(f"  chat page    {edge.http_url}/", soft_wrap=True)
    if is_every_address(options.host):
        console.print("  from afar    the same ports of any address of this machine")
    console.print(f"  API key      {'required, as given' if api_key else 'none needed'}")
    console.print(f"  logs         {stack.run_dir}", markup=False, soft_wrap=True)
    console.print("\nTry:")
    key = f" -H 'Authorization: Bearer '{_first_key(api_key)}" if api_key else ""
    body = orjson.dumps(
        {"model": model, "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 64}
    ).decode()
    console.print(
        f"  curl {stack.base_url}/v1/chat/completions{key} "
        f"-H 'Content-Type: application/json' -d '{body}'",
        markup=False,
        soft_wrap=True,
    )
    console.print(f"  {_own_name()} chat --url {stack.base_url}", markup=False, soft_wrap=True)
    console.print("\nCtrl-C stops everything.", style="dim")


def _own_name() -> str:
    """What a person types to get this command: its path, where a shell knows none by its name."""
    own = Path(sys.executable).with_name(NAME)
    is_known = shutil.which(NAME) is not None or not own.exists()
    return NAME if is_known else shlex.quote(str(own))


def _first_key(api_key: str) -> str:
    """As a shell that has the keys in the usual variable says it. Who keeps them elsewhere has to
    put one in: a key is not shown."""
    if variable(API_KEY_VARIABLE) is None:
        return "YOUR_KEY"
    return "${SPECEDGE_API_KEY%%,*}" if "," in api_key else "$SPECEDGE_API_KEY"
