"""The scheduler, put together. The only file here that names concrete adapters.

| object                          | owner               | others see it as                 |
|---------------------------------|---------------------|----------------------------------|
| ``SchedulerPolicy``, ``Cluster``| the driver's task   | nothing; gauges once a second    |
| the inbox of events             | the driver          | subscription handlers put events |
| NATS connection                 | ``NatsLink``        | the ``Link`` port                |
| ``HealthState``                 | ``serve``           | the HTTP routes read it          |

All of it lives on one event loop; there is no other thread.
"""

from dataclasses import dataclass
from typing import Final

import structlog
from starlette.applications import Starlette

from specedge.credentials.nkey import UserKey
from specedge.ids import Epoch, GroupId, SchedulerId
from specedge.link.base import Link
from specedge.link.nats import NatsLink
from specedge.protocol.subjects import service_inbox
from specedge.service.health import HealthState, service_routes
from specedge.service.http import serve_http
from specedge.service.metrics import ServiceMetrics
from specedge.service.runtime import DrainBegan, ServiceContext, settle_heap
from specedge.service.spans import NO_SPANS, SpanRing, recording
from specedge_scheduler.config import SchedulerSettings
from specedge_scheduler.driver import Driver
from specedge_scheduler.metrics import SchedulerMetrics
from specedge_scheduler.policy.decide import SchedulerPolicy
from specedge_scheduler.policy.types import SchedulerLimits

SERVICE: Final = "scheduler"

NOT_CONNECTED: Final = "not connected to the broker"

_log = structlog.get_logger("specedge.scheduler")


@dataclass(frozen=True, slots=True)
class SchedulerIdentity:
    """Who this scheduler is.

    epoch        its term: verifiers drop work of lower ones
    incarnation  random per process start
    """

    name: SchedulerId
    group: GroupId
    epoch: Epoch
    incarnation: str


async def serve(
    who: SchedulerIdentity,
    limits: SchedulerLimits,
    *,
    link: Link,
    context: ServiceContext,
    metrics: SchedulerMetrics,
    health: HealthState,
    spans: SpanRing = NO_SPANS,
) -> None:
    """Schedule on ``link`` until the drain begins, or until cancelled."""
    policy = SchedulerPolicy(who.group, who.epoch, limits)
    driver = Driver(
        who.name,
        policy,
        link,
        context.clock,
        metrics,
        incarnation=who.incarnation,
        spans=spans,
    )
    context.watchdog.on_stall(driver.note_stall)
    await driver.start()
    health.need("link", lambda: None if link.is_connected else NOT_CONNECTED)
    task = context.tasks.start(driver.run(), name="scheduler-driver")
    health.loaded()
    _log.info("scheduler_started", scheduler=who.name, group=who.group, epoch=list(who.epoch))
    try:
        await context.drain.wait()
    finally:
        task.cancel()
        await driver.stop()
    _log.info("scheduler_stopped", scheduler=who.name)


async def run(settings: SchedulerSettings, who: SchedulerIdentity, context: ServiceContext) -> None:
    """The service over NATS, with its HTTP face."""
    health, metrics = HealthState(), ServiceMetrics(SERVICE)
    context.on_drain(health.start_draining)
    metrics.watch_loop(context.watchdog)
    app = Starlette(routes=service_routes(health, metrics, context.watchdog))
    http = await serve_http(
        app, host=settings.http_host, port=settings.http_port, tasks=context.tasks
    )
    key = UserKey.load(settings.identity_file) if settings.identity_file else None
    inbox = service_inbox(who.name)
    options = settings.nats_options(name=who.name, inbox_prefix=inbox, key=key)
    own = SchedulerMetrics(metrics.registry)
    metrics.expect_link()
    health.need("link", lambda: NOT_CONNECTED)
    health.loaded()
    try:
        connecting = NatsLink.connect_patiently(options, tasks=context.tasks)
        link = await context.unless_draining(connecting)
    except DrainBegan:
        await http.close()
        return
    metrics.watch_link(link)
    settle_heap()
    try:
        with recording(settings.spans_file, who.name, context.clock) as spans:
            await serve(
                who,
                settings.limits(),
                link=link,
                context=context,
                metrics=own,
                health=health,
                spans=spans,
            )
    finally:
        await link.close()
        await http.close()
