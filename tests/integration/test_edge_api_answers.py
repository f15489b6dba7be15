"""The edge's HTTP face on a real port: what an answer holds, whole and as a stream."""

from pathlib import Path
from typing import Any

from specedge.sampling.noise import choice_seed
from tests.edge_world import END, EdgeWorld, edge_world
from tests.integration.edge_requests import TEXT, events_of


async def test_a_stream_comes_in_the_order_that_clients_rely_on(world: EdgeWorld) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    answer = await world.chat(stream=True, stream_options=options, return_token_ids=True)
    first, *middle, last, usage = events_of(answer.text)

    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert first["prompt_token_ids"] == world.tokenizer.encode("[user]hi[assistant]")
    assert all(event["choices"][0]["finish_reason"] is None for event in [first, *middle])
    assert (last["choices"][0]["delta"], last["choices"][0]["finish_reason"]) == ({}, "stop")
    ids = [token for e in [*middle, last] for token in e["choices"][0]["token_ids"]]
    assert ids == [*world.tokenizer.encode(TEXT), world.cloud.identity.stop[0]]
    counts = [event["usage"]["completion_tokens"] for event in [first, *middle, last]]
    assert counts == sorted(counts) and counts[-1] == len(ids)
    assert usage["choices"] == [] and usage["usage"]["completion_tokens"] == len(ids)
    assert usage["metrics"]["specedge"]["verifier_id"] == "verifier-1"


async def test_repeated_text_is_drafted_and_accepted(world: EdgeWorld) -> None:
    world.edge._cloud.served.round_trip_s = 60.0  # so nobody says a round again that is only late

    answer = (await world.complete(prompt=TEXT, temperature=0)).json()

    metrics = answer["metrics"]
    spec, own = metrics["speculative_decoding"], metrics["specedge"]
    tokens = answer["usage"]["completion_tokens"]
    assert answer["choices"][0]["text"] == TEXT
    assert own["rounds"] < tokens
    assert spec["num_accepted_draft_tokens"] + own["rounds"] == tokens
    assert 0 < spec["num_spec_steps"] <= own["rounds"], "where nothing is left to draft, none is"
    assert sum(spec["acceptance_histogram"]) == spec["num_spec_steps"]
    assert own["bytes_up"] == sum(len(draft) for draft in world.cloud.draft_payloads)
    assert own["retries"] == own["resyncs"] == own["hosted_tokens"] == 0


async def test_token_ids_go_in_and_out(world: EdgeWorld) -> None:
    prompt = world.tokenizer.encode("say: ")

    answer = (await world.complete(prompt=prompt, return_token_ids=True)).json()

    choice = answer["choices"][0]
    assert choice["prompt_token_ids"] == prompt
    assert world.tokenizer.decode(choice["token_ids"], skip_special_tokens=True) == TEXT


async def test_a_stop_string_across_tokens_ends_the_session_and_is_counted_exactly(
    world: EdgeWorld,
) -> None:
    stop = "or not to b"

    answer = (await world.complete(stop=["never", stop], return_token_ids=True)).json()

    choice = answer["choices"][0]
    assert choice["text"] == "to be "
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", stop)
    spelled = world.tokenizer.decode(choice["token_ids"])
    assert stop in spelled and stop not in world.tokenizer.decode(choice["token_ids"][:-1])
    assert answer["usage"]["completion_tokens"] == len(choice["token_ids"])
    await world.cloud.until(lambda: not world.cloud.sessions)
    assert world.cloud.ended[-1][0] == "close"


async def test_a_streamed_stop_string_is_never_shown_in_part(world: EdgeWorld) -> None:
    answer = await world.complete(stop="not to be", stream=True)

    texts = [event["choices"][0]["text"] for event in events_of(answer.text)]
    assert "".join(texts) == "to be or "


async def test_a_stop_token_ends_the_text_and_is_the_reason(world: EdgeWorld) -> None:
    token = world.tokenizer.encode(TEXT)[4]

    answer = (await world.complete(stop_token_ids=[token])).json()

    choice = answer["choices"][0]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", token)
    assert choice["text"] == world.tokenizer.decode(world.tokenizer.encode(TEXT)[:4])


async def test_an_ignored_end_does_not_end_the_text(world: EdgeWorld) -> None:
    answer = (await world.complete(ignore_eos=True, max_tokens=60)).json()

    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 60


async def test_as_many_tokens_as_fit_are_generated_for_whom_that_is_enough(
    world: EdgeWorld,
) -> None:
    limit = world.cloud.identity.max_context
    messages = [{"role": "user", "content": "0" * (limit - 50)}]
    prompt = world.tokenizer.encode("0") * (limit - 30)

    answers = [
        await world.complete(prompt=prompt, ignore_eos=True, max_tokens=-1),
        await world.chat(messages=messages, ignore_eos=True, max_completion_tokens=-1),
    ]

    for answer in answers:
        assert answer.json()["choices"][0]["finish_reason"] == "length"
        assert answer.json()["usage"]["total_tokens"] == limit
    assert answers[0].json()["usage"]["completion_tokens"] == 30


async def test_a_nucleus_of_nothing_is_the_likeliest_token_alone(world: EdgeWorld) -> None:
    recite, asked = world.cloud.script, list[bool]()

    def watched(tokens: Any, params: Any) -> int:
        asked.append(params.sampling().is_greedy)
        return recite(tokens, params)

    world.cloud.script = watched
    answer = (await world.complete(top_p=0, temperature=1.5)).json()

    assert answer["choices"][0]["text"] == TEXT
    assert asked and all(asked)


async def test_several_choices_have_seeds_of_their_own_that_repeat(world: EdgeWorld) -> None:
    seeds = [choice_seed(7, choice) for choice in range(3)]
    words = {seed: world.tokenizer.encode(f"fox {number}") for number, seed in enumerate(seeds)}

    def by_seed(tokens: Any, params: Any) -> int:
        index = len(tokens) - params.prompt
        ids = words[params.seed]
        return int(ids[index]) if index < len(ids) else world.cloud.identity.stop[0]

    world.cloud.script = by_seed
    whole = [(await world.chat(n=3, seed=7)).json() for _ in range(2)]
    alone = (await world.chat(seed=7)).json()
    streamed = events_of((await world.chat(n=3, seed=7, stream=True)).text)

    texts = [[c["message"]["content"] for c in answer["choices"]] for answer in whole]
    assert texts == [["fox 0", "fox 1", "fox 2"]] * 2
    assert alone["choices"][0]["message"]["content"] == "fox 0"
    joined = dict.fromkeys(range(3), "")
    for event in streamed:
        choice = event["choices"][0]
        joined[choice["index"]] += choice["delta"].get("content", "")
    assert list(joined.values()) == texts[0]
    one = len(world.tokenizer.encode("fox 0")) + 1
    assert whole[0]["usage"]["completion_tokens"] == 3 * one
    assert whole[0]["usage"]["prompt_tokens"] == alone["usage"]["prompt_tokens"]


async def test_several_prompts_are_answered_in_order(world: EdgeWorld) -> None:
    answer = (await world.complete(prompt=["a b", "c"], n=2, echo=True)).json()

    assert [c["index"] for c in answer["choices"]] == [0, 1, 2, 3]
    assert [c["text"] for c in answer["choices"]] == ["a b" + TEXT] * 2 + ["c" + TEXT] * 2
    lengths = [len(world.tokenizer.encode(prompt)) for prompt in ("a b", "c")]
    assert answer["usage"]["prompt_tokens"] == sum(lengths)


async def test_log_probabilities_come_in_both_shapes(world: EdgeWorld) -> None:
    chat = (await world.chat(logprobs=True, top_logprobs=2)).json()
    text = (await world.complete(logprobs=2)).json()

    content = chat["choices"][0]["logprobs"]["content"]
    tokens = world.tokenizer.encode(TEXT)
    assert len(content) == len(tokens) + 1
    assert "".join(entry["token"] for entry in content[:-1]) == TEXT
    assert content[0]["bytes"] == list(content[0]["token"].encode())
    assert [len(entry["top_logprobs"]) for entry in content] == [2] * len(content)
    shape = text["choices"][0]["logprobs"]
    assert "".join(shape["tokens"][:-1]) == TEXT
    assert shape["text_offset"][:2] == [0, len(shape["tokens"][0])]
    assert all(len(column) == len(tokens) + 1 for column in shape.values())


async def test_bytes_of_log_probabilities_joined_are_the_text_whatever_characters_span_tokens(
    world: EdgeWorld,
) -> None:
    text = "a 🐉🐲 ñ"
    world.recite(text)

    chat = (await world.chat(logprobs=True, top_logprobs=2)).json()["choices"][0]
    whole = (await world.complete(logprobs=1)).json()["choices"][0]

    content = chat["logprobs"]["content"][:-1]  # but the end of the text
    assert bytes(byte for entry in content for byte in entry["bytes"]).decode() == text
    names, offsets = whole["logprobs"]["tokens"][:-1], whole["logprobs"]["text_offset"]
    assert any(name.startswith("bytes:\\xf0") for name in names)
    assert offsets[len(names)] == len(text), "where the end begins"
    assert offsets == sorted(offsets)


async def test_an_edge_without_a_drafter_lets_the_verifier_run(tmp_path: Path) -> None:
    async with edge_world(tmp_path, drafter="none", grant_tokens=4) as world:
        world.recite(TEXT)
        answer = (await world.complete()).json()

        own = answer["metrics"]["specedge"]
        assert answer["choices"][0]["text"] == TEXT
        assert own["hosted_tokens"] == answer["usage"]["completion_tokens"]
        assert all(draft.run == 4 and not draft.token for draft in world.cloud.drafts)
        assert len(world.cloud.drafts) > 1


async def test_what_is_echoed_is_the_prompt_as_it_was_sent(world: EdgeWorld) -> None:
    prompt = f"a{END}b c"
    ids = world.tokenizer.encode(prompt)
    text = (await world.complete(prompt=prompt, echo=True)).json()
    told = (await world.complete(prompt=ids, echo=True)).json()
    whole = (await world.complete(prompt=ids, echo=True, skip_special_tokens=False)).json()

    assert text["choices"][0]["text"] == prompt + TEXT
    assert told["choices"][0]["text"] == "ab c" + TEXT
    assert whole["choices"][0]["text"].startswith(prompt + TEXT)


async def test_the_chosen_token_is_among_those_named_however_few_were_asked_for(
    world: EdgeWorld,
) -> None:
    shape = (await world.complete(logprobs=0)).json()["choices"][0]["logprobs"]

    assert shape["tokens"]
    for token, logprob, named in zip(
        shape["tokens"], shape["token_logprobs"], shape["top_logprobs"], strict=True
    ):
        assert named == {token: logprob}
