"""The edge's HTTP face on a real port: keys, origins and request ids, and the small routes."""

from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from specedge_edge.openai.routes import BackendSlot
from tests.edge_world import EdgeWorld, edge_world
from tests.integration.edge_requests import CHAT, TEXT, TEXTS


async def test_paths_and_methods_that_are_not_served_say_so(world: EdgeWorld) -> None:
    responses = await world.client.post("/v1/responses", json={})
    wrong_method = await world.client.get(TEXTS)

    assert responses.status_code == 404 and "/v1/responses" in responses.json()["error"]["message"]
    assert wrong_method.status_code == 405 and "error" in wrong_method.json()


async def test_a_wrong_method_is_told_the_right_one_and_what_is_read_may_be_probed(
    world: EdgeWorld,
) -> None:
    wrong = await world.client.get(CHAT)

    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    for path in ("/", "/v1/models", "/v1/models/tiny", "/v1/cluster", "/version"):
        probe = await world.client.head(path)
        assert (probe.status_code, probe.content) == (200, b""), path


def headers_of(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def test_with_keys_only_their_holders_come_below_v1(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("second\nthird\n")
    async with edge_world(tmp_path, api_key="first", api_key_file=keys) as world:
        for key in ("first", "second", "third"):
            shown = await world.client.get("/v1/models", headers=headers_of(key))
            assert shown.status_code == 200
        for headers in ({}, {"Authorization": "Bearer fourth"}, {"Authorization": "Basic first"}):
            refused = await world.client.get("/v1/models", headers=headers)
            assert refused.status_code == 401
            assert refused.json()["error"]["code"] == "invalid_api_key"
        for path in ("/", "/live", "/ready", "/metrics", "/version"):
            assert (await world.client.get(path)).status_code == 200
        for path, body in (("/tokenize", {"prompt": "x"}), ("/detokenize", {"tokens": [1]})):
            assert (await world.client.post(path, json=body)).status_code == 401
            headers = headers_of("first")
            assert (await world.client.post(path, json=body, headers=headers)).is_success


async def test_a_key_is_whatever_bytes_its_file_holds(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("schlüssel", encoding="utf-8")
    headers = {"Authorization": "Bearer schlüssel".encode()}
    async with edge_world(tmp_path, api_key_file=keys) as world:
        assert (await world.client.get("/v1/models", headers=headers)).is_success


async def test_requests_have_ids_the_callers_own_if_it_is_speakable(world: EdgeWorld) -> None:
    own = await world.client.get("/version", headers={"x-request-id": "abc-1"})
    long = await world.client.get("/version", headers={"x-request-id": "a" * 500})
    none = await world.client.get("/version")

    assert own.headers["x-request-id"] == "abc-1"
    assert long.headers["x-request-id"] != "a" * 500
    assert len(none.headers["x-request-id"]) == 32


async def test_browsers_elsewhere_are_kept_out_unless_they_are_let_in(tmp_path: Path) -> None:
    headers = {"Origin": "https://there.example"}
    async with edge_world(tmp_path / "a") as world:
        answer = await world.client.get("/v1/models", headers=headers)
        assert "access-control-allow-origin" not in answer.headers
    async with edge_world(tmp_path / "b", allowed_origins="https://there.example") as world:
        answer = await world.client.get("/v1/models", headers=headers)
        assert answer.headers["access-control-allow-origin"] == "https://there.example"


async def test_text_and_tokens_can_be_turned_into_one_another(world: EdgeWorld) -> None:
    tokens = (await world.client.post("/tokenize", json={"prompt": TEXT})).json()
    text = await world.client.post("/detokenize", json={"tokens": tokens["tokens"]})
    outside = await world.client.post("/detokenize", json={"tokens": [99999]})

    assert tokens["count"] == len(tokens["tokens"])
    assert text.json() == {"prompt": TEXT}
    assert outside.status_code == 400


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"add_generation_prompt": False},
        {"continue_final_message": True},
        {"chat_template_kwargs": {"add_generation_prompt": False}},
    ],
)
async def test_messages_are_tokenized_as_a_chat_would_take_them(
    world: EdgeWorld, options: dict[str, Any]
) -> None:
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "to be"}]

    chat = (await world.chat(messages=turns, return_token_ids=True, **options)).json()
    alone = (await world.client.post("/tokenize", json={"messages": turns, **options})).json()

    assert alone["tokens"] == chat["prompt_token_ids"]
    assert alone["max_model_len"] == world.cloud.identity.max_context


async def test_the_page_holds_all_it_needs(world: EdgeWorld) -> None:
    page = await world.client.get("/")

    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "http://" not in page.text and "https://" not in page.text


async def test_metrics_appear_under_both_names(world: EdgeWorld) -> None:
    await world.complete(prompt=TEXT)

    exposition = (await world.client.get("/metrics")).text

    for prefix in ("specedge_", "vllm:"):
        assert f'{prefix}request_success_total{{finished_reason="stop",model_name="tiny"}} 1.0' in (
            exposition
        )
        assert f'{prefix}spec_decode_num_accepted_tokens_total{{model_name="tiny"}}' in exposition


async def test_refused_requests_leave_a_line_and_a_number_and_probes_do_not(
    tmp_path: Path,
) -> None:
    async with edge_world(tmp_path, api_key="sk-right") as world:
        world.edge.health.need("more", lambda: "not ready")
        with capture_logs() as logs:
            asked = await world.client.post(
                f"{CHAT}?key=sk-hush", json={"messages": "hush"}, headers=headers_of("sk-hush")
            )
            assert (await world.client.get("/ready")).status_code == 503
            assert (await world.client.get("/version")).status_code == 200
        exposition = (await world.client.get("/metrics")).text

    lines = [line for line in logs if line["event"] == "request_refused"]
    assert lines == [
        {
            "event": "request_refused",
            "log_level": "info",
            "method": "POST",
            "path": CHAT,
            "status": 401,
            "request_id": asked.headers["x-request-id"],
            "so_far": 1,
        }
    ]
    assert 'specedge_http_responses_total{status="401"} 1.0' in exposition
    assert 'specedge_http_responses_total{status="200"} 1.0' in exposition
    assert 'status="503"' not in exposition


async def test_the_api_describes_itself(world: EdgeWorld) -> None:
    described = (await world.client.get("/openapi.json")).json()

    assert {CHAT, TEXTS, "/v1/models"} <= set(described["paths"])


async def test_a_route_that_breaks_is_told_by_its_requests_id_and_to_browsers_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: BackendSlot) -> None:
        raise RuntimeError("a bug")

    headers = {"Origin": "https://there.example", "x-request-id": "abc-2"}
    async with edge_world(tmp_path, allowed_origins="https://there.example") as world:
        monkeypatch.setattr(BackendSlot, "get", broken)
        answer = await world.client.get("/v1/models", headers=headers)

    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    assert answer.headers["x-request-id"] == "abc-2"
    assert answer.headers["access-control-allow-origin"] == "https://there.example"
    exposed = answer.headers["access-control-expose-headers"]
    assert "retry-after" in exposed and "x-request-id" in exposed
