"""Products over all time steps by CuPy's `matmul` (cuBLAS), where somebody asked for it: other bits than the own ones.

The products inside the loop are always minirnn's own.  This has not run on a device; the tests put NumPy in CuPy's
place.
"""

from __future__ import annotations

import contextlib
import importlib
import math
from collections.abc import Callable
from typing import Any

from ..program import ROWS_KEY, Affine, Array, Coefficient, Product
from ..timesums import TimeSum


class CupyProduct:
    """A product before or after the loop, or one over time, as a call of CuPy."""

    def __init__(self, product: Product | TimeSum, places: dict[str, int], rows: int) -> None:
        self.product, self.places, self.rows = product, places, rows
        self.cupy = importlib.import_module("cupy")

    def __call__(self, arguments: list[Any], numbers: dict[Any, int], steps: int, stream: Any) -> None:
        """Compute it for so many steps from a call's buffers; `numbers`: the sizes that are not those of axes."""

        def value(coefficient: Coefficient) -> int:
            return math.prod(self.rows if s.key == ROWS_KEY else numbers.get(s.key, s.value) for s in coefficient)

        def buffer(array: Array) -> Any:
            return self.cupy.asarray(arguments[self.places[array.name]])

        on_stream = contextlib.nullcontext() if stream is None else self._stream(stream)
        with on_stream:
            if isinstance(self.product, TimeSum):
                self._sum(self.product, buffer, steps * self.rows)
            else:
                self._product(self.product, buffer, value, steps * self.rows)

    def _stream(self, stream: Any) -> Any:
        return self.cupy.cuda.ExternalStream(int(getattr(stream, "handle", stream)))

    def _product(
        self, p: Product, buffer: Callable[[Array], Any], value: Callable[[Coefficient], int], rows: int
    ) -> None:
        def matrix(array: Array, offset: Affine, shape: tuple[int, int], steps: tuple[int, int]) -> Any:
            flat = buffer(array)[sum(map(value, offset.constants)) :]
            strides = tuple(step * flat.itemsize for step in steps)
            return self.cupy.lib.stride_tricks.as_strided(flat, shape, strides)

        inner, columns = value(p.inner), value(p.columns)
        a = matrix(p.a.array, p.a.offset.without("s"), (rows, inner), (value(p.a_row), value(p.a_step)))
        b = matrix(p.panels.array, p.panels.offset, (inner, columns), (columns, 1))
        out = matrix(p.out.array, p.out.offset.without("s"), (rows, columns), (value(p.out_row), 1))
        out[...] = self.cupy.matmul(a, b)

    def _sum(self, each: TimeSum, buffer: Callable[[Array], Any], rows: int) -> None:
        assert each.left is not None
        left, right = (buffer(array).reshape(rows, -1) for array in (each.left, each.right))
        out = buffer(each.out).reshape(left.shape[1], right.shape[1])
        out[...] = self.cupy.matmul(left.T, right)
