"""Sums over time and rows, of arrays and of their products with others: all that a gradient asks for at once.

Threads are called once for all of them, and each has one share of the work.  What several are products with is
packed once for these; its own sum is its product with a one for each row, which is exact.

The arrays are (T, B, F), with any strides: packing follows the rows, so that nobody puts them in order before.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import config
from . import build, matmul, threads
from .build import library_function
from .contract import DEPTH, TALL, WIDE_BYTES, pack, product
from .loop_program import address_of
from .parts import array_part
from .recycled import recycled
from .tile import BLOCK, PANEL_BYTES, address, move, size_of

# A packed chunk takes as much memory as other products' ones, but is flat and wide: of long sums left operands are
# packed again for each chunk beside another.  1024 columns took 46 to 47 ms so, and 49 in chunks of 256 x 256.
_CHUNK_BYTES = DEPTH * WIDE_BYTES // BLOCK  # of its row
_UNIT = 16  # neighbours that stay in one thread: their cache lines do
_SLIVER = 0.05  # less of a product is not worth packing its operands in one thread more


@library_function
def _pack_rows(
    a: Any, step: int, period: int, leap: int, across: int, first: int, depth: int, columns: int, panels: Any
) -> None:
    """As `pack`, of `depth` rows of an array from its row `first` on.

    Rows are `step` apart in periods of so many rows, periods `leap`, and columns `across`.
    """
    width = PANEL_BYTES // size_of(a)
    for c in range(0, columns, width):
        done = 0
        while done < depth:
            rounds = (first + done) // period
            row = first + done - rounds * period
            run = min(period - row, depth - done)
            source = move(a, rounds * leap + row * step + c * across)
            pack(source, step, across, run, min(width, columns - c), move(panels, c * depth + done * width))
            done += run


@array_part("sums over rows", uses=("pack", "product"), writes=(1, 1), tables=(2, 1), integers=5)
def _part(
    made: Any, scratch: Any, lefts: Any, right: Any, n: int, first: int, stop: int, column: int, columns: int
) -> None:
    """Some columns of products: sums over n rows of those in `lefts` times those in `right`.

    Numbers of an array: where it begins, as elements after made[0], and the rest as for `_pack_rows`.  A left one
    has three more: the number of its columns, and where in `made` its result is, with the distance of rows there.
    From `first` to `stop` of the columns of all the left ones are meant.  `scratch` takes packed chunks.
    """
    origin, panels = address(made, 0), address(scratch, 0)
    width, wide = PANEL_BYTES // size_of(origin), _CHUNK_BYTES // size_of(origin)
    packed_rows = move(panels, BLOCK * wide)
    for c in range(column, column + columns, wide):
        breadth = min(wide, column + columns - c)
        for k in range(0, n, BLOCK):
            depth = min(BLOCK, n - k)
            source = move(origin, right[0] + c * right[4])
            _pack_rows(source, right[1], right[2], right[3], right[4], k, depth, breadth, panels)
            before = 0
            for i in range(len(lefts)):
                at, step, period, leap, across = lefts[i, 0], lefts[i, 1], lefts[i, 2], lefts[i, 3], lefts[i, 4]
                low, high = max(first - before, 0), min(stop - before, lefts[i, 5])
                before += lefts[i, 5]
                out, apart = move(origin, lefts[i, 6] + c), lefts[i, 7]
                in_place = period >= n and (high - low < width or columns <= 2 * width)
                tall = TALL if in_place else width
                for r in range(low, high, tall):
                    rows, left, to = min(tall, high - r), move(origin, at + r * across), move(out, r * apart)
                    if in_place:
                        left = move(left, k * step)
                        product(left, across, step, panels, to, apart, rows, depth, breadth, 0, 0, k == 0)
                    else:
                        _pack_rows(left, step, period, leap, across, k, depth, rows, packed_rows)
                        product(packed_rows, 1, width, panels, to, apart, rows, depth, breadth, 0, 0, k == 0)


class _Plan(NamedTuple):
    """How results lie in one array, and what each thread does of them."""

    size: int
    lefts: list[tuple[int, int, int, int]]  # which pair, its left width, where its result begins, its right width
    rights: list[int]  # a pair that has it
    shares: list[list[tuple[int, ...]]]  # for each thread pieces: which of the lefts, which right, part of the product


@functools.lru_cache(maxsize=256)
def _plan(pairs: tuple[tuple[int, int, int], ...], itemsize: int, count: int) -> _Plan:
    """The plan for pairs of a left width, a right width, and which right array it is, and so many threads."""
    lefts: list[tuple[int, int, int, int]] = []
    rights, groups, size = [], [], 0
    for which in dict.fromkeys(which for _, _, which in pairs):
        start = len(lefts)
        for k, (height, width, its) in enumerate(pairs):
            if its == which:
                lefts.append((k, height, size, width))
                size += -(-height * width // _UNIT) * _UNIT
        rights.append(lefts[-1][0])
        groups.append((start, len(lefts), sum(left[1] for left in lefts[start:]), lefts[-1][3]))
    each = sum(height * width for _, _, height, width in groups) / count
    shares: list[list[tuple[int, ...]]] = [[] for _ in range(count)]
    for number, share in enumerate(shares):
        before = 0
        for right, (start, stop, height, width) in enumerate(groups):
            area = height * width
            places = ((each * k - before) / max(area, 1) for k in (number, number + 1))
            begin, end = (0.0 if place < _SLIVER else 1.0 if place > 1 - _SLIVER else place for place in places)
            before += area
            by_rows = height >= width
            total, unit = (height, _UNIT) if by_rows else (width, PANEL_BYTES // itemsize)
            first, last = (total if p == 1 else min(total, round(p * total / unit) * unit) for p in (begin, end))
            if first < last and area:
                part = (first, last, 0, width) if by_rows else (0, height, first, last - first)
                share.append((start, stop, right, *part))
    return _Plan(size, lefts, rights, [share for share in shares if share])


def _numbers_of(a: Any, origin: int) -> tuple[int, int, int, int, int]:
    """The numbers of an array (T, B, F) for `_part`."""
    steps, rows, _ = a.shape
    size = a.itemsize
    leap, step, across = a.strides
    if rows == 1:
        step = leap
    period = steps * rows if leap == rows * step or steps == 1 else rows
    return (address_of(a) - origin) // size, step // size, period, leap // size, across // size


@functools.cache
def _one(dtype: Any) -> Any:
    return np.ones(1, dtype)


def sums_over_rows(wanted: Sequence[tuple[Any, Any]]) -> list[Any]:
    """For each pair of arrays (T, B, F) and (T, B, U) the sum over time and rows of their products (F, U).

    Of (None, b) it is the sum of b (U).  All are float32, or all are float64.  The order of sums is contract.py's.

    >>> a, b = np.ones((3, 50, 1)), np.full((3, 50, 2), 0.5)
    >>> [made.tolist() for made in sums_over_rows([(a, b), (None, b)])]
    [[[75.0, 75.0]], [75.0, 75.0]]
    """
    steps, rows, _ = wanted[0][1].shape
    n, dtype = steps * rows, wanted[0][1].dtype
    if n == 0 or build.JIT_OFF:  # where a pointer cannot go to another array
        return [matmul.sum_over(b, (0, 1), False) if a is None else _product(a, b, n) for a, b in wanted]
    which = {id(b): k for k, (_, b) in enumerate(wanted)}
    pairs = tuple((1 if a is None else a.shape[2], b.shape[2], which[id(b)]) for a, b in wanted)
    worth = n * sum(height * width for height, width, _ in pairs)
    plan = _plan(pairs, dtype.itemsize, 1 if worth < matmul._PRODUCTS_WORTH_THREADS else config.current_threads())
    made = recycled((plan.size,), dtype)
    origin = address_of(made)
    ones = (address_of(_one(dtype)) - origin) // dtype.itemsize, 0, n, 0, 0
    results: list[Any] = [None] * len(wanted)
    lefts = []
    for k, height, at, width in plan.lefts:
        a = wanted[k][0]
        lefts.append((*(ones if a is None else _numbers_of(a, origin)), height, at, width))
        result = made[at : at + height * width]
        results[k] = result if a is None else result.reshape(height, width)
    table = np.array(lefts, np.int64)
    rights = np.array([_numbers_of(wanted[k][1], origin) for k in plan.rights], np.int64)
    part = _part.of(dtype)

    def run_share(pieces: list[tuple[int, ...]]) -> None:
        scratch = matmul.scratch_of(dtype)
        for start, stop, right, *piece in pieces:
            part(made, scratch, table[start:stop], rights[right], n, *piece)

    threads.run(run_share, [(share,) for share in plan.shares])
    return results


def _product(a: Any, b: Any, n: int) -> Any:
    return matmul.matmul(a.reshape(n, a.shape[2]).T[None], b.reshape(1, n, b.shape[2]))[0]
