"""The innermost blocks of attention, as LLVM instructions: one query's scores with some keys, and
values mixed by one query's weights.

Written out, as ``panel_block`` is, since a compiler given the loops adds up each product across its
vector by itself, and keeps sums in memory. float32; knows numba and nothing of torch.
"""

from typing import Any, Final

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from specedge.engine.vector_code import INT32, everywhere, fused, numbers, zeros

# Of a head's numbers, which are a multiple of these.
LANES: Final = 8
# Keys whose products are added up across their vectors together.
TOGETHER: Final = 4

_FLOAT: Final = ir.FloatType()
_VECTOR: Final = ir.VectorType(_FLOAT, LANES)
_TOGETHER_VECTOR: Final = ir.VectorType(_FLOAT, TOGETHER)


def scoring_of(dim: int) -> Any:
    """A function for compiled code: ``score(query, keys, num_keys, scale, line)`` puts the products
    of query (dim,) with keys (num_keys, dim), times scale, into line (num_keys,). All are pointers
    to float32, but for the number and the scale. A score does not depend on what else is scored."""

    @intrinsic
    def score(_: Any, query: Any, keys: Any, num_keys: Any, scale: Any, line: Any) -> Any:
        signature = types.void(query, keys, types.intp, types.float32, line)

        def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            _Scores(builder, dim, *args).emit()
            return context.get_dummy_value()

        return signature, generate

    return score


def blending_of(dim: int) -> Any:
    """A function for compiled code: ``blend(weights, values, num_keys, out)`` adds values
    (num_keys, dim), times weights (num_keys,), to out (dim,), in the order of the keys. Pointers to
    float32."""

    @intrinsic
    def blend(_: Any, weights: Any, values: Any, num_keys: Any, out: Any) -> Any:
        signature = types.void(weights, values, types.intp, out)

        def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            _emit_blend(builder, dim, *args)
            return context.get_dummy_value()

        return signature, generate

    return blend


class _Scores:
    """Emits the instructions at ``builder``'s place."""

    def __init__(
        self, builder: Any, dim: int, query: Any, keys: Any, num_keys: Any, scale: Any, line: Any
    ) -> None:
        self._builder = builder
        self._index: Any = num_keys.type
        self._dim = dim
        self._query = _vectors(builder, dim, query)
        self._keys, self._num_keys, self._line = keys, num_keys, line
        self._scale = everywhere(builder, scale, TOGETHER)

    def emit(self) -> None:
        builder, together = self._builder, self._index(TOGETHER)
        with cgutils.for_range(builder, builder.udiv(self._num_keys, together)) as loop:
            first = builder.mul(loop.index, together)
            keys = [builder.add(first, self._index(more)) for more in range(TOGETHER)]
            scores = self._scaled([self._product(key) for key in keys])
            place = builder.gep(self._line, [first])
            builder.store(scores, builder.bitcast(place, _TOGETHER_VECTOR.as_pointer()), align=4)
        num_left = builder.urem(self._num_keys, together)
        done = builder.sub(self._num_keys, num_left)
        with cgutils.for_range(builder, num_left) as loop:
            key = builder.add(done, loop.index)
            scores = self._scaled([self._product(key)] * TOGETHER)
            score = builder.extract_element(scores, INT32(0))
            builder.store(score, builder.gep(self._line, [key]))

    def _product(self, key: Any) -> Any:
        """With the query, not yet added up."""
        builder = self._builder
        start = builder.gep(self._keys, [builder.mul(key, self._index(self._dim))])
        first, *others = zip(self._query, _vectors(builder, self._dim, start), strict=True)
        total = builder.fmul(*first)
        for of_query, of_key in others:
            total = fused(builder, of_query, of_key, total)
        return total

    def _scaled(self, products: list[Any]) -> Any:
        """Four products, each added up: (4,)."""
        builder = self._builder
        first, second = (_added_in_pairs(builder, *pair) for pair in (products[:2], products[2:]))
        both = _added_in_pairs(builder, first, second)
        undefined = ir.Constant(_VECTOR, ir.Undefined)
        lower, upper = (
            builder.shuffle_vector(both, undefined, numbers(list(range(at, at + TOGETHER))))
            for at in (0, TOGETHER)
        )
        return builder.fmul(builder.fadd(lower, upper), self._scale)


def _emit_blend(builder: Any, dim: int, weights: Any, values: Any, num_keys: Any, out: Any) -> None:
    index = num_keys.type
    [sums] = zeros(builder, _FLOAT, LANES, 1, dim // LANES)
    for kept, before in zip(sums, _vectors(builder, dim, out), strict=True):
        builder.store(before, kept)
    with cgutils.for_range(builder, num_keys) as loop:
        weight = everywhere(builder, builder.load(builder.gep(weights, [loop.index])), LANES)
        start = builder.gep(values, [builder.mul(loop.index, index(dim))])
        for kept, value in zip(sums, _vectors(builder, dim, start), strict=True):
            builder.store(fused(builder, weight, value, builder.load(kept)), kept)
    for number, kept in enumerate(sums):
        place = builder.gep(out, [index(number * LANES)])
        builder.store(builder.load(kept), builder.bitcast(place, _VECTOR.as_pointer()), align=4)


def _vectors(builder: Any, dim: int, start: Any) -> list[Any]:
    """The ``dim`` numbers at ``start``."""
    places = [
        builder.gep(start, [ir.IntType(64)(number)], inbounds=True)
        for number in range(0, dim, LANES)
    ]
    return [builder.load(builder.bitcast(place, _VECTOR.as_pointer()), align=4) for place in places]


def _added_in_pairs(builder: Any, one: Any, other: Any) -> Any:
    """Neighbours added, within each half: of ``one``, then of ``other``, as x86's haddps does."""
    even = [0, 2, 8, 10, 4, 6, 12, 14]
    odd = [place + 1 for place in even]
    return builder.fadd(
        builder.shuffle_vector(one, other, numbers(even)),
        builder.shuffle_vector(one, other, numbers(odd)),
    )
