"""One emulated edge: the edge service's own parts but for HTTP, on an emulated device."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import structlog

from specedge.drafting.pace import DevicePace
from specedge.engine.emulated import Agreement, EmulatedDrafter, EmulatedText
from specedge.errors import Busy, SpecEdgeError
from specedge.ids import EdgeId
from specedge.link.base import Link
from specedge.protocol.effects import Committed
from specedge.protocol.messages import SessionParams
from specedge.protocol.opening import Opened
from specedge.protocol.round_timer import EdgeSessionConfig
from specedge.sampling.noise import mix
from specedge.service.runtime import LoopClock
from specedge.service.spans import NO_SPANS, SpanRing
from specedge.tree.calibration import Tally
from specedge.tree.token_tree import IntArray
from specedge_edge.drafting import DraftSource
from specedge_edge.fleet.config import FleetSettings
from specedge_edge.fleet.device import EmulatedCompute
from specedge_edge.fleet.figures import FleetLog, MeasuredDrafting, SessionSpan
from specedge_edge.generation import Generation, Upstream
from specedge_edge.router import SessionRouter
from specedge_edge.served import ServedModel

MODEL = "emulated"

_log = structlog.get_logger("specedge.fleet")


@dataclass(frozen=True, slots=True, eq=False)
class Common:
    """What all edges of a process share; on its loop. They draft for one target, so what its
    verdicts teach of the drafter is in one ``tally``, as in a service."""

    settings: FleetSettings
    clock: LoopClock
    log: FleetLog
    agreement: Agreement
    text: EmulatedText = field(default_factory=EmulatedText)
    tally: Tally = field(default_factory=Tally)
    spans: SpanRing = NO_SPANS


class FleetEdge:
    """Made by ``start``. ``generate`` may run several times at once; its device does one thing at a
    time."""

    def __init__(self, edge: EdgeId, link: Link, common: Common) -> None:
        self._common = common
        self.device = EmulatedCompute(common.clock)
        self._router = SessionRouter(link, edge)
        drafts = self._drafts(edge)
        self._running: set[MeasuredDrafting] = set()
        identity = common.text.identity()
        self._served = ServedModel(
            link,
            edge,
            model=MODEL,
            tokenizer=identity.tokenizer_fingerprint,
            drafter=drafts.name,
        )
        self._upstream = Upstream(
            edge=edge,
            link=link,
            router=self._router,
            timers=common.clock,
            served=self._served,
            drafts=drafts,
            config=EdgeSessionConfig(),
            spans=common.spans,
        )

    async def start(self) -> None:
        """Listen for answers."""
        await self._router.start()

    def begin(self) -> None:
        """The measured time begins: what its sessions did before does not count."""
        for drafting in self._running:
            drafting.begin()

    async def ask(self) -> None:
        """Whether a session would have a place. Raises RetryableError if not."""
        await self._served.ask()

    async def generate(self, number: int) -> bool:
        """The session of that number, to its end; False if it failed or was refused. Cancelled at
        the end of the measured time: what it did until then counts."""
        common = self._common
        prompt = prompt_of(number, common.settings)
        watch = _Watch(common)
        generation = Generation(self._upstream, prompt, self._params(number), watch)
        drafting = MeasuredDrafting(generation.account, lambda: generation.drafting)
        self._running.add(drafting)
        try:
            ended = await generation.run()
        except SpecEdgeError as error:
            if common.log.is_measuring:
                common.log.note_failure(type(error).__name__)
            return False
        finally:
            self._running.remove(drafting)
            self._account(generation, drafting, watch)
        if ended.error is None:
            common.log.num_ended += common.log.is_measuring
            return True
        if common.log.is_measuring:
            common.log.note_failure(_name(ended.error))
        return False

    def _account(self, generation: Generation, drafting: MeasuredDrafting, watch: "_Watch") -> None:
        log, account = self._common.log, generation.account
        if not log.is_measuring:
            return
        log.drafting += drafting.counts
        log.reply_ms += drafting.reply_ms
        if watch.span.token_ms is not None:
            log.token_ms.append(watch.span.token_ms)
        assert log.begun_s is not None
        if account.started_s >= log.begun_s and account.time_to_first_token_s is not None:
            log.first_token_ms.append(account.time_to_first_token_s * 1e3)

    def _params(self, number: int) -> SessionParams:
        settings, identity = self._common.settings, self._common.text.identity()
        return SessionParams(
            model=MODEL,
            weights=identity.weights_fingerprint,
            tokenizer=identity.tokenizer_fingerprint,
            prompt=settings.prompt_tokens,
            max_tokens=settings.tokens,
            stop=identity.stop_ids,
        )

    def _drafts(self, edge: EdgeId) -> DraftSource:
        common, settings = self._common, self._common.settings
        drafter = None
        if settings.mode != "hosted":
            drafter = EmulatedDrafter(
                common.text,
                agreement=common.agreement,
                branch=settings.branch,
                profile=settings.drafter_profile,
                sleep=self.device.work,
            )
        return DraftSource(
            drafter=drafter,
            compute=self.device,
            policy=settings.policy,
            grant_tokens=settings.grant_tokens,
            clock=self.device,
            is_proactive=settings.proactive,
            is_sent_ahead=settings.proactive and settings.ahead,
            is_paced=settings.paced,
            pace=DevicePace() if settings.mode == "adaptive" else None,
            tally=common.tally,
            spans=common.spans,
            lane=f"{edge[:8]} device",
        )


class _Watch:
    """``Listener`` of one session."""

    def __init__(self, common: Common) -> None:
        self._common = common
        self.span = SessionSpan()

    async def on_admitted(self, opened: Opened) -> None:
        """See ``Listener``."""

    async def on_committed(self, committed: Committed) -> bool:
        """See ``Listener``."""
        log, now_s = self._common.log, self._common.clock.now_s()
        if not log.is_measuring:
            return True
        log.note_round(committed)
        if self.span.first_s is None:
            self.span.first_s = now_s
        else:
            self.span.num_tokens += len(committed.tokens)
        self.span.last_s = now_s
        return True


def prompt_of(number: int, settings: FleetSettings) -> IntArray:
    """(prompt_tokens,) int32: the same for the same number and seed, in any fleet."""
    drawn: Sequence[int] = [
        mix(mix(settings.seed << 40 | number) + place) % 30_000 + 16
        for place in range(settings.prompt_tokens)
    ]
    return np.array(drawn, dtype=np.int32)


def _name(error: Exception) -> str:
    return "refused" if isinstance(error, Busy) else type(error).__name__
