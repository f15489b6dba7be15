"""One generation before a scripted cloud: when it drafts."""

from typing import Any

import numpy as np

from specedge.credentials.nkey import UserKey
from specedge.ids import EdgeId
from specedge.link.memory import MemoryHub
from specedge.protocol.effects import Committed, Drafted
from specedge.protocol.messages import SessionParams
from specedge.protocol.opening import Identity, Limits, Opened
from specedge.protocol.refusals import ANY_WEIGHTS
from specedge.protocol.round_timer import EdgeSessionConfig
from specedge.protocol.subjects import edge_inbox
from specedge.service.runtime import LoopClock, service_context
from specedge.tree.token_tree import TokenTree
from specedge_edge.generation import Generation, Upstream
from specedge_edge.proposer import HostedProposer
from specedge_edge.router import SessionRouter
from specedge_edge.served import ServedModel
from tests.scripted_cloud import ScriptedCloud

IDENTITY = Identity(
    model="m", weights="ab" * 8, tokenizer="cd" * 8, vocab_size=500, max_context=1000
)
PROMPT = [7, 8, 9]
GRANT = 8


class FirstHosted(HostedProposer):
    """A grant, and from then on drafts without nodes. ``roots`` are those that it began on."""

    def __init__(self) -> None:
        super().__init__(GRANT)
        self.roots: list[int] = []

    def begin(self, root: int, limits: Limits) -> None:
        self.roots.append(root)
        super().begin(root, limits)

    async def drafted(self) -> Drafted:
        if len(self.roots) == 1:
            return await super().drafted()
        return Drafted(TokenTree.root_only(self.roots[-1]))


class Source:
    """A ``DraftSource`` of one proposer."""

    name, depth = "first-hosted", 0

    def __init__(self) -> None:
        self.proposer = FirstHosted()

    def open(self, *_: object) -> FirstHosted:
        return self.proposer


class Reader:
    """Takes every token at once."""

    def __init__(self) -> None:
        self.tokens: list[int] = []

    async def on_admitted(self, opened: Opened) -> None:
        pass

    async def on_committed(self, committed: Committed) -> bool:
        self.tokens += committed.tokens
        return True


async def test_no_draft_is_begun_on_less_than_the_cloud_has_said_already() -> None:
    source: Any = Source()
    reader, key = Reader(), UserKey.create().public_key
    edge = EdgeId(key)
    async with service_context() as context:
        hub = MemoryHub(LoopClock())
        # It says all of a grant at once, and each token is its place in the text.
        cloud = ScriptedCloud(hub.link("cloud"), IDENTITY, lambda tokens, _: len(tokens))
        context.tasks.start(cloud.run(), name="cloud")
        await cloud.is_up.wait()
        link = hub.link("edge", inbox_prefix=edge_inbox(edge))
        router = SessionRouter(link, edge)
        await router.start()
        served = ServedModel(link, edge, model="m", tokenizer=IDENTITY.tokenizer, drafter="")
        upstream = Upstream(edge, link, router, LoopClock(), served, source, EdgeSessionConfig())
        params = SessionParams(
            model="m",
            weights=ANY_WEIGHTS,
            tokenizer=IDENTITY.tokenizer,
            prompt=len(PROMPT),
            max_tokens=GRANT + 3,
        )

        await Generation(upstream, np.array(PROMPT, np.int32), params, reader).run()

    end = len(PROMPT) + GRANT
    assert reader.tokens == list(range(len(PROMPT), end + 3))
    assert source.proposer.roots == [PROMPT[-1], end - 1, end, end + 1]
