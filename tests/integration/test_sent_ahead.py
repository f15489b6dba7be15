"""Drafts sent ahead of their verdicts, from the HTTP face of a real edge to the steps of a real
verifier and back, on emulated engines: fewer drafts, the same tokens."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from specedge.engine.emulated import EmulatedDrafter
from specedge.engine.loading import Progress
from specedge.ids import SchedulerId
from specedge.link.base import Message
from specedge.link.memory import WireProfile
from specedge.profiles import DeviceProfile
from specedge.protocol.codec import decode
from specedge.protocol.opening import Limits
from specedge.protocol.reports import SchedulerStat
from specedge.protocol.subjects import scheduler_stat
from specedge_edge.app import Loader
from specedge_edge.config import EdgeSettings
from specedge_edge.loading import Loaded, load
from specedge_scheduler.policy.types import SchedulerLimits
from tests.integration.cloud_world import LIMITS, Cloud, RunningVerifier, cloud
from tests.integration.edge_on_cloud import COMPLETIONS, edge_on, expected, persist, request

TAKES_AHEAD = LIMITS.model_copy(update={"ahead": 64})
STEP_MS = 40.0
TRIES = 10
PATIENCE_S = 30.0
DEVICE = DeviceProfile("test", "made up", draft_pass_ms=4.0)
NEAR = WireProfile(latency_s=0.003)


def loader(settings: EdgeSettings, on_progress: Progress) -> Loaded:
    """A drafter that takes its time and is right most of the time."""
    drafter = EmulatedDrafter(agreement=(0.9,), profile=DEVICE, sleep=time.sleep)
    return replace(load(settings, on_progress), drafter=drafter)


@asynccontextmanager
async def system(
    folder: Path,
    *,
    limits: Limits = TAKES_AHEAD,
    wire: WireProfile = NEAR,
    scheduling: SchedulerLimits | None = None,
    load_with: Loader | None = None,
    **settings: Any,
) -> AsyncIterator[tuple[Cloud, RunningVerifier, httpx.AsyncClient]]:
    async with cloud() as world:
        await world.start_scheduler(scheduling)
        verifier = await world.start_verifier("verifier-1", step_ms=STEP_MS, limits=limits)
        sizes = {"adaptive": False, "depth": 3, "budget": 6, **settings}
        async with edge_on(
            world, folder, wire=wire, drafter="emulated", loader=load_with or loader, **sizes
        ) as client:
            yield world, verifier, client


def drafting(answer: httpx.Response) -> dict[str, Any]:
    figures: dict[str, Any] = answer.json()["metrics"]["specedge"]["drafting"]
    return figures


def tokens(answer: httpx.Response) -> list[int]:
    ids: list[int] = answer.json()["choices"][0]["token_ids"]
    return ids


@pytest.mark.parametrize("adaptive", [False, True])
async def test_most_rounds_begin_without_a_draft_where_the_drafter_is_mostly_right(
    tmp_path: Path, adaptive: bool
) -> None:
    answers: list[httpx.Response] = []
    async with system(tmp_path, adaptive=adaptive) as (_, verifier, client):
        # A machine that others use too may be late for a whole answer, hardly for each of many.
        while len(answers) < TRIES and not (answers and _is_mostly_ahead(answers[-1])):
            answers.append(await client.post(COMPLETIONS, json=request(60)))
            assert tokens(answers[-1]) == expected(60)
        told = await client.get("/metrics")

    assert _is_mostly_ahead(answers[-1])
    used = sum(drafting(answer)["ahead_used"] for answer in answers)
    assert "specedge_drafts_ahead_used_total{" in told.text
    name = "specedge_session_events_total"
    assert verifier.metrics.registry.get_sample_value(name, {"event": "ahead_used"}) == used


def _is_mostly_ahead(answer: httpx.Response) -> bool:
    figures = drafting(answer)
    return bool(figures["ahead_used"] > figures["verdicts"] / 4)


@pytest.mark.parametrize(
    ("limits", "settings"),
    [(LIMITS, {}), (TAKES_AHEAD, {"ahead": False}), (LIMITS, {"proactive": False})],
)
async def test_nothing_is_sent_ahead_unless_both_ends_want_it(
    tmp_path: Path, limits: Limits, settings: dict[str, Any]
) -> None:
    subjects: list[str] = []
    async with system(tmp_path, limits=limits, **settings) as (world, _, client):
        watcher = world.hub.link("watcher")
        heard = await watcher.subscribe("se.>", lambda message: subjects.append(message.subject))
        answer = await client.post(COMPLETIONS, json=request(20))
        await heard.unsubscribe()
        await watcher.close()

    assert tokens(answer) == expected(20)
    assert not [subject for subject in subjects if ".ahead." in subject]
    assert [subject for subject in subjects if ".draft." in subject]
    assert drafting(answer)["ahead_sent"] == 0


async def test_a_bad_network_changes_no_token(tmp_path: Path) -> None:
    wire = WireProfile(latency_s=0.003, jitter_s=0.004, loss=0.05, duplication=0.05)
    async with system(tmp_path, wire=wire) as (_, _, client):
        answers = await asyncio.gather(*(persist(client, 30 + n) for n in range(3)))

    assert [tokens(answer) for answer in answers] == [expected(30 + n) for n in range(3)]
    assert sum(drafting(answer)["ahead_sent"] for answer in answers) > 0


async def test_where_sessions_wait_for_each_other_nobody_runs_ahead(tmp_path: Path) -> None:
    one_by_one, both_are_placed = SchedulerLimits(max_batch_sessions=1), threading.Event()

    def load_gated(settings: EdgeSettings, on_progress: Progress) -> Loaded:
        def sleep(seconds: float) -> None:
            both_are_placed.wait(PATIENCE_S)  # the compute thread's: nobody drafts before
            time.sleep(seconds)

        drafter = EmulatedDrafter(agreement=(0.9,), profile=DEVICE, sleep=sleep)
        return replace(load(settings, on_progress), drafter=drafter)

    def on_stat(message: Message) -> None:
        if decode(SchedulerStat, message.payload).sessions == 2:
            both_are_placed.set()

    async with system(tmp_path, scheduling=one_by_one, load_with=load_gated) as (world, _, client):
        watcher = world.hub.link("watcher")
        await watcher.subscribe(scheduler_stat(SchedulerId("scheduler-1")), on_stat)
        asked = [client.post(COMPLETIONS, json=request(60)) for _ in range(2)]
        answers = await asyncio.gather(*asked)
        await watcher.close()

    assert both_are_placed.is_set()
    # The one that ends last may be alone for its last rounds.
    for answer in answers:
        assert tokens(answer) == expected(60)
        assert drafting(answer)["ahead_used"] <= 2
