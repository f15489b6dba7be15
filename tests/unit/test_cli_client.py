"""The command's OpenAI client, chat and figures, against canned answers over real HTTP."""

import io
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from specedge.cli import demo
from specedge.cli.chat import Conversation, Repl, summary
from specedge.cli.child import Child
from specedge.cli.edge_client import Answer, EdgeClient
from specedge.cli.failure import EXIT_USAGE, CommandFailed
from specedge.cli.figures import Figures, table
from specedge.cli.running import RunningStack
from specedge.cli.stack import ProcessPlan

METRICS = {
    "generation_time_ms": 500.0,
    "tokens_per_second": 20.0,
    "speculative_decoding": {
        "mean_acceptance_length": 2.5,
        "num_spec_steps": 4,
        "num_accepted_draft_tokens": 6,
    },
    "specedge": {
        "rounds": 4,
        "bytes_up": 1200,
        "bytes_down": 800,
        "draft_ms": 10.0,
        "network_ms": 40.0,
        "queue_ms": 50.0,
        "verify_ms": 300.0,
        "verifier_calls": 5,
    },
}


def chunk(**fields: Any) -> str:
    return f"data: {json.dumps(fields)}\n\n"


def delta(**fields: Any) -> str:
    return chunk(choices=[{"index": 0, "delta": fields, "finish_reason": None}], usage=None)


GOOD = [
    delta(role="assistant", content=""),
    ": keep-alive\n\n",
    delta(content="Par"),
    delta(content="is"),
    chunk(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}], usage=None),
    chunk(choices=[], usage={"completion_tokens": 10}, metrics=METRICS),
    "data: [DONE]\n\n",
]


FULL = {"message": "maximum context length is 8", "code": "context_length_exceeded"}


class CannedEdge:
    """Answers every chat with ``events``; remembers what was asked."""

    def __init__(self) -> None:
        self.events = GOOD
        self.status = 200
        self.room: int | None = None  # tokens that still fit; None: any number
        self.asked: list[dict[str, Any]] = []
        self.shown: list[str | None] = []
        self.models = json.dumps({"data": [{"id": "tiny"}]})
        edge = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                edge.shown.append(self.headers["Authorization"])
                self.answer(200, edge.models)

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                body = json.loads(self.rfile.read(length))
                edge.asked.append(body)
                if edge.room is not None and body.get("max_tokens", 1) > edge.room:
                    self.answer(400, json.dumps({"error": FULL}))
                else:
                    self.answer(edge.status, "".join(edge.events))

            def answer(self, status: int, body: str) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


def type_in(monkeypatch: pytest.MonkeyPatch, lines: str) -> None:
    """Be a person at a terminal. Called by a test itself: pytest changes stdout before it."""
    terminal = io.StringIO(lines)
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdin", terminal)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)


@pytest.fixture
def edge() -> Iterator[CannedEdge]:
    """A canned edge that listens."""
    canned = CannedEdge()
    thread = threading.Thread(target=canned.server.serve_forever, daemon=True)
    thread.start()
    yield canned
    canned.server.shutdown()
    canned.server.server_close()
    thread.join()


@pytest.fixture
def client(edge: CannedEdge) -> Iterator[EdgeClient]:
    """A client of the canned edge."""
    with EdgeClient(edge.url) as made:
        yield made


def test_a_stream_is_handed_on_piece_by_piece_and_summed_up(client: EdgeClient) -> None:
    pieces: list[str] = []

    answer = client.chat({"messages": []}, on_text=pieces.append)

    assert pieces == ["Par", "is"]
    assert (answer.text, answer.finish_reason) == ("Paris", "stop")
    assert answer.usage == {"completion_tokens": 10}
    assert answer.metrics == METRICS


def test_a_stream_without_its_end_is_a_failure(client: EdgeClient, edge: CannedEdge) -> None:
    edge.events = GOOD[:4]

    with pytest.raises(CommandFailed, match="before its end"):
        client.chat({}, on_text=lambda _: None)


def test_an_error_inside_a_stream_is_told_in_the_servers_words(
    client: EdgeClient, edge: CannedEdge
) -> None:
    edge.events = [GOOD[2], chunk(error={"message": "no verifier is left"}), GOOD[-1]]

    with pytest.raises(CommandFailed, match="no verifier is left"):
        client.chat({}, on_text=lambda _: None)


def test_a_refusal_is_told_in_the_servers_words(client: EdgeClient, edge: CannedEdge) -> None:
    edge.status = 400
    edge.events = [json.dumps({"error": {"message": "temperature is over 2"}})]

    with pytest.raises(CommandFailed, match="HTTP 400: temperature is over 2"):
        client.chat({}, on_text=lambda _: None)


@pytest.mark.parametrize(
    "body", ["<html>It works!</html>", "{}", '{"data": 5}', "[]", '{"data": ["tiny"]}', ""]
)
def test_what_is_no_edge_is_told_in_one_sentence(
    client: EdgeClient, edge: CannedEdge, body: str
) -> None:
    edge.models = body

    with pytest.raises(CommandFailed, match="does not answer as an edge does"):
        client.model()


@pytest.mark.parametrize(
    "event",
    ["data: {not json\n\n", "data: [1]\n\n", chunk(choices=5), chunk(choices=[{"delta": "x"}])],
)
def test_a_line_of_a_stream_that_no_edge_sends_is_told_in_one_sentence(
    client: EdgeClient, edge: CannedEdge, event: str
) -> None:
    edge.events = [GOOD[2], event, GOOD[-1]]

    with pytest.raises(CommandFailed, match="does not answer as an edge does"):
        client.chat({}, on_text=lambda _: None)


@pytest.mark.parametrize("body", ["{}", '{"choices": []}', '{"choices": [{}]}'])
def test_a_completion_without_its_text_is_told_in_one_sentence(
    client: EdgeClient, edge: CannedEdge, body: str
) -> None:
    edge.events = [body]

    with pytest.raises(CommandFailed, match="does not answer as an edge does"):
        client.complete({})


@pytest.mark.parametrize(
    "url", ["http://[::1", "foo", "127.0.0.1:8000", "http://", "ftp://a", "http://a:port", ""]
)
def test_what_is_no_url_is_wrong_usage(url: str) -> None:
    with pytest.raises(CommandFailed, match="not the URL of an edge") as failure:
        EdgeClient(url)

    assert failure.value.exit_code == EXIT_USAGE


def test_of_several_keys_one_is_shown(edge: CannedEdge) -> None:
    for keys in ("one", " one , two", None):
        with EdgeClient(edge.url, api_key=keys) as made:
            made.model()

    assert edge.shown == ["Bearer one", "Bearer one", None]


def test_nobody_listening_is_explained() -> None:
    with EdgeClient("http://127.0.0.1:9") as nobody, pytest.raises(CommandFailed) as failure:
        nobody.model()

    assert "specedge up" in failure.value.hint


def test_chat_through_a_pipe_keeps_the_conversation_and_obeys_commands(
    client: EdgeClient,
    edge: CannedEdge,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = "hello\n/temperature 0.5\nagain\n/reset\nnew\n/quit\nnever asked\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))

    Repl(client, Conversation()).run()

    assert capsys.readouterr().out == "Paris\nParis\nParis\n"
    assert [asked["temperature"] for asked in edge.asked] == [0.0, 0.5, 0.5]
    assert [len(asked["messages"]) for asked in edge.asked] == [1, 3, 1]
    assert edge.asked[1]["messages"][1] == {"role": "assistant", "content": "Paris"}


def press_ctrl_c(monkeypatch: pytest.MonkeyPatch, *typed: str) -> None:
    """Be a person at a terminal who types lines; "^C" is Ctrl-C instead of one."""
    lines = iter(typed)

    def read(_: str) -> str:
        line = next(lines)
        if line == "^C":
            raise KeyboardInterrupt
        return line

    type_in(monkeypatch, "")
    monkeypatch.setattr("builtins.input", read)


def test_a_ctrl_c_that_comes_too_late_for_an_answer_costs_no_conversation(
    client: EdgeClient,
    edge: CannedEdge,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    press_ctrl_c(monkeypatch, "hello", "^C", "again", "^C", "/quit")

    Repl(client, Conversation()).run()

    assert [len(asked["messages"]) for asked in edge.asked] == [1, 3]
    assert "Ctrl-C again leaves" in capsys.readouterr().err


def test_ctrl_c_twice_in_a_row_leaves(client: EdgeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    press_ctrl_c(monkeypatch, "^C", "hello", "^C", "^C", "never asked")

    with pytest.raises(KeyboardInterrupt):
        Repl(client, Conversation()).run()


def test_lines_of_a_file_from_windows_are_obeyed_too(
    client: EdgeClient,
    edge: CannedEdge,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\r\n/quit\r\nnever asked\r\n"))

    Repl(client, Conversation()).run()

    assert [asked["messages"][0]["content"] for asked in edge.asked] == ["hello"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("words", ["no such file: [/tmp]", "there is no [name] here"])
def test_a_person_is_told_what_went_wrong_in_the_servers_very_words(
    client: EdgeClient,
    edge: CannedEdge,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    edge.status = 500
    edge.events = [json.dumps({"error": {"message": words}})]
    type_in(monkeypatch, "hello\n")

    Repl(client, Conversation()).run()

    assert words in capsys.readouterr().err


def test_near_the_contexts_end_an_answer_is_as_long_as_still_fits(
    client: EdgeClient,
    edge: CannedEdge,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n"))
    edge.room = 3

    Repl(client, Conversation(max_tokens=512)).run()

    assert capsys.readouterr().out == "Paris\n"
    assert [asked.get("max_tokens") for asked in edge.asked] == [512, None]


def test_a_conversation_that_does_not_fit_at_all_is_told_how_to_go_on(
    client: EdgeClient,
    edge: CannedEdge,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    type_in(monkeypatch, "hello\n")
    edge.room = 0

    Repl(client, Conversation()).run()

    said = capsys.readouterr().err
    assert "maximum context length is 8" in said
    assert "/reset forgets the conversation" in said


def test_a_pipe_learns_too_that_its_conversation_does_not_fit(
    client: EdgeClient, edge: CannedEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n"))
    edge.room = 0

    with pytest.raises(CommandFailed, match="maximum context length") as failure:
        Repl(client, Conversation()).run()

    assert "/reset" in failure.value.hint


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_what_is_piped_in_and_no_utf_8_is_told_in_a_sentence(
    client: EdgeClient, monkeypatch: pytest.MonkeyPatch, errors: str
) -> None:
    piped = io.TextIOWrapper(io.BytesIO(b"caf\xe9\n"), encoding="utf-8", errors=errors)
    monkeypatch.setattr(sys, "stdin", piped)

    with pytest.raises(CommandFailed, match="piped in is no UTF-8 text"):
        Repl(client, Conversation()).run()


def test_a_system_prompt_that_is_no_utf_8_is_told_in_a_sentence(
    client: EdgeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n"))

    with pytest.raises(CommandFailed, match="no UTF-8 text"):
        Repl(client, Conversation(system="caf\udce9")).run()


def test_a_temperature_out_of_range_changes_nothing(
    client: EdgeClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("/temperature 9\n/temperature hot\n"))
    conversation = Conversation(temperature=0.7)

    Repl(client, conversation).run()

    assert conversation.temperature == 0.7
    assert "from 0.0 to 2.0" in capsys.readouterr().err


def test_a_demo_that_a_person_leaves_says_and_asks_nothing_more(
    edge: CannedEdge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = Child(ProcessPlan("edge", "specedge_edge", ()), run_dir=tmp_path)
    child.http_url = edge.url
    left = threading.Event()
    said: list[str] = []

    def write(piece: str) -> None:
        said.append(piece)
        left.set()

    monkeypatch.setattr(demo, "_write", write)

    with pytest.raises(CommandFailed, match="interrupted"):
        demo._ask_all(RunningStack([child], [child], "", tmp_path, []), left, quietly=False)

    assert (said, len(edge.asked)) == (["Par"], 1)


def test_figures_of_several_answers_add_up() -> None:
    answer = Answer("Paris", usage={"completion_tokens": 10}, metrics=METRICS)

    both = Figures.of(answer) + Figures.of(answer)

    said = both.as_json()
    assert said["tokens"] == 20
    assert said["acceptance_length"] == 2.5
    assert said["hosted_tokens"] == 2 * Figures.of(answer).hosted == 0
    assert said["bytes_up_per_round"] == 300
    assert said["bytes_down_per_round"] == 200
    assert said["verifier_calls_per_token"] == 0.5
    assert said["tokens_per_second"] == 20


def test_tokens_that_no_drafted_round_yielded_were_hosted() -> None:
    answer = Answer("Paris", usage={"completion_tokens": 14}, metrics=METRICS)
    assert Figures.of(answer).hosted == 4


def test_an_answer_without_metrics_still_makes_a_table() -> None:
    empty = Figures.of(Answer("?"))

    drawn = table(["q"], [empty])

    assert drawn.row_count == 12
    assert summary(Answer("?")) == "0 tokens"


def test_a_key_that_no_header_can_say_is_refused() -> None:
    with pytest.raises(CommandFailed, match="ASCII"):
        EdgeClient("http://127.0.0.1:1", api_key="schlüssel")
