"""A whole edge on a real port, before a scripted cloud, with a tiny tokenizer made on the spot."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from specedge.credentials.nkey import UserKey
from specedge.engine.fingerprints import logical_vocab_size, tokenizer_fingerprint
from specedge.ids import EdgeId
from specedge.link.base import Link
from specedge.link.memory import MemoryHub
from specedge.protocol.messages import SessionParams
from specedge.protocol.opening import Identity
from specedge.protocol.subjects import edge_inbox
from specedge.service.runtime import LoopClock, service_context
from specedge_edge.app import Edge
from specedge_edge.config import EdgeSettings
from tests.scripted_cloud import ScriptedCloud

MODEL: Final = "tiny"
END: Final = "<end>"
CHAT_TEMPLATE: Final = (
    "{% for message in messages %}{% if message.role == 'tool' %}"
    "{{ raise_exception('tools are unknown here') }}{% endif %}"
    "[{{ message.role }}]{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
CORPUS: Final = (
    "the quick brown fox jumps over the lazy dog",
    "to be or not to be, that is the question",
    "she sells sea shells by the sea shore",
)


def make_tokenizer(folder: Path, *, extra: Sequence[str] = ()) -> Any:
    """A byte-level BPE tokenizer of a few hundred tokens, saved to ``folder``."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=[END, *extra],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END)
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    return fast


class Reciter:
    """A target that writes ``text`` after any prompt, and then ends it."""

    def __init__(self, tokenizer: Any, text: str) -> None:
        self.end_id = tokenizer.convert_tokens_to_ids(END)
        self.ids: list[int] = tokenizer.encode(text)

    def __call__(self, tokens: Sequence[int], params: SessionParams) -> int:
        index = len(tokens) - params.prompt
        return self.ids[index] if index < len(self.ids) else self.end_id


@dataclass
class EdgeWorld:
    """What a test holds of it."""

    edge: Edge
    cloud: ScriptedCloud
    hub: MemoryHub
    tokenizer: Any
    client: httpx.AsyncClient

    def recite(self, text: str) -> None:
        """From now on the target writes this."""
        self.cloud.script = Reciter(self.tokenizer, text)

    @property
    def fingerprint(self) -> str:
        """Of the edge's tokenizer."""
        return tokenizer_fingerprint(self.tokenizer)

    async def complete(self, **fields: Any) -> httpx.Response:
        body = {"model": MODEL, "prompt": "the fox", "max_tokens": 100, **fields}
        return await self.client.post("/v1/completions", json=body)

    async def chat(self, **fields: Any) -> httpx.Response:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], **fields}
        return await self.client.post("/v1/chat/completions", json=body)


@asynccontextmanager
async def edge_world(
    folder: Path, *, cloud_tokenizer_extra: Sequence[str] = (), **settings: Any
) -> AsyncIterator[EdgeWorld]:
    """An edge that has loaded, and its cloud. ``settings`` are the edge's;
    ``cloud_tokenizer_extra`` are tokens that only the cloud knows."""
    tokenizer = make_tokenizer(folder / MODEL)
    theirs = tokenizer
    if cloud_tokenizer_extra:
        theirs = make_tokenizer(folder / "theirs", extra=cloud_tokenizer_extra)
    async with service_context() as context:
        hub = MemoryHub(LoopClock())
        cloud = ScriptedCloud(
            hub.link("cloud"), identity_of(theirs), Reciter(tokenizer, "hello there")
        )
        context.tasks.start(cloud.run(), name="cloud")
        await cloud.is_up.wait()
        values = {"http_port": 0, "model": str(folder / MODEL), "cache_dir": folder, **settings}
        async with Edge(context, EdgeSettings(**values)) as edge:
            await edge.serve()
            await edge.load(connect_to(hub))
            async with httpx.AsyncClient(base_url=edge.url, trust_env=False, timeout=60) as client:
                yield EdgeWorld(edge, cloud, hub, tokenizer, client)


def connect_to(hub: MemoryHub) -> Any:
    """A way for an edge to connect."""

    async def connect(key: UserKey) -> Link:
        return hub.link(key.public_key, inbox_prefix=edge_inbox(EdgeId(key.public_key)))

    return connect


def identity_of(tokenizer: Any) -> Identity:
    """What a verifier with this tokenizer says of itself."""
    return Identity(
        model=MODEL,
        weights="abcdef0123456789",
        tokenizer=tokenizer_fingerprint(tokenizer),
        vocab_size=logical_vocab_size(tokenizer),
        stop=(tokenizer.convert_tokens_to_ids(END),),
        max_context=4096,
    )
