"""Contractions and sums of whole arrays, with the same bits as inside a kernel.

The order is contract.py's.  A contraction's letters fall in four groups: batch, rows, columns, and
the contracted ones, which are one index in the order in which they stand in the first operand.  A
sum over several axes goes through them in the order of the axes, the last one fastest.

Large products go by chunks that stay in the second cache: a chunk of the second operand is packed
and serves all rows, a chunk of a first operand whose rows are no runs of memory is packed as well.
Threads share out the rows or the columns of the result.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import config
from ..autodiff import contraction
from . import build, outline, threads
from .build import library_function
from .contract import PACKING_BYTES, aligned_empty, multiply_chunks, sum_columns, sum_rows
from .tile import PANEL_BYTES, address, size_of

# About 100 microseconds of work; less is not worth a second thread's time.
_PRODUCTS_WORTH_THREADS = 8_000_000
_ADDITIONS_WORTH_THREADS = 1_000_000

_FLOATS = frozenset({np.dtype(np.float32), np.dtype(np.float64)})


@library_function
def _multiply_part(a: Any, b: Any, out: Any, scratch: Any, row: int, rows: int, column: int, columns: int) -> None:
    """Rows and columns of out (N, R, C) = a (N, R, K) times b (N, K, C); `scratch` takes the packed chunks."""
    size = size_of(address(a, 0))
    a_row, a_step = a.strides[1] // size, a.strides[2] // size
    b_row, b_column = b.strides[1] // size, b.strides[2] // size
    for n in range(a.shape[0]):
        left = address(a, n * (a.strides[0] // size) + row * a_row)
        right = address(b, n * (b.strides[0] // size) + column * b_column)
        to = address(out, (n * out.shape[1] + row) * out.shape[2] + column)
        panels = address(scratch, 0)
        multiply_chunks(
            left, a_row, a_step, right, b_row, b_column, to, out.shape[2], rows, a.shape[2], columns, panels
        )


@library_function
def _sum_part(x: Any, out: Any, first: int, stop: int, column: int, columns: int) -> None:
    """Entries and columns of out (L, R): the sums over the middle axis of x (L, n, R)."""
    size = size_of(address(x, 0))
    n, entry, step, neighbour = x.shape[1], x.strides[0] // size, x.strides[1] // size, x.strides[2] // size
    if neighbour == 1 and x.shape[2] > 1:
        for i in range(first, stop):
            sum_columns(x, i * entry + column, step, n, columns, out, i * out.shape[1] + column)
    elif x.shape[2] == 1:
        sum_rows(x, first * entry, entry, step, stop - first, n, out, first, 1)
    else:
        for i in range(first, stop):
            place = i * entry + column * neighbour
            sum_rows(x, place, neighbour, step, columns, n, out, i * out.shape[1] + column, 1)


# calling -----------------------------------------------------------------------------------------
def _array(dtype: str, rank: int, reads: bool) -> str:
    return f"Array({dtype}, {rank}, 'A', readonly=True)" if reads else f"Array({dtype}, {rank}, 'C')"


_SIGNATURES = {
    _multiply_part: lambda d: [_array(d, 3, True), _array(d, 3, True), _array(d, 3, False), _array(d, 1, False)],
    _sum_part: lambda d: [_array(d, 3, True), _array(d, 2, False)],
}
_ready: set[tuple[Callable[..., Any], str]] = set()


def _prepared(function: Any, dtype: Any) -> Any:
    """A function of this module, compiled or loaded for a dtype."""
    if (function, dtype) not in _ready:
        if not build.JIT_OFF:
            used = {_multiply_part: ["sum_of_products"], _sum_part: ["sum_chain", "sum_columns"]}
            outline.prepare(dtype, used[function])
            arrays = _SIGNATURES[function](dtype.name)
            with build._lock:
                function.disable_compile(False)
                build._compile(function, f"void({', '.join(arrays + ['int64'] * 4)})", "products of arrays")
                function.disable_compile()  # arrays of other layouts are taken as these
        _ready.add((function, dtype))
    return function


class _Scratch(threading.local):
    """A buffer of each thread and dtype."""

    def __init__(self) -> None:
        self.buffers: dict[Any, Any] = {}

    def of(self, dtype: Any) -> Any:
        if dtype not in self.buffers:
            self.buffers[dtype] = aligned_empty(PACKING_BYTES // dtype.itemsize, dtype)
        return self.buffers[dtype]


_scratch = _Scratch()


def _run_part(part: Any, a: Any, b: Any, out: Any, row: int, rows: int, column: int, columns: int) -> None:
    part(a, b, out, _scratch.of(out.dtype), row, rows, column, columns)


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
    part = _prepared(_multiply_part, a.dtype)
    if build.JIT_OFF:  # where a pointer cannot go back
        a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    if out.size * inner < _PRODUCTS_WORTH_THREADS:
        part(a, b, out, _scratch.of(a.dtype), 0, rows, 0, columns)
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
        part = _prepared(_sum_part, x.dtype)
        x, made = (x.transpose(order) if order else x).reshape(parts), out.reshape(parts[0], parts[2])
        if build.JIT_OFF:
            x = np.ascontiguousarray(x)
        if x.size < _ADDITIONS_WORTH_THREADS:
            part(x, made, 0, parts[0], 0, parts[2])
        elif parts[0] >= parts[2]:
            threads.run(part, [(x, made, i, i + more, 0, parts[2]) for i, more in _shares(parts[0], 4)])
        else:
            threads.run(part, [(x, made, 0, parts[0], c, more) for c, more in _shares(parts[2], 16)])
    return out[()]


@functools.lru_cache(maxsize=1024)
def _sum_plan(shape: tuple[int, ...], axis: tuple[int, ...], keepdims: bool) -> Any:
    """The order of axes (None as they are) and then the shape (before, summed, after), and the shape of the sum."""
    kept = [i for i in range(len(shape)) if i not in axis]
    made = tuple(1 if i in axis else n for i, n in enumerate(shape)) if keepdims else tuple(shape[i] for i in kept)
    neighbours = axis[-1] - axis[0] == len(axis) - 1
    before = [i for i in kept if i < axis[0] or not neighbours]
    after = [i for i in kept if i not in before]
    parts = tuple(math.prod(shape[i] for i in axes) for axes in (before, axis, after))
    order = (*before, *axis, *after)
    return None if order == tuple(range(len(shape))) else order, parts, made
