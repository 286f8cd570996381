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
    move,
    size_of,
    tile,
    zero_of,
)

if JIT_OFF:
    from .twins import LANES, load, load_apart, maximum, store, zeros
else:
    from .lanes import LANES, load, load_apart, maximum, store, zeros

ALIGNMENT = 64  # bytes: of panels, so that no vector of a panel crosses a cache line
# Large products go by chunks of the second operand that stay in the second cache.
DEPTH = 256  # contracted indices of a chunk
WIDE_BYTES = 1024  # of a row of a packed chunk
TALL = 128  # rows that pass a packed chunk before the next rows
PACKING_BYTES = DEPTH * (WIDE_BYTES + PANEL_BYTES)  # of the memory in which chunks are packed

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


@outlined("piiiip", "the packing of weights")
def pack(source: Any, row_stride: int, column_stride: int, inner: int, columns: int, panels: Any) -> None:
    """Lay the matrix (inner, columns) that begins at `source` out in panels, which begin at `panels`.

    Strides count elements; `panels` takes packed_size(inner, columns) of them.
    """
    width = PANEL_BYTES // size_of(source)
    # Few columns at a time where a column is a run of memory: its cache lines stay until they are used up.
    together = width if column_stride == 1 else LANES
    for first in range(0, (columns + width - 1) // width * width, together):
        panel = move(panels, first // width * width * inner + first % width - first)
        for k in range(inner):
            for c in range(first, first + together, LANES):
                at = k * row_stride + c * column_stride
                if column_stride == 1:
                    store(panel, k * width + c, load(source, at, columns - c), LANES)
                else:
                    store(panel, k * width + c, load_apart(source, at, column_stride, columns - c), LANES)


@outlined("piippiiiiiib", "the product of one row")
def multiply_row(
    a: Any, a_row: int, a_step: int, panels: Any, out: Any, out_row: int, rows: int, inner: int, columns: int,
    turn: int, team: int, first: bool,
) -> None:  # fmt: skip
    """As `product`, of one row."""
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


@outlined("piippiiiiiib", "the product of a team")
def multiply_together(
    a: Any, a_row: int, a_step: int, panels: Any, out: Any, out_row: int, rows: int, inner: int, columns: int,
    turn: int, team: int, first: bool,
) -> None:  # fmt: skip
    """As `product`, the columns shared out to a team's helpers; see team.py."""
    number = post(team, a, a_row, a_step, panels, out, out_row, rows, inner, columns, turn)
    if number == 0:
        product(a, a_row, a_step, panels, out, out_row, rows, inner, columns, turn, 0, True)
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
    right, to = move(panels, first * inner), move(out, first)
    product(a, a_row, a_step, right, to, out_row, rows, inner, columns, turn, 0, True)


@outlined(
    "piippiiiiiib", "the product of matrices", uses=(multiply_row,),
    instead=(("rows", "==", 1, multiply_row), ("team", "!=", 0, multiply_together)),
)  # fmt: skip
def product(
    a: Any, a_row: int, a_step: int, panels: Any, out: Any, out_row: int, rows: int, inner: int, columns: int,
    turn: int, team: int = 0, first: bool = True,
) -> None:  # fmt: skip
    """out[r * out_row + n] = the sum over k of a[r * a_row + k * a_step] * P[k, n].

    P (inner, columns) is what `pack` laid out.  Nothing else of `out` is touched; unless `first`, the
    blocks' sums are added to what it holds.  Where weights outgrow a cache and are used step after
    step, give the step's number as `turn`: odd ones go through the panels backwards, and begin with
    what the step before has left in the cache.  team: the address of a team whose threads help; 0 for none.
    """
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
            while r + 2 <= rows:
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


# products of what was not packed before -----------------------------------------------------------
@outlined("piipiipiiiip", "products of arrays", uses=(pack, product))
def multiply_chunks(
    a: Any, a_row: int, a_step: int, b: Any, b_row: int, b_column: int, out: Any, out_row: int,
    rows: int, inner: int, columns: int, panels: Any,
) -> None:  # fmt: skip
    """out (rows, columns) = a (rows, inner) times b (inner, columns); `panels` takes PACKING_BYTES of packed chunks."""
    size = size_of(a)
    width, wide = PANEL_BYTES // size, WIDE_BYTES // size
    packed_rows = move(panels, DEPTH * wide)
    for c in range(0, columns, wide):
        breadth = min(wide, columns - c)
        for k in range(0, max(inner, 1), DEPTH):
            depth = min(DEPTH, inner - k)
            pack(move(b, k * b_row + c * b_column), b_row, b_column, depth, breadth, panels)
            left, to = move(a, k * a_step), move(out, c)
            in_place = a_step == 1 or rows < width or columns <= 2 * width
            tall = TALL if in_place else width
            for r in range(0, rows, tall):
                height = min(tall, rows - r)
                from_, step, apart = move(left, r * a_row), a_step, a_row
                if not in_place:
                    pack(from_, a_step, a_row, depth, height, packed_rows)
                    from_, step, apart = packed_rows, width, 1
                product(
                    from_, apart, step, panels, move(to, r * out_row), out_row, height, depth, breadth, 0, 0, k == 0
                )


@outlined("pppiiip", "sums of products", uses=(multiply_chunks,))
def sum_of_products(a: Any, b: Any, out: Any, n: int, rows: int, columns: int, panels: Any) -> None:
    """out (rows, columns) = the sum over n of a (n, rows) times b (n, columns); `panels` as for `multiply_chunks`."""
    multiply_chunks(a, 1, rows, b, columns, 1, out, columns, rows, n, columns, panels)


# sums and maxima ---------------------------------------------------------------------------------
# A sum is made of blocks, too: each a chain of additions from zero, and the blocks' sums are added in
# order.  The processor works on several chains at a time by itself: they do not wait for each other.
# Of equal numbers the first is the largest; what a NaN takes part in is NaN.
@outlined("pii", "sums", returns=True)
def sum_chain(numbers: Any, step: int, n: int) -> Any:
    """The sum of n numbers that stand `step` apart."""
    total = zero_of(numbers)
    for k in range(0, n, BLOCK):
        part = zero_of(numbers)
        for i in range(k, min(k + BLOCK, n)):
            part += numbers[i * step]
        total += part
    return total


@outlined("piiip", "sums of columns")
def sum_columns(a: Any, row_stride: int, rows: int, columns: int, out: Any) -> None:
    """The sums over `rows` rows of each of `columns` neighbours, into neighbours."""
    c = 0
    while c + 4 * LANES <= columns:  # whole cache lines of several columns, as long as they are at hand
        sums = zeros(a), zeros(a), zeros(a), zeros(a)
        for k in range(0, rows, BLOCK):
            p0, p1, p2, p3 = zeros(a), zeros(a), zeros(a), zeros(a)
            for r in range(k, min(k + BLOCK, rows)):
                at = r * row_stride + c
                p0 = p0 + load(a, at, LANES)
                p1 = p1 + load(a, at + LANES, LANES)
                p2 = p2 + load(a, at + 2 * LANES, LANES)
                p3 = p3 + load(a, at + 3 * LANES, LANES)
            sums = sums[0] + p0, sums[1] + p1, sums[2] + p2, sums[3] + p3
        for i, total in enumerate(sums):
            store(out, c + i * LANES, total, LANES)
        c += 4 * LANES
    while c < columns:
        total = zeros(a)
        for k in range(0, rows, BLOCK):
            part = zeros(a)
            for r in range(k, min(k + BLOCK, rows)):
                part = part + load(a, r * row_stride + c, columns - c)
            total = total + part
        store(out, c, total, columns - c)
        c += LANES


@outlined("pii", "maxima", returns=True)
def max_chain(numbers: Any, step: int, n: int) -> Any:
    """The largest of n >= 1 numbers that stand `step` apart; NaN if one of them is."""
    largest, unordered = numbers[0], zero_of(numbers)
    for i in range(n):
        x = numbers[i * step]
        largest = x if x > largest else largest
        unordered = x if x != x else unordered
    return unordered if unordered != unordered else largest


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
