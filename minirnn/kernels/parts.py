"""Compiled functions of whole arrays of one dtype: parts of an operation, which threads can share out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import build, outline
from .build import library_function


class Part:
    """A function of arrays of one dtype and of integers, compiled or loaded when a dtype first asks for it.

    uses: the outlined functions that it calls.  reads, writes: the ranks of the arrays that it reads,
    which may have any strides, and of those that it writes, which stand without gaps; they come first.
    tables: the ranks of arrays of int64 after them.
    """

    def __init__(
        self, function: Any, label: str, uses: tuple[str, ...], reads: tuple[int, ...], writes: tuple[int, ...],
        tables: tuple[int, ...], integers: int,
    ) -> None:  # fmt: skip
        self.function, self.label, self.uses = library_function(function), label, uses
        self.reads, self.writes, self.tables, self.integers = reads, writes, tables, integers
        self._ready: set[Any] = set()

    def of(self, dtype: Any) -> Callable[..., None]:
        """The function for float32 or float64."""
        if dtype not in self._ready:
            if not build.JIT_OFF:
                outline.prepare(dtype, self.uses)
                with build._lock:
                    self.function.disable_compile(False)
                    build._compile(self.function, self._signature(dtype.name), self.label)
                    self.function.disable_compile()  # arrays of other layouts are taken as these
            self._ready.add(dtype)
        return self.function

    def _signature(self, dtype: str) -> str:
        """The types of its arguments, as Numba writes them."""
        reads = [f"Array({dtype}, {rank}, 'A', readonly=True)" for rank in self.reads]
        writes = [f"Array({dtype}, {rank}, 'C')" for rank in self.writes]
        tables = [f"Array(int64, {rank}, 'C')" for rank in self.tables]
        return f"void({', '.join([*reads, *writes, *tables, *['int64'] * self.integers])})"


def array_part(
    label: str, *, uses: tuple[str, ...] = (), reads: tuple[int, ...] = (), writes: tuple[int, ...],
    tables: tuple[int, ...] = (), integers: int,
) -> Callable[[Any], Part]:  # fmt: skip
    """A decorator that makes a `Part`; label: what a line on a first compilation says."""
    return lambda function: Part(function, label, uses, reads, writes, tables, integers)
