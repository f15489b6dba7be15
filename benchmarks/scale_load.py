"""``python -m benchmarks.scale_load``: edges and verifiers by script, in one process, so that one
core drives a scheduler to thousands of rounds a second. Started by ``benchmarks.scale``.

Every edge and every verifier has a connection of its own. Says on stdout, a JSON line each, when it
measures, when that is over, and what it counted meanwhile.
"""

import argparse
import asyncio
import base64
import hashlib
import json
import sys
from contextlib import AsyncExitStack
from dataclasses import asdict
from time import process_time
from typing import Final

from benchmarks.scripted_edge import Script, ScriptedEdge, Tally
from benchmarks.scripted_verifier import ScriptedVerifier
from specedge.cli.failure import CommandFailed
from specedge.ids import EdgeId, SessionKey, VerifierId
from specedge.link.nats import NatsLink, NatsOptions
from specedge.protocol.messages import BatchItem
from specedge.protocol.subjects import edge_inbox, service_inbox
from specedge.service.logging import configure_logging
from specedge.service.runtime import ServiceContext, Tasks, run_service, settle_heap

AWAY_SHARES: Final = (0.5, 0.9)  # of a step: two groups of edges alternate


def main() -> int:
    """Play until measured; the exit code."""
    arguments = _parser().parse_args()
    configure_logging("scale-load", level="warning", log_format="json")
    return run_service(lambda context: _play(context, arguments))


async def _play(context: ServiceContext, arguments: argparse.Namespace) -> None:
    # Every edge is in every other step.
    step_s = arguments.edges / arguments.rounds_per_s / 2
    away_s = (AWAY_SHARES[0] * step_s, AWAY_SHARES[1] * step_s)
    script = Script(away_s, arguments.nodes, arguments.session_rounds)
    tally, edges = Tally(), dict[EdgeId, ScriptedEdge]()

    def answer(key: SessionKey, item: BatchItem) -> None:
        edges[key.edge].answer(item)

    async with AsyncExitStack() as links, Tasks() as players:

        async def connect(name: str, inbox: str) -> NatsLink:
            options = NatsOptions((arguments.nats_url,), name, inbox)
            link = await NatsLink.connect(options, tasks=context.tasks)
            links.push_async_callback(link.close)
            return link

        players.start(_end_with_stdin(), name="stdin")
        for number in range(1, arguments.verifiers + 1):
            name = VerifierId(f"verifier-{number}")
            link = await connect(name, service_inbox(name))
            verifier = ScriptedVerifier(name, link, context.clock, step_s, answer)
            await verifier.start()
            players.start(verifier.beat(), name="beat")
            players.start(verifier.run(), name="step")
        for number in range(arguments.edges):
            edge = _edge_id(number)
            link = await connect(f"edge-{number}", edge_inbox(edge))
            edges[edge] = ScriptedEdge(edge, link, script, tally)
            await edges[edge].start()
        settle_heap()
        for one in edges.values():
            players.start(one.run(), name="edge")
        await asyncio.sleep(arguments.warm_up_s)
        await _measure(tally, arguments.measure_s)


async def _end_with_stdin() -> None:
    """Raises CommandFailed when whoever started this is gone: nobody would end it."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()
    raise CommandFailed("the benchmark is gone", hint="nothing is measured any more")


async def _measure(tally: Tally, measure_s: float) -> None:
    _say("measuring")
    before, cpu_s = asdict(tally), process_time()
    await asyncio.sleep(measure_s)
    _say("over")
    counted = {name: count - before[name] for name, count in asdict(tally).items()}
    _say("measured", cpu_s=process_time() - cpu_s, **counted)


def _say(event: str, **figures: float) -> None:
    sys.stdout.write(json.dumps({"event": event, **figures}) + "\n")
    sys.stdout.flush()


def _edge_id(number: int) -> EdgeId:
    """Looks like a public key, but nobody holds its seed: for brokers that ask for none."""
    digest = hashlib.sha512(str(number).encode()).digest()
    return EdgeId("U" + base64.b32encode(digest).decode()[:55])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale_load", description=__doc__)
    parser.add_argument("--nats-url", required=True)
    parser.add_argument("--edges", type=int, required=True)
    parser.add_argument("--verifiers", type=int, required=True)
    parser.add_argument("--rounds-per-s", type=float, required=True)
    parser.add_argument("--nodes", type=int, required=True, help="of each draft")
    parser.add_argument("--session-rounds", type=int, required=True, help="then a new session")
    parser.add_argument("--warm-up-s", type=float, required=True)
    parser.add_argument("--measure-s", type=float, required=True)
    return parser


if __name__ == "__main__":
    sys.exit(main())
