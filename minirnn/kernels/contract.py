"""The product of matrices, in the order of sums that gives every element the same bits everywhere.

An element of a product is a sum over the contracted index, in blocks of 64: a block is one chain of
fma from zero in index order, and the sums of the blocks are added in order, ((S0 + S1) + S2) and so
on.  Tiles, vectors, threads, the size of the batch and the processor change how many elements are on
their way at a time, never an element's order.

`pack` lays the second operand out in panels: PANEL_BYTES of neighbouring columns for each contracted
index, the last panel filled up with zeros.  A panel's block fits the first cache and serves all rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .build import JIT_OFF, library_function
from .outline import outlined
from .team import await_share, operands_of, post, shares_of, take_over
from .tile import (
    BLOCK,
    MAIN_BYTES,
    PAIR_BYTES,
    PANEL_BYTES,
    REGISTER_BYTES,
    ROWS,
    SINGLE_BYTES,
    address,
    copy_row,
    move,
    size_of,
    tile,
    zero_of,
)

if JIT_OFF:
    from .twins import LANES, load, maximum, store, zeros
else:
    from .lanes import LANES, load, maximum, store, zeros

ALIGNMENT = 64  # bytes: of panels, so that no vector of a panel crosses a cache line

_main = tile(ROWS, MAIN_BYTES)
_pair = tile(2, PAIR_BYTES)
_single = tile(1, SINGLE_BYTES)
# One row of one panel has four chains where the registers are as wide as that: it takes two panels at a time.
_PANELS_OF_A_ROW = 2 if REGISTER_BYTES == 64 else 1
_wide = tile(1, PANEL_BYTES, 2)


def aligned_empty(size: int, dtype: Any) -> Any:
    """An array (size,) that begins at a multiple of ALIGNMENT bytes."""
    dtype = np.dtype(dtype)
    bytes_ = np.empty(size * dtype.itemsize + ALIGNMENT, np.uint8)
    start = -bytes_.ctypes.data % ALIGNMENT
    return bytes_[start : start + size * dtype.itemsize].view(dtype)


def panel_width(dtype: Any) -> int:
    """The columns of a panel."""
    return PANEL_BYTES // np.dtype(dtype).itemsize


def packed_size(inner: int, columns: int, dtype: Any) -> int:
    """How many elements `pack` writes."""
    width = panel_width(dtype)
    return inner * (-(-columns // width) * width)


@library_function(forceinline=True)
def pack(
    source: Any, at: int, row_stride: int, column_stride: int, inner: int, columns: int, panels: Any, panels_at: int
) -> None:
    """Lay the matrix (inner, columns) that begins at source[at] out in panels from panels[panels_at] on.

    Strides and places count elements; `panels` takes packed_size(inner, columns) of them.
    """
    pack_pointers(address(source, at), row_stride, column_stride, inner, columns, address(panels, panels_at))


@outlined("piiiip", "the packing of weights", used_by="pack")
def pack_pointers(source: Any, row_stride: int, column_stride: int, inner: int, columns: int, panels: Any) -> None:
    """As `pack`, from pointers."""
    width = PANEL_BYTES // size_of(source)
    whole = columns // width * width if column_stride == 1 else 0
    for first in range(0, whole, width):
        for k in range(inner):
            copy_row(move(panels, first * inner + k * width), move(source, first + k * row_stride))
    # Eight columns at a time: where a column is a run of memory, its cache line stays until used up.
    for first in range(whole, (columns + width - 1) // width * width, 8):
        panel = move(panels, first // width * width * inner + first % width - first)
        for k in range(inner):
            for c in range(first, first + 8):
                if c < columns:
                    panel[k * width + c] = source[k * row_stride + c * column_stride]
                else:
                    panel[k * width + c] = 0


@library_function(forceinline=True)
def product(
    a: Any, a_at: int, a_row: int, a_step: int, panels: Any, panels_at: int, out: Any, out_at: int, out_row: int,
    rows: int, inner: int, columns: int, turn: int, team: int,
) -> None:  # fmt: skip
    """out[out_at + r * out_row + n] = the sum over k of a[a_at + r * a_row + k * a_step] * P[k, n].

    P (inner, columns) is what `pack` laid out.  Nothing else of `out` is touched.  Where weights
    outgrow a cache and are used step after step, give the step's number as `turn`: odd ones go
    through the panels backwards, and begin with what the step before has left in the cache.
    team: the address of a team whose threads help with it; 0 for none.
    """
    left, right, to = address(a, a_at), address(panels, panels_at), address(out, out_at)
    if team:
        multiply_together(team, left, a_row, a_step, right, to, out_row, rows, inner, columns, turn)
    else:
        multiply_rows(left, a_row, a_step, right, to, out_row, rows, inner, columns, turn)


@outlined("pippiibi", "the product of one row", used_by="product")
def multiply_row(a: Any, a_step: int, panels: Any, out: Any, inner: int, columns: int, first: bool, turn: int) -> None:
    """As `product` of one row, from pointers; unless `first`, the blocks' sums are added to what `out` holds."""
    size = size_of(a)
    width, single = PANEL_BYTES // size, SINGLE_BYTES // size
    together = _PANELS_OF_A_ROW * width
    start, step = 0, together
    if turn & 1:
        start, step = (columns - 1) // together * together, -together
    while 0 <= start < columns:
        count, to = columns - start, move(out, start)
        k = 0
        while k < inner:
            depth = min(BLOCK, inner - k)
            begins = first and k == 0
            left, right = move(a, k * a_step), move(panels, start * inner + k * width)
            if together > width and count > width:
                _wide(left, 0, a_step, right, inner * width, to, 0, depth, count, begins)
            else:
                n = 0
                while n < min(width, count):
                    _single(left, 0, a_step, move(right, n), 0, move(to, n), 0, depth, count - n, begins)
                    n += single
            k += BLOCK
        if inner == 0 and first:
            for n in range(min(together, count)):
                to[n] = 0
        start += step


@outlined("piippiiiibi", "the product of matrices", used_by="product")
def multiply(
    a: Any, a_row: int, a_step: int, panels: Any, out: Any, out_row: int, rows: int, inner: int, columns: int,
    first: bool, turn: int,
) -> None:  # fmt: skip
    """As `product`, from pointers; unless `first`, the blocks' sums are added to what `out` holds."""
    size = size_of(a)
    width, main, pair, single = PANEL_BYTES // size, MAIN_BYTES // size, PAIR_BYTES // size, SINGLE_BYTES // size
    start, step = 0, width
    if turn & 1:
        start, step = (columns - 1) // width * width, -width
    while 0 <= start < columns:
        count = columns - start
        end = min(width, count)
        k = 0
        while k < inner:
            depth = min(BLOCK, inner - k)
            begins = first and k == 0
            left, right, to = move(a, k * a_step), move(panels, start * inner + k * width), move(out, start)
            r = 0
            # While a block of a panel is in use, the next one comes into the first cache, a line of each of its rows
            # for each ROWS rows: 4 MB that 16 rows go through took 240 us so, and 270 without.
            ahead = depth * width
            if step < 0 and k + BLOCK >= inner:
                ahead -= 2 * inner * width
            while r + ROWS <= rows:
                n, soon = 0, ahead + r // ROWS * (ALIGNMENT // size) % main
                while n < end:
                    _main(left, a_row, a_step, move(right, n), soon, move(to, n), out_row, depth, count - n, begins)
                    n += main
                r += ROWS
                left, to = move(left, ROWS * a_row), move(to, ROWS * out_row)
            if r + 2 <= rows:
                n = 0
                while n < end:
                    _pair(left, a_row, a_step, move(right, n), 0, move(to, n), out_row, depth, count - n, begins)
                    n += pair
                r += 2
                left, to = move(left, 2 * a_row), move(to, 2 * out_row)
            if r < rows:
                n = 0
                while n < end:
                    _single(left, a_row, a_step, move(right, n), 0, move(to, n), out_row, depth, count - n, begins)
                    n += single
            k += BLOCK
        if inner == 0 and first:
            for r in range(rows):
                for n in range(start, start + end):
                    out[r * out_row + n] = 0
        start += step


# teams -------------------------------------------------------------------------------------------
@outlined("ipiippiiiii", "the product of a team", used_by="team", at_once=False)
def multiply_together(
    team: int, a: Any, a_row: int, a_step: int, panels: Any, out: Any, out_row: int, rows: int, inner: int,
    columns: int, turn: int,
) -> None:  # fmt: skip
    """As `product`, from pointers, the columns shared out to a team's helpers; see team.py."""
    number = post(team, a, a_row, a_step, panels, out, out_row, rows, inner, columns, turn)
    if number == 0:
        multiply_rows(a, a_row, a_step, panels, out, out_row, rows, inner, columns, turn)
        return
    multiply_share(a, team, 0)
    for share in range(1, shares_of(team)):
        if take_over(team, share, number):
            multiply_share(a, team, share)
        else:
            await_share(team, share, number)


@library_function
def multiply_share(like: Any, team: int, share: int) -> None:
    """One share of the product that a team is at: some of its panels.  like: any pointer of its dtype."""
    a, a_row, a_step, panels, out, out_row, rows, inner, columns, turn = operands_of(team, like)
    width = PANEL_BYTES // size_of(like)
    count = (columns + width - 1) // width
    first = count * share // shares_of(team) * width
    columns = min(columns, count * (share + 1) // shares_of(team) * width) - first
    multiply_rows(a, a_row, a_step, move(panels, first * inner), move(out, first), out_row, rows, inner, columns, turn)


@library_function(forceinline=True)
def multiply_rows(
    a: Any, a_row: int, a_step: int, panels: Any, out: Any, out_row: int, rows: int, inner: int, columns: int,
    turn: int,
) -> None:  # fmt: skip
    """One row or several."""
    if rows == 1:
        multiply_row(a, a_step, panels, out, inner, columns, True, turn)
    else:
        multiply(a, a_row, a_step, panels, out, out_row, rows, inner, columns, True, turn)


# sums and maxima ---------------------------------------------------------------------------------
# A sum is made of blocks, too: each a chain of additions from zero, and the blocks' sums are added in
# order.  The processor works on several chains at a time by itself: they do not wait for each other.
# Of equal numbers the first is the largest; what a NaN takes part in is NaN.
@outlined("pii", "sums", used_by="sum_chain", returns=True)
def add_up(numbers: Any, step: int, n: int) -> Any:
    """The sum of n numbers that stand `step` apart."""
    total = zero_of(numbers)
    for k in range(0, n, BLOCK):
        part = zero_of(numbers)
        for i in range(k, min(k + BLOCK, n)):
            part += numbers[i * step]
        total += part
    return total


@library_function(forceinline=True)
def sum_chain(a: Any, at: int, step: int, n: int) -> Any:
    """The sum of the n numbers a[at], a[at + step], ..."""
    return add_up(address(a, at), step, n)


@library_function
def sum_rows(
    a: Any, at: int, row_stride: int, step: int, rows: int, n: int, out: Any, out_at: int, out_step: int
) -> None:
    """`sum_chain` of each of several rows, which begin row_stride apart, into out[out_at], out[out_at + out_step]..."""
    to = address(out, out_at)
    for r in range(rows):
        to[r * out_step] = sum_chain(a, at + r * row_stride, step, n)


@outlined("piiip", "sums of columns", used_by="sum_columns")
def add_up_columns(a: Any, row_stride: int, rows: int, columns: int, out: Any) -> None:
    """The sums over rows of neighbouring columns."""
    for c in range(0, columns, LANES):
        total = zeros(a)
        for k in range(0, rows, BLOCK):
            part = zeros(a)
            for r in range(k, min(k + BLOCK, rows)):
                part = part + load(a, r * row_stride + c, columns - c)
            total = total + part
        store(out, c, total, columns - c)


@library_function(forceinline=True)
def sum_columns(a: Any, at: int, row_stride: int, rows: int, columns: int, out: Any, out_at: int) -> None:
    """The sums over `rows` rows of each of `columns` neighbours, into neighbours from out[out_at] on."""
    add_up_columns(address(a, at), row_stride, rows, columns, address(out, out_at))


@outlined("pii", "maxima", used_by="max_chain", returns=True)
def largest_of(numbers: Any, step: int, n: int) -> Any:
    """The largest of n >= 1 numbers that stand `step` apart; NaN if one of them is."""
    largest, unordered = numbers[0], zero_of(numbers)
    for i in range(n):
        x = numbers[i * step]
        largest = x if x > largest else largest
        unordered = x if x != x else unordered
    return unordered if unordered != unordered else largest


@library_function(forceinline=True)
def max_chain(a: Any, at: int, step: int, n: int) -> Any:
    """The largest of the n >= 1 numbers a[at], a[at + step], ...; NaN if one of them is."""
    return largest_of(address(a, at), step, n)


@library_function
def argmax_chain(a: Any, at: int, step: int, n: int) -> int:
    """Which of the n >= 1 numbers a[at], a[at + step], ... is the largest, the first of several; or the first NaN."""
    p = address(a, at)
    largest, place = p[0], 0
    for i in range(n):
        x = p[i * step]
        if x > largest or (x != x and largest == largest):
            largest, place = x, i
    return place


@library_function
def max_columns(a: Any, at: int, row_stride: int, rows: int, columns: int, out: Any, out_at: int) -> None:
    """The largest over `rows` >= 1 rows of each of `columns` neighbours, into neighbours from out[out_at] on."""
    for c in range(0, columns, LANES):
        largest = load(a, at + c, columns - c)
        for r in range(1, rows):
            largest = maximum(largest, load(a, at + r * row_stride + c, columns - c))
        store(out, out_at + c, largest, columns - c)
