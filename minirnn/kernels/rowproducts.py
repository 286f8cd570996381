"""Products of rows with a matrix each, as attention has them: no other row uses what one has read.

Such a product lives from the memory that it reads.  A matrix of few columns is kept as it is, for a panel would be
padding in the most part, and four rows go side by side, for the columns of one make too few chains of fma to keep
the processor busy.  Wider matrices are packed in panels as all others are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .build import JIT_OFF
from .contract import product
from .lanes_type import LANES, splat, vector_of
from .outline import outlined
from .tile import BLOCK, move

FEW = 2 * LANES  # columns of a matrix that is not packed


def _emit(builder: Any, dtype: Any, rows: int, arguments: Any) -> None:
    """The loop along at most BLOCK products of `rows` rows, two vectors of sums each, and what is done with them."""
    a, a_row, matrices, apart, pace, out, out_row, depth, count, first = arguments
    long, short, vector = ir.IntType(64), ir.IntType(32), vector_of(dtype)
    suffix, size = f"v{LANES}f{dtype.bitwidth}", dtype.bitwidth // 8
    pointer, mask, nothing = vector.as_pointer(), ir.VectorType(ir.IntType(1), LANES), ir.Constant(vector, None)
    get, put, fma = (
        cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, kinds), f"llvm.{name}.{suffix}{end}")
        for name, result, kinds, end in (
            ("masked.load", vector, [pointer, short, mask, vector], ".p0"),
            ("masked.store", ir.VoidType(), [vector, pointer, short, mask], ".p0"),
            ("fma", vector, [vector] * 3, ""),
        )
    )
    numbers = [ir.Constant(ir.VectorType(long, LANES), [h + k for k in range(LANES)]) for h in (0, LANES)]
    valid = [builder.icmp_signed("<", lanes, splat(builder, count)) for lanes in numbers]

    def places(start: Any, stride: Any) -> list[Any]:
        return [builder.gep(start, [builder.mul(stride, long(row))]) for row in range(rows)]

    def halves(place: Any) -> list[Any]:
        return [builder.bitcast(builder.gep(place, [long(h)]), pointer) for h in (0, LANES)]

    left, right, targets = places(a, a_row), places(matrices, apart), places(out, out_row)
    before, loop, end = builder.block, builder.append_basic_block("inner"), builder.append_basic_block("end")
    builder.branch(loop)
    builder.position_at_end(loop)
    k, at = builder.phi(long), builder.phi(long)
    chains = [builder.phi(vector) for _ in range(2 * rows)]
    longer = []
    for row in range(rows):
        x = builder.load(builder.gep(left[row], [k]))
        x.align = size
        for half, place in enumerate(halves(builder.gep(right[row], [at]))):
            b = builder.call(get, [place, short(size), valid[half], nothing])
            longer.append(builder.call(fma, [splat(builder, x), b, chains[2 * row + half]]))
    for phi, start, following in (
        (k, long(0), builder.add(k, long(1))),
        (at, long(0), builder.add(at, pace)),
        *((chain, nothing, made) for chain, made in zip(chains, longer, strict=True)),
    ):
        phi.add_incoming(start, before)
        phi.add_incoming(following, loop)
    builder.cbranch(builder.icmp_signed("<", k.incomings[1][0], depth), loop, end)
    builder.position_at_end(end)
    for row in range(rows):
        for half, place in enumerate(halves(targets[row])):
            made = longer[2 * row + half]
            held = builder.call(get, [place, short(size), valid[half], nothing])
            made = builder.select(first, made, builder.fadd(held, made))
            builder.call(put, [made, place, short(size), valid[half]])


def _rows_at_once(rows: int) -> Any:
    """The function that adds at most BLOCK products to `rows` rows of `out`, or puts them there if they are the first.

    It takes the pointer and row stride of `a`, those of the matrices and the stride of a matrix's rows, those of `out`,
    the number of products, how many columns there are, and whether these are the first products.
    """
    if JIT_OFF:
        return _plain(rows)

    @intrinsic
    def add(
        typing: Any, a: Any, a_row: Any, matrices: Any, apart: Any, pace: Any, out: Any, out_row: Any, depth: Any,
        count: Any, first: Any,
    ) -> Any:  # fmt: skip
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            _emit(builder, a.dtype, rows, args)
            return context.get_dummy_value()

        long = types.int64
        return types.void(a, long, matrices, long, long, out, long, long, long, types.boolean), codegen

    return add


def _plain(rows: int) -> Any:
    def add(
        a: Any, a_row: int, matrices: Any, apart: int, pace: int, out: Any, out_row: int, depth: int, count: int,
        first: bool,
    ) -> None:  # fmt: skip
        for row in range(rows):
            chain = np.zeros(count, a.dtype)
            for k in range(depth):
                b = matrices[row * apart + k * pace :][:count]
                chain = (np.float64(a[row * a_row + k]) * b.astype(np.float64) + chain).astype(a.dtype)
            place = out[row * out_row :][:count]
            place[:] = chain if first else place + chain

    return add


_four, _one = _rows_at_once(4), _rows_at_once(1)


@outlined("pipipiiii", "products of rows with a matrix each", uses=(product,))
def multiply_each(
    a: Any, a_row: int, matrices: Any, apart: int, out: Any, out_row: int, rows: int, inner: int, columns: int
) -> None:
    """out[r * out_row + n] = the sum over k of a[r * a_row + k] * M[r][k, n], the matrices `apart` elements apart."""
    r = 0
    while r < rows:
        x, right, to = move(a, r * a_row), move(matrices, r * apart), move(out, r * out_row)
        if columns > FEW or inner == 0:
            product(x, 0, 1, right, to, 0, 1, inner, columns, 0, 0, True)
            r += 1
            continue
        four = r + 4 <= rows
        for k in range(0, inner, BLOCK):
            depth, block = min(BLOCK, inner - k), move(right, k * columns)
            if four:
                _four(move(x, k), a_row, block, apart, columns, to, out_row, depth, columns, k == 0)
            else:
                _one(move(x, k), a_row, block, apart, columns, to, out_row, depth, columns, k == 0)
        r += 4 if four else 1
