"""The frame of a service: how its process ends, by a signal, by itself or by a failure."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest


def start_service(body: str) -> "subprocess.Popen[str]":
    program = """
        import asyncio, sys
        from specedge.service.runtime import run_service
        from specedge.errors import AuthenticationFailed

        async def forever():
            try:
                await asyncio.Event().wait()
            finally:
                print("task ended", flush=True)

        async def main(context):
            context.on_drain(lambda: print("draining", flush=True))
            context.tasks.start(forever(), name="forever")
            await asyncio.sleep(0)
            print(type(asyncio.get_running_loop()).__module__, flush=True)
        BODY
        sys.exit(run_service(main))
    """
    text = textwrap.dedent(program).replace("BODY", textwrap.indent(textwrap.dedent(body), "    "))
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", text],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONASYNCIODEBUG": "1"},
    )


def wait_for_its_loop(process: "subprocess.Popen[str]") -> None:
    assert process.stdout is not None
    process.stdout.readline()


def signal_until(process: "subprocess.Popen[str]", number: signal.Signals, said: str) -> None:
    """Send it the signal, and wait until it says so."""
    assert process.stdout is not None
    process.send_signal(number)
    while said not in process.stdout.readline():
        pass


def finish(process: "subprocess.Popen[str]") -> tuple[int, list[str], str]:
    out, err = process.communicate(timeout=100)
    return process.returncode, out.splitlines(), err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_drains(number: signal.Signals) -> None:
    process = start_service("await context.drain.wait()\nprint('drained', flush=True)")
    assert process.stdout is not None
    assert process.stdout.readline().startswith("uvloop")

    process.send_signal(number)

    code, lines, _ = finish(process)
    assert code == 0
    assert [line for line in lines if "drain_started" not in line] == [
        "draining",
        "drained",
        "task ended",
    ]


def test_the_second_signal_stops_at_once() -> None:
    process = start_service("await asyncio.Event().wait()")
    wait_for_its_loop(process)

    signal_until(process, signal.SIGTERM, "draining")
    process.send_signal(signal.SIGTERM)

    code, lines, _ = finish(process)
    assert code == 128 + signal.SIGTERM
    assert lines[-1] == "task ended"


def test_the_third_signal_ends_what_cannot_be_cancelled() -> None:
    process = start_service(
        """
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                print("cancelled", flush=True)
        """
    )
    wait_for_its_loop(process)

    signal_until(process, signal.SIGINT, "draining")
    signal_until(process, signal.SIGINT, "cancelled")
    process.send_signal(signal.SIGINT)

    code, _, _ = finish(process)
    assert code == 128 + signal.SIGINT


def test_a_service_that_returns_ends_with_success_and_no_task() -> None:
    code, lines, err = finish(start_service("return"))

    assert code == 0
    assert lines[-1] == "task ended"
    assert err == ""


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise AuthenticationFailed('ask for a new key')", "ask for a new key"),
        ("context.tasks.start(asyncio.to_thread(int, 'x'), name='x')\n"
         "await asyncio.Event().wait()", "ValueError"),
    ],
    ids=["main", "task"],
)  # fmt: skip
def test_a_service_that_fails_says_why_and_ends_with_failure(body: str, said: str) -> None:
    code, lines, _ = finish(start_service(body))

    assert code == 1
    assert said in "\n".join(lines)
