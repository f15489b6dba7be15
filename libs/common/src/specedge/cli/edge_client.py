"""Speaks the OpenAI API to an edge, for the command's own use.

Blocking; one client may be used from several threads. Errors become ``CommandFailed``, with the
server's own words; so does an answer that no edge would give.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

import httpx
import orjson

from specedge.cli.failure import EXIT_USAGE, CommandFailed

READ_TIMEOUT_S: Final = 600.0
CONNECT_TIMEOUT_S: Final = 5.0
DATA_PREFIX: Final = "data:"
END_OF_STREAM: Final = "[DONE]"
CONTEXT_FULL: Final = "context_length_exceeded"


class ContextFull(CommandFailed):
    """Prompt and answer together are longer than the model's context."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One finished completion. ``metrics`` and ``usage`` are the response's objects, as sent."""

    text: str
    finish_reason: str | None = None
    token_ids: tuple[int, ...] = ()
    prompt_token_ids: tuple[int, ...] = ()
    usage: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)


class EdgeClient:
    """A client of one edge. ``base_url`` is given without ``/v1``; of several keys with commas
    between, as an edge takes them, the first is shown. Raises CommandFailed for what is no URL."""

    def __init__(self, base_url: str, *, api_key: str | None = None) -> None:
        self.base_url = _checked(base_url.rstrip("/").removesuffix("/v1"))
        keys = [key.strip() for key in (api_key or "").split(",") if key.strip()]
        if keys and not keys[0].isascii():
            raise CommandFailed("an API key is ASCII text", exit_code=EXIT_USAGE)
        headers = {"Authorization": f"Bearer {keys[0]}"} if keys else {}
        timeout = httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        # trust_env off: a proxy for the internet has no business between us and our own edge
        self._http = httpx.Client(
            base_url=self.base_url, headers=headers, timeout=timeout, trust_env=False
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def model(self) -> str:
        """The name of the model that the edge serves."""
        answer = self._call("GET", "/v1/models")
        with self._understood():
            models = answer["data"]
            if not models:
                raise CommandFailed(f"{self.base_url} serves no model yet")
            return str(models[0]["id"])

    def complete(self, request: Mapping[str, Any]) -> Answer:
        """POST /v1/completions without streaming, token ids included."""
        body = {**request, "return_token_ids": True}
        answer = self._call("POST", "/v1/completions", body)
        with self._understood():
            return answer_from_completion(answer)

    def chat(self, request: Mapping[str, Any], *, on_text: Callable[[str], None]) -> Answer:
        """POST /v1/chat/completions, streaming: ``on_text`` gets each piece as it comes."""
        body = {**request, "stream": True, "stream_options": {"include_usage": True}}
        pieces: list[str] = []
        finish_reason: str | None = None
        last: Mapping[str, Any] = {}
        for chunk in self._stream("/v1/chat/completions", body):
            with self._understood():
                said, reason = _said_in(chunk)
            finish_reason = reason or finish_reason
            if said:
                pieces.append(said)
                on_text(said)
            if chunk.get("usage"):
                last = chunk
        return Answer(
            text="".join(pieces),
            finish_reason=finish_reason,
            usage=last.get("usage") or {},
            metrics=last.get("metrics") or {},
        )

    def _call(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        try:
            response = self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        except UnicodeEncodeError:
            raise _unsayable() from None
        if response.is_error:
            raise self._refused(response)
        with self._understood():
            return _object(response.content)

    def _stream(self, path: str, body: object) -> Iterator[dict[str, Any]]:
        try:
            with self._http.stream("POST", path, json=body) as response:
                if response.is_error:
                    response.read()
                    raise self._refused(response)
                yield from self._events(response.iter_lines())
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        except UnicodeEncodeError:
            raise _unsayable() from None

    def _events(self, lines: Iterator[str]) -> Iterator[dict[str, Any]]:
        """Server-sent events with JSON bodies, until ``[DONE]``; comments are keep-alives."""
        for line in lines:
            if not line.startswith(DATA_PREFIX):
                continue
            said = line.removeprefix(DATA_PREFIX).strip()
            if said == END_OF_STREAM:
                return
            with self._understood():
                event = _object(said)
            if "error" in event:
                raise CommandFailed(f"the answer broke off: {_error_message(said.encode())}")
            yield event
        raise CommandFailed("the answer broke off before its end")

    @contextlib.contextmanager
    def _understood(self) -> Iterator[None]:
        """Around reading what was answered, and nothing else."""
        try:
            yield
        except (ValueError, LookupError, TypeError, AttributeError):
            raise CommandFailed(
                f"{self.base_url} does not answer as an edge does",
                hint="Something else may listen there; name an edge with --url.",
            ) from None

    def _unreachable(self, error: httpx.HTTPError) -> CommandFailed:
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return CommandFailed(
                f"nothing answers at {self.base_url}",
                hint="Start a system with `specedge up`, or name one with --url.",
            )
        return CommandFailed(f"the connection to {self.base_url} broke: {error!r}")

    def _refused(self, response: httpx.Response) -> CommandFailed:
        said = f"HTTP {response.status_code}: {_error_message(response.content)}"
        if _error_code(response.content) == CONTEXT_FULL:
            return ContextFull(said)
        wants_key = response.status_code == httpx.codes.UNAUTHORIZED
        hint = "Show a key with --api-key or SPECEDGE_API_KEY." if wants_key else ""
        return CommandFailed(said, hint=hint)


def answer_from_completion(body: Mapping[str, Any]) -> Answer:
    """The first choice of a ``text_completion`` body."""
    choice = body["choices"][0]
    return Answer(
        text=choice["text"],
        finish_reason=choice.get("finish_reason"),
        token_ids=tuple(choice.get("token_ids") or ()),
        prompt_token_ids=tuple(
            choice.get("prompt_token_ids") or body.get("prompt_token_ids") or ()
        ),
        usage=body.get("usage") or {},
        metrics=body.get("metrics") or {},
    )


def _said_in(chunk: Mapping[str, Any]) -> tuple[str, str | None]:
    """The text that a chunk brings, and why the answer ended, if it did."""
    choices = chunk.get("choices", ())
    pieces = [choice.get("delta", {}).get("content") or "" for choice in choices]
    reasons = [choice.get("finish_reason") for choice in choices]
    return "".join(pieces), next(filter(None, reasons), None)


def _object(said: str | bytes) -> dict[str, Any]:
    """Raises ValueError for what is no JSON object."""
    read = orjson.loads(said)
    if not isinstance(read, dict):
        raise ValueError("no JSON object")
    return read


def _checked(url: str) -> str:
    try:
        read = httpx.URL(url)
    except httpx.InvalidURL:
        read = None
    if read is None or read.scheme not in ("http", "https") or not read.host:
        raise CommandFailed(
            f"{url} is not the URL of an edge",
            hint="One looks like http://127.0.0.1:8000",
            exit_code=EXIT_USAGE,
        )
    return url


def _error_message(content: bytes) -> str:
    try:
        error = orjson.loads(content)["error"]
        return str(error["message"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return content.decode(errors="replace")[:200]


def _error_code(content: bytes) -> str | None:
    try:
        code = orjson.loads(content)["error"]["code"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    return code if isinstance(code, str) else None


def _unsayable() -> CommandFailed:
    """Of text that came in as other bytes than UTF-8, which Python keeps as lone surrogates."""
    return CommandFailed("what is asked is no UTF-8 text", exit_code=EXIT_USAGE)
