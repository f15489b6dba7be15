"""Whatever is drafted, however it is cut, the text is that of plain decoding."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from specedge.drafting.tree_drafter import TreeDrafter
from specedge.engine.emulated import (
    EmulatedDrafter,
    EmulatedTarget,
    EmulatedText,
    emulated_continuation,
)
from specedge.engine.ports import Drafter
from specedge.engine.prompt_lookup import PromptLookupDrafter
from specedge.params import DraftPolicy, SamplingParams, StopRule
from specedge.tree.token_tree import TokenTree
from tests.emulated_decoding import Decoding

# Few tokens, so that wrong drafts are right by chance, and prompt lookup finds something.
TEXT = EmulatedText(vocab_size=12, stop_every=25)
policies = st.builds(
    DraftPolicy,
    depth=st.integers(0, 6),
    budget=st.integers(0, 20),
    beams=st.integers(1, 6),
    branch=st.integers(1, 5),
)
drafters = st.one_of(
    st.builds(
        lambda agreement: EmulatedDrafter(TEXT, agreement=agreement),
        st.lists(st.floats(0, 1), min_size=1, max_size=4),
    ),
    st.builds(PromptLookupDrafter, branch=st.integers(1, 5), max_ngram=st.integers(1, 4)),
)
prompts = st.lists(st.integers(0, TEXT.vocab_size - 1), min_size=1, max_size=12)
samplings = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.8]),
    seed=st.integers(0, 2**64 - 1),
    min_tokens=st.sampled_from([0, 10]),
)
stops = st.builds(
    StopRule,
    stop_ids=st.sampled_from([frozenset[int](), frozenset({TEXT.stop_id})]),
    max_tokens=st.integers(1, 40),
)


@given(drafters, prompts, samplings, stops, st.booleans(), st.data())
@settings(deadline=None, max_examples=80)
def test_decoding_by_trees_equals_the_plain_continuation(
    model: Drafter,
    prompt: list[int],
    params: SamplingParams,
    stop: StopRule,
    knows_the_end: bool,
    data: st.DataObject,
) -> None:
    decoding = Decoding(EmulatedTarget(TEXT), prompt, stop, params)
    drafter = TreeDrafter(model)
    drafter.start(np.array(prompt, dtype=np.int32), params, stop if knows_the_end else None)

    while not decoding.is_final:
        if data.draw(st.integers(0, 9)) == 0:
            # A round without a draft: a hosted token, or another edge's.
            drafter.on_append(decoding.verify(TokenTree.root_only(decoding.committed[-1])))
            continue
        tree = drafter.draft(data.draw(policies))
        num_tried = data.draw(st.integers(0, tree.num_drafted))
        new = decoding.verify(tree, num_tried)
        drafter.on_verdict(new[:-1], new[-1], num_tried)
        if data.draw(st.integers(0, 9)) == 0:
            drafter.resync(np.array(decoding.committed, dtype=np.int32))

    assert decoding.generated == emulated_continuation(prompt, stop, params, TEXT)
