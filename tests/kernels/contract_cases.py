"""What the functions of contract.py and matmul.py give for some drawn operands, and what their definition gives.

As a program, `python -m tests.kernels.contract_cases FILE` writes the results into an .npz file, so that
other processes can be compared: with other processors in NUMBA_CPU_NAME, or without the JIT.
"""

from __future__ import annotations

import sys
from typing import Any

import numba
import numpy as np

from minirnn.kernels import contract, lower, matmul, outline, panels, rowproducts, rowsums

BLOCK = 64
GUARD = 7.0  # stands around every place that may be written to


# the definition ----------------------------------------------------------------------------------
def _two_sum(a: Any, b: Any) -> tuple[Any, Any]:
    total = a + b
    shown = total - a
    return total, (a - (total - shown)) + (b - shown)


def _two_product(a: Any, b: Any) -> tuple[Any, Any]:
    def split(x: Any) -> tuple[Any, Any]:
        scaled = 134217729.0 * x
        high = scaled - (scaled - x)
        return high, x - high

    (a1, a2), (b1, b2) = split(a), split(b)
    product = a * b
    return product, ((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2


def _rounded_to_odd(total: Any, error: Any) -> Any:
    """The neighbour of total + error whose last bit is set, unless the sum is exact."""
    bits = total.view(np.int64)
    away = (error > 0) == (total > 0)
    even = (error != 0) & (bits & 1 == 0)
    return np.where(even, np.where(away, bits + 1, bits - 1), bits).view(np.float64)


def exact_fma(a: Any, b: Any, c: Any) -> Any:
    """a * b + c rounded once, element by element, in ordinary arithmetic (Boldo and Melquiond, 2008)."""
    dtype = np.result_type(a, b, c)
    a, b, c = np.broadcast_arrays(*(np.asarray(x, np.float64) for x in (a, b, c)))
    if dtype == np.float32:
        return _rounded_to_odd(*_two_sum(a * b, c)).astype(np.float32)
    high, low = _two_product(a, b)
    c_high, c_low = _two_sum(c, low)
    t_high, t_low = _two_sum(high, c_high)
    return t_high + _rounded_to_odd(*_two_sum(t_low, c_low))


def product_by_definition(a: Any, b: Any) -> Any:
    """(R, K) times (K, C), one product after the other."""
    total = None
    for first in range(0, a.shape[1], BLOCK):
        chain = np.zeros((a.shape[0], b.shape[1]), a.dtype)
        for k in range(first, min(first + BLOCK, a.shape[1])):
            chain = exact_fma(a[:, k : k + 1], b[k : k + 1], chain)
        total = chain if total is None else total + chain
    return np.zeros((a.shape[0], b.shape[1]), a.dtype) if total is None else total


def sum_by_definition(x: Any) -> Any:
    """Over the first axis."""
    total = np.zeros(x.shape[1:], x.dtype)
    for first in range(0, len(x), BLOCK):
        chain = np.zeros(x.shape[1:], x.dtype)
        for row in x[first : first + BLOCK]:
            chain = chain + row
        total = total + chain
    return total


# running the functions ---------------------------------------------------------------------------
def _kernel(function: Any) -> Any:
    return numba.njit(error_model="numpy")(function)


@_kernel
def _product(
    a: Any, a_at: int, a_row: int, a_step: int, b: Any, b_at: int, b_row: int, b_column: int, panels: Any, out: Any,
    out_at: int, out_row: int, rows: int, inner: int, columns: int, turn: int,
) -> None:  # fmt: skip
    contract.pack(b, b_at, b_row, b_column, inner, columns, panels, 16)
    contract.product(a, a_at, a_row, a_step, panels, 16, out, out_at, out_row, rows, inner, columns, turn, 0)


def product(a: Any, b: Any, turned: tuple[bool, bool] = (False, False), gap: int = 0, turn: int = 0) -> Any:
    """The product through `pack` and `product`, the operands laid out turned or not, rows with gaps between them.

    Raises AssertionError if anything but the result was written to.
    """
    outline.prepare(a.dtype, ("pack", "product", "sum_chain", "sum_columns", "max_chain"))
    (rows, inner), columns = a.shape, b.shape[1]
    places = []
    for x, turn_it in zip((a, b), turned, strict=True):
        laid = x.T if turn_it else x
        room = np.full((laid.shape[0], laid.shape[1] + gap), np.nan, a.dtype)
        room[:, : laid.shape[1]] = laid
        strides = (1, room.shape[1]) if turn_it else (room.shape[1], 1)
        places.append((np.concatenate([np.full(5, np.nan, a.dtype), room.ravel()]), 5, *strides))
    panels = contract.aligned_empty(contract.packed_size(inner, columns, a.dtype) + 32, a.dtype)
    panels[:] = GUARD
    out = np.full(9 + rows * (columns + gap) + 9, GUARD, a.dtype)
    _product(*places[0], *places[1], panels, out, 9, columns + gap, rows, inner, columns, turn)
    assert (panels[:16] == GUARD).all() and (panels[-16:] == GUARD).all()
    body = out[9:-9].reshape(rows, columns + gap)
    assert (out[:9] == GUARD).all() and (out[-9:] == GUARD).all() and (body[:, columns:] == GUARD).all()
    return body[:, :columns].copy()


sum_chain = _kernel(lambda a, at, step, n: contract.sum_chain(a, at, step, n))
max_chain = _kernel(lambda a, at, step, n: contract.max_chain(a, at, step, n))
argmax_chain = _kernel(lambda a, at, step, n: contract.argmax_chain(a, at, step, n))
_sum_rows = _kernel(lambda a, at, rs, rows, s, n, o, oat, os: rowsums.sum_rows(a, at, rs, rows, s, n, o, oat, os))
_sum_columns = _kernel(lambda a, at, rs, rows, c, o, oat: contract.sum_columns(a, at, rs, rows, c, o, oat))
_max_columns = _kernel(lambda a, at, rs, rows, c, o, oat: contract.max_columns(a, at, rs, rows, c, o, oat))


_multiply_each = _kernel(
    lambda a, a_row, m, apart, out, at, out_row, rows, inner, columns: rowproducts.multiply_each(
        a, 0, a_row, m, 0, apart, out, at, out_row, rows, inner, columns
    )
)


def products_of_rows(a: Any, matrices: Any, gap: int) -> Any:
    """Of (R, F) and (R, F, U), a matrix each: (R, U); the rows of what is read and written have gaps between them."""
    outline.prepare(a.dtype, ("multiply_each",))
    (rows, inner), columns = a.shape, matrices.shape[2]
    laid = panels.packed(matrices.transpose(0, 2, 1).copy(), lower.Panels(None, None, (0, 2, 1), (1, 1, 1), True))
    room = np.full((rows, inner + gap), np.nan, a.dtype)
    room[:, :inner] = a
    out = np.full(9 + rows * (columns + gap) + 9, GUARD, a.dtype)
    apart = laid.strides[0] // laid.itemsize
    _multiply_each(room.ravel(), inner + gap, laid.ravel(), apart, out, 9, columns + gap, rows, inner, columns)
    body = out[9:-9].reshape(rows, columns + gap)
    assert (out[:9] == GUARD).all() and (out[-9:] == GUARD).all() and (body[:, columns:] == GUARD).all()
    return body[:, :columns].copy()


def _guarded(run: Any, x: Any, count: int) -> Any:
    out = np.full(3 + count + 3, GUARD, x.dtype)
    run(out)
    assert (out[:3] == GUARD).all() and (out[-3:] == GUARD).all()
    return out[3:-3].copy()


def sum_rows(x: Any, step: int) -> Any:
    """Of (R, n), laid out with gaps; into neighbours or, if the step is not 1, into places apart."""
    rows, n = x.shape
    room = np.full((rows, step * n + 2), np.nan, x.dtype)
    room[:, 1 : 1 + step * n : step] = x
    apart = 1 if step == 1 else 2
    outline.prepare(x.dtype, ("sum_rows",))
    made = _guarded(lambda o: _sum_rows(room.ravel(), 1, step * n + 2, rows, step, n, o, 3, apart), x, rows * apart)
    assert apart == 1 or (made[1::2] == GUARD).all()
    return made[::apart]


def of_columns(run: Any, x: Any) -> Any:
    """Of (n, C), with a gap after each row."""
    n, columns = x.shape
    room = np.full((n, columns + 3), np.nan, x.dtype)
    room[:, :columns] = x
    return _guarded(lambda out: run(room.ravel(), 0, columns + 3, n, columns, out, 3), x, columns)


def sum_columns(x: Any) -> Any:
    return of_columns(_sum_columns, x)


def max_columns(x: Any) -> Any:
    return of_columns(_max_columns, x)


def results(most: int, count: int) -> dict[str, Any]:
    """Products, sums and contractions of random sizes up to `most`."""
    rng, made = np.random.default_rng(5), {}
    for case in range(count):
        rows, inner, columns = (int(n) for n in rng.integers(1, most, 3))
        for dtype in (np.float32, np.float64):
            a, b = rng.normal(size=(rows, inner)).astype(dtype), rng.normal(size=(inner, columns)).astype(dtype)
            name = f"{case} {np.dtype(dtype).name} {rows}x{inner}x{columns}"
            made[f"product {name}"] = product(a, b, (case % 2 == 0, case % 3 == 0), case % 4, case)
            made[f"one row {name}"] = product(a[:1], b)
            made[f"rows with a matrix each {name}"] = products_of_rows(a, b * np.ones((rows, 1, 1), dtype), case % 4)
            made[f"sum_rows {name}"] = sum_rows(a, 1)
            made[f"sum_columns {name}"] = sum_columns(b)
            made[f"max_columns {name}"] = max_columns(b)
            made[f"contract {name}"] = matmul.contract_arrays(a, b, "bf,fu->ub")
            made[f"sum_over {name}"] = matmul.sum_over(a, (0, 1), True)
    return made


if __name__ == "__main__":
    np.savez(sys.argv[1], **results(int(sys.argv[2]), int(sys.argv[3])))
