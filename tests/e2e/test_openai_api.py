"""The official client against the whole system: streaming and not, chat and text."""

import json
import re
import subprocess
from pathlib import Path

import httpx
import openai
import pytest

from tests.e2e.conftest import SPECEDGE, Up

pytestmark = [pytest.mark.real_model, pytest.mark.timeout(600)]

README = Path(__file__).parents[2] / "README.md"
QUESTION = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]


def test_the_model_is_listed(up: Up) -> None:
    models = up.client().models.list()

    assert [model.id for model in models.data] == [up.model]


def test_chat_streams_the_same_text_as_it_answers_at_once(up: Up) -> None:
    ask = {"model": up.model, "messages": QUESTION, "max_tokens": 40, "temperature": 0}
    client = up.client()

    whole = client.chat.completions.create(**ask)
    stream = client.chat.completions.create(
        **ask, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)

    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert "Paris" in (whole.choices[0].message.content or "")
    assert "".join(pieces) == whole.choices[0].message.content
    assert [reason for reason in reasons if reason] == [whole.choices[0].finish_reason]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage


def test_text_streams_the_same_as_it_completes_at_once(up: Up) -> None:
    ask = {"model": up.model, "prompt": "1, 2, 3, 4,", "max_tokens": 24, "temperature": 0}
    client = up.client()

    whole = client.completions.create(**ask)
    chunks = list(client.completions.create(**ask, stream=True))

    assert whole.choices[0].text
    assert "".join(c.choices[0].text for c in chunks if c.choices) == whole.choices[0].text


def test_usage_counts_every_token_and_length_is_the_reason(up: Up) -> None:
    done = up.client().completions.create(
        model=up.model,
        prompt="The history of the sea is",
        max_tokens=17,
        temperature=0,
        extra_body={"return_token_ids": True, "ignore_eos": True},
    )

    usage, choice = done.usage, done.choices[0]
    assert usage is not None
    assert choice.finish_reason == "length"
    assert usage.completion_tokens == 17 == len(choice.token_ids)
    assert usage.prompt_tokens == len(choice.prompt_token_ids)
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_a_stop_string_ends_the_text_before_it(up: Up) -> None:
    done = up.client().completions.create(
        model=up.model, prompt="1, 2, 3, 4,", max_tokens=40, temperature=0, stop=[" 7"]
    )

    assert done.choices[0].finish_reason == "stop"
    assert "7" not in done.choices[0].text
    assert "6" in done.choices[0].text


def test_a_seed_repeats_a_sampled_text_and_another_seed_does_not(up: Up) -> None:
    def sample(seed: int) -> str:
        done = up.client().completions.create(
            model=up.model, prompt="Once upon a time", max_tokens=24, temperature=0.9, seed=seed
        )
        return done.choices[0].text

    assert sample(5) == sample(5)
    assert sample(5) != sample(6)


def test_the_metrics_of_an_answer_add_up(up: Up) -> None:
    done = up.client().completions.create(
        model=up.model, prompt="a b c d a b c d a b c d a b", max_tokens=32, temperature=0
    )

    metrics = done.model_extra["metrics"]
    own, speculative = metrics["specedge"], metrics["speculative_decoding"]
    assert done.usage is not None
    assert 0 < own["rounds"] < done.usage.completion_tokens  # repetition is drafted well
    assert speculative["num_accepted_draft_tokens"] > 0
    assert own["bytes_up"] > 0
    assert own["bytes_down"] > 0
    assert own["verifier_id"] == "verifier-1"


def test_a_bad_value_is_refused_with_the_field_named(up: Up) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        up.client().completions.create(model=up.model, prompt="x", temperature=9)

    assert refusal.value.param == "temperature"


def test_an_unknown_model_is_not_found(up: Up) -> None:
    with pytest.raises(openai.NotFoundError):
        up.client().completions.create(model="no-such-model", prompt="x")


def test_the_readmes_curl_request_is_answered(up: Up) -> None:
    shown = re.search(
        r"curl http://127\.0\.0\.1:8000(\S+) .*? -d '(.*?)'", README.read_text(), re.S
    )
    assert shown is not None
    path, body = shown.groups()

    answer = httpx.post(
        f"{up.base_url.removesuffix('/v1')}{path}",
        content=body,
        headers={"Content-Type": "application/json"},
        timeout=300,
    )

    assert answer.status_code == 200
    assert json.loads(body)["model"] == up.model
    assert answer.json()["choices"][0]["message"]["content"]


def test_chat_through_a_pipe_prints_the_answer_alone(up: Up) -> None:
    url = up.base_url.removesuffix("/v1")

    said = subprocess.run(
        [*SPECEDGE, "chat", "--url", url, "--max-tokens", "40"],
        input=QUESTION[0]["content"] + "\n",
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )

    assert "Paris" in said.stdout
    assert said.stderr == ""
