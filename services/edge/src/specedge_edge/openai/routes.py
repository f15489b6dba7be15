"""The routes of the OpenAI API, and the small ones beside it.

Checks a request, plans it, and hands it to an ``AnswerResponse``. Encoding runs on a thread of
its own. Until the tokenizer is loaded everything answers 503.
"""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, ParamSpec, TypeVar

from fastapi import APIRouter, Body
from starlette.responses import Response

from specedge import __version__
from specedge.errors import Busy, RetryableError
from specedge.service.compute import Compute
from specedge_edge.answering import AnswerDesk
from specedge_edge.openai.planning import (
    check_model,
    encode_chat,
    encode_prompts,
    plan_chat,
    plan_completion,
)
from specedge_edge.openai.rendering import (
    ChatRendering,
    CompletionRendering,
    Heading,
    Rendering,
)
from specedge_edge.openai.schemas import (
    ChatBody,
    CompletionBody,
    GenerationBody,
)
from specedge_edge.openai.serving import Order, StreamedAnswer, WholeAnswer
from specedge_edge.openai.tokenizing import (
    DetokenizeBody,
    TokenizeBody,
    detokenize_body,
    tokenize_body,
)
from specedge_edge.plan import ChoicePlan
from specedge_edge.served import ServedModel, spell_out
from specedge_edge.text import TextCodec

P = ParamSpec("P")
T = TypeVar("T")

OWNER: Final = "specedge"
ID_BYTES: Final = 16
LOADING_RETRY_MS: Final = 1000


@dataclass(frozen=True, slots=True)
class Backend:
    """What answers requests, once it is all there: since ``since_s``, a time of day."""

    desk: AnswerDesk
    codec: TextCodec
    served: ServedModel
    texts: Compute
    drafter: str
    edge: str
    since_s: float
    keep_alive_s: float

    async def on_texts(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``function`` on the thread of texts. Raises Busy, in words for a client."""
        try:
            return await self.texts.run(function, *args, **kwargs)
        except Busy as error:
            said = "this edge has too many requests at once"
            raise Busy(said, retry_ms=error.retry_ms) from error


class BackendSlot:
    """Holds the backend from when it is loaded."""

    def __init__(self) -> None:
        self._backend: Backend | None = None

    def put(self, backend: Backend) -> None:
        """It is loaded."""
        self._backend = backend

    def get(self) -> Backend:
        """Raises RetryableError while it is not there yet."""
        if self._backend is None:
            raise RetryableError(
                "this edge is still loading, or waits for its broker", retry_ms=LOADING_RETRY_MS
            )
        return self._backend


def openai_routes(slot: BackendSlot, wall_s: Callable[[], float]) -> APIRouter:
    """Everything below /v1, and /version, /tokenize, /detokenize. ``wall_s`` is the time of day."""
    router = APIRouter()

    @router.post("/v1/chat/completions", response_model=None)
    async def chat_completions(body: Annotated[ChatBody, Body()]) -> Response:
        backend = slot.get()
        check_model(body.model, backend.served.name)
        served = await backend.served.get()
        limit = served.max_context_tokens
        prompt = await backend.on_texts(encode_chat, body, backend.codec, limit)
        plans = plan_chat(body, prompt, served)
        heading = _heading("chatcmpl", backend, wall_s)
        return _answer(
            backend, body, plans, _render(ChatRendering, heading, backend, body, plans, 1)
        )

    @router.post("/v1/completions", response_model=None)
    async def completions(body: Annotated[CompletionBody, Body()]) -> Response:
        backend = slot.get()
        check_model(body.model, backend.served.name)
        served = await backend.served.get()
        limit = served.max_context_tokens
        prompts = await backend.on_texts(encode_prompts, body, backend.codec, limit)
        plans = plan_completion(body, prompts, served, backend.codec)
        heading = _heading("cmpl", backend, wall_s)
        rendering = _render(CompletionRendering, heading, backend, body, plans, len(prompts))
        return _answer(backend, body, plans, rendering)

    @router.head("/v1/models", include_in_schema=False)
    @router.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(slot.get())]}

    @router.head("/v1/models/{name:path}", include_in_schema=False)
    @router.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        backend = slot.get()
        check_model(name, backend.served.name)
        return _model(backend)

    @router.head("/v1/cluster", include_in_schema=False)
    @router.get("/v1/cluster")
    async def cluster() -> dict[str, Any]:
        return _cluster(slot.get())

    @router.head("/version", include_in_schema=False)
    @router.get("/version")
    async def version() -> dict[str, str]:
        return {"version": __version__}

    @router.post("/tokenize")
    async def tokenize(body: Annotated[TokenizeBody, Body()]) -> dict[str, Any]:
        backend = slot.get()
        check_model(body.model, backend.served.name)
        known = backend.served.last_known  # nobody in the cloud is needed for this
        limit = None if known is None else known.max_context_tokens
        tokens = await backend.on_texts(tokenize_body, body, backend.codec, limit)
        return {"count": len(tokens), "max_model_len": limit, "tokens": tokens}

    @router.post("/detokenize")
    async def detokenize(body: Annotated[DetokenizeBody, Body()]) -> dict[str, str]:
        backend = slot.get()
        check_model(body.model, backend.served.name)
        return {"prompt": await backend.on_texts(detokenize_body, body, backend.codec)}

    return router


def _answer(
    backend: Backend, body: GenerationBody, plans: Sequence[ChoicePlan], rendering: Rendering
) -> Response:
    order = Order(
        plans=plans,
        rendering=rendering,
        desk=backend.desk,
        wants_usage=body.wants_usage,
        wants_usage_in_every_chunk=body.wants_usage_in_every_chunk,
        keep_alive_s=backend.keep_alive_s,
    )
    return StreamedAnswer(order) if body.stream else WholeAnswer(order)


def _render(
    kind: type[Rendering],
    heading: Heading,
    backend: Backend,
    body: GenerationBody,
    plans: Sequence[ChoicePlan],
    num_prompts: int,
) -> Rendering:
    return kind(
        heading,
        plans,
        backend.codec,
        num_prompts=num_prompts,
        with_token_ids=bool(body.return_token_ids),
    )


def _heading(prefix: str, backend: Backend, wall_s: Callable[[], float]) -> Heading:
    return Heading(
        id=f"{prefix}-{secrets.token_hex(ID_BYTES)}",
        created=int(wall_s()),
        model=backend.served.name,
        drafter=backend.drafter,
    )


def _model(backend: Backend) -> dict[str, Any]:
    known = backend.served.last_known
    return {
        "id": backend.served.name,
        "object": "model",
        "created": int(backend.since_s),
        "owned_by": OWNER,
        "max_model_len": known.max_context_tokens if known is not None else None,
        "draft_model": backend.drafter,
    }


def _cluster(backend: Backend) -> dict[str, Any]:
    served, known = backend.served, backend.served.last_known
    round_trip_s = served.round_trip_s
    return {
        "edge": backend.edge,
        "model": served.name,
        "drafter": backend.drafter,
        "verifier": known.verifier if known is not None else None,
        "identity": known.identity.model_dump() if known is not None else None,
        "limits": known.limits.model_dump() if known is not None else None,
        "round_trip_ms": None if round_trip_s is None else round(round_trip_s * 1000, 3),
        "running": backend.desk.num_running,
        "problem": None if served.problem is None else spell_out(served.problem),
    }
