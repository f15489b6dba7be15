"""The verifier, put together. The only file here, with ``engines``, that names concrete adapters.

| object                                 | owner              | others see it as                  |
|----------------------------------------|--------------------|-----------------------------------|
| target engine and its KV cache         | the compute thread | turns, run through the Stepper    |
| the verifier's own drafter             | the compute thread | turns, too                        |
| ``SlotLease.slot``, ``DraftSeat``      | the compute thread | a lease, a seat: not looked into  |
| ``SessionTable``, machines, timers     | the event loop     | entries, read between two events  |
| ``SlotPool``, ``BatchLedger``          | the event loop     | figures in reports                |
| which step runs                        | ``EngineLoop.run`` | ``running_rows``                  |
| the outgoing queue                     | ``Outbox.run``     | ``put``                           |
| NATS connection                        | ``NatsLink``       | the ``Link`` port                 |

Handlers, timers and the engine loop's bookkeeping are synchronous pieces on one event loop, so each
sees the whole state between two changes and none needs a lock.
"""

import contextlib
from collections.abc import AsyncIterator
from typing import Final

import structlog
from starlette.applications import Starlette

from specedge.credentials.nkey import UserKey
from specedge.ids import VerifierId
from specedge.link.base import Link
from specedge.link.nats import NatsLink
from specedge.protocol import subjects
from specedge.service.compute import ComputeThread
from specedge.service.health import HealthState, service_routes
from specedge.service.http import serve_http
from specedge.service.loading import LoadingStopped, LoadingWatch
from specedge.service.metrics import ServiceMetrics
from specedge.service.runtime import DrainBegan, ServiceContext, settle_heap
from specedge.service.spans import NO_SPANS, SpanRing, recording
from specedge_verifier.config import VerifierSettings
from specedge_verifier.drain import drain
from specedge_verifier.engines import LoadedEngine, load_engine, session_limits
from specedge_verifier.entry import SessionTimes
from specedge_verifier.metrics import VerifierMetrics
from specedge_verifier.verifier import Verifier, VerifierOptions

SERVICE: Final = "verifier"

_log = structlog.get_logger("specedge.verifier")


async def serve(
    options: VerifierOptions,
    loaded: LoadedEngine,
    *,
    compute: ComputeThread,
    link: Link,
    context: ServiceContext,
    metrics: VerifierMetrics,
    spans: SpanRing = NO_SPANS,
) -> None:
    """Verify on ``link`` until the drain is over, or until cancelled: then what runs is lost, and
    the edges' retries find another verifier."""
    verifier = Verifier(
        options,
        loaded,
        compute=compute,
        link=link,
        context=context,
        metrics=metrics,
        spans=spans,
    )
    working = [
        context.tasks.start(verifier.outbox.run(), name="verifier-outbox"),
        context.tasks.start(verifier.loop.run(), name="verifier-engine-loop"),
    ]
    verifier.show_in(metrics)
    work = await link.subscribe(subjects.all_work(options.name), verifier.handler.on_message)
    verifier.reporter.start()
    verifier.table.start_sweeping()
    _log.info("verifier_started", verifier=options.name, model=loaded.identity.name)
    try:
        await context.drain.wait()
        await drain(verifier.table, verifier.loop, verifier.reporter, limit_s=options.drain_s)
        await verifier.outbox.flush()
        _log.info("verifier_drained", verifier=options.name)
    finally:
        verifier.reporter.close()
        verifier.table.close()
        for task in working:
            task.cancel()
        with contextlib.suppress(Exception):
            await work.unsubscribe()


async def run(settings: VerifierSettings, incarnation: str, context: ServiceContext) -> None:
    """The service over NATS, with its HTTP face, which answers while the model is being loaded."""
    health, metrics = HealthState(), ServiceMetrics(SERVICE)
    context.on_drain(health.start_draining)
    metrics.watch_loop(context.watchdog)
    app = Starlette(routes=service_routes(health, metrics, context.watchdog))
    http = await serve_http(
        app, host=settings.http_host, port=settings.http_port, tasks=context.tasks
    )
    compute = ComputeThread("engine")
    own = VerifierMetrics(metrics.registry)
    try:
        # First, since what is missing should not be found after an hour of fetching weights.
        key = UserKey.load(settings.identity_file) if settings.identity_file else None
        with recording(settings.spans_file, settings.verifier_id, context.clock) as spans:
            loaded = await _load(settings, compute, health, context, own)
            health.need("link", lambda: "no broker")
            health.loaded()
            metrics.expect_link()  # not before: a model may take an hour, and nobody is missed
            async with _connected(settings, key, context) as link:
                metrics.watch_link(link)
                health.need("link", lambda: None if link.is_connected else "no broker")
                await serve(
                    _options(settings, incarnation, loaded),
                    loaded,
                    compute=compute,
                    link=link,
                    context=context,
                    metrics=own,
                    spans=spans,
                )
    except LoadingStopped as stopped:
        _log.info("verifier_stopped", reason=str(stopped))
    except DrainBegan:
        _log.info("verifier_stopped", reason="no broker was reached before")
    finally:
        await compute.close()
        await http.close()


def _options(settings: VerifierSettings, incarnation: str, loaded: LoadedEngine) -> VerifierOptions:
    return VerifierOptions(
        VerifierId(settings.verifier_id),
        incarnation,
        session_limits(settings, loaded.identity),
        SessionTimes(idle_s=settings.idle_s),
        settings.drain_s,
        settings.hosted_share,
    )


async def _load(
    settings: VerifierSettings,
    compute: ComputeThread,
    health: HealthState,
    context: ServiceContext,
    metrics: VerifierMetrics,
) -> LoadedEngine:
    """Load on the compute thread, telling /ready how far it is. Raises ModelUnusable, and
    LoadingStopped when the drain begins first."""
    started_s = context.clock.now_s()
    _log.info("model_load_started", model=settings.model, engine=settings.engine)
    loaded = await compute.run(load_engine, settings, LoadingWatch(context, health))
    settle_heap()
    took_s = context.clock.now_s() - started_s
    metrics.load_s.set(took_s)
    drafter = "none" if loaded.drafter is None else loaded.drafter.name
    _log.info(
        "model_loaded",
        model=loaded.identity.name,
        dtype=loaded.identity.dtype,
        drafter=drafter,
        seconds=round(took_s, 2),
    )
    return loaded


@contextlib.asynccontextmanager
async def _connected(
    settings: VerifierSettings, key: UserKey | None, context: ServiceContext
) -> AsyncIterator[NatsLink]:
    name = settings.verifier_id
    options = settings.nats_options(name=name, inbox_prefix=subjects.service_inbox(name), key=key)
    connecting = NatsLink.connect_patiently(options, tasks=context.tasks)
    link = await context.unless_draining(connecting)
    try:
        yield link
    finally:
        await link.close()
