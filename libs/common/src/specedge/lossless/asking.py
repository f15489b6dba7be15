"""Asks a running edge for completions with their token ids, several at a time."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from specedge.cli.edge_client import Answer, EdgeClient
from specedge.cli.failure import CommandFailed


@dataclass(frozen=True, slots=True)
class Task:
    """One completion to ask for. ``seed`` is used with a temperature only."""

    prompt: str
    temperature: float
    seed: int
    max_tokens: int

    def request(self, model: str) -> dict[str, object]:
        """The body of the request."""
        return {
            "model": model,
            "prompt": self.prompt,
            "temperature": self.temperature,
            "seed": self.seed,
            "max_tokens": self.max_tokens,
        }


def ask_all(
    client: EdgeClient,
    model: str,
    tasks: Sequence[Task],
    *,
    parallel: int,
    on_done: Callable[[], None],
) -> list[Answer]:
    """Answers in the order of ``tasks``; ``parallel`` are in flight at once, so that the verifier
    batches them. Raises CommandFailed for the first that fails."""

    def ask(task: Task) -> Answer:
        answer = client.complete(task.request(model))
        if not answer.token_ids or not answer.prompt_token_ids:
            raise CommandFailed(
                f"{client.base_url} answers without token ids: it is not an edge of SpecEdge"
            )
        on_done()
        return answer

    with ThreadPoolExecutor(max_workers=parallel) as pool:
        return list(pool.map(ask, tasks))
