"""The register tile: a few rows times a few vectors of columns, held in registers over a block of products.

`tile(...)` is the innermost loop of every contraction.  It walks once along at most BLOCK contracted
indices; each element of its result is one chain of fma from zero in index order, so that neither the
tile's shape nor the machine's vector width shows in the bits.  The shapes follow the target's
registers: 32 of 64 bytes take four rows by four vectors, 16 of 32 bytes six by two.

Pointers are Numba's CPointer: `address(array, at)` makes one, `move(pointer, n)` goes n elements on.
Without the JIT a pointer is a flat NumPy view that begins where it points.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.core import config as numba_config
from numba.extending import intrinsic

from .build import JIT_OFF
from .pointers import pointer_at
from .twins import place_in

BLOCK = 64  # how many products one chain takes: part of the definition of every sum
PANEL_BYTES = 256  # one row of a panel


def register_bytes() -> int:
    """The width of the target's vector registers."""
    given = numba_config.CPU_FEATURES
    if given is None:
        found = binding.get_host_cpu_features()
        present = {name for name, on in found.items() if on}
    else:
        present = {name[1:] for name in given.split(",") if name.startswith("+")}
    if "fma" not in present:
        return 16  # another architecture, or one where fma is a function call
    return 64 if "avx512f" in present else 32


REGISTER_BYTES = register_bytes()
ROWS = 6 if REGISTER_BYTES == 32 else 4  # of 32 bytes four rows have too few chains: 0.72 of the peak, and six 0.82
MAIN_BYTES = {64: 256, 32: 64, 16: 64}[REGISTER_BYTES]  # of a tile's row when it has ROWS rows
FMA_CHAINS = 12  # enough to keep two units busy for 5 cycles, few enough for 16 registers
# Two rows, or one row of two panels, keep eight chains or more going; each is as long as fma takes twice.
PAIR_BYTES = min(4 * REGISTER_BYTES, PANEL_BYTES)
SINGLE_BYTES = min(8 * REGISTER_BYTES, PANEL_BYTES)


_LONG = ir.IntType(64)


def _element(dtype: Any) -> Any:
    return {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}[dtype]


def _fma(builder: Any, vector: Any, size: int) -> Any:
    name = f"llvm.fma.v{vector.count}f{8 * size}"
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, [vector] * 3), name)


def _splat(builder: Any, vector: Any, scalar: Any) -> Any:
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.IntType(32)(0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), [0] * vector.count)
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), zeros)


def _prefetch(builder: Any, pointer: Any) -> None:
    place, short = builder.bitcast(pointer, ir.IntType(8).as_pointer()), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [place.type, short, short, short])
    prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(prefetch, [place, short(0), short(3), short(1)])  # to read; into all caches; it is data


class _Tile:
    """Emits one shape: `rows` x (`panels` panels of `vectors` registers each)."""

    def __init__(self, builder: Any, dtype: Any, rows: int, vectors: int, panels: int) -> None:
        self.builder, self.size, self.rows = builder, dtype.bitwidth // 8, rows
        self.lanes = REGISTER_BYTES // self.size
        self.vector = ir.VectorType(_element(dtype), self.lanes)
        self.panel_width = PANEL_BYTES // self.size
        self.panels, self.inside = panels, [v * self.lanes for v in range(vectors)]
        self.columns = [panel * self.panel_width + inside for panel in range(panels) for inside in self.inside]

    def load(self, pointer: Any) -> Any:
        value = self.builder.load(pointer)
        value.align = self.size
        return value

    def vectors_at(self, pointer: Any, offsets: list[int]) -> list[Any]:
        places = [self.builder.gep(pointer, [_LONG(offset)]) if offset else pointer for offset in offsets]
        return [self.builder.bitcast(place, self.vector.as_pointer()) for place in places]

    def rows_of(self, pointer: Any, stride: Any) -> list[Any]:
        """The pointers to a matrix's rows."""
        found = [pointer]
        for _ in range(self.rows - 1):
            found.append(self.builder.gep(found[-1], [stride]))
        return found

    def sums(self, a: Any, a_row: Any, a_step: Any, panel: Any, apart: Any, depth: Any) -> list[list[Any]]:
        """The loop along the contracted index: the chain's end for each vector of the tile, row by row."""
        builder = self.builder
        starts = self.rows_of(a, a_row)
        before, loop, end = builder.block, builder.append_basic_block("inner"), builder.append_basic_block("end")
        builder.branch(loop)
        builder.position_at_end(loop)
        counters = [(builder.phi(_LONG), step) for step in (_LONG(1), a_step, _LONG(self.panel_width))]
        chains = [[builder.phi(self.vector) for _ in self.columns] for _ in starts]
        (k, _), (a_place, _), (place, _) = counters
        right = []
        if self.panels == 1:
            _prefetch(builder, builder.gep(panel, [builder.add(place, apart)]))
        for number in range(self.panels):
            start = builder.gep(panel, [place])
            right += [self.load(p) for p in self.vectors_at(start, self.inside)]
            panel = builder.gep(panel, [apart]) if number + 1 < self.panels else panel
        fma, longer = _fma(builder, self.vector, self.size), []
        for start, row in zip(starts, chains, strict=True):
            left = _splat(builder, self.vector, self.load(builder.gep(start, [a_place])))
            longer.append([builder.call(fma, [left, b, chain]) for b, chain in zip(right, row, strict=True)])
        for phi, step in counters:
            following = builder.add(phi, step)
            phi.add_incoming(_LONG(0), before)
            phi.add_incoming(following, loop)
        for row, ends in zip(chains, longer, strict=True):
            for phi, chain in zip(row, ends, strict=True):
                phi.add_incoming(ir.Constant(self.vector, None), before)
                phi.add_incoming(chain, loop)
        builder.cbranch(builder.icmp_signed("<", k.incomings[1][0], depth), loop, end)
        builder.position_at_end(end)
        return longer

    def finish(self, sums: list[list[Any]], out: Any, out_row: Any, count: Any, first: Any) -> None:
        """Add the sums to what `out` holds, or put them there if they are the first."""
        builder = self.builder
        places = [place for row in self.rows_of(out, out_row) for place in self.vectors_at(row, self.columns)]
        new = [value for row in sums for value in row]
        whole, add, put, part, end = (builder.append_basic_block(n) for n in ("whole", "add", "put", "part", "end"))
        width = self.columns[-1] + self.lanes
        builder.cbranch(builder.icmp_signed(">=", count, _LONG(width)), whole, part)

        builder.position_at_end(whole)
        builder.cbranch(first, put, add)
        builder.position_at_end(add)
        added = [builder.fadd(self.load(place), value) for place, value in zip(places, new, strict=True)]
        builder.branch(put)
        builder.position_at_end(put)
        totals = [builder.phi(self.vector) for _ in places]
        for total, value, sum_of_both in zip(totals, new, added, strict=True):
            total.add_incoming(value, whole)
            total.add_incoming(sum_of_both, add)
        for total, place in zip(totals, places, strict=True):
            builder.store(total, place).align = self.size
        builder.branch(end)

        builder.position_at_end(part)
        self._finish_part(new, places, count, first)
        builder.branch(end)
        builder.position_at_end(end)

    def _finish_part(self, new: list[Any], places: list[Any], count: Any, first: Any) -> None:
        """As `finish`, of the first `count` columns only: nothing beyond them is touched."""
        builder, short, bools = self.builder, ir.IntType(32), ir.VectorType(ir.IntType(1), self.lanes)
        suffix, pointer = f"v{self.lanes}f{8 * self.size}.p0", self.vector.as_pointer()
        get, put = (
            cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(result, types), f"llvm.masked.{name}.{suffix}"
            )
            for name, result, types in (
                ("load", self.vector, [pointer, short, bools, self.vector]),
                ("store", ir.VoidType(), [self.vector, pointer, short, bools]),
            )
        )
        numbers = ir.VectorType(short, self.lanes)
        counts = _splat(builder, numbers, builder.trunc(count, short))
        later = _splat(builder, bools, builder.not_(first))
        valid = []
        for offset in self.columns:
            lanes = ir.Constant(numbers, [offset + lane for lane in range(self.lanes)])
            valid.append(builder.icmp_signed("<", lanes, counts))
        held = [builder.and_(mask, later) for mask in valid]
        nothing = ir.Constant(self.vector, [-0.0] * self.lanes)  # x + -0.0 is x for every x
        for i, (value, place) in enumerate(zip(new, places, strict=True)):
            column = i % len(self.columns)
            old = builder.call(get, [place, short(self.size), held[column], nothing])
            builder.call(put, [builder.fadd(old, value), place, short(self.size), valid[column]])


def tile(rows: int, width: int, panels: int = 1) -> Any:
    """The tile of `rows` rows and `width` bytes of each of `panels` panels, as a function for kernels.

    It is called with the pointers and strides of `a` (rows x inner), the panel and the distance to the
    next one (a tile of one panel asks the cache for a line at that distance with every row), the pointer
    and row stride of `out`, the number of products, how many columns `out` has from here on, and whether
    these are the first products of its sums.
    """
    if JIT_OFF:
        return _plain_tile(rows, width, panels)

    @intrinsic
    def emit(
        typing: Any, a: Any, a_row: Any, a_step: Any, panel: Any, apart: Any, out: Any, out_row: Any, depth: Any,
        count: Any, first: Any,
    ) -> Any:  # fmt: skip
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            name = f"tile_{rows}_{width}_{panels}_{a.dtype}"
            kind = ir.FunctionType(ir.VoidType(), [value.type for value in args])
            function = cgutils.get_or_insert_function(builder.module, kind, name)
            if function.is_declaration:
                function.linkage = "internal"
                function.attributes.add("noinline")  # LLVM would make copies of it for each way through the loops
                inside = ir.IRBuilder(function.append_basic_block("entry"))
                shape = _Tile(inside, a.dtype, rows, width // REGISTER_BYTES, panels)
                a_at, a_row, a_step, panel, apart, out, out_row, depth, count, first = function.args
                sums = shape.sums(a_at, a_row, a_step, panel, apart, depth)
                shape.finish(sums, out, out_row, count, first)
                inside.ret_void()
            builder.call(function, args)
            return context.get_dummy_value()

        long = types.int64
        return types.void(a, long, long, panel, long, out, long, long, long, types.boolean), codegen

    return emit


def _plain_tile(rows: int, width: int, panels: int) -> Any:
    """The tile in plain Python, every chain rounded as twins.fma rounds."""

    def plain(
        a: Any, a_row: int, a_step: int, panel: Any, apart: int, out: Any, out_row: int, depth: int, count: int,
        first: bool,
    ) -> None:  # fmt: skip
        panel_width, each = PANEL_BYTES // a.itemsize, width // a.itemsize
        for row in range(rows):
            for p in range(panels):
                n = max(0, min(each, count - p * panel_width))
                chain = np.zeros(n, a.dtype)
                for k in range(depth):
                    b = panel[p * apart + k * panel_width :][:n]
                    product = np.float64(a[row * a_row + k * a_step]) * b.astype(np.float64)
                    chain = (product + chain).astype(a.dtype)
                place = out[row * out_row + p * panel_width :][:n]
                place[:] = chain if first else place + chain

    return plain


@intrinsic
def address(typing: Any, array: Any, offset: Any) -> Any:
    """The pointer to the element `offset` places after the first of an array, or after what a pointer shows."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return pointer_at(context, builder, array, *args)

    return types.CPointer(array.dtype)(array, types.int64), codegen


@intrinsic
def move(typing: Any, pointer: Any, count: Any) -> Any:
    """The pointer `count` elements on."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.gep(args[0], [args[1]])

    return pointer(pointer, types.int64), codegen


@intrinsic
def fma_only(typing: Any, pointer: Any, times: Any) -> Any:
    """`times` times one fma in each of FMA_CHAINS registers: what the machine can do at most."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        dtype = pointer.dtype
        vector = ir.VectorType(_element(dtype), REGISTER_BYTES * 8 // dtype.bitwidth)
        half = ir.Constant(vector, [0.5] * vector.count)
        before, loop, end = builder.block, builder.append_basic_block("loop"), builder.append_basic_block("end")
        builder.branch(loop)
        builder.position_at_end(loop)
        k, chains = builder.phi(_LONG), [builder.phi(vector) for _ in range(FMA_CHAINS)]
        following = [builder.add(k, _LONG(1))]
        following += [builder.call(_fma(builder, vector, dtype.bitwidth // 8), [c, half, half]) for c in chains]
        for number, (phi, value) in enumerate(zip([k, *chains], following, strict=True)):
            start = ir.Constant(vector, [float(number)] * vector.count) if number else _LONG(0)
            phi.add_incoming(start, before)
            phi.add_incoming(value, loop)
        builder.cbranch(builder.icmp_signed("<", following[0], args[1]), loop, end)
        builder.position_at_end(end)
        total = functools.reduce(builder.fadd, following[1:])
        builder.store(builder.extract_element(total, ir.IntType(32)(0)), args[0])
        return context.get_dummy_value()

    return types.void(pointer, types.int64), codegen


@intrinsic
def size_of(typing: Any, pointer: Any) -> Any:
    """The bytes of what a pointer points to."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _LONG(pointer.dtype.bitwidth // 8)

    return types.int64(pointer), codegen


@intrinsic
def zero_of(typing: Any, pointer: Any) -> Any:
    """Zero, of the dtype that a pointer points to."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return ir.Constant(_element(pointer.dtype), 0.0)

    return pointer.dtype(pointer), codegen


def _flat_from(array: Any, offset: int) -> Any:
    """An array's memory from one of its elements on, as one axis."""
    if array.size == 0:
        return np.empty(0, array.dtype)
    flat, place = place_in(array, offset)
    return flat[place:]


if JIT_OFF:
    address = _flat_from

    def move(pointer: Any, count: int) -> Any:
        """The pointer `count` elements on."""
        return pointer[count:]

    def size_of(pointer: Any) -> int:
        """The bytes of what a pointer points to."""
        return int(pointer.itemsize)

    def zero_of(pointer: Any) -> Any:
        """Zero, of the dtype that a pointer points to."""
        return pointer.dtype.type(0)
