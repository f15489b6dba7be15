"""What options look like that several commands of `specedge` share."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from specedge.cli.stack import API_KEY_VARIABLE

Model = Annotated[
    str | None,
    typer.Option(
        envvar="SPECEDGE_MODEL",
        help="Target model: name or folder. [dim]Default: built-in SmolLM2-135M.[/]",
    ),
]
DrafterName = Annotated[
    str,
    typer.Option(
        envvar="SPECEDGE_DRAFTER",
        help="auto (the drafter shipped for the model, else prompt-lookup), prompt-lookup, "
        "emulated, none, or a model's name or folder.",
    ),
]
VerifierDrafterName = Annotated[
    str,
    typer.Option(
        help="What drafts at the verifiers, for edges with --drafter none. Same names as there."
    ),
]
Dtype = Annotated[
    Literal["fp32", "bf16", "auto"] | None, typer.Option(help="What verifiers compute in.")
]
MeasuredDtype = Annotated[
    Literal["fp32", "bf16"], typer.Option(help="What the verifier computes in.")
]
LogLevelName = Annotated[
    Literal["debug", "info", "warning", "error"] | None,
    typer.Option(help="Least severity that services log."),
]
Verifiers = Annotated[int, typer.Option(min=1, max=16, help="Verifier processes.")]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1, help="Compute threads of each verifier.", show_default="cores but one, shared"
    ),
]
Host = Annotated[
    str,
    typer.Option(
        envvar="SPECEDGE_HTTP_HOST",
        help="Address that edges listen on; 0.0.0.0 lets other machines in.",
    ),
]
Patience = Annotated[
    float,
    typer.Option(
        "--patience-s",
        min=0.001,
        envvar="SPECEDGE_PATIENCE_S",
        help="Seconds that an answer waits for a verifier that starts again.",
    ),
]
ApiKey = Annotated[
    str | None, typer.Option(envvar=API_KEY_VARIABLE, help="Key of the edge's OpenAI API.")
]
ApiKeyFile = Annotated[
    Path | None,
    typer.Option(
        envvar="SPECEDGE_API_KEY_FILE", exists=True, dir_okay=False, help="More keys, one a line."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Results as JSON on stdout.")]
Url = Annotated[str, typer.Option(help="Where an edge listens.")]
