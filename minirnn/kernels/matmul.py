"""Contractions and sums of whole arrays, with the same bits as inside a kernel.

The order is contract.py's.  A contraction's letters fall in four groups: batch, rows, columns, and
the contracted ones, which are one index in the order in which they stand in the first operand.  A
sum over several axes goes through them in the order of the axes, the last one fastest.

Threads share out the rows or the columns of the result.
"""

from __future__ import annotations

import functools
import math
import threading
from typing import Any

import numpy as np

from .. import config
from ..autodiff import contraction
from . import build, threads
from .contract import PACKING_BYTES, aligned_empty, multiply_chunks, pack, sum_chain, sum_columns
from .parts import array_part
from .rowsums import FEWEST, sum_rows, sum_run
from .tile import PANEL_BYTES, address

if build.JIT_OFF:
    from .twins import put, stride
else:
    from .lanes import put, stride

# About 100 microseconds of work; less is not worth a second thread's time.
_PRODUCTS_WORTH_THREADS = 8_000_000
_ADDITIONS_WORTH_THREADS = 1_000_000

_FLOATS = frozenset({np.dtype(np.float32), np.dtype(np.float64)})


@array_part("products of arrays", uses=("multiply_chunks",), reads=(3, 3), writes=(3, 1), integers=4)
def _multiply_part(a: Any, b: Any, out: Any, scratch: Any, row: int, rows: int, column: int, columns: int) -> None:
    """Rows and columns of out (N, R, C) = a (N, R, K) times b (N, K, C); `scratch` takes the packed chunks."""
    for n in range(a.shape[0]):
        left = address(a, n * stride(a, 0) + row * stride(a, 1))
        right = address(b, n * stride(b, 0) + column * stride(b, 2))
        to = address(out, (n * out.shape[1] + row) * out.shape[2] + column)
        multiply_chunks(
            left, stride(a, 1), stride(a, 2), right, stride(b, 1), stride(b, 2), to, out.shape[2],
            rows, a.shape[2], columns, address(scratch, 0),
        )  # fmt: skip


@array_part(
    "sums of arrays", uses=("sum_rows", "sum_run", "sum_chain", "sum_columns"), reads=(3,), writes=(2,), integers=4
)
def _sum_part(x: Any, out: Any, first: int, stop: int, column: int, columns: int) -> None:
    """Entries and columns of out (L, R): the sums over the middle axis of x (L, n, R)."""
    n, entry, step, neighbour = x.shape[1], stride(x, 0), stride(x, 1), stride(x, 2)
    if x.shape[2] == 1 and stop - first >= FEWEST:
        sum_rows(address(x, first * entry), entry, stop - first, step, n, address(out, first), 1)
        return
    for i in range(first, stop):
        if neighbour == 1 and x.shape[2] > 1:
            sum_columns(x, i * entry + column, step, n, columns, out, i * out.shape[1] + column)
        else:
            for c in range(column, column + columns):
                at = i * entry + c * neighbour
                put(out, i * out.shape[1] + c, sum_run(x, at, n) if step == 1 else sum_chain(x, at, step, n))


@array_part("the packing of arrays", uses=("pack",), reads=(2,), writes=(1,), integers=1)
def _pack_part(matrix: Any, panels: Any, at: int) -> None:
    pack(matrix, 0, stride(matrix, 0), stride(matrix, 1), matrix.shape[0], matrix.shape[1], panels, at)


# calling -----------------------------------------------------------------------------------------
def pack_array(matrix: Any, panels: Any, at: int) -> None:
    """Lay a matrix of any strides out in panels, from panels[at] on."""
    _pack_part.of(panels.dtype)(matrix, panels, at)


class _Scratch(threading.local):
    """A buffer of each thread and dtype."""

    def __init__(self) -> None:
        self.buffers: dict[Any, Any] = {}

    def of(self, dtype: Any) -> Any:
        if dtype not in self.buffers:
            self.buffers[dtype] = aligned_empty(PACKING_BYTES // dtype.itemsize, dtype)
        return self.buffers[dtype]


scratch_of = _Scratch().of


def _run_part(part: Any, a: Any, b: Any, out: Any, row: int, rows: int, column: int, columns: int) -> None:
    part(a, b, out, scratch_of(out.dtype), row, rows, column, columns)


def _shares(count: int, unit: int) -> list[tuple[int, int]]:
    """The start and size of each thread's share of `count` neighbours, whole units but for the last."""
    each = -(-count // (unit * config.current_threads())) * unit
    return [(start, min(each, count - start)) for start in range(0, count, each)]


def matmul(a: Any, b: Any) -> Any:
    """The products of the matrices a (N, R, K) and b (N, K, C), float32 or float64 both: (N, R, C).

    Any strides will do.  The order of sums is contract.py's.

    >>> a, b = np.ones((1, 2, 100)), np.full((1, 100, 3), 0.5)
    >>> matmul(a, b).tolist()
    [[[50.0, 50.0, 50.0], [50.0, 50.0, 50.0]]]
    """
    (count, rows, inner), columns = a.shape, b.shape[2]
    out = np.empty((count, rows, columns), a.dtype)
    if out.size == 0:
        return out
    part = _multiply_part.of(a.dtype)
    if build.JIT_OFF:  # where a pointer cannot go back
        a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    if out.size * inner < _PRODUCTS_WORTH_THREADS:
        part(a, b, out, scratch_of(a.dtype), 0, rows, 0, columns)
    elif count >= 8:
        entries = [slice(n, n + more) for n, more in _shares(count, 1)]
        threads.run(_run_part, [(part, a[i], b[i], out[i], 0, rows, 0, columns) for i in entries])
    elif rows >= columns:
        threads.run(_run_part, [(part, a, b, out, r, more, 0, columns) for r, more in _shares(rows, 4)])
    else:
        unit = PANEL_BYTES // a.itemsize
        threads.run(_run_part, [(part, a, b, out, 0, rows, c, more) for c, more in _shares(columns, unit)])
    return out


def contract_arrays(a: Any, b: Any, spec: str) -> Any:
    """The contraction of two arrays that Einstein's notation names; other dtypes than floats are NumPy's.

    >>> contract_arrays(np.eye(2), np.array([[1.0, 2.0], [3.0, 4.0]]), "bf,fu->ub").tolist()
    [[1.0, 3.0], [2.0, 4.0]]
    """
    if a.dtype is not b.dtype or a.dtype not in _FLOATS:
        dtype = np.result_type(a, b)
        if dtype not in _FLOATS:
            return contraction.contract_arrays(a, b, spec)
        a, b = a.astype(dtype, copy=False), b.astype(dtype, copy=False)
    order_a, order_b, order_out, batch, rows, summed = _orders(spec)
    if order_a:
        a = a.transpose(order_a)
    if order_b:
        b = b.transpose(order_b)
    if batch == 0 and rows == summed == 1 and b.ndim == 2:
        out = matmul(a[None], b[None])[0]
    elif summed:
        shape = a.shape[: batch + rows] + b.shape[batch + summed :]
        out = matmul(*_as_matrices(a, b, batch, rows, summed)).reshape(shape)
    else:  # a product of two numbers for each element, without the addition of a zero
        ones = (1,) * (b.ndim - batch)
        out = a.reshape(a.shape + ones) * b.reshape(b.shape[:batch] + (1,) * rows + b.shape[batch:])
    return out.transpose(order_out) if order_out else out


@functools.lru_cache(maxsize=1024)
def _orders(spec: str) -> Any:
    """As `contraction.plan`, with None for axes that are in order already."""
    *orders, batch, rows, summed = contraction.plan(spec)
    return *(None if order == tuple(range(len(order))) else order for order in orders), batch, rows, summed


def _as_matrices(a: Any, b: Any, batch: int, rows: int, summed: int) -> tuple[Any, Any]:
    """The operands with one axis for each group of letters."""
    count, height = math.prod(a.shape[:batch]), math.prod(a.shape[batch : batch + rows])
    inner, width = math.prod(b.shape[batch : batch + summed]), math.prod(b.shape[batch + summed :])
    return a.reshape(count, height, inner), b.reshape(count, inner, width)


def sum_over(x: Any, axis: tuple[int, ...], keepdims: bool) -> Any:
    """The sum of an array over axes, which are sorted and at least 0; other dtypes than floats are NumPy's.

    >>> sum_over(np.ones((2, 3, 4)), (0, 2), False).tolist()
    [8.0, 8.0, 8.0]
    """
    if x.dtype not in _FLOATS or not axis:
        return contraction.sum_of_array(x, axis, keepdims)
    order, parts, shape = _sum_plan(x.shape, axis, keepdims)
    out = np.empty(shape, x.dtype)
    if out.size:
        part = _sum_part.of(x.dtype)
        x, made = x.transpose(order).reshape(parts), out.reshape(parts[0], parts[2])
        if build.JIT_OFF:
            x = np.ascontiguousarray(x)
        if x.size < _ADDITIONS_WORTH_THREADS:
            part(x, made, 0, parts[0], 0, parts[2])
        elif parts[0] >= parts[2]:
            threads.run(part, [(x, made, i, i + more, 0, parts[2]) for i, more in _shares(parts[0], 16)])
        else:
            threads.run(part, [(x, made, 0, parts[0], c, more) for c, more in _shares(parts[2], 16)])
    return out[()]


@functools.lru_cache(maxsize=1024)
def _sum_plan(shape: tuple[int, ...], axis: tuple[int, ...], keepdims: bool) -> Any:
    """The order of axes and then the shape (before, summed, after) of the array, and the shape of its sum."""
    kept = [i for i in range(len(shape)) if i not in axis]
    made = tuple(1 if i in axis else n for i, n in enumerate(shape)) if keepdims else tuple(shape[i] for i in kept)
    neighbours = axis[-1] - axis[0] == len(axis) - 1
    before = [i for i in kept if i < axis[0] or not neighbours]
    after = [i for i in kept if i not in before]
    parts = tuple(math.prod(shape[i] for i in axes) for axes in (before, axis, after))
    return (*before, *axis, *after), parts, made
