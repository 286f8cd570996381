"""Sums along rows, sixteen rows at a time: as normalisations and softmaxes need them at every step.

Each row's sum is made as every sum is: blocks of 64, each a chain of additions from zero, the blocks' sums added in
order.  One chain alone waits for each of its additions.  So sixteen rows go side by side, a lane for each: squares of
sixteen rows by sixteen columns are turned on their way into registers.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .build import JIT_OFF
from .contract import sum_chain
from .lanes_type import LANES as SIDE
from .lanes_type import LanesType, vector_of
from .outline import outlined
from .tile import BLOCK, move, zero_of

if JIT_OFF:
    from .twins import LANES, store_apart, zeros
else:
    from .lanes import LANES, store_apart, zeros

FEWEST = 4  # rows that are summed side by side: fewer of them are faster one by one
_GROUP = 4  # neighbours of a row that are loaded together, and turned with those of three other rows


def _shuffled(builder: Any, a: Any, b: Any, numbers: list[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(numbers)), numbers))


def _side_by_side(builder: Any, parts: list[Any]) -> Any:
    """One vector of several."""
    while len(parts) > 1:
        count = 2 * parts[0].type.count
        parts = [_shuffled(builder, a, b, list(range(count))) for a, b in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def _in_groups(pattern: tuple[int, ...]) -> list[int]:
    """A shuffle that does the same in each group of two vectors; numbers from 4 on are the second one's."""
    return [at + k % _GROUP + k // _GROUP * SIDE for at in range(0, SIDE, _GROUP) for k in pattern]


def _turned(builder: Any, rows: list[Any]) -> list[Any]:
    """Four vectors whose groups are four rows' parts: the vectors of their columns."""
    low, high = (0, 4, 1, 5), (2, 6, 3, 7)
    pairs = [_shuffled(builder, rows[k], rows[k + 1], _in_groups(half)) for half in (low, high) for k in (0, 2)]
    low, high = (0, 1, 4, 5), (2, 3, 6, 7)
    return [_shuffled(builder, pairs[k], pairs[k + 1], _in_groups(half)) for k in (0, 2) for half in (low, high)]


def _adds_columns(name: str, masked: bool) -> Any:
    """The function `name`: sixteen sums, one a row, and the next sixteen numbers of each row added to it in order.

    Of fewer rows the last one is read again; with `masked` only `columns` numbers are read, zeros stand for the others.
    """

    def add(typing: Any, sums: Any, pointer: Any, row_stride: Any, rows: Any, columns: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            long, short, dtype = ir.IntType(64), ir.IntType(32), pointer.dtype
            total, start, stride, count, width = args
            part, bools = ir.VectorType(vector_of(dtype).element, _GROUP), ir.VectorType(ir.IntType(1), _GROUP)
            size = dtype.bitwidth // 8
            get = cgutils.get_or_insert_function(
                builder.module,
                ir.FunctionType(part, [part.as_pointer(), short, bools, part]),
                f"llvm.masked.load.v{_GROUP}f{8 * size}.p0",
            )
            last = builder.sub(count, long(1))
            places = []
            for row in range(SIDE):
                number = builder.select(builder.icmp_signed("<", long(row), count), long(row), last)
                places.append(builder.gep(start, [builder.mul(number, stride)]))
            for column in range(0, SIDE, _GROUP):
                valid = ir.Constant(bools, None)
                for k in range(_GROUP if masked else 0):
                    is_inside = builder.icmp_signed("<", long(column + k), width)
                    valid = builder.insert_element(valid, is_inside, short(k))
                loaded = []
                for place in places:
                    at = builder.bitcast(builder.gep(place, [long(column)]), part.as_pointer())
                    if masked:
                        loaded.append(builder.call(get, [at, short(size), valid, ir.Constant(part, None)]))
                    else:
                        loaded.append(builder.load(at))
                        loaded[-1].align = size
                rows_of = [_side_by_side(builder, loaded[k::_GROUP]) for k in range(_GROUP)]
                for vector in _turned(builder, rows_of):
                    total = builder.fadd(total, vector)
            return total

        return LanesType(pointer.dtype)(sums, pointer, types.int64, types.int64, types.int64), codegen

    add.__name__ = add.__qualname__ = name
    return intrinsic(add)


_add_columns = _adds_columns("_add_columns", masked=False)
_add_some_columns = _adds_columns("_add_some_columns", masked=True)


@outlined("piiiipi", "sums of rows", uses=(sum_chain,))
def sum_rows(numbers: Any, row_stride: int, rows: int, step: int, n: int, out: Any, out_stride: int) -> None:
    """out[r * out_stride] = the sum of n numbers `step` apart, from numbers[r * row_stride] on, for each of `rows`."""
    r = 0
    while step == 1 and rows - r >= FEWEST:
        begin, total = move(numbers, r * row_stride), zeros(numbers)
        for k in range(0, n, BLOCK):
            part, end = zeros(numbers), min(k + BLOCK, n)
            i = k
            while i + LANES <= end:
                part = _add_columns(part, move(begin, i), row_stride, rows - r, LANES)
                i += LANES
            if i < end:
                part = _add_some_columns(part, move(begin, i), row_stride, rows - r, end - i)
            total = total + part
        store_apart(out, r * out_stride, out_stride, total, rows - r)
        r += LANES
    while r < rows:
        out[r * out_stride] = sum_chain(move(numbers, r * row_stride), step, n)
        r += 1


@intrinsic
def _add_in_order(typing: Any, total: Any, sums: Any) -> Any:
    """A number and sixteen more, one after the other."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        made, vector = args
        for lane in range(SIDE):
            made = builder.fadd(made, builder.extract_element(vector, ir.IntType(32)(lane)))
        return made

    return total(total, sums), codegen


@outlined("pi", "sums of neighbours", returns=True, uses=(sum_chain,))
def sum_run(numbers: Any, n: int) -> Any:
    """The sum of n neighbours, the chains of sixteen blocks side by side."""
    total, k = zero_of(numbers), 0
    while k + LANES * BLOCK <= n:
        part = zeros(numbers)
        for i in range(k, k + BLOCK, LANES):
            part = _add_columns(part, move(numbers, i), BLOCK, LANES, LANES)
        total = _add_in_order(total, part)
        k += LANES * BLOCK
    while k < n:
        total += sum_chain(move(numbers, k), 1, min(BLOCK, n - k))
        k += BLOCK
    return total


if JIT_OFF:

    def _add_in_order(total: Any, sums: Any) -> Any:
        return total + sums

    def _add_columns(sums: Any, pointer: Any, row_stride: int, rows: int, columns: int) -> Any:
        return sums + pointer[0]
