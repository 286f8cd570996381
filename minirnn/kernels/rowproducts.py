"""Products of rows with a matrix each, as attention has them: no other row uses what one has read.

Such a product lives from the memory that it reads.  A matrix of few columns is kept as it is, for a panel would be
padding in the most part, and several rows go side by side, for the columns of one make too few chains of fma to keep
the processor busy.  Wider matrices are packed in panels as all others are.
"""

from __future__ import annotations

from typing import Any

from .build import JIT_OFF, library_function
from .contract import product
from .outline import outlined
from .tile import BLOCK, move

if JIT_OFF:
    from .twins import LANES, fma, load, store, zeros
else:
    from .lanes import LANES, fma, load, store, zeros

FEW = 32  # columns of a matrix that is not packed


@library_function
def _put_two(out: Any, at: int, left: Any, right: Any, count: int) -> None:
    """The first `count` numbers of two vectors."""
    store(out, at, left, count)
    if count > LANES:
        store(out, at + LANES, right, count - LANES)


@outlined("pipipiiii", "products of rows with a matrix each", uses=(product,))
def multiply_each(
    a: Any, a_row: int, matrices: Any, apart: int, out: Any, out_row: int, rows: int, inner: int, columns: int
) -> None:
    """out[r * out_row + n] = the sum over k of a[r * a_row + k] * M[r][k, n], the matrices `apart` elements apart."""
    if columns > FEW:
        for r in range(rows):
            row, to = move(a, r * a_row), move(out, r * out_row)
            product(row, 0, 1, move(matrices, r * apart), to, 0, 1, inner, columns, 0, 0, True)
        return
    r = 0
    while r + 4 <= rows:
        x0, x1 = move(a, r * a_row), move(a, (r + 1) * a_row)
        x2, x3 = move(a, (r + 2) * a_row), move(a, (r + 3) * a_row)
        for c in range(0, columns, 2 * LANES):
            m, n, begin = columns - c, columns - c - LANES, r * apart + c
            left0, left1, left2, left3 = zeros(a), zeros(a), zeros(a), zeros(a)
            right0, right1, right2, right3 = zeros(a), zeros(a), zeros(a), zeros(a)
            for first in range(0, inner, BLOCK):
                p0, p1, p2, p3 = zeros(a), zeros(a), zeros(a), zeros(a)
                q0, q1, q2, q3 = zeros(a), zeros(a), zeros(a), zeros(a)
                for k in range(first, min(first + BLOCK, inner)):
                    at = begin + k * columns
                    p0 = fma(x0[k], load(matrices, at, m), p0)
                    q0 = fma(x0[k], load(matrices, at + LANES, n), q0)
                    p1 = fma(x1[k], load(matrices, at + apart, m), p1)
                    q1 = fma(x1[k], load(matrices, at + apart + LANES, n), q1)
                    p2 = fma(x2[k], load(matrices, at + 2 * apart, m), p2)
                    q2 = fma(x2[k], load(matrices, at + 2 * apart + LANES, n), q2)
                    p3 = fma(x3[k], load(matrices, at + 3 * apart, m), p3)
                    q3 = fma(x3[k], load(matrices, at + 3 * apart + LANES, n), q3)
                left0, left1, left2, left3 = left0 + p0, left1 + p1, left2 + p2, left3 + p3
                right0, right1, right2, right3 = right0 + q0, right1 + q1, right2 + q2, right3 + q3
            _put_two(out, r * out_row + c, left0, right0, m)
            _put_two(out, (r + 1) * out_row + c, left1, right1, m)
            _put_two(out, (r + 2) * out_row + c, left2, right2, m)
            _put_two(out, (r + 3) * out_row + c, left3, right3, m)
        r += 4
    while r < rows:
        x = move(a, r * a_row)
        for c in range(0, columns, 2 * LANES):
            m, n, begin = columns - c, columns - c - LANES, r * apart + c
            left, right = zeros(a), zeros(a)
            for first in range(0, inner, BLOCK):
                p, q = zeros(a), zeros(a)
                for k in range(first, min(first + BLOCK, inner)):
                    p = fma(x[k], load(matrices, begin + k * columns, m), p)
                    q = fma(x[k], load(matrices, begin + k * columns + LANES, n), q)
                left, right = left + p, right + q
            _put_two(out, r * out_row + c, left, right, m)
        r += 1
