"""A square of numbers that one thread keeps in registers while it computes its part of a product.

A square is a tuple of EACH x EACH numbers, row by row, that only ever is taken apart at places known while
compiling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

from . import target, twins
from .inline import emitted
from .scalars import as_long, plain, pointer_to
from .weights import neighbours, read

EACH = 4
_LONG = ir.IntType(64)


def _square_of(dtype: Any) -> Any:
    return target.cuda.types.UniTuple(dtype, EACH * EACH)


def _together(builder: Any, numbers: Sequence[Any]) -> Any:
    """An LLVM array of numbers."""
    array = ir.Constant(ir.ArrayType(numbers[0].type, len(numbers)), ir.Undefined)
    for k, one in enumerate(numbers):
        array = builder.insert_value(array, one, k)
    return array


def _zeros(typing: Any, array: Any) -> Any:
    """A square of zeros of an array's dtype."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return _together(builder, [ir.Constant(context.get_value_type(array.dtype), 0.0)] * (EACH * EACH))

    return _square_of(array.dtype)(array), codegen


def _multiplied(typing: Any, square: Any, array: Any, left: Any, right: Any) -> Any:
    """A square plus the products of EACH neighbours from array[left] on with EACH from array[right] on.

    Both places are multiples of 16 bytes in an array that begins at one.
    """

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kind = context.get_value_type(array.dtype)
        given = zip(values[2:], (left, right), strict=True)
        places = [pointer_to(context, builder, array, values[1], place, t) for place, t in given]
        rows, columns = (read(builder, place, EACH, 1, neighbours(array.dtype)) for place in places)
        fma = builder.module.declare_intrinsic("llvm.fma", [kind], ir.FunctionType(kind, [kind] * 3))
        return _together(
            builder,
            [
                builder.call(fma, [x, y, builder.extract_value(values[0], i * EACH + j)])
                for i, x in enumerate(rows)
                for j, y in enumerate(columns)
            ],
        )

    return square(square, array, plain(left), plain(right)), codegen


def _added(typing: Any, x: Any, y: Any) -> Any:
    """The sum of two squares."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pairs = [[builder.extract_value(v, k) for v in values] for k in range(EACH * EACH)]
        return _together(builder, [builder.fadd(*pair) for pair in pairs])

    return x(x, y), codegen


def _put_square(typing: Any, out: Any, at: Any, row: Any, rows: Any, columns: Any, square: Any) -> Any:
    """Put the first rows and columns of a square into an array: out[at + i * row + j]."""
    given = (at, row, rows, columns)

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        start, pace, high, wide = (as_long(builder, v, t) for v, t in zip(values[1:5], given, strict=True))
        for i in range(EACH):
            for j in range(EACH):
                inside = [builder.icmp_signed("<", _LONG(k), limit) for k, limit in ((i, high), (j, wide))]
                with builder.if_then(builder.and_(*inside)):
                    place = builder.add(start, builder.add(builder.mul(pace, _LONG(i)), _LONG(j)))
                    pointer = pointer_to(context, builder, out, values[0], place, target.cuda.types.int64)
                    builder.store(builder.extract_value(values[5], i * EACH + j), pointer)
        return context.get_dummy_value()

    return target.cuda.types.void(out, *map(plain, given), square), codegen


zeros = emitted(_zeros, twins.square_of_zeros)
multiplied = emitted(_multiplied, twins.multiplied)
added = emitted(_added, twins.added)
put_square = emitted(_put_square, twins.put_square)
