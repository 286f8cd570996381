"""Who owns what: the rows and the columns that are a block's, for each schedule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..program import ROWS_KEY, Coefficient, Load, Product, Write, value_of

if TYPE_CHECKING:
    from .text import CudaText


class Owners:
    """A block owns a tile of the batch's rows, or all of them, and every column."""

    specialised = False
    shares_rows = True

    def __init__(self, shares_rows: bool) -> None:
        self.shares_rows = shares_rows  # among blocks

    def is_rows(self, count: Coefficient) -> bool:
        """Whether an axis is the batch's."""
        return len(count) == 1 and count[0].key == ROWS_KEY

    def count(self, text: CudaText, count: Coefficient, is_last: bool) -> str:
        """How many indices of an axis a block owns."""
        return "own_rows" if self.is_rows(count) else text.coefficient(count)

    def index(self, text: CudaText, count: Coefficient, is_last: bool) -> str:
        """The index along an axis, of which {0} counts what the block owns."""
        return "row_first + {0}" if self.is_rows(count) else "{0}"

    def opening(self, text: CudaText) -> None:
        """Say what a block owns."""
        text.line("thread, threads = cuda.threadIdx.x, cuda.blockDim.x")
        if self.shares_rows:
            text.say("the rows of the batch that are this block's")
            text.line("tile = (rows + cuda.gridDim.x - 1) // cuda.gridDim.x")
            text.line("row_first = cuda.blockIdx.x * tile")
            text.line("row_end = min(row_first + tile, rows)")
            text.line("own_rows = row_end - row_first")
        else:
            text.line("row_first, row_end, own_rows = 0, rows, rows")

    def is_inside(self, statement: Any, load: Load | Write) -> bool:
        """Whether blocks touch different elements of what a statement reads or writes."""
        return True


class TiledRows(Owners):
    """The same for kernels that are made for the sizes of one graph."""

    specialised = True


class Units(Owners):
    """A block owns all rows and some units: of every last axis, what belongs to its units."""

    specialised = True

    def __init__(self, size: int, each: int) -> None:
        super().__init__(False)
        self.size, self.each = size, each  # all units, those of a block

    def count(self, text: CudaText, count: Coefficient, is_last: bool) -> str:
        if self.is_rows(count):
            return "rows"
        return self._owned(self._times(count)) if is_last else text.coefficient(count)

    def index(self, text: CudaText, count: Coefficient, is_last: bool) -> str:
        if self.is_rows(count) or not is_last:
            return "{0}"
        return self.column("{0}", self._times(count))

    def is_inside(self, statement: Any, load: Load | Write) -> bool:
        """Whether the element of each index is of the same unit as the index: what a block touches is its own."""
        if isinstance(statement, Product):
            if load is statement.a:
                return False
            paces: list[Coefficient] = [statement.out_row]
            column: Coefficient | None = ()
        else:
            last = f"i{len(statement.space) - 1}"
            column = load.offset.stride_of(last)
            paces = [c for variable, c in load.offset.terms if variable not in ("s", last) and not _is_base(variable)]
        rest = [c for c in load.offset.constants if not (len(c) == 1 and c[0].key[0] == "at")]
        return column == () and all(value_of(c) % self.size == 0 for c in [*paces, *rest])

    def column(self, number: str, times: int) -> str:
        """The column whose number among the block's own is given, of `times` as many columns as units."""
        if times == 1:
            return f"unit_first + {number}"
        return f"({number}) // {self._units()} * {self.size} + unit_first + ({number}) % {self._units()}"

    def _times(self, count: Coefficient) -> int:
        return value_of(count) // self.size

    def _units(self) -> str:
        return str(self.each) if self.size % self.each == 0 else "units"

    def _owned(self, times: int) -> str:
        if self.size % self.each == 0:
            return str(times * self.each)
        return "units" if times == 1 else f"{times} * units"

    def opening(self, text: CudaText) -> None:
        text.line("thread, threads = cuda.threadIdx.x, cuda.blockDim.x")
        text.say(f"the units, of {self.size}, that are this block's: of every last axis, what belongs to them")
        text.line(f"unit_first = cuda.blockIdx.x * {self.each}")
        if self.size % self.each:
            text.line(f"units = min({self.each}, {self.size} - unit_first)")
        text.line("row_first, row_end, own_rows = 0, rows, rows")
        text.line("grid = cuda.cg.this_grid()")


def _is_base(variable: str) -> bool:
    """Whether a variable says where a carry's place begins."""
    return variable.endswith(("_at_now", "_at_next"))
