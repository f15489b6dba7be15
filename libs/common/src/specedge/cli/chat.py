"""`specedge chat`: a conversation with an edge, on a terminal or through a pipe."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from rich.console import Console

from specedge.cli.console import err
from specedge.cli.edge_client import Answer, ContextFull, EdgeClient
from specedge.cli.failure import CommandFailed

HELP: Final = """\
/reset              forget the conversation
/system TEXT        set the system prompt (and forget the conversation)
/temperature X      0 is greedy; up to 2
/max-tokens N       longest answer
/history            show the conversation
/help               this list
/quit               leave (so does Ctrl-D)
Ctrl-C breaks an answer off, or drops the line; twice in a row it leaves"""

FORGET: Final = "/reset forgets the conversation."


@dataclass(slots=True)
class Conversation:
    """What was said, and how to answer. Changed only by ``Repl``."""

    temperature: float = 0.0
    max_tokens: int = 512
    system: str | None = None
    turns: list[dict[str, str]] = field(default_factory=list)

    def request(self, model: str) -> dict[str, Any]:
        """The body of a chat completion for the conversation so far."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return {
            "model": model,
            "messages": [*system, *self.turns],
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
        }


class Repl:
    """Reads lines, answers them. Notes go to stderr, so that a pipe gets answers only."""

    def __init__(self, client: EdgeClient, conversation: Conversation) -> None:
        self._client = client
        self._conversation = conversation
        self._notes: Console = err()
        self._interactive = sys.stdin.isatty() and sys.stdout.isatty()
        self._model = client.model()

    def run(self) -> None:
        """Until end of input or ``/quit``. Through a pipe the first failure ends it, by raising."""
        if self._interactive:
            import readline  # noqa: F401  (gives input() history and editing)

            where = f"{self._model} at {self._client.base_url}"
            self._notes.print(f"{where}. /help lists commands.", markup=False)
        for line in self._lines():
            if line.startswith("/"):
                if not self._command(line):
                    return
            elif line.strip():
                self._answer(line)

    def _lines(self) -> Iterator[str]:
        if not self._interactive:
            try:
                for line in sys.stdin:
                    line.encode()  # in some locales other bytes come in as lone surrogates
                    yield line.rstrip("\r\n")
            except UnicodeError:
                raise CommandFailed("what is piped in is no UTF-8 text") from None
            return
        yield from self._typed_lines()

    def _typed_lines(self) -> Iterator[str]:
        """A Ctrl-C that was meant for an answer, and came as it ended, costs no conversation."""
        is_leaving = False
        while True:
            try:
                line = input("> ")
            except EOFError:
                self._notes.print()
                return
            except KeyboardInterrupt:
                self._notes.print()
                if is_leaving:
                    raise
                is_leaving = True
                self._notes.print("(Ctrl-C again leaves, so do Ctrl-D and /quit)", style="dim")
                continue
            is_leaving = False
            yield line

    def _answer(self, line: str) -> None:
        turns = self._conversation.turns
        turns.append({"role": "user", "content": line})
        try:
            answer = self._ask()
        except CommandFailed as failure:
            turns.pop()
            if not self._interactive:
                raise
            self._notes.print(str(failure), style="red", markup=False)
            if failure.hint:
                self._notes.print(failure.hint, style="dim", markup=False)
            return
        except KeyboardInterrupt:
            turns.pop()
            if not self._interactive:
                raise
            self._notes.print("\n(interrupted; not kept in the conversation)", style="dim")
            return
        _write("\n")
        turns.append({"role": "assistant", "content": answer.text})
        if self._interactive:
            self._notes.print(summary(answer), style="dim")

    def _ask(self) -> Answer:
        """With the longest answer that is wanted, or, near the context's end, that still fits."""
        request = self._conversation.request(self._model)
        try:
            return self._client.chat(request, on_text=_write)
        except ContextFull:
            del request["max_tokens"]
        try:
            return self._client.chat(request, on_text=_write)
        except ContextFull as failure:
            raise CommandFailed(str(failure), hint=FORGET) from None

    def _command(self, line: str) -> bool:
        """Obey a /command; False means leave."""
        name, _, argument = line.partition(" ")
        match name:
            case "/quit" | "/exit":
                return False
            case "/reset":
                self._conversation.turns.clear()
            case "/system":
                self._conversation.system = argument.strip() or None
                self._conversation.turns.clear()
            case "/temperature":
                self._conversation.temperature = self._number(
                    argument, 0.0, 2.0, self._conversation.temperature
                )
            case "/max-tokens":
                self._conversation.max_tokens = int(
                    self._number(argument, 1, 1_000_000, self._conversation.max_tokens)
                )
            case "/history":
                for turn in self._conversation.turns:
                    self._notes.print(f"{turn['role']}: {turn['content']}", markup=False)
            case _:
                self._notes.print(HELP, markup=False)
        return True

    def _number(self, text: str, low: float, high: float, otherwise: float) -> float:
        try:
            value = float(text)
        except ValueError:
            value = low - 1
        if low <= value <= high:
            return value
        self._notes.print(f"expected a number from {low} to {high}", style="red")
        return otherwise


def summary(answer: Answer) -> str:
    """One line of figures under an answer; empty when the edge sent none."""
    speculative = answer.metrics.get("speculative_decoding") or {}
    parts = [f"{answer.usage.get('completion_tokens', 0)} tokens"]
    if (speed := answer.metrics.get("tokens_per_second")) is not None:
        parts.append(f"{speed:.1f} tokens/s")
    if (length := speculative.get("mean_acceptance_length")) is not None:
        parts.append(f"{length:.2f} tokens a round")
    if answer.finish_reason == "length":
        parts.append("cut at the longest answer allowed")
    return ", ".join(parts)


def _write(piece: str) -> None:
    sys.stdout.write(piece)
    sys.stdout.flush()
