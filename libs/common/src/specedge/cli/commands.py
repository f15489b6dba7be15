"""The commands of `specedge`: options in, the right module called.

Fast to start: nothing heavy is imported before its command runs, torch by no command at all.
Services are processes of their own (`python -m specedge_…`); none is imported here.
"""

from pathlib import Path
from typing import Annotated, Final

import typer

from specedge import __version__
from specedge.cli.becoming import add_programs
from specedge.cli.creds import creds
from specedge.cli.options import (
    ApiKey,
    ApiKeyFile,
    AsJson,
    DrafterName,
    Dtype,
    Host,
    LogLevelName,
    MeasuredDtype,
    Model,
    Patience,
    Threads,
    Url,
    VerifierDrafterName,
    Verifiers,
)
from specedge.cli.stack import LOOPBACK, StackOptions

DEFAULT_URL: Final = "http://127.0.0.1:8000"

app = typer.Typer(
    name="specedge",
    help="Serve a large language model from two places at once: drafts at the edge, checks at "
    "the verifier. The text is exactly the large model's.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(creds)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"specedge {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", is_eager=True, callback=_show_version
        ),
    ] = False,
) -> None:
    """Options of the command itself."""


@app.command()
def up(  # noqa: PLR0913  (each argument is an option that a person may give)
    model: Model = None,
    drafter: DrafterName = "auto",
    verifier_drafter: VerifierDrafterName = "none",
    dtype: Dtype = None,
    verifiers: Verifiers = 1,
    edges: Annotated[int, typer.Option(min=1, max=16, help="Edge processes.")] = 1,
    host: Host = LOOPBACK,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the OpenAI API; 0 picks a free one.")
    ] = 8000,
    threads: Threads = None,
    api_key: ApiKey = None,
    api_key_file: ApiKeyFile = None,
    patience_s: Patience = 120.0,
    log_level: LogLevelName = None,
    as_json: AsJson = False,
) -> None:
    """Start broker, scheduler, verifier and edge here, and serve the OpenAI API until Ctrl-C."""
    from specedge.cli.api_keys import keys_from
    from specedge.cli.up import run_up

    options = StackOptions(
        model=model,
        drafter=drafter,
        verifier_drafter=verifier_drafter,
        dtype=dtype,
        verifiers=verifiers,
        edges=edges,
        host=host,
        port=port,
        threads=threads,
        api_key=keys_from(api_key, api_key_file),
        patience_s=patience_s,
        log_level=log_level,
    )
    run_up(options, as_json=as_json)


@app.command()
def demo(
    model: Model = None,
    drafter: DrafterName = "auto",
    dtype: Dtype = None,
    verifiers: Verifiers = 1,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Ask a real model a few questions through the whole system, and show where time went."""
    from specedge.cli.demo import run_demo

    options = StackOptions(
        model=model, drafter=drafter, dtype=dtype, verifiers=verifiers, port=0, threads=threads
    )
    run_demo(options, as_json=as_json)


@app.command()
def chat(
    url: Url = DEFAULT_URL,
    temperature: Annotated[float, typer.Option(min=0.0, max=2.0, help="0 is greedy.")] = 0.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 512,
    system: Annotated[str | None, typer.Option(help="System prompt.")] = None,
    api_key: ApiKey = None,
) -> None:
    """Talk to an edge. Reads lines from stdin when that is not a terminal."""
    from specedge.cli.chat import Conversation, Repl
    from specedge.cli.edge_client import EdgeClient

    with EdgeClient(url, api_key=api_key) as client:
        Repl(client, Conversation(temperature, max_tokens, system)).run()


@app.command("verify-lossless")
def verify_lossless(  # noqa: PLR0913  (each argument is an option that a person may give)
    prompts: Annotated[int, typer.Option(min=1, help="How many prompts.")] = 20,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to generate for each.")] = 64,
    prompts_file: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="One JSON string a line.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="Test this edge instead of an own stack.")] = None,
    dtype: MeasuredDtype = "fp32",
    temperature: Annotated[
        list[float] | None,
        typer.Option(min=0.0, max=2.0, help="May be repeated.", show_default="0 and 0.8"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sampled runs.")] = 1234,
    parallel: Annotated[int, typer.Option(min=1, help="Requests in flight at once.")] = 4,
    model: Model = None,
    drafter: DrafterName = "auto",
    modes: Annotated[
        str,
        typer.Option(
            help="How an own stack works: adaptive, drafted, proactive, sent-ahead, coupled, "
            "hosted, hosted-drafted, several with commas between, or all."
        ),
    ] = "adaptive",
    verifiers: Verifiers = 1,
    threads: Threads = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Compare what the whole system emits with the plain decoder, token for token.

    With several modes, a system is started for each, and all are held against the same texts.
    Exits with 1 when fp32 diverges anywhere; bf16 reports how often and by how much.
    """
    from specedge.cli.lossless import LosslessOptions, run_verify_lossless

    stack_options = StackOptions(
        model=model,
        drafter=drafter,
        dtype=dtype,
        verifiers=verifiers,
        port=0,
        threads=threads,
        api_key=api_key,
    )
    options = LosslessOptions(
        prompts=prompts,
        tokens=tokens,
        prompts_file=prompts_file,
        url=url,
        dtype=dtype,
        temperatures=tuple(temperature or (0.0, 0.8)),
        seed=seed,
        parallel=parallel,
        threads=stack_options.verifier_threads,
        model=model,
        api_key=api_key,
        as_json=as_json,
        modes=modes,
    )
    run_verify_lossless(options, stack_options)


@app.command()
def trace(
    files: Annotated[
        list[Path],
        typer.Argument(exists=True, help="What services wrote with --spans-file, or folders."),
    ],
    out: Annotated[Path, typer.Option(help="Trace for Perfetto or chrome://tracing.")] = Path(
        "trace.json"
    ),
    png: Annotated[
        Path | None, typer.Option(help="Picture of verify and draft lanes (needs matplotlib).")
    ] = None,
    from_s: Annotated[
        float | None, typer.Option("--from", help="Second where it begins.", show_default="middle")
    ] = None,
    for_s: Annotated[float, typer.Option("--for", min=0.001, help="Seconds it shows.")] = 0.6,
) -> None:
    """Merge what services recorded into one timeline, and draw it."""
    from specedge.cli.trace import run_trace

    run_trace(files, out, png, from_s, for_s)


add_programs(app)
