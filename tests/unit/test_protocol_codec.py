"""Bytes and bodies: golden bytes, sizes, and what is refused with which field."""

import json

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from specedge.errors import InvalidRequest
from specedge.ids import EdgeId, SessionId, SessionKey
from specedge.protocol import codec, messages, opening
from specedge.protocol.body import Body
from specedge.protocol.codec import VersionRefused, decode, encode
from specedge.protocol.messages import (
    MAX_CHUNK_TOKENS,
    Batch,
    BatchItem,
    Cold,
    ContextHeader,
    Control,
    Draft,
    Ending,
    Progress,
    Rejected,
    SessionParams,
    Timing,
    TokenLogprobs,
    Verdict,
)
from specedge.protocol.opening import Identity, Limits, Opened, OpenRequest, Reason, Refused
from specedge.protocol.reports import SchedulerStat, SessionReport, Stat, StepReport

HASH = "00ff00ff00ff00ff"
KEY = SessionKey(EdgeId("U" + "A" * 55), SessionId("0" * 31 + "1"))
PARAMS = SessionParams(
    model="m", weights="ab", tokenizer="cd", prompt=3, max_tokens=9, stop=(2,), seed=7
)
IDENTITY = Identity(model="m", weights="ab", tokenizer="cd", vocab_size=100, max_context=64)
LIMITS = Limits(nodes=32, append=16, context=64, grant=8)
DRAFT = Draft(
    round=4, try_=1, at="v1", base=5, hash=HASH, token=(8, 9), parent=(-1, 0), budget_ms=600
)
ITEM = codec.batch_item(DRAFT, KEY, budget_ms=550, held_ms=1.23456)

GOLDEN: list[tuple[Body, bytes]] = [
    (
        OpenRequest(model="m", tokenizer="cd", context=12),
        b'{"v":1,"model":"m","tokenizer":"cd","context":12}',
    ),
    (
        Opened(at="v1", group="main", limits=LIMITS, identity=IDENTITY),
        b'{"v":1,"at":"v1","group":"main",'
        b'"limits":{"nodes":32,"append":16,"context":64,"grant":8},'
        b'"identity":{"model":"m","weights":"ab","tokenizer":"cd","vocab_size":100,'
        b'"max_context":64}}',
    ),
    (
        Refused(refused=Reason.BUSY, message="full", retry_ms=500),
        b'{"v":1,"refused":"busy","message":"full","retry_ms":500}',
    ),
    (
        ContextHeader(round=0, off=0, total=3, hash=HASH, params=PARAMS),
        b'{"v":1,"round":0,"off":0,"total":3,"hash":"00ff00ff00ff00ff",'
        b'"params":{"model":"m","weights":"ab","tokenizer":"cd","prompt":3,"max_tokens":9,'
        b'"stop":[2],"seed":7}}',
    ),
    (
        DRAFT,
        b'{"v":1,"round":4,"try":1,"at":"v1","base":5,"hash":"00ff00ff00ff00ff",'
        b'"token":[8,9],"parent":[-1,0],"budget_ms":600}',
    ),
    (
        Draft(round=4, base=5, hash=HASH, run=8, budget_ms=600),
        b'{"v":1,"round":4,"base":5,"hash":"00ff00ff00ff00ff","run":8,"budget_ms":600}',
    ),
    (
        Batch(epoch=(12, 3), seq=2, items=(ITEM,)),
        b'{"v":1,"epoch":[12,3],"seq":2,"items":[{"round":4,"try":1,"at":"v1","base":5,'
        b'"hash":"00ff00ff00ff00ff","token":[8,9],"parent":[-1,0],"budget_ms":550,'
        b'"e":"U' + b"A" * 55 + b'","s":"' + b"0" * 31 + b'1","held_ms":1.235}]}',
    ),
    (
        Verdict(
            round=4, try_=1, at="v1", path=(8,), bonus=3, kept=2, base=7, hash=HASH, final="stop",
            lp=(TokenLogprobs(lp=-0.5, top=((8, -0.5),)), TokenLogprobs(lp=-1.0)),
            timing=Timing(held=1.5, queue=0.25, step=20.0, rows=33),
        ),
        b'{"v":1,"round":4,"try":1,"at":"v1","path":[8],"bonus":3,"kept":2,"base":7,'
        b'"hash":"00ff00ff00ff00ff","final":"stop",'
        b'"lp":[{"lp":-0.5,"top":[[8,-0.5]]},{"lp":-1.0}],'
        b'"timing":{"held":1.5,"queue":0.25,"step":20.0,"rows":33}}',
    ),
    (
        Progress(round=4, at="v1", progress=(512, 4096)),
        b'{"v":1,"round":4,"at":"v1","progress":[512,4096]}',
    ),
    (Cold(round=4, try_=2, at="v1"), b'{"v":1,"round":4,"try":2,"at":"v1","cold":true}'),
    (
        Rejected(round=4, at="v1", rejected=Reason.INVALID, message="no", field="token[1]"),
        b'{"v":1,"round":4,"at":"v1","rejected":"invalid","message":"no","field":"token[1]"}',
    ),
    (Control(control="slow_down", retry_ms=9), b'{"v":1,"control":"slow_down","retry_ms":9}'),
    (Ending(round=4), b'{"v":1,"round":4}'),
    (
        Stat(
            inc="a1", seq=3, identity=IDENTITY, limits=LIMITS, slots=(1, 8),
            sessions=(SessionReport(e=KEY.edge, s=KEY.session, round=4, state="ready"),),
            steps=(StepReport(seq=1, rows=33, prefill=0, context=5, sessions=1, ms=20.0),),
        ),
        b'{"v":1,"inc":"a1","seq":3,'
        b'"identity":{"model":"m","weights":"ab","tokenizer":"cd","vocab_size":100,'
        b'"max_context":64},"limits":{"nodes":32,"append":16,"context":64,"grant":8},'
        b'"slots":[1,8],"sessions":[{"e":"U' + b"A" * 55 + b'","s":"' + b"0" * 31 + b'1",'
        b'"round":4,"state":"ready"}],'
        b'"steps":[{"seq":1,"rows":33,"prefill":0,"context":5,"sessions":1,"ms":20.0}]}',
    ),
    (
        SchedulerStat(
            inc="a1", seq=3, epoch=(12, 3), sessions=1, waiting=0, verifiers=1, batches_sent=2,
            refused=0,
        ),
        b'{"v":1,"inc":"a1","seq":3,"epoch":[12,3],"sessions":1,"waiting":0,"verifiers":1,'
        b'"batches_sent":2,"refused":0}',
    ),
]  # fmt: skip


@pytest.mark.parametrize(("body", "golden"), GOLDEN, ids=lambda value: type(value).__name__)
def test_each_body_has_its_golden_bytes_and_comes_back_from_them(body: Body, golden: bytes) -> None:
    assert encode(body) == golden
    assert decode(type(body), golden) == body


@pytest.mark.parametrize(("body", "golden"), GOLDEN, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("version", [None, 0, 2, True, 1.0, "1", [1], 10**30])
def test_a_body_without_this_version_is_refused_as_version(
    body: Body, golden: bytes, version: object
) -> None:
    fields = orjson.loads(golden)
    del fields["v"]
    said = orjson.dumps(fields)
    if version is not None:
        rendered = str(version) if isinstance(version, int) else orjson.dumps(version).decode()
        said = b'{"v":' + rendered.lower().encode() + b"," + said[1:]

    with pytest.raises(VersionRefused) as refused:
        decode(type(body), said)

    assert refused.value.field == "v"
    assert len(str(refused.value)) < 200


def test_another_version_is_refused_as_such_even_where_its_fields_are_unknown() -> None:
    with pytest.raises(VersionRefused):
        decode(Draft, b'{"v":2,"who":"knows"}')
    with pytest.raises(VersionRefused):
        codec.decode_down(b'{"v":2,"who":"knows"}')
    with pytest.raises(VersionRefused):
        codec.decode_open_reply(b'{"who":"knows"}')


def test_unknown_fields_are_ignored_so_that_one_can_be_added() -> None:
    assert decode(Ending, b'{"v":1,"round":4,"new":{"x":[1]}}') == Ending(round=4)


@pytest.mark.parametrize(
    "body", [b for b, _ in GOLDEN if isinstance(b, Verdict | Progress | Cold | Rejected)]
)
def test_a_down_message_is_told_by_its_own_field(body: Body) -> None:
    assert codec.decode_down(encode(body)) == body


def test_a_verdict_may_speak_of_tokens_that_the_model_rules_out() -> None:
    least = float("-inf")
    told = TokenLogprobs(lp=least, top=((8, -0.5), (9, least)))
    verdict = Verdict(round=0, bonus=9, base=1, hash=HASH, lp=(told,))

    said = encode(verdict)

    assert b'{"lp":null,"top":[[8,-0.5],[9,null]]}' in said
    assert codec.decode_down(said) == verdict


@pytest.mark.parametrize("step_ms", ["1e9", "2e9", "1.7e308", "1e999", "NaN", "-1"])
def test_no_time_is_so_long_that_what_is_reckoned_with_it_is_no_number(step_ms: str) -> None:
    said = encode(Verdict(round=0, bonus=9, base=1, hash=HASH, timing=Timing(step=7.0)))
    told = said.replace(b"7.0", step_ms.encode())

    if step_ms == "1e9":
        assert codec.decode_down(told).timing.step == 1e9
        return
    with pytest.raises(InvalidRequest):
        codec.decode_down(told)


@pytest.mark.parametrize("body", [b for b, _ in GOLDEN if isinstance(b, Opened | Refused)])
def test_an_open_reply_is_told_by_its_own_field(body: Body) -> None:
    assert codec.decode_open_reply(encode(body)) == body


def fields_of(draft: Draft, **changed: object) -> bytes:
    fields = {**orjson.loads(encode(draft)), **changed}
    return orjson.dumps({name: value for name, value in fields.items() if value is not ...})


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        (b"", "body"),
        (b"{", "body"),
        (b"[1]", "body"),
        (b"\xff\xfe", "body"),
        (b"[" * 100_000, "body"),
        (b"x" * (codec.MAX_BODY_BYTES + 1), "body"),
        (fields_of(DRAFT, round=-1), "round"),
        (fields_of(DRAFT, round=2**31), "round"),
        (fields_of(DRAFT, round="4"), "round"),
        (fields_of(DRAFT, round=...), "round"),
        (fields_of(DRAFT, **{"try": -1}), "try"),
        (fields_of(DRAFT, hash="00FF00FF00FF00FF"), "hash"),
        (fields_of(DRAFT, base=0), "base"),
        (fields_of(DRAFT, at="V 1"), "at"),
        (fields_of(DRAFT, token=[8, -9]), "token[1]"),
        (fields_of(DRAFT, token=[8, 2**31]), "token[1]"),
        (fields_of(DRAFT, token=[8, True]), "token[1]"),
        (fields_of(DRAFT, parent=[0, -1]), "parent"),
        (fields_of(DRAFT, parent=[1, 0]), "parent"),
        (fields_of(DRAFT, parent=[-2, 0]), "parent"),
        (fields_of(DRAFT, parent=[-1]), "parent"),
        (fields_of(DRAFT, parent=...), "parent"),
        (fields_of(DRAFT, token=[1] * 1025, parent=[-1] * 1025), "token"),
        (fields_of(DRAFT, budget_ms=1.5), "budget_ms"),
    ],
)
def test_a_bad_draft_is_refused_with_the_field_in_the_message_own_words(
    payload: bytes, field: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        decode(Draft, payload)

    assert refused.value.field == field
    assert len(str(refused.value)) <= codec.MAX_ERROR_CHARS


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature", 2.5), ("temperature", -0.1), ("top_p", 0.0), ("min_p", 1.5), ("seed", 2**64),
     ("repetition_penalty", 0.0), ("logprobs", 21), ("max_tokens", 0), ("prompt", 0)],
)  # fmt: skip
def test_sampling_parameters_out_of_range_are_refused_by_name(field: str, value: float) -> None:
    header = orjson.loads(encode(GOLDEN[3][0]))
    header["params"][field] = value

    with pytest.raises(InvalidRequest) as refused:
        decode(ContextHeader, json.dumps(header).encode())

    assert refused.value.field == f"params.{field}"


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_invalid_request(payload: bytes) -> None:
    for read in (
        codec.decode_down,
        codec.decode_open_reply,
        codec.decode_context,
        codec.decode_context_header,
        lambda said: decode(Draft, said),
        lambda said: decode(Stat, said),
    ):
        with pytest.raises(InvalidRequest):
            read(payload)


def test_a_body_over_our_own_bound_is_not_even_parsed() -> None:
    for read in (codec.decode_down, codec.decode_open_reply, lambda said: decode(Draft, said)):
        with pytest.raises(InvalidRequest, match="bytes"):
            read(b"x" * (codec.MAX_BODY_BYTES + 1))


def test_session_params_part_into_how_to_sample_and_when_to_stop() -> None:
    params = PARAMS.model_copy(update={"temperature": 0.8, "top_k": 5, "logit_bias": ((1, 2.0),)})

    sampling, stop = params.sampling(), params.stop_rule()

    assert (sampling.temperature, sampling.top_k, sampling.seed) == (0.8, 5, 7)
    assert sampling.logit_bias == ((1, 2.0),)
    assert (stop.stop_ids, stop.max_tokens) == (frozenset({2}), 9)


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("vocab_size", "at"), [(49_152, "verifier-1"), (151_936, "verifier-0123456")]
)
def test_a_round_of_32_nodes_stays_small_both_ways(vocab_size: int, at: str) -> None:
    token = tuple(vocab_size - 1 - node for node in range(32))
    parent = (-1, *range(31))
    draft = Draft(
        round=99_999, try_=3, at=at, base=32_000, hash=HASH, token=token, parent=parent,
        budget_ms=20_000,
    )  # fmt: skip
    timing = Timing(held=123.45, queue=123.45, step=123.45, rows=2_048)
    verdict = Verdict(
        round=99_999, try_=3, at=at, path=token[:8], bonus=token[8], kept=32, base=32_009,
        hash=HASH, timing=timing,
    )  # fmt: skip

    assert len(encode(draft)) <= 512
    assert len(encode(verdict)) <= 256


# ---------------------------------------------------------------- context chunks


def chunk(num_ids: int = 3, **changed: object) -> tuple[ContextHeader, np.ndarray]:
    header = ContextHeader(round=0, off=0, total=MAX_CHUNK_TOKENS, hash=HASH, params=PARAMS)
    return header.model_copy(update=changed), np.arange(num_ids, dtype=np.int32)


def test_a_chunk_is_a_header_line_and_little_endian_ids() -> None:
    payload = codec.encode_context(*chunk(2))

    assert payload.endswith(b"}\n\x00\x00\x00\x00\x01\x00\x00\x00")


@pytest.mark.parametrize("num_ids", [1, 3, MAX_CHUNK_TOKENS])
def test_a_chunk_comes_back_as_header_and_int32_ids(num_ids: int) -> None:
    header, ids = chunk(num_ids)

    read, read_ids = codec.decode_context(codec.encode_context(header, ids), MAX_CHUNK_TOKENS)

    assert read == header == codec.decode_context_header(codec.encode_context(header, ids))
    assert read_ids.dtype == np.int32
    assert read_ids.tolist() == ids.tolist()


def test_an_id_outside_the_vocabulary_is_named_by_its_place() -> None:
    payload = codec.encode_context(*chunk(3))

    with pytest.raises(InvalidRequest) as refused:
        codec.decode_context(payload, vocab_size=2)

    assert refused.value.field == "ids[2]"


def test_an_id_that_does_not_fit_int32_is_refused_by_whoever_forwards_it_too() -> None:
    payload = codec.encode_context(*chunk(1))[:-4] + b"\xff\xff\xff\xff"

    with pytest.raises(InvalidRequest) as refused:
        codec.decode_context(payload)

    assert refused.value.field == "ids[0]"


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        (codec.encode_context(*chunk(3))[:-1], "ids"),
        (codec.encode_context(*chunk(0)), "ids"),
        (codec.encode_context(*chunk(MAX_CHUNK_TOKENS + 1)), "ids"),
        (codec.encode_context(*chunk(3, off=MAX_CHUNK_TOKENS - 2)), "off"),
        (codec.encode_context(*chunk(3)).replace(b"\n", b" ", 1), "body"),
        (codec.encode_context(*chunk(3)).replace(b'"total":8192', b'"total":0'), "total"),
    ],
)
def test_a_chunk_of_wrong_length_or_shape_is_refused(payload: bytes, field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        codec.decode_context(payload)

    assert refused.value.field == field


# ---------------------------------------------------------------- batches


def test_a_batch_item_is_the_draft_with_its_session_and_what_is_left() -> None:
    assert isinstance(ITEM, BatchItem)
    assert (ITEM.e, ITEM.s, ITEM.budget_ms, ITEM.held_ms) == (*KEY, 550, 1.235)
    assert ITEM.token == DRAFT.token


@pytest.mark.parametrize(
    ("kind", "field", "fault"),
    [
        (messages.Draft, "token", ""),
        (messages.Draft, "append", []),
        (messages.Draft, "parent", None),
        (opening.OpenRequest, "versions", "x"),
        (messages.SessionParams, "stop", ""),
        (messages.SessionParams, "logit_bias", []),
    ],
)
def test_of_a_strangers_list_the_first_fault_is_enough(
    kind: type[BaseModel], field: str, fault: object
) -> None:
    with pytest.raises(ValidationError) as raised:
        kind.model_validate({field: [fault] * 20_000})
    of_it = [one for one in raised.value.errors() if one["loc"][0] == field]
    assert 1 <= len(of_it) <= 2


def test_versions_are_small_numbers() -> None:
    with pytest.raises(ValidationError):
        opening.OpenRequest(model="m", tokenizer="a", context=1, versions=(10**1000,))
