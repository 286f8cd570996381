"""Products of the loop whose constant operand stays in registers over all steps.

A thread has one column of it and some blocks of 64 contracted indices.  In each step the rows that are
multiplied go through shared memory, some at a time: `stage` brings them there, every thread runs the chains
of its blocks, and the sums of the blocks are added in order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..program import ROWS_KEY, Load, Nest, Product, Write, along, value_of
from ..tile import BLOCK
from .barriers import Access, Phase, accesses_of, region_of
from .device import Limits
from .owners import Units
from .parts import Part
from .text import CudaText

_APART = 16  # bytes between staged blocks, so that threads at different blocks read different banks
_MOST_ROWS = 8  # that are staged at a time
_STAGED_BYTES = 40 * 1024
_INTEGERS_BYTES = 1024  # of a kernel's integers
# Registers of a thread besides the weights: of every kernel, and for each place that a nest reads or writes.
_BASE_REGISTERS = 22
_PLACE_REGISTERS = {4: 7, 8: 9}
_KEPT = (0, 16, 32, 48)  # weights of a block of 64 that may stand in shared memory
_WARP = 32
_QUARTERS = 4  # of a multiprocessor, each with a quarter of its registers for its warps


@dataclass(frozen=True)
class Held:
    """How one product is shared out to the threads of a block.

    columns: how many of its columns a block has; groups: threads a column; each: blocks of 64 that a thread
    has; blocks: how many there are in all; kept: weights of each block that stand in shared memory instead.
    lanes: how many times all of it is held, so that as many rows are multiplied at once.
    """

    product: Product
    columns: int
    all_columns: int
    inner: int
    each: int
    dtype: np.dtype[Any]
    kept: int = 0
    lanes: int = 1

    @property
    def blocks(self) -> int:
        """Blocks of contracted indices."""
        return -(-self.inner // BLOCK)

    @property
    def groups(self) -> int:
        """Threads that share a column."""
        return -(-self.blocks // self.each)

    @property
    def threads(self) -> int:
        """Threads that hold all weights once."""
        return self.columns * self.groups

    @property
    def all_threads(self) -> int:
        """Threads that have weights."""
        return self.threads * self.lanes

    @property
    def depth(self) -> int:
        """Weights of a thread."""
        return self.inner if self.groups == 1 else self.each * BLOCK

    @property
    def registers(self) -> int:
        """Registers for them."""
        return sum(self.held_of(k) for k in range(self.each)) * self.dtype.itemsize // 4

    def depth_of(self, block: int) -> int:
        """Weights of a thread's block."""
        return min(BLOCK, self.depth - block * BLOCK)

    def held_of(self, block: int) -> int:
        """Those of them that are in registers."""
        return max(0, self.depth_of(block) - self.kept)

    @property
    def kept_size(self) -> int:
        """Elements of shared memory for the weights of all threads that are not in registers."""
        return self.threads * sum(self.depth_of(k) - self.held_of(k) for k in range(self.each))

    @property
    def pace(self) -> int:
        """Elements from one staged block to the next."""
        return BLOCK + _APART // self.dtype.itemsize

    @property
    def row_size(self) -> int:
        """Elements of a staged row."""
        return self.pace * self.each * self.groups

    @property
    def parts_size(self) -> int:
        """Sums of blocks of a row; 0 if a thread adds them itself."""
        return 0 if self.groups == 1 else self.each * self.groups * self.columns

    @property
    def rows(self) -> int:
        """Rows that are staged at a time."""
        bytes_of_row = (self.row_size + self.parts_size) * self.dtype.itemsize
        return max(0, min(_MOST_ROWS, (_STAGED_BYTES - self.kept_size * self.dtype.itemsize) // bytes_of_row))


def can_be_held(statement: Any) -> bool:
    """Whether a statement is a product of the rows with one matrix."""
    return (
        isinstance(statement, Product) and not statement.loops and not statement.panels.offset.terms
        and len(statement.rows) == 1 and statement.rows[0].key == ROWS_KEY
    )  # fmt: skip


def registers_of(threads: int, limits: Limits) -> int:
    """How many registers a thread can have in a block of so many threads."""
    warps = -(-max(1, threads) // _WARP)
    per_thread = limits.registers_per_block // _QUARTERS // -(-warps // _QUARTERS) // _WARP
    return min(limits.registers_per_thread, per_thread // 8 * 8)


def shared_out(
    products: Sequence[Product], owned: Any, limits: Limits, others: int, most: int | None = None, lanes: bool = False
) -> list[Held] | None:
    """How products fit the threads and registers of a block, as many threads as fit; None if they don't.

    owned: how many of so many columns a block has.  others: registers of a thread for what is no weight.
    most: registers for weights, if there is another limit.  lanes: whether several
    rows may be multiplied at once.
    """
    options: list[list[Held]] = []
    for p in products:
        columns, inner = value_of(p.columns), value_of(p.inner)
        every = range(1, -(-inner // BLOCK) + 1)
        options.append([Held(p, owned(columns), columns, inner, each, p.out.array.dtype) for each in every])
    if not options:
        return []
    for threads in sorted({held.threads for each in options for held in each}, reverse=True):
        fitting = [[held for held in each if held.threads <= threads] for each in options]
        if threads > limits.threads_per_block or not all(fitting):
            continue
        for kept in _KEPT:
            chosen = [replace(min(each, key=lambda held: held.registers), kept=kept) for each in fitting]
            weights, used = sum(h.registers for h in chosen), max(h.threads for h in chosen)
            room = min(registers_of(used, limits) - others, limits.registers_per_thread if most is None else most)
            if (
                weights <= room
                and all(held.rows for held in chosen)
                and shared_bytes(chosen) <= limits.shared_per_block
            ):
                return _with_lanes(chosen, limits) if lanes else chosen
    return None


def _with_lanes(held: list[Held], limits: Limits) -> list[Held]:
    """The same with as many rows at once as there are threads for that take no registers from the others."""
    threads = max((h.threads for h in held), default=1)
    for turns in range(1, _MOST_ROWS):  # of a lane through the staged rows
        most = threads * max((-(-h.rows // turns) for h in held), default=1)
        if most <= limits.threads_per_block and registers_of(most, limits) == registers_of(threads, limits):
            return [replace(h, lanes=min(-(-h.rows // turns), most // h.threads)) for h in held]
    return held


def shared_bytes(held: Sequence[Held]) -> int:
    """Shared memory of a block for the rows that are multiplied, the sums of blocks, and weights."""
    total = _INTEGERS_BYTES + sum(h.kept_size * h.dtype.itemsize for h in held)
    for dtype in {h.dtype for h in held}:
        same = [h for h in held if h.dtype == dtype]
        total += (max(h.rows * h.row_size for h in same) + max(h.rows * h.parts_size for h in same)) * dtype.itemsize
    return total


def other_registers(statements: Iterable[Any], itemsize: int) -> int:
    """About how many registers a thread needs for maps of values that stand in so many places, each with an address."""
    places = [
        len({_place(part) for part in each.body if _place(part) is not None})
        for each in statements if isinstance(each, Nest)
    ]  # fmt: skip
    return _BASE_REGISTERS + max(places, default=0) * _PLACE_REGISTERS[itemsize]


def _place(part: Any) -> Any:
    """The array, and the part of the scratch memory, that a statement of a nest reads or writes."""
    load = part if isinstance(part, Write) else part.expression
    if not isinstance(load, Write | Load):
        return None
    region = region_of(load)
    return load.array.name, region and (region.buffer, region.turn)


# printing ----------------------------------------------------------------------------------------
class OnChip:
    """The products of a kernel that are held, with the shared memory that they use by turns."""

    def __init__(self, text: CudaText, held: list[Held]) -> None:
        self.text = text
        self.held = {id(h.product): h for h in held}
        self.columns: dict[int, str] = {}
        self.groups: dict[int, str] = {}
        self.weights: dict[int, str] = {}
        self.kept: dict[int, str] = {}
        self.lanes: dict[int, str] = {}

    def open(self) -> None:
        """Make room in shared memory and bring the weights into registers."""
        text = self.text
        for dtype in sorted({str(h.dtype) for h in self.held.values()}):
            same = [h for h in self.held.values() if str(h.dtype) == dtype]
            text.line(
                f"staged_{dtype} = cuda.shared.array({max(h.rows * h.row_size for h in same)}, cuda.types.{dtype}, 16)"
            )
            if parts := max(h.rows * h.parts_size for h in same):
                text.line(f"parts_{dtype} = cuda.shared.array({parts}, cuda.types.{dtype})")
        for key, h in self.held.items():
            # No other statement of the loop may use these names.
            number = len(self.weights)
            column, group, weights, kept = (f"{name}_{number}" for name in ("column", "group", "weights", "kept"))
            self.columns[key], self.groups[key], self.weights[key], self.kept[key] = column, group, weights, kept
            text.say(f"the thread's column, and which of its blocks of {BLOCK} weights it has")
            text.line(f"{column}, {group} = {self._places_of_thread(h)}")
            if h.lanes > 1:
                self.lanes[key] = f"lane_{number}"
                text.line(f"lane_{number} = thread // {h.threads}")
            first = f"{group} * {h.depth * h.all_columns} + " if h.groups > 1 else ""
            count = f"{h.inner} - {group} * {h.depth}" if h.groups > 1 else str(h.inner)
            at = text.affine(h.product.panels.offset)
            where = f"{'' if at == '0' else f'{at} + '}{first}{self._global(h, column)}"
            text.line(f"count = {count} if {self._is_working(h, column, group)} else 0", h.product.node)
            self._print_weights(h, where, weights, kept)

    def _print_weights(self, h: Held, where: str, weights: str, kept: str) -> None:
        """Bring a thread's weights into registers, and the rest of them into shared memory."""
        text, panels = self.text, self.text.name(h.product.panels.array)
        if h.kept_size:
            text.line(f"{kept} = cuda.shared.array({h.kept_size}, cuda.types.{h.dtype})")
        place = 0
        for k in range(h.each):
            held, begin = h.held_of(k), k * BLOCK
            at = f"{where} + {begin * h.all_columns}" if begin else where
            left = f"count - {begin}" if begin else "count"
            text.line(f"{weights}_{k} = hold({panels}, {at}, {h.all_columns}, {left}, {held})")
            if rest := h.depth_of(k) - held:
                text.line(f"for k in range({rest}):")
                first_lane = f"thread < {h.threads} and " if h.lanes > 1 else ""
                text.line(f"    if {first_lane}k < count - {begin + held}:")
                value = f"element({panels}, {where} + (k + {begin + held}) * {h.all_columns})"
                text.line(f"        put({kept}, (k + {place}) * {h.threads} + thread, {value})")
                text.line(f"    elif thread < {h.threads}:")
                text.line(f"        put({kept}, (k + {place}) * {h.threads} + thread, as_{h.dtype}(0))")
                place += rest

    def _times(self, h: Held) -> int:
        owners = self.text.owners
        return h.all_columns // owners.size if isinstance(owners, Units) else 1

    def _global(self, h: Held, column: str) -> str:
        """The column whose number in the block is given."""
        owners = self.text.owners
        if not isinstance(owners, Units):
            return column
        if self._times(h) == 1:
            return f"unit_first + {column}"
        return f"{column} // {owners.each} * {owners.size} + unit_first + {column} % {owners.each}"

    def _exists(self, h: Held, column: str) -> str:
        """A condition that a column of the last block exists, or nothing."""
        owners = self.text.owners
        if not isinstance(owners, Units) or owners.size % owners.each == 0:
            return ""
        return f"{column} % {owners.each} < units" if self._times(h) > 1 else f"{column} < units"

    def _places_of_thread(self, h: Held) -> str:
        """Its column, and the number of its blocks of contracted indices."""
        group = f"thread // {h.columns}" + (f" % {h.groups}" if h.lanes > 1 else "")
        return f"thread % {h.columns}, {group}"

    def _is_working(self, h: Held, column: str, group: str) -> str:
        exists = self._exists(h, column)
        some = f"{group} < {h.groups}" if h.lanes == 1 else f"{self.lanes[id(h.product)]} < {h.lanes}"
        return some + (f" and {exists}" if exists else "")

    def parts(self, product: Product, inside: Any, number: int) -> list[Part]:
        """The phases of a product: staging, chains, and sums if several threads share a column."""
        text, h = self.text, self.held[id(product)]
        name = f"staged {h.dtype}"
        # Owners differ from those of other products, which use the same memory.
        staged = ("staged", id(product)), ("chains", id(product)), ("added", id(product))
        reads = [a for a in accesses_of(product, inside) if not a.writes]
        writes = [a for a in accesses_of(product, inside) if a.writes]
        if not self._shares_as_others(h):
            writes = [a._replace(owner=("held", id(product))) for a in writes]
        found = [
            Part(Phase([]), lambda: self._open_rows(h)),
            Part(Phase([*reads, Access(name, True, staged[0], again=True)], number), lambda: self._print_stage(h)),
        ]
        chains = [Access(name, False, staged[1])]
        if h.groups == 1:
            found.append(Part(Phase([*chains, *writes], number), lambda: self._print_chains(h)))
        else:
            parts = f"parts {h.dtype}"
            chains.append(Access(parts, True, staged[1], again=True))
            found.append(Part(Phase(chains, number), lambda: self._print_chains(h)))
            found.append(Part(Phase([Access(parts, False, staged[2]), *writes], number), lambda: self._print_sums(h)))
        last = found[-1].show

        def closing() -> None:
            last()
            text.depth -= 1

        return [*found[:-1], Part(found[-1].phase, closing)]

    def _shares_as_others(self, h: Held) -> bool:
        """Whether each thread adds the sums of those elements that a nest over the same space gives it."""
        threads = -(-max(h.all_threads for h in self.held.values()) // _WARP) * _WARP
        return h.groups > 1 and h.rows * h.columns % threads == 0 and not self._exists(h, "place")

    def _open_rows(self, h: Held) -> None:
        self.text.line(f"for row_at in range(row_first, row_end, {h.rows}):", h.product.node)
        self.text.depth += 1
        self.text.line(f"some = min({h.rows}, row_end - row_at)")

    def _print_stage(self, h: Held) -> None:
        text, p = self.text, h.product
        width = h.inner if h.groups == 1 else h.each * h.groups * BLOCK
        text.say("what is multiplied, for all threads")
        text.line(f"for p in range(thread, some * {width}, threads):")
        text.depth += 1
        text.line(f"row, k = p // {width}, p % {width}")
        a = p.a.offset.plus(along("row_at").scaled_by(p.a_row)).plus(along("row").scaled_by(p.a_row))
        value = f"element({text.name(p.a.array)}, {text.affine(a.plus(along('k').scaled_by(p.a_step)))})"
        to = f"staged_{h.dtype}, row * {h.row_size} + k // {BLOCK} * {h.pace} + k % {BLOCK}"
        if width > h.inner:  # -0 times a weight of 0 leaves every sum as it is
            text.line(f"if k < {h.inner}:")
            text.line(f"    put({to}, {value})")
            text.line("else:")
            text.line(f"    put({to}, as_{h.dtype}(-0.0))")
        else:
            text.line(f"put({to}, {value})")
        text.depth -= 1

    def _print_chains(self, h: Held) -> None:
        text, key = self.text, id(h.product)
        column, group = self.columns[key], self.groups[key]
        weights, kept = self.weights[key], self.kept[key]
        holder = "thread" if h.lanes == 1 else f"thread % {h.threads}"
        text.line(f"if {self._is_working(h, column, group)}:")
        text.depth += 1
        text.line(f"for row in range({'some' if h.lanes == 1 else f'{self.lanes[key]}, some, {h.lanes}'}):")
        text.depth += 1
        place = 0
        for k in range(h.each):
            held = h.held_of(k)
            first = f"{group} * {h.each}" if h.groups > 1 else ""
            block = " + ".join(x for x in (first, str(k) if k else "") if x) or "0"
            at = f"row * {h.row_size}" + (f" + ({block}) * {h.pace}" if block != "0" else "")
            text.line(f"part = chain_aligned({weights}_{k}, 0, {held}, staged_{h.dtype}, {at}, 1)")
            if rest := h.depth_of(k) - held:
                text.line(f"for k in range({rest}):")
                x, weight = f"staged_{h.dtype}, {at} + {held} + k", f"{kept}, (k + {place}) * {h.threads} + {holder}"
                text.line(f"    part = fma(element({x}), element({weight}), part)")
                place += rest
            if h.groups > 1:
                size = h.each * h.groups
                text.line(f"put(parts_{h.dtype}, (row * {size} + {block}) * {h.columns} + {column}, part)")
            else:
                text.line("total = part" if k == 0 else "total = total + part")
        if h.groups == 1:
            self._print_put(h, self._global(h, column), "total")
        text.depth -= 2

    def _print_put(self, h: Held, column: str, value: str) -> None:
        text, p = self.text, h.product
        out = p.out.offset.plus(along("row_at").scaled_by(p.out_row)).plus(along("row").scaled_by(p.out_row))
        text.line(f"put({text.name(p.out.array)}, {text.affine(out)} + {column}, {value})")

    def _print_sums(self, h: Held) -> None:
        text = self.text
        size = h.each * h.groups
        text.say("the sums of the blocks, added in order")
        text.line(f"for p in range(thread, some * {h.columns}, threads):")
        text.depth += 1
        text.line(f"row, place = p // {h.columns}, p % {h.columns}")
        exists = self._exists(h, "place")
        if exists:
            text.line(f"if {exists}:")
            text.depth += 1
        at = f"row * {size * h.columns} + place"
        self._print_put(h, self._global(h, "place"), f"sum_of_blocks(parts_{h.dtype}, {at}, {h.columns}, {h.blocks})")
        text.depth -= 2 if exists else 1
