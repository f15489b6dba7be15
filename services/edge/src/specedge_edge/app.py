"""The edge service, put together.

| object | only writer | others see it as |
|---|---|---|
| ``EdgeSession`` and ``Account`` of a request | the generation's task | events of the answer |
| drafter and its sessions | the compute thread | calls that return numpy values |
| table of open sessions | ``SessionRouter``, on the loop | inboxes |
| identity and limits of the cloud | ``ServedModel``, on the loop | frozen ``Served`` |
| NATS connection | ``NatsLink`` | ``Link`` port |

Only this file and ``loading`` name concrete adapters.
"""

import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import structlog

from specedge.credentials.nkey import UserKey
from specedge.drafting.pace import DevicePace
from specedge.engine.loading import Progress
from specedge.errors import AuthenticationFailed, Busy
from specedge.ids import EdgeId
from specedge.link.base import Link, LinkState
from specedge.link.nats import NatsLink
from specedge.protocol.round_timer import EdgeSessionConfig
from specedge.protocol.subjects import edge_inbox
from specedge.service.compute import ComputeThread
from specedge.service.health import HealthState, service_routes
from specedge.service.http import HttpServer, serve_http
from specedge.service.loading import LoadingStopped, LoadingWatch
from specedge.service.metrics import ServiceMetrics
from specedge.service.runtime import ServiceContext, settle_heap
from specedge.service.spans import NO_SPANS, recording
from specedge_edge.answering import AnswerDesk
from specedge_edge.config import EdgeSettings
from specedge_edge.drafting import DraftSource
from specedge_edge.face import make_face
from specedge_edge.generation import Upstream
from specedge_edge.loading import Loaded, load
from specedge_edge.metrics import EdgeMetrics, HttpMetrics, StandingCollector
from specedge_edge.openai.refusals import RefusalTrace
from specedge_edge.openai.routes import Backend, BackendSlot
from specedge_edge.router import SessionRouter
from specedge_edge.served import ServedModel, spell_out
from specedge_edge.standing import DrafterStanding

SERVICE: Final = "edge"
MAX_TEXTS: Final = 64  # that wait to be encoded, at least; more are told to come back

_log = structlog.get_logger("specedge.edge")

# Connects as the edge of that key; keeps trying while the broker is away.
Connect = Callable[[UserKey], Awaitable[Link]]
# Loads what an edge computes with; runs on the compute thread.
Loader = Callable[[EdgeSettings, Progress], Loaded]


async def run_edge(
    context: ServiceContext, settings: EdgeSettings, connect: Connect | None = None
) -> None:
    """The whole life of an edge: serve HTTP at once, load, answer, drain.

    ``connect`` is over NATS unless a test brings another link. Raises ModelUnusable,
    AuthenticationFailed or InvalidRequest when an operator must act.
    """
    async with Edge(context, settings) as edge:
        await edge.serve()
        context.tasks.start(edge.load(connect or edge.connect_nats), name="load")
        await context.drain.wait()
        await edge.drain()


class Edge:
    """The service's parts. An async context manager: leaving it closes what it opened.

    ``loader`` is ``loading.load`` unless a test brings another drafter.
    """

    def __init__(
        self, context: ServiceContext, settings: EdgeSettings, loader: Loader = load
    ) -> None:
        self.health = HealthState()
        self.metrics = ServiceMetrics(SERVICE)
        self._context = context
        self._settings = settings
        self._loader = loader
        self._api_keys = settings.api_keys()
        self._slot = BackendSlot()
        # Each choice has at most a draft out, and what it follows.
        self._compute = ComputeThread("edge-compute", max_pending=4 * settings.max_concurrent)
        # Beside it, so that no prompt, however long, keeps a draft waiting.
        self._texts = ComputeThread(
            "edge-text", max_pending=max(MAX_TEXTS, settings.max_concurrent)
        )
        self._recording = contextlib.ExitStack()
        self._spans = NO_SPANS
        self._http: HttpServer | None = None
        self._cloud: Cloud | None = None
        self._desk: AnswerDesk | None = None
        self._is_leaving = False
        self.metrics.watch_loop(context.watchdog)
        context.on_drain(self.health.start_draining)

    async def __aenter__(self) -> "Edge":
        wanted = recording(self._settings.spans_file, SERVICE, self._context.clock)
        self._spans = self._recording.enter_context(wanted)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_leaving = True
        if self._http is not None:
            await self._http.close()
        if self._cloud is not None:
            await self._cloud.router.stop()
            await self._cloud.link.close()
        await self._texts.close()
        await self._compute.close()
        self._recording.close()

    async def drain(self) -> None:
        """Let the answers under way end, within the settings' time."""
        if self._desk is not None:
            await self._desk.close(self._settings.drain_s)

    @property
    def url(self) -> str:
        """Where it listens, once it serves."""
        assert self._http is not None
        return self._http.url

    async def serve(self) -> None:
        """Listen. Raises InvalidRequest when the port is taken."""
        routes = service_routes(self.health, self.metrics, self._context.watchdog)
        face = make_face(
            self._slot,
            routes,
            api_keys=self._api_keys,
            origins=self._settings.origins,
            wall_s=_wall_s,
        )
        traced = RefusalTrace(
            face,
            count=HttpMetrics(self.metrics.registry).on_response,
            now_s=self._context.clock.now_s,
            probes={route.path for route in routes},
        )
        settings = self._settings
        self._http = await serve_http(
            traced, host=settings.http_host, port=settings.http_port, tasks=self._context.tasks
        )

    async def load(self, connect: Connect) -> None:
        """Load, connect, and answer from then on."""
        watch = LoadingWatch(self._context, self.health)
        try:
            loaded = await self._compute.run(self._loader, self._settings, watch)
        except LoadingStopped as stopped:
            _log.info("edge_stopped", reason=str(stopped))
            return
        self.health.need("broker", lambda: "no broker")
        self.health.need("session", lambda: "no session: no broker")
        self.health.loaded()
        self.metrics.expect_link()
        key = UserKey.load_or_create(self._settings.key_path)
        link = await connect(key)
        link.on_state(self._on_link_state)
        self._cloud = await self._open_cloud(link, EdgeId(key.public_key), loaded)
        self._desk = self._make_desk(self._cloud, loaded)
        self._slot.put(self._backend(self._cloud, self._desk, loaded))
        self._context.tasks.start(self._cloud.served.watch(), name="trial-opens")
        self.health.need("broker", lambda: None if link.is_connected else "no broker")
        self.health.need("session", self._cloud.why_no_session)
        _log.info("edge_loaded", edge=key.public_key, model=loaded.model)

    def _on_link_state(self, state: LinkState) -> None:
        if state is LinkState.CLOSED and not self._is_leaving:
            leaving = _turned_away()
            try:
                self._context.tasks.start(leaving, name="turned-away")
            except RuntimeError:  # the service is ending already, and the link with it
                leaving.close()

    async def connect_nats(self, key: UserKey) -> Link:
        """Connect over NATS, for as long as it takes. All that is loaded is here by then."""
        settle_heap()
        options = self._settings.nats_options(
            name=f"edge-{key.public_key[:12]}",
            inbox_prefix=edge_inbox(EdgeId(key.public_key)),
            key=key,
        )
        return await NatsLink.connect_patiently(options, tasks=self._context.tasks)

    async def _open_cloud(self, link: Link, edge: EdgeId, loaded: Loaded) -> "Cloud":
        settings = self._settings
        self.metrics.watch_link(link)
        router = SessionRouter(link, edge)
        await router.start()
        standing = DrafterStanding(loaded.drafter_problem)
        self.metrics.registry.register(StandingCollector(standing))
        self.health.note("drafter", lambda: standing.problem)
        drafts = DraftSource(
            drafter=loaded.drafter,
            compute=self._compute,
            policy=settings.policy,
            grant_tokens=settings.grant_tokens,
            clock=self._context.clock,
            is_proactive=settings.proactive,
            is_sent_ahead=settings.proactive and settings.ahead,
            is_paced=settings.adaptive,
            pace=DevicePace() if settings.adaptive else None,
            standing=standing,
            tally=loaded.tally,
            spans=self._spans,
            lane=f"{edge[:8]} device",
        )
        served = ServedModel(
            link, edge, model=loaded.model, tokenizer=loaded.fingerprint, drafter=drafts.name
        )
        return Cloud(edge, link, router, served, drafts)

    def _make_desk(self, cloud: "Cloud", loaded: Loaded) -> AnswerDesk:
        upstream = Upstream(
            edge=cloud.edge,
            link=cloud.link,
            router=cloud.router,
            timers=self._context.clock,
            served=cloud.served,
            drafts=cloud.drafts,
            config=EdgeSessionConfig(give_up_s=self._settings.patience_s),
            spans=self._spans,
        )
        metrics = EdgeMetrics(
            self.metrics.registry, loaded.model, compat=self._settings.metrics_compat
        )
        return AnswerDesk(
            upstream, loaded.codec, metrics, max_choices=self._settings.max_concurrent
        )

    def _backend(self, cloud: "Cloud", desk: AnswerDesk, loaded: Loaded) -> Backend:
        return Backend(
            desk=desk,
            codec=loaded.codec,
            served=cloud.served,
            texts=self._texts,
            drafter=cloud.drafts.name,
            edge=cloud.edge,
            since_s=_wall_s(),
            keep_alive_s=self._settings.keep_alive_s,
        )


@dataclass(frozen=True, slots=True)
class Cloud:
    """The way to the other side."""

    edge: EdgeId
    link: Link
    router: SessionRouter
    served: ServedModel
    drafts: DraftSource

    def why_no_session(self) -> str | None:
        """Why the last trial opening failed; None if it did not. A pool that is full is not one:
        clients are told when to come again."""
        problem = self.served.problem
        return (
            None
            if problem is None or isinstance(problem, Busy)
            else f"no session: {spell_out(problem)}"
        )


def _wall_s() -> float:
    """The time of day, for ``created``; no interval is ever measured with it."""
    return datetime.now(UTC).timestamp()


async def _turned_away() -> None:
    """Ends the service: whoever starts it again lets it try again, with whatever was mended."""
    raise AuthenticationFailed("the broker has turned this edge away")
