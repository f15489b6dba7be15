"""A device that is not the CPU, without one: tensors that say they are elsewhere, and whose values
are computed on the CPU all the same.

What a GPU would refuse is refused here, operations between two devices and looking at values that
were not brought to the host; and what it would wait for is counted. Its type is ``meta``, which
torch knows without drivers.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

ELSEWHERE = torch.device("meta")
_aten = torch.ops.aten
# Operations that bring values from one device to another.
_MOVING = {_aten._to_copy.default, _aten.copy_.default}
# A GPU takes index tensors of the host's; a capture does not, nor what gives a host's number.
_INDEXING = {_aten.index.Tensor, _aten.index_put_.default, _aten.index_put.default}
_ASKING = {_aten._local_scalar_dense.default, _aten.nonzero.default, _aten.equal.default}


class Elsewhere(Tensor):
    """``inner``, which is on the CPU, as a tensor of the pretended device."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Elsewhere":
        made: Elsewhere = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=ELSEWHERE,
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        raise AssertionError("outside of a pretended device")


class Pretended(TorchDispatchMode):
    """Runs what is asked of tensors elsewhere. ``waits``: how often the host waited for them."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        given = _tensors([args, kwargs])
        there = [each for each in given if isinstance(each, Elsewhere)]
        if "device" in kwargs:
            is_there = kwargs["device"] is not None and kwargs["device"].type == ELSEWHERE.type
            is_there |= kwargs["device"] is None and bool(there)
            kwargs["device"] = torch.device("cpu")
        else:
            is_there = bool(there)
            if func is _aten.copy_.default:
                is_there = isinstance(args[0], Elsewhere)
        if there or is_there:
            self._look(func, args, kwargs, is_there)
        if func is _aten._fused_sdp_choice.default and there:
            return 0  # the one that is made of plain operations
        inner = tree_map(_inner, (tuple(args), kwargs))
        out = func(*inner[0], **inner[1])
        if not is_there:
            return out
        returned = func._schema.returns
        if returned and returned[0].alias_info is not None and returned[0].alias_info.is_write:
            return args[0]  # changed in place
        return tree_map(lambda one: Elsewhere(one) if isinstance(one, Tensor) else one, out)

    def _look(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any], is_there: bool) -> None:
        given = _tensors([args, kwargs])
        here = [one for one in given if not isinstance(one, Elsewhere) and one.dim() > 0]
        if func in _MOVING:
            waits = not kwargs.get("non_blocking", args[-1] is True)
            self.waits += waits and (bool(here) or not is_there)
        elif func in _INDEXING:
            masks = [one for one in given[1:] if one.dtype == torch.bool]
            self.waits += bool(here or masks)
        elif here:
            raise RuntimeError(f"{func} of tensors of two devices")
        else:
            self.waits += func in _ASKING


class _MadeOfNumbers(TorchFunctionMode):
    """``torch.tensor`` asks no dispatch, and of type ``meta`` it keeps no values: brought there."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        made = func in (torch.tensor, torch.as_tensor)
        if made and torch.device(kwargs.get("device") or "cpu") == ELSEWHERE:
            del kwargs["device"]
            return func(*args, **kwargs).to(ELSEWHERE)
        return func(*args, **kwargs)


@contextmanager
def pretending() -> Iterator[Pretended]:
    """There is another device within; inference mode, which wrapped tensors cannot take, is off."""
    entered = {"__enter__": lambda _: None, "__exit__": lambda *_: None}
    with (
        patch.multiple(torch.inference_mode, **entered),
        torch.no_grad(),
        _MadeOfNumbers(),
        Pretended() as device,
    ):
        yield device


def moved(model: Any) -> Any:
    """``model`` with its parameters and buffers elsewhere."""
    for module in model.modules():
        _replace(module._parameters, lambda one: nn.Parameter(Elsewhere(one.data), False))
        _replace(module._buffers, Elsewhere)
    return model


def _replace(tensors: dict[str, Any], made: Callable[[Any], Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor is not None and not isinstance(tensor, Elsewhere):
            tensors[name] = made(tensor)


def _inner(one: Any) -> Any:
    return one.inner if isinstance(one, Elsewhere) else one


def _tensors(tree: Any) -> list[Tensor]:
    found: list[Tensor] = []
    tree_map(lambda one: found.append(one) if isinstance(one, Tensor) else None, tree)
    return found
