"""What happens to a system that is interrupted, or loses a process, under a running stream."""

import json
import signal
import subprocess
import time

import httpx
import pytest

from tests.e2e.conftest import SPECEDGE, STOP_WITHIN_S, Up, alive, kill, running_up

pytestmark = [pytest.mark.real_model, pytest.mark.timeout(600)]

ENDED_WITHIN_S = 60


def until_gone(pids: list[int]) -> list[int]:
    """Those of ``pids`` that outlive the time allowed."""
    deadline = time.monotonic() + ENDED_WITHIN_S
    while (left := alive(pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def test_ctrl_c_ends_everything_and_is_no_error() -> None:
    with running_up() as up:
        family = up.family()
        assert len(family) >= 5  # the command, broker, scheduler, verifier, edge

        up.process.send_signal(signal.SIGINT)

        assert up.process.wait(STOP_WITHIN_S) == 0
        assert until_gone(family) == []


def test_a_verifier_killed_under_a_stream_changes_no_token_of_it() -> None:
    with running_up() as up:
        ask = {
            "model": up.model,
            "prompt": "The history of the sea begins long before",
            "max_tokens": 48,
            "temperature": 0,
            "ignore_eos": True,
        }
        undisturbed = completion(up, ask)
        verifier = up.said["processes"]["verifier-1"]["pid"]

        disturbed = completion(up, ask, kill_after_pieces=(8, verifier))

        assert disturbed == undisturbed
        assert alive([verifier]) == []
        assert completion(up, ask) == undisturbed  # by the verifier that took its place
        family = up.family()
        kill(up.process.pid)  # not even this leaves anything behind
        assert until_gone(family) == []


def completion(
    up: Up, ask: dict[str, object], kill_after_pieces: tuple[int, int] | None = None
) -> str:
    """Stream a text; kill a process after so many pieces of it."""
    pieces: list[str] = []
    url = f"{up.base_url}/completions"
    with httpx.stream("POST", url, json={**ask, "stream": True}, timeout=300) as response:
        for line in response.iter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            assert "error" not in event, event
            pieces += [choice["text"] for choice in event["choices"]]
            if kill_after_pieces is not None and len(pieces) == kill_after_pieces[0]:
                kill(kill_after_pieces[1])
    assert kill_after_pieces is None or len(pieces) > kill_after_pieces[0]
    return "".join(pieces)


def test_the_demo_answers_and_shows_its_figures() -> None:
    said = subprocess.run(
        [*SPECEDGE, "demo", "--json"], capture_output=True, text=True, timeout=500, check=False
    )

    assert said.returncode == 0, said.stderr
    shown = json.loads(said.stdout)
    assert all(answer["answer"].strip() for answer in shown["answers"])
    assert shown["all"]["rounds"] > 0
    assert shown["answers"][0]["acceptance_length"] > 1.5  # the one that copies


def test_what_the_system_emits_equals_the_plain_decoder(up: Up) -> None:
    url = up.base_url.removesuffix("/v1")
    flags = ["--prompts", "3", "--tokens", "16", "--url", url, "--json"]

    said = subprocess.run(
        [*SPECEDGE, "verify-lossless", *flags],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )

    assert said.returncode == 0, said.stdout + said.stderr
    shown = json.loads(said.stdout)
    assert shown["lossless"]
    assert [run["temperature"] for run in shown["runs"]] == [0.0, 0.8]
    assert all(run["prompts_equal"] == 3 and run["tokens"] > 3 for run in shown["runs"])


def test_a_taken_port_is_said_at_once(up: Up) -> None:
    port = up.base_url.removesuffix("/v1").rsplit(":", 1)[1]

    said = subprocess.run(
        [*SPECEDGE, "up", "--port", port], capture_output=True, text=True, timeout=60, check=False
    )

    assert said.returncode == 2
    assert f"port {port} is taken" in said.stderr
    assert "Traceback" not in said.stderr
