"""`specedge demo`: a real model answers through the whole system; then figures, then the end."""

import asyncio
import sys
import threading
from collections.abc import Callable
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
        left = threading.Event()
        try:  # a thread, since the client blocks
            return await asyncio.to_thread(_ask_all, stack, left, as_json)
        finally:
            left.set()

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


def _ask_all(stack: RunningStack, left: threading.Event, quietly: bool) -> list[Answer]:
    """Nothing is said, and no answer waited for, once the person has ``left``."""

    def show(piece: str) -> None:
        if left.is_set():
            raise CommandFailed("interrupted", exit_code=EXIT_INTERRUPTED)
        if not quietly:
            _write(piece)

    answers: list[Answer] = []
    with EdgeClient(stack.base_url) as client:
        model = client.model()
        err().print(f"{model} at {client.base_url}\n", markup=False)
        for question in QUESTIONS:
            if not quietly and not left.is_set():
                out().print(f"> {question.text}", style="bold", markup=False)
            answers.append(_ask(client, model, question, show))
            show("\n\n")
    return answers


def _ask(client: EdgeClient, model: str, question: Question, show: Callable[[str], None]) -> Answer:
    request = {
        "model": model,
        "messages": [{"role": "user", "content": question.text}],
        "max_tokens": question.max_tokens,
        "temperature": 0,
    }
    answer = client.chat(request, on_text=show)
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
