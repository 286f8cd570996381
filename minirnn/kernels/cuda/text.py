"""The text of one CUDA kernel while it is printed: scalar expressions, and loops whose elements threads share out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from .. import text as cpu
from ..lower import Lowering
from ..program import ONE, ROWS_KEY, Buffer, Call, Coefficient, Load, Size
from .owners import Owners

# Maps that are written in another way than for the cpu: on scalars, numbers have to say their dtype.
MAPS = {
    **cpu.MAPS,
    "negative": "negative({0})",
    "sign": "select({0} > {zero}, {one}, select({0} < {zero}, negative({one}), {0}))",
    "logical_not": "logical_not({0})",
    "isfinite": "({0} - {0}) == {zero}",
}
# Integers of Numba grow to 64 bits, and booleans to integers.
_GROWING = frozenset("add subtract multiply negative abs sign maximum minimum clip relu".split())
RESERVED = cpu.RESERVED | frozenset(
    "thread threads lane tile tiles row_first row_end row_at own_rows some place begins count unit_first units turn p "
    "q row column group weights kept found staged parts integers shared grid cuda types hold chain chain_aligned "
    "negative logical_not tiled_product product_element chain_element sum_of_blocks".split()
)
LIKE_OURS = re.compile(rf"{cpu.LIKE_OURS.pattern}|(weights|column|group|lane|kept)_\d\w*|(staged|parts)_float(32|64)")


class CudaText(cpu.Text):
    """The lines of one kernel for a schedule, which says which elements are whose."""

    maps = MAPS
    reserved, like_ours = RESERVED, LIKE_OURS

    def __init__(self, lowering: Lowering, owners: Owners, explained: bool) -> None:
        super().__init__(lowering, explained, in_order=True)
        self.owners = owners
        # Where buffers of one step begin that have two places by turns: by their key, a variable and the places.
        self.by_turns: dict[Any, tuple[str, Size, Size]] = {}

    def say(self, words: str) -> None:
        """Add a comment, in the explained form."""
        if self.explained:
            self.line(f"# {words}")

    # integers ----------------------------------------------------------------------------------------
    def size(self, size: Size) -> str:
        """The name of a size, or its value where the kernel is made for it."""
        if size.key in self.by_turns:
            return self.by_turns[size.key][0]
        if self.owners.specialised and size not in (ONE,) and _is_fixed(size.key):
            return str(size.value)
        return super().size(size)

    # expressions -------------------------------------------------------------------------------------
    def number(self, text: str, dtype: Any, alone: bool) -> str:
        """A number, which always says its dtype."""
        return f"as_{dtype}({text})"

    def load(self, load: Load, variable: str = "", count: str = "") -> str:
        """One element of an array."""
        shown = f"element({self.name(load.array)}, {self.affine(load.offset)})"
        return f"as_bool({shown})" if load.array.dtype == bool else shown

    def call(self, call: Call, names: dict[int, str], variable: str = "", count: str = "") -> str:
        """A primitive on values of a nest."""
        shown = super().call(call, names, variable, count)
        grows = call.primitive in _GROWING or call.primitive == "power_by_number"
        return f"as_{call.dtype}({shown})" if grows and call.dtype.kind != "f" else shown

    # loops -------------------------------------------------------------------------------------------
    def spread(self, axes: Sequence[tuple[str, Coefficient]]) -> int:
        """Open the loop in which the threads share out an index space; returns how deep it is.

        Each axis has a variable and a count; a thread of a block gets every so manieth element of those that
        the block owns.
        """
        wide = [(variable, count) for variable, count in axes if any(size != ONE for size in count)]
        counts = [self.owners.count(self, count, k == len(wide) - 1) for k, (_, count) in enumerate(wide)]
        if not wide:
            self.line("if thread == 0:")
            self.depth += 1
            return 1
        whole = len(wide) == 1
        first = self.owners.index(self, wide[0][1], whole)
        if whole and first == "{0}":
            self.line(f"for {wide[0][0]} in range(thread, {counts[0]}, threads):")
            self.depth += 1
            return 1
        self.line(f"for p in range(thread, {' * '.join(map(_factor, counts))}, threads):")
        self.depth += 1
        for k, (variable, count) in enumerate(wide):
            rest = [_factor(c) for c in counts[k + 1 :]]
            at = "p" if not rest else f"p // {rest[0]}" if len(rest) == 1 else f"p // ({' * '.join(rest)})"
            if k:
                at = f"{at} % {_factor(counts[k])}"
            self.line(f"{variable} = {self.owners.index(self, count, k == len(wide) - 1).format(at)}")
        return 1

    def plain_loops(self, axes: Sequence[tuple[str, Coefficient]]) -> int:
        """Open loops that every thread runs through; returns how many."""
        opened = 0
        for variable, count in axes:
            if any(size != ONE for size in count):
                rows = self.owners.is_rows(count)
                self.line(f"for {variable} in range({'row_first, row_end' if rows else self.coefficient(count)}):")
                self.depth += 1
                opened += 1
        return opened

    def take_turns(self, buffer: Buffer) -> None:
        """Give a buffer two places, one for even steps and one for odd ones."""
        key = ("at", buffer.name)
        first, second = (Size((*key, k), 0, f"{buffer.word}_at_{word}") for k, word in enumerate(("first", "second")))
        name = self.word(f"{buffer.word}_at") if self.explained else f"{buffer.name}_now"
        self.by_turns[key] = name, first, second


def _factor(text: str) -> str:
    return text if text.replace("_", "").isalnum() else f"({text})"


def _is_fixed(key: Any) -> bool:
    """Whether a size follows from the graph alone: not from the number of rows, nor from where arrays lie."""
    return key[0] in ("dim", "step", "start", "stride", "stride_of", "dilation", "padding") and ROWS_KEY not in key
