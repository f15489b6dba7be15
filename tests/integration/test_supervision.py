"""The command's children: healed, explained, stopped, and never left behind. Real processes."""

import asyncio
import os
import select
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from specedge.cli.child import Child
from specedge.cli.failure import CommandFailed
from specedge.cli.stack import ProcessPlan
from specedge.cli.supervisor import FAILURES_IN_A_ROW, Supervisor
from specedge.cli.waiting import Note, read_notes, watch_readiness
from specedge.service.runtime import Tasks

Start = Callable[..., Awaitable[tuple[Supervisor, list[str]]]]

SERVICE = """
    import http.server, json, signal, sys
    if "stubborn" in sys.argv:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "fails-again" in sys.argv:
        with open("starts", "a+") as starts:
            starts.write("x")
            starts.seek(0)
            num_starts = len(starts.read())
        if num_starts == 2 or (num_starts > 1 and "for-good" in sys.argv):
            sys.exit(3)
    if "says-why" in sys.argv:
        reason = "the model 'nowhere' cannot be reached"
        print(json.dumps({"event": "service_failed", "error": "E", "reason": reason}))
        print(json.dumps({"event": "link_closed"}))
        sys.exit(1)
    if "fails" in sys.argv:
        print("cannot find the model 'nowhere'", file=sys.stderr)
        sys.exit(3)
    class Ready(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            body = b'{"notes": {"drafter": "no [TYPO]"}}' if "notes" in sys.argv else b""
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        def log_message(self, *_):
            pass
    given = sys.argv.index("--http-port") + 1 if "--http-port" in sys.argv else None
    port = int(sys.argv[given]) if given else 0
    server = http.server.HTTPServer(("127.0.0.1", port), Ready)
    host, port = server.server_address
    print(json.dumps({"event": "http_listening", "host": host, "port": port}), flush=True)
    server.serve_forever()
"""


@pytest.fixture
def service_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that children start in: ``python -m stand_in`` finds the stand-in there."""
    (tmp_path / "stand_in.py").write_text(textwrap.dedent(SERVICE))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
async def supervise(
    service_folder: Path,
) -> AsyncIterator[Start]:
    """Starts stand-ins under a supervisor, each with its flags; stops them after the test."""
    notices: list[str] = []
    supervisors: list[Supervisor] = []

    async with Tasks() as tasks:

        async def start(*flags: str) -> tuple[Supervisor, list[str]]:
            plans = [
                ProcessPlan(
                    f"child-{number}",
                    "stand_in",
                    (flag,) if flag else (),
                    keeps_port=flag == "known",
                )
                for number, flag in enumerate(flags)
            ]
            supervisor = Supervisor(plans, run_dir=service_folder, notice=notices.append)
            supervisors.append(supervisor)
            for child in supervisor.children:
                tasks.start(supervisor.keep(child), name=child.name)
                tasks.start(watch_readiness(child, lambda *_: None), name="watch")
            for child in supervisor.children:
                await child.ready.wait()
            return supervisor, notices

        yield start
        for supervisor in supervisors:
            await supervisor.stop(grace_s=2)


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def until_new_run(child: Child, old_pid: int) -> int:
    """The pid of the next ready run of ``child``."""
    async with asyncio.timeout(60):
        while not (child.ready.is_set() and child.pid not in (None, old_pid)):
            await asyncio.sleep(0.05)
    assert child.pid is not None
    return child.pid


async def test_a_killed_process_is_started_again_and_that_is_said(supervise: Start) -> None:
    supervisor, notices = await supervise("", "")
    victim, bystander = supervisor.children
    old, untouched = victim.pid, bystander.pid

    os.kill(old, signal.SIGKILL)
    new = await until_new_run(victim, old)

    assert is_alive(new)
    assert bystander.pid == untouched
    assert notices == ["child-0 was killed by SIGKILL; starting it again"]


async def test_what_a_ready_process_does_without_is_known(supervise: Start) -> None:
    supervisor, _ = await supervise("notes", "")

    assert await read_notes(supervisor.children) == [Note("child-0", "drafter", "no [TYPO]")]


async def test_a_process_whose_clients_know_its_port_comes_back_there(supervise: Start) -> None:
    supervisor, _ = await supervise("known")
    child = supervisor.children[0]
    known_url, old = child.http_url, child.pid
    assert old is not None

    os.kill(old, signal.SIGKILL)
    await until_new_run(child, old)

    assert child.http_url == known_url


async def test_a_process_that_cannot_start_ends_the_system_with_its_last_words(
    service_folder: Path,
) -> None:
    plan = ProcessPlan("child", "stand_in", ("fails",))
    supervisor = Supervisor([plan], run_dir=service_folder, notice=lambda _: None)

    with pytest.raises(CommandFailed, match="child exited with code 3") as failure:
        await supervisor.keep(supervisor.children[0])

    assert "cannot find the model 'nowhere'" in failure.value.hint
    assert "cannot find the model" in (service_folder / "child.log").read_text()


async def test_last_words_begin_with_the_reason_that_the_process_gave(
    service_folder: Path,
) -> None:
    plan = ProcessPlan("child", "stand_in", ("says-why",))
    supervisor = Supervisor([plan], run_dir=service_folder, notice=lambda _: None)

    with pytest.raises(CommandFailed) as failure:
        await supervisor.keep(supervisor.children[0])

    reason, where, *_ = failure.value.hint.splitlines()
    assert reason == "the model 'nowhere' cannot be reached"
    assert str(service_folder / "child.log") in where


async def test_what_a_plan_says_goes_before_the_commands_own_environment(
    service_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (service_folder / "says.py").write_text("import os; print(os.environ['A'], os.environ['B'])")
    monkeypatch.setenv("A", "inherited")
    monkeypatch.setenv("B", "inherited")
    child = Child(
        ProcessPlan("child", "says", (), environment={"B": "given"}), run_dir=service_folder
    )

    assert await child.run_once() == 0

    assert child.log_path.read_text() == "inherited given\n"


async def test_a_process_that_was_ready_may_fail_a_start(supervise: Start) -> None:
    supervisor, notices = await supervise("fails-again")
    child = supervisor.children[0]
    old = child.pid
    assert old is not None

    os.kill(old, signal.SIGKILL)
    new = await until_new_run(child, old)

    assert is_alive(new)
    assert notices[1:] == ["child-0 exited with code 3; starting it again"]


async def test_a_process_that_was_ready_and_never_starts_again_ends_the_system(
    service_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("specedge.cli.supervisor.FIRST_PAUSE_S", 0.01)
    notices: list[str] = []
    plan = ProcessPlan("child", "stand_in", ("fails-again", "for-good"))
    supervisor = Supervisor([plan], run_dir=service_folder, notice=notices.append)
    child = supervisor.children[0]

    with pytest.raises(ExceptionGroup) as failures:
        async with Tasks() as tasks:
            tasks.start(supervisor.keep(child), name="child")
            tasks.start(watch_readiness(child, lambda *_: None), name="watch")
            await child.ready.wait()
            child.kill()
            await asyncio.Event().wait()

    assert failures.group_contains(CommandFailed, match="child exited with code 3")
    assert len(notices) == FAILURES_IN_A_ROW - 1


async def test_stop_ends_even_a_process_that_ignores_sigterm(supervise: Start) -> None:
    supervisor, _ = await supervise("", "stubborn")
    pids = [child.pid for child in supervisor.children]

    await supervisor.stop(grace_s=0.3)

    assert not any(is_alive(pid) for pid in pids)


async def test_stop_during_the_pause_before_a_restart_starts_nothing(supervise: Start) -> None:
    supervisor, notices = await supervise("")
    child = supervisor.children[0]

    os.kill(child.pid, signal.SIGKILL)
    async with asyncio.timeout(30):
        while not notices:
            await asyncio.sleep(0.01)
    await supervisor.stop()

    await asyncio.sleep(0.5)  # longer than the pause: what would start, would have started
    assert child.pid is None


@pytest.mark.skipif(sys.platform != "linux", reason="needs PR_SET_PDEATHSIG")
def test_children_die_with_a_parent_that_is_killed(service_folder: Path) -> None:
    program = """
        import asyncio, pathlib
        from specedge.cli.child import Child
        from specedge.cli.stack import ProcessPlan

        async def main():
            child = Child(ProcessPlan("child", "stand_in", ()), run_dir=pathlib.Path("."))
            run = asyncio.ensure_future(child.run_once())
            while child.http_url is None:
                await asyncio.sleep(0.02)
            print(child.pid, flush=True)
            await run

        asyncio.run(main())
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        watch = os.pidfd_open(pid)

        parent.kill()

        readable, _, _ = select.select([watch], [], [], 30)  # a pidfd is readable at the end
        os.close(watch)
    assert readable, "the child outlived its parent"
