"""A drafter that begins as one made before: its layers, and further ones that add nothing yet.

So hours of training are gone on with where a larger drafter is wanted, or a larger corpus has come.
"""

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from specedge.distill.student import Student
from specedge.errors import ModelUnusable

CHECKED_TOKENS: Final = 8
_LAYER: Final = "layers."


def start_from(student: Student, earlier: Mapping[str, Tensor]) -> None:
    """Take over ``earlier``, a drafter's own tensors by their names in the decoder. Its last layer
    becomes the last one, the others the first ones; layers between them keep what they read of the
    target and write nothing, so that ``student`` says what ``earlier`` said.

    Raises ModelUnusable for a drafter of more layers, of other tensors, or where a layer that
    writes nothing cannot be made.
    """
    layers = student.backbone.layers
    places = _places(1 + max(_numbers(earlier), default=0), len(layers))
    mine = student.learned()
    with torch.no_grad():
        for name, tensor in earlier.items():
            moved = _moved(name, places)
            if moved not in mine or mine[moved].shape != tensor.shape:
                raise ModelUnusable(f"a drafter with {name} cannot become one of these layers")
            mine[moved].copy_(tensor)
        silent = sorted(set(range(len(layers))) - set(places))
        for place in silent:
            _silence(layers[place])
        _check(student.backbone, silent)


def _places(num_earlier: int, num_layers: int) -> list[int]:
    """Where each earlier layer stands among the new ones."""
    if num_earlier > num_layers:
        raise ModelUnusable(f"a drafter of {num_earlier} layers has no room in {num_layers}")
    return [*range(num_earlier - 1), num_layers - 1]


def _numbers(tensors: Mapping[str, Tensor]) -> set[int]:
    return {int(name.split(".")[1]) for name in tensors if name.startswith(_LAYER)}


def _moved(name: str, places: list[int]) -> str:
    if not name.startswith(_LAYER):
        return name
    _, number, rest = name.split(".", 2)
    return f"{_LAYER}{places[int(number)]}.{rest}"


def _silence(layer: nn.Module) -> None:
    """Zero what attention and feed-forward write last: their inputs' gradients remain."""
    for part in layer.children():
        linears = [one for one in part.modules() if isinstance(one, nn.Linear)]
        for tensor in linears[-1].parameters() if linears else ():
            tensor.zero_()


def _check(backbone: Any, silent: list[int]) -> None:
    """Families differ in what follows the last product."""
    vocab_size = backbone.get_input_embeddings().weight.shape[0]
    tokens = (torch.arange(CHECKED_TOKENS, device=backbone.device) * 7919 + 11)[None] % vocab_size
    states = backbone(input_ids=tokens, use_cache=False, output_hidden_states=True).hidden_states
    for place in silent:
        if not torch.equal(states[place], states[place + 1]):
            raise ModelUnusable(f"{type(backbone).__name__} has layers that always add something")
