"""How fast the product is, beside what the same core's fma units can do at most."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from . import outline
from .build import library_function
from .contract import aligned_empty, pack, packed_size, product
from .tile import FMA_CHAINS, REGISTER_BYTES, address, fma_only

_SECONDS = 0.01  # of one measurement
_REPEATS = 15


@library_function
def _only_fma(out: Any, times: int) -> None:
    fma_only(address(out, 0), times)


@library_function
def _pack_once(b: Any, panels: Any, inner: int, columns: int) -> None:
    pack(b, 0, columns, 1, inner, columns, panels, 0)


@library_function
def _products(a: Any, panels: Any, out: Any, rows: int, inner: int, columns: int, times: int) -> None:
    for turn in range(times):
        product(a, 0, inner, 1, panels, 0, out, 0, columns, rows, inner, columns, turn, 0)


def _fastest(run: Callable[[int], Any], seconds: float) -> float:
    """The least seconds that one of many rounds takes, of this thread's own time; `seconds` is a guess."""
    times = max(1, int(_SECONDS / seconds))
    run(1)
    least = float("inf")
    for _ in range(_REPEATS):
        start = time.thread_time()
        run(times)
        least = min(least, time.thread_time() - start)
    return least / times


def peak(dtype: Any) -> float:
    """Floating-point operations in a second of one core that does nothing but fma on its vector registers."""
    out = np.zeros(1, dtype)
    operations = 2 * FMA_CHAINS * REGISTER_BYTES // out.itemsize
    return 1000 * operations / _fastest(lambda times: _only_fma(out, 1000 * times), 3e-6)


def product_rate(rows: int, inner: int, columns: int, dtype: Any) -> float:
    """Floating-point operations in a second of one core that multiplies (rows, inner) by packed (inner, columns)."""
    outline.prepare(dtype, ("pack", "product"))
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=n * inner).astype(dtype) for n in (rows, columns))
    panels, out = aligned_empty(packed_size(inner, columns, dtype), dtype), aligned_empty(rows * columns, dtype)
    _pack_once(b, panels, inner, columns)
    operations = 2 * rows * inner * columns

    def run(times: int) -> None:
        _products(a, panels, out, rows, inner, columns, times)

    return operations / _fastest(run, operations / 1e11)
