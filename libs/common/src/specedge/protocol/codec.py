"""Between bytes and message bodies, for every body there is.

Bodies are JSON without defaults, the version always in front: small on the wire, and a body of
another version is refused as such before anything else about it is judged. Whatever arrives, the
only error out of here is ``InvalidRequest``, which names the field in the message's own words and
repeats nothing of unbounded size. Knows nothing of states, and of subjects only the session key.
"""

from typing import Final, TypeVar

import numpy as np
import orjson
from pydantic import ValidationError

from specedge.errors import InvalidRequest
from specedge.ids import SessionKey
from specedge.protocol.body import PROTOCOL_VERSION, Body
from specedge.protocol.messages import (
    MAX_CHUNK_TOKENS,
    MAX_NODES,
    BatchItem,
    Cold,
    ContextHeader,
    DownMessage,
    Draft,
    Progress,
    Rejected,
    Verdict,
)
from specedge.protocol.opening import Opened, Refused
from specedge.tree.token_tree import IntArray

MAX_BODY_BYTES: Final = 1 << 20  # the broker's own bound is lower; this one is ours
MAX_HEADER_BYTES: Final = 1 << 16
MAX_ERROR_CHARS: Final = 300
_ITEM_FIELDS: Final = set(BatchItem.model_fields)  # shared by all items: nobody changes one
_ITEM_DTYPE: Final = np.dtype("<u4")
_VERSION_ONLY: Final = orjson.dumps({"v": PROTOCOL_VERSION})
_VERSION_FIRST: Final = _VERSION_ONLY[:-1] + b","

BodyType = TypeVar("BodyType", bound=Body)


class VersionRefused(InvalidRequest):
    """The body says no version, or one that is not spoken here."""


def encode(body: Body) -> bytes:
    """The body's bytes: ``v`` first, fields equal to their default left out."""
    if isinstance(body, Cold):  # a default, but it is what tells the message's kind
        fields = body.model_dump(by_alias=True, exclude_defaults=True)
        return orjson.dumps({"v": PROTOCOL_VERSION, **fields, "cold": True})
    # Straight to bytes: a dictionary on the way would cost as much again.
    said: bytes = body.__pydantic_serializer__.to_json(body, by_alias=True, exclude_defaults=True)
    return _VERSION_FIRST + said[1:] if len(said) > len(b"{}") else _VERSION_ONLY


def decode(kind: type[BodyType], payload: bytes) -> BodyType:
    """Read one body of a known kind. Raises InvalidRequest, or VersionRefused of that family."""
    if len(payload) > MAX_BODY_BYTES:
        raise InvalidRequest(f"body is over {MAX_BODY_BYTES} bytes", field="body")
    try:
        body: BodyType = kind.__pydantic_validator__.validate_json(payload)
    except ValidationError as error:
        _parse(payload)
        raise _invalid(error) from None
    if "v" not in body.__pydantic_fields_set__:
        raise _version_refused(None)
    return body


def decode_down(payload: bytes) -> DownMessage:
    """Read a message of a session's down subject: its distinguishing field tells which."""
    fields = _parse(payload)
    if "rejected" in fields:
        return decode(Rejected, payload)
    if "cold" in fields:
        return decode(Cold, payload)
    if "progress" in fields:
        return decode(Progress, payload)
    return decode(Verdict, payload)


def decode_open_reply(payload: bytes) -> Opened | Refused:
    """Read the scheduler's answer to an open request."""
    if "refused" in _parse(payload):
        return decode(Refused, payload)
    return decode(Opened, payload)


# ---------------------------------------------------------------- context chunks


def encode_context(header: ContextHeader, ids: IntArray) -> bytes:
    """A chunk: the header's JSON, a newline, and ``ids`` ((k,) int32) as little-endian uint32."""
    return encode(header) + b"\n" + ids.astype(_ITEM_DTYPE).tobytes()


def decode_context(payload: bytes, vocab_size: int | None = None) -> tuple[ContextHeader, IntArray]:
    """Read a chunk: its header, and its ids as (k,) int32 with 1 <= k <= MAX_CHUNK_TOKENS.

    Each id is below ``vocab_size`` (the logical vocabulary); None checks only that it fits int32,
    which is all that whoever forwards the chunk can know.
    """
    header, raw = _split_chunk(payload)
    ids = np.frombuffer(raw, dtype=_ITEM_DTYPE)
    bound = vocab_size if vocab_size is not None else 1 << 31
    outside = np.flatnonzero(ids >= bound)
    if len(outside):
        where = int(outside[0])
        message = f"id {int(ids[where])} is outside the vocabulary of {bound}"
        raise InvalidRequest(message, field=f"ids[{where}]")
    return header, ids.astype(np.int32)


def decode_context_header(payload: bytes) -> ContextHeader:
    """Read a chunk's header and check its length, without looking at the ids."""
    return _split_chunk(payload)[0]


def _split_chunk(payload: bytes) -> tuple[ContextHeader, memoryview]:
    end = payload.find(b"\n", 0, MAX_HEADER_BYTES)
    if end < 0:
        raise InvalidRequest("a context chunk starts with a header line", field="body")
    header = decode(ContextHeader, payload[:end])
    raw = memoryview(payload)[end + 1 :]
    num_ids, rest = divmod(len(raw), _ITEM_DTYPE.itemsize)
    if rest or not 1 <= num_ids <= MAX_CHUNK_TOKENS:
        message = f"a chunk holds 1 to {MAX_CHUNK_TOKENS} ids of 4 bytes, not {len(raw)} bytes"
        raise InvalidRequest(message, field="ids")
    if header.off + num_ids > header.total:
        message = f"off + {num_ids} ids is past the total of {header.total}"
        raise InvalidRequest(message, field="off")
    return header, raw


# ---------------------------------------------------------------- batches


def batch_item(
    draft: Draft,
    key: SessionKey,
    *,
    budget_ms: int,
    held_ms: float,
    next_ms: float = 0.0,
    max_nodes: int = MAX_NODES,
) -> BatchItem:
    """A validated draft as the scheduler passes it on: what is left of its budget, when the next
    one is wanted, and no more than its first ``max_nodes`` nodes."""
    fields = draft.__dict__.copy()
    fields["budget_ms"] = budget_ms
    fields["e"], fields["s"] = key
    fields["held_ms"] = round(held_ms, 3)
    fields["next_ms"] = round(next_ms, 1) if next_ms else 0.0
    if len(draft.token) > max_nodes:
        fields["token"], fields["parent"] = draft.token[:max_nodes], draft.parent[:max_nodes]
    return _assembled(fields)


def _assembled(fields: dict[str, object]) -> BatchItem:
    """An item of exactly these fields, all of them, already valid. ``model_construct`` would look
    for what is missing, which costs four times as much, for every round there is."""
    item = BatchItem.__new__(BatchItem)
    put = object.__setattr__
    put(item, "__dict__", fields)
    put(item, "__pydantic_fields_set__", _ITEM_FIELDS)
    put(item, "__pydantic_extra__", None)
    put(item, "__pydantic_private__", None)
    return item


# ---------------------------------------------------------------- errors


def _parse(payload: bytes) -> dict[str, object]:
    """The body's fields, once its version is known to be ours."""
    if len(payload) > MAX_BODY_BYTES:
        raise InvalidRequest(f"body is over {MAX_BODY_BYTES} bytes", field="body")
    try:
        fields = orjson.loads(payload)
    except orjson.JSONDecodeError:
        raise InvalidRequest("body is not JSON", field="body") from None
    if not isinstance(fields, dict):
        raise InvalidRequest("body is not a JSON object", field="body")
    version = fields.get("v")
    if type(version) is not int or version != PROTOCOL_VERSION:
        raise _version_refused(version)
    return fields


def _version_refused(version: object) -> VersionRefused:
    said = f"version {version}" if type(version) is int else "no version"
    message = f"body says {said[:40]}; version {PROTOCOL_VERSION} is spoken here"
    return VersionRefused(message, field="v", code="version")


def _invalid(error: ValidationError) -> InvalidRequest:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    field = _spell(first["loc"]) or "body"
    said = first["msg"].removeprefix("Value error, ")
    return InvalidRequest(f"{field}: {said}"[:MAX_ERROR_CHARS], field=field)


def _spell(location: tuple[int | str, ...]) -> str:
    spelled = ""
    for part in location:
        if isinstance(part, int):
            spelled += f"[{part}]"
        else:
            spelled += f".{part}" if spelled else part
    return spelled[:100]
