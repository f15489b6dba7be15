"""`specedge demo`: a real model answers through the whole system; then figures, then the end."""

import asyncio
import sys
from typing import Final

import orjson
import typer

from specedge.cli.console import err, out
from specedge.cli.edge_client import Answer, EdgeClient
from specedge.cli.failure import EXIT_INTERRUPTED, CommandFailed
from specedge.cli.figures import Figures, table
from specedge.cli.questions import QUESTIONS, Question
from specedge.cli.running import Interrupted, RunningStack, run_with_stack
from specedge.cli.stack import StackOptions

MOSTLY_HOSTED: Final = (
    "Hosted tokens are the verifier's alone: where a draft costs more time than it saves, as with "
    "a small model on a CPU, an edge leaves the text to it, and tries again now and then."
)


def run_demo(options: StackOptions, *, as_json: bool) -> None:
    """Exit code 0 means that every question was answered."""

    async def ask(stack: RunningStack) -> list[Answer]:
        # A thread, since the client blocks; when the system ends under it, its connection breaks.
        return await asyncio.to_thread(_ask_all, stack, as_json)

    try:
        answers = run_with_stack(options, ask)
    except Interrupted:
        raise CommandFailed("interrupted", exit_code=EXIT_INTERRUPTED) from None
    columns = [Figures.of(answer) for answer in answers]
    if as_json:
        typer.echo(orjson.dumps(_described(answers, columns)))
    else:
        console = out()
        console.print()
        console.print(table([question.title for question in QUESTIONS], columns))
        whole = Figures.total(columns)
        if 2 * whole.hosted > whole.tokens:
            console.print(MOSTLY_HOSTED, markup=False)


def _ask_all(stack: RunningStack, quietly: bool) -> list[Answer]:
    with EdgeClient(stack.base_url) as client:
        model = client.model()
        err().print(f"{model} at {client.base_url}\n", markup=False)
        return [_ask(client, model, question, quietly) for question in QUESTIONS]


def _ask(client: EdgeClient, model: str, question: Question, quietly: bool) -> Answer:
    request = {
        "model": model,
        "messages": [{"role": "user", "content": question.text}],
        "max_tokens": question.max_tokens,
        "temperature": 0,
    }
    if quietly:
        answer = client.chat(request, on_text=lambda _: None)
    else:
        out().print(f"[bold]> {question.text}[/]")
        answer = client.chat(request, on_text=_write)
        _write("\n\n")
    if not answer.text.strip():
        raise CommandFailed(f"the model said nothing to {question.title!r}")
    return answer


def _described(answers: list[Answer], columns: list[Figures]) -> dict[str, object]:
    return {
        "answers": [
            {"question": question.text, "answer": answer.text, **figures.as_json()}
            for question, answer, figures in zip(QUESTIONS, answers, columns, strict=True)
        ],
        "all": Figures.total(columns).as_json(),
    }


def _write(piece: str) -> None:
    sys.stdout.write(piece)
    sys.stdout.flush()
