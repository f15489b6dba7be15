"""The verifier of a virtual pair: one session, one slot, steps one after the other."""

import numpy as np

from benchmarks.traces import VOCAB_SIZE
from benchmarks.virtual_world import IDENTITY, KEY, LIMITS, World
from specedge.clock import Cancellable
from specedge.protocol import codec
from specedge.protocol.effects import SetTimer, TimerDue
from specedge.protocol.messages import Draft
from specedge.protocol.subjects import Up
from specedge.protocol.verifier_effects import (
    ContextArrived,
    KeepRows,
    Reply,
    SlotGiven,
    StepBegun,
    Stepped,
    VerifierEvent,
    WantSlot,
    WantStep,
    WorkArrived,
)
from specedge.protocol.verifier_session import VerifierSession


class VirtualVerifier:
    """See the module. ``on_bytes`` is what arrives."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._machine = VerifierSession(KEY, LIMITS, IDENTITY, "v")
        self._wanted: WantStep | None = None
        self._is_stepping = False
        self._arrived_s = 0.0
        self._timer: Cancellable | None = None

    def on_bytes(self, kind: Up, payload: bytes) -> None:
        """A chunk of context, or a draft."""
        if kind is Up.CONTEXT:
            self._feed(ContextArrived(*codec.decode_context(payload, VOCAB_SIZE)))
        elif kind is Up.DRAFT:
            draft = codec.decode(Draft, payload)
            item = codec.batch_item(draft, KEY, budget_ms=draft.budget_ms, held_ms=0.0)
            self._arrived_s = self._world.clock.now_s()
            self._feed(WorkArrived(item, self._world.clock.now_s() + item.budget_ms / 1e3))

    def _feed(self, event: VerifierEvent) -> None:
        for effect in self._machine.on(event, self._world.clock.now_s()):
            match effect:
                case WantSlot():
                    self._world.later(0.0, lambda: self._feed(SlotGiven()))
                case WantStep():
                    self._wanted = effect
                    self._world.later(0.0, self._step)
                case Reply(message):
                    self._world.send_down(codec.encode(message))
                case SetTimer(at_s):
                    self._set_timer(at_s)
                case KeepRows():
                    pass
                case _:
                    self._wanted = None

    def _set_timer(self, at_s: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if at_s is not None:
            self._timer = self._world.clock.call_at(at_s, lambda: self._feed(TimerDue()))

    def _step(self) -> None:
        if self._is_stepping or self._wanted is None:
            return
        wanted, self._wanted, self._is_stepping = self._wanted, None, True
        self._feed(StepBegun(len(wanted.chain)))
        rows = 1 if wanted.tree is None else len(wanted.chain) + wanted.tree.num_drafted
        took_s = self._world.step_s(rows)
        base = wanted.start + len(wanted.chain)
        queue_s = 0.0 if wanted.is_hosted else self._world.clock.now_s() - self._arrived_s
        stepped = Stepped(None)
        if wanted.tree is not None:
            # Off the text's path a choice does not matter: nothing there is accepted.
            choice = self._world.text.tokens(base + wanted.tree.depth.astype(np.int64))
            stepped = Stepped(choice, None, 1e3 * queue_s, 1e3 * took_s, rows)
        self._world.later(took_s, lambda: self._finish(stepped))

    def _finish(self, stepped: Stepped) -> None:
        self._is_stepping = False
        self._feed(stepped)
        self._step()
