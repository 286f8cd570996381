"""Sums, maxima and products over memory, in the order that gives every element the same bits everywhere.

The order is that of the cpu engine's contract.py: blocks of 64 along the summed index, each one chain from
zero in index order, and the sums of the blocks added in order.  `tiled_product` shares a large product out
to blocks of threads; tiles and threads change who computes an element, never its order.
"""

from __future__ import annotations

from typing import Any

from ..tile import BLOCK
from . import target, tiles
from .inline import inlined
from .scalars import element, fma, put, select
from .squares import EACH, added, multiplied, put_square, zeros
from .tiles import TILE, TILE_DEPTH, TILE_THREADS

ACROSS = TILE // EACH

cuda = target.cuda


def _number_of(array: Any, *others: Any) -> Any:
    return array.dtype


def _whole(*given: Any) -> Any:
    return target.cuda.types.int64


def _nothing(*given: Any) -> Any:
    return target.cuda.types.void


# sums and maxima ---------------------------------------------------------------------------------
@inlined(_number_of)
def sum_chain(array: Any, at: int, step: int, count: int) -> Any:
    """The sum of `count` numbers from array[at] on that stand `step` apart."""
    total = array.dtype.type(0)
    for first in range(0, count, BLOCK):
        part = array.dtype.type(0)
        for k in range(first, min(first + BLOCK, count)):
            part += element(array, at + k * step)
        total += part
    return total


@inlined(_number_of)
def max_chain(array: Any, at: int, step: int, count: int) -> Any:
    """The largest of count >= 1 numbers, the first of equal ones; NaN if one of them is."""
    largest = element(array, at)
    unordered = array.dtype.type(0)
    for k in range(1, count):
        x = element(array, at + k * step)
        largest = select(x > largest, x, largest)
        unordered = select(x != x, x, unordered)
    first = element(array, at)
    unordered = select(first != first, first, unordered)
    return select(unordered != unordered, unordered, largest)


@inlined(_whole)
def argmax_chain(array: Any, at: int, step: int, count: int) -> int:
    """Which of count >= 1 numbers is the largest, the first of several; or the first NaN."""
    largest, place = element(array, at), 0
    for k in range(1, count):
        x = element(array, at + k * step)
        larger = (x > largest) | ((x != x) & (largest == largest))
        largest = select(larger, x, largest)
        place = select(larger, k, place)
    return place


@inlined(_number_of)
def sum_of_blocks(array: Any, at: int, step: int, count: int) -> Any:
    """The sums of `count` blocks, which stand `step` apart, added in order; 0 if there is none."""
    total = array.dtype.type(0)
    if count > 0:
        total = element(array, at)
    for k in range(1, count):
        total += element(array, at + k * step)
    return total


# products ----------------------------------------------------------------------------------------
@inlined(_number_of)
def product_element(a: Any, a_at: int, a_step: int, b: Any, b_at: int, b_step: int, count: int) -> Any:
    """The sum over k of a[a_at + k * a_step] * b[b_at + k * b_step], an element of a product; 0 if there is none."""
    total = a.dtype.type(0)
    for first in range(0, count, BLOCK):
        part = a.dtype.type(0)
        for k in range(first, min(first + BLOCK, count)):
            part = fma(element(a, a_at + k * a_step), element(b, b_at + k * b_step), part)
        total = select(first == 0, part, total + part)
    return total


@inlined(_number_of)
def chain_element(a: Any, a_at: int, a_step: int, b: Any, b_at: int, b_step: int, count: int) -> Any:
    """As `product_element`, of a contraction of two values that both change; -0 if there is nothing to add."""
    total = -a.dtype.type(0)
    for first in range(0, count, BLOCK):
        part = a.dtype.type(0)
        for k in range(first, min(first + BLOCK, count)):
            part = fma(element(a, a_at + k * a_step), element(b, b_at + k * b_step), part)
        total += part
    return total


tile_count = inlined(_whole)(tiles.tile_count)


@inlined(_nothing)
def tiled_product(
    tile: int, a: Any, a_at: int, a_row: int, a_step: int, b: Any, b_at: int, b_row: int, b_column: int,
    out: Any, out_at: int, out_row: int, rows: int, inner: int, columns: int, shared: Any,
) -> None:  # fmt: skip
    """One tile of out[r, c] = the sum over k of a[r, k] * b[k, c], by a block of TILE_THREADS threads.

    The elements stand at out_at + r * out_row + c, a_at + r * a_row + k * a_step and b_at + k * b_row +
    c * b_column.  `shared` takes TILE_SHARED elements from a multiple of 16 bytes on, and is free again when
    the function returns.
    """
    across = (columns + TILE - 1) // TILE
    top, left = tile // across * TILE, tile % across * TILE
    thread = cuda.threadIdx.x
    row, column = thread // ACROSS * EACH, thread % ACROSS * EACH
    total, part = zeros(shared), zeros(shared)
    for first in range(0, inner, TILE_DEPTH):
        depth = min(TILE_DEPTH, inner - first)
        _stage(thread, shared, 0, a, a_at + top * a_row + first * a_step, a_row, a_step, rows - top, depth)
        _stage(thread, shared, TILE, b, b_at + left * b_column + first * b_row, b_column, b_row, columns - left, depth)
        cuda.syncthreads()
        for k in range(0, 2 * TILE * depth, 2 * TILE):
            part = multiplied(part, shared, k + row, k + TILE + column)
        if (first + TILE_DEPTH) % BLOCK == 0 or first + TILE_DEPTH >= inner:  # a block of the sum ends
            total = part if first < BLOCK else added(total, part)
            part = zeros(shared)
        cuda.syncthreads()
    put_square(
        out, out_at + (top + row) * out_row + left + column, out_row, rows - top - row, columns - left - column, total
    )


@inlined(_nothing)
def _stage(thread: int, shared: Any, to: int, a: Any, at: int, pace: int, step: int, count: int, depth: int) -> None:
    """Lay a TILE x TILE_DEPTH part of an operand out with TILE_DEPTH first, zero beyond its `count` and `depth`.

    Neighbouring threads read neighbours, whichever axis these are on.
    """
    for place in range(thread, TILE_DEPTH * TILE, TILE_THREADS):
        if step == 1:
            n, k = place // TILE_DEPTH, place % TILE_DEPTH
        else:
            n, k = place % TILE, place // TILE
        x = a.dtype.type(0)
        if k < depth and n < count:
            x = element(a, at + n * pace + k * step)
        put(shared, 2 * TILE * k + to + n, x)
