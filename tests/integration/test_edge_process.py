"""The edge as a process: what it imports, what it weighs, how it starts and stops."""

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from specedge.errors import InvalidRequest
from specedge_edge.config import EdgeSettings
from tests.edge_world import MODEL, make_tokenizer

pytestmark = pytest.mark.timeout(600)  # processes start slowly where others compute too

MIB = 2**20
REPORT = """
import asyncio, json, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.edge_world import EdgeWorld, edge_world

def rss_bytes():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096

async def main():
    async with edge_world(Path({folder!r})) as world:
        text = (await world.complete()).json()["choices"][0]["text"]
        report = {{"text": text, "torch": "torch" in sys.modules, "rss_bytes": rss_bytes()}}
    print(json.dumps(report))

asyncio.run(main())
"""


def test_an_edge_with_prompt_lookup_is_small_and_needs_no_torch(tmp_path: Path) -> None:
    root = str(Path(__file__).parents[2])
    program = REPORT.format(root=root, folder=str(tmp_path))

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=500
    )

    report = json.loads(done.stdout.splitlines()[-1])
    assert report["text"] == "hello there"
    assert not report["torch"]
    assert report["rss_bytes"] < 400 * MIB


async def test_a_process_answers_over_http_before_it_is_ready_and_ends_when_asked(
    tmp_path: Path, nats_server: str
) -> None:
    make_tokenizer(tmp_path / MODEL)
    flags = {
        "nats-url": nats_server,
        "model": tmp_path / MODEL,
        "cache-dir": tmp_path,
        "http-port": 0,
        "log-format": "json",
    }
    command = [sys.executable, "-m", "specedge_edge"]
    command += [part for name, value in flags.items() for part in (f"--{name}", str(value))]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    try:
        assert process.stderr is not None
        said: list[str] = []
        async with asyncio.timeout(300):
            while "trial_open_failed" not in said:
                line = json.loads(await process.stderr.readline())
                said.append(line["event"])

        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            await process.stderr.read()
            code = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()

    assert said[0] == "http_listening"
    assert code == 0


@pytest.mark.parametrize(
    "flags", [["--depth", "-1"], ["--api-key", " , "], ["--api-key-file", "/nowhere"]]
)
def test_settings_that_make_no_sense_end_the_process_with_one_line(
    tmp_path: Path, flags: list[str]
) -> None:
    command = [sys.executable, "-m", "specedge_edge", "--cache-dir", str(tmp_path), *flags]

    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)

    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert flags[0].removeprefix("--").replace("-", "_")[:7] in done.stderr.replace("-", "_")


def test_keys_come_from_the_setting_and_the_file(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("b\n\n c \n")

    settings = EdgeSettings(api_key="a, d", api_key_file=keys)

    assert settings.api_keys() == {"a", "b", "c", "d"}
    assert "a, d" not in repr(settings)
    assert EdgeSettings().api_keys() == frozenset()
    keys.write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidRequest, match="api_key_file"):
        settings.api_keys()
