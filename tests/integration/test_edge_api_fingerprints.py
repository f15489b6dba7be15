"""The edge's HTTP face on a real port: what tells clients whether answers can be compared."""

from pathlib import Path

import httpx
import pytest

from tests.edge_world import edge_world
from tests.integration.edge_requests import events_of

ONES, TWOS = "1" * 16, "2" * 16


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize(("ours", "theirs"), [(ONES, ONES), (ONES, TWOS)])
async def test_edges_have_one_system_fingerprint_where_their_verifiers_weights_are_equal(
    tmp_path: Path, ours: str, theirs: str, is_streamed: bool
) -> None:
    said = [
        await fingerprint(tmp_path / name, weights, is_streamed)
        for name, weights in (("ours", ours), ("theirs", theirs))
    ]

    assert all(said)
    assert (said[0] == said[1]) == (ours == theirs)


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_the_system_fingerprint_is_that_of_the_verifier_which_answered(
    tmp_path: Path, is_streamed: bool
) -> None:
    async with edge_world(tmp_path) as world:
        said = []
        for weights in (ONES, TWOS):  # of two verifiers of one pool
            world.cloud.identity = world.cloud.identity.model_copy(update={"weights": weights})
            said.append(fingerprint_in(await world.complete(stream=is_streamed), is_streamed))

    assert ONES in said[0] and TWOS not in said[0]
    assert TWOS in said[1] and ONES not in said[1]


async def fingerprint(folder: Path, weights: str, is_streamed: bool) -> str:
    """What an edge whose verifier has these weights says of itself."""
    async with edge_world(folder) as world:
        world.cloud.identity = world.cloud.identity.model_copy(update={"weights": weights})
        answer = await world.complete(stream=is_streamed)
    return fingerprint_in(answer, is_streamed)


def fingerprint_in(answer: httpx.Response, is_streamed: bool) -> str:
    """What all of an answer says."""
    bodies = events_of(answer.text) if is_streamed else [answer.json()]
    (said,) = {body["system_fingerprint"] for body in bodies}
    return str(said)
