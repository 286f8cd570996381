"""The kernels of a plan: their texts, printed around the sections of a loop program."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

from .. import emit as cpu
from ..lower import DTYPES, Lowering
from ..program import Buffer, Product, Size
from ..timesums import TimeSum
from .barriers import Access, Phase, read_by_others
from .emit import print_statement
from .onchip import Held, OnChip
from .owners import Owners
from .parts import Chunk, Part, chunks_of, parts_of, print_chunks, print_parts
from .text import CudaText

TARGET = "minirnn.kernels.cuda.target"
LIBRARY = "minirnn.kernels.cuda.library"
TILES = "minirnn.kernels.cuda.tiles"
_ARGUMENTS = "first, steps, done, begin, direction, rows, sizes, status"
_LIBRARY_NAMES = (
    "element put select maximum minimum absolute negative logical_not sqrt fma sum_chain max_chain argmax_chain "
    "product_element chain_element hold chain chain_aligned sum_of_blocks tiled_product".split()
)
COLUMN_THREADS = 512  # of a block that sums 32 columns
_CONVERSIONS = [f"as_{dtype}" for dtype in DTYPES]

Body = Callable[[CudaText], None]


class Printer:
    """Prints the kernels of one plan; they take their integers from one list."""

    def __init__(self, lowering: Lowering, owners: Owners, explained: bool) -> None:
        self.lowering, self.owners, self.explained = lowering, owners, explained
        self.sizes: dict[Any, Size] = {}
        self.kernels: dict[str, str] = {}
        self.texts: dict[str, CudaText] = {}
        for to_start in (True, False):  # which have arrays of their own, that all kernels are given
            cpu.carry_moves(self.text(), lowering, to_start)

    def text(self, owners: Owners | None = None) -> CudaText:
        """A text to print a kernel into."""
        return CudaText(self.lowering, owners or self.owners, self.explained)

    def add(
        self, name: str, text: CudaText, opens: bool = True, integers: bool = True, comments: tuple[str, ...] = ()
    ) -> None:
        """Finish a kernel, of which `text` has the body.

        opens: it begins with what a block owns; integers: and with the names of its integers.
        """
        self._number(text)
        begin = []
        if integers:
            begin = [f"    {word} = sizes[{self.numbers[key]}]" for key, (word, _) in text.sizes.items()]
        body, text.lines, text.depth = text.lines, [], 1
        if opens:
            text.owners.opening(text)
        arrays = [text.name(array) for array in self.lowering.arrays.values()]
        notes = [f"# {line}".rstrip() for line in comments] if self.explained else []
        head = f"def {name}({', '.join([_ARGUMENTS, *arrays])}):"
        text.lines = [*notes, "@cuda.jit", head, *begin, *text.lines, *body]
        self.kernels[name] = "\n".join([*_imports(text.lines), "", "", *text.lines]) + "\n"
        self.texts[name] = text

    def _number(self, text: CudaText) -> None:
        """Give the integers of a kernel numbers among those of the plan."""
        for key, (_, size) in text.sizes.items():
            self.sizes.setdefault(key, size)
        self.numbers = {key: number for number, key in enumerate(self.sizes)}

    def buffers(self) -> list[Buffer]:
        """The parts of the scratch memory that the kernels take to be there."""
        twice = {key[1] for text in self.texts.values() for key in text.by_turns}
        return [dataclasses.replace(b, slots=2) if b.name in twice else b for b in self.lowering.buffers]

    # the loop ----------------------------------------------------------------------------------------
    def whole_loop(self, name: str, owners: Owners, held: list[Held]) -> None:
        """All steps of a block of time, with the constant operands of some products in registers."""
        text = self.text(owners)
        inside = owners.is_inside
        chip = OnChip(text, held)
        loop = self.lowering.sections["loop"]
        for buffer in read_by_others(self.lowering, loop, inside):
            text.take_turns(buffer)
        parts: list[Part] = []
        for k, statement in enumerate(loop):
            if id(statement) in chip.held:
                parts += chip.parts(statement, inside, k + 1)
            else:
                parts += parts_of(text, [statement], inside)
        turning = {key[1] for key in text.by_turns}
        for part in parts:  # of a buffer with two places, a step has the one of its turn
            part.phase.accesses = [a._replace(turn=0) if a.buffer in turning else a for a in part.phase.accesses]
        opening = chunks_of(text, [Part(Phase(), chip.open), Part(Phase(), lambda: _open_loop(text))])
        chunks = [*opening, *chunks_of(text, parts)]
        places = places_by_turns(text)  # whose integers the kernel needs, too
        self._number(text)
        print_chunks(text, with_integers(text, chunks, places, self.numbers), True, first=3)
        self.add(name, text, integers=False, comments=("All steps of a block of time, one after the other.",))

    # kernels that every schedule has -------------------------------------------------------------
    def moves(self, name: str, to_start: bool) -> None:
        """The carry into its first place, or out of the place in which it is after all steps."""
        text = self.text()
        moves = cpu.carry_moves(text, self.lowering, to_start)
        if not to_start:
            text.line("turn = steps & 1")
            open_places(text)
        for move in moves:
            print_statement(text, move)
        self.add(
            name,
            text,
            comments=("The carry into its first place." if to_start else "The carry out of its last place.",),
        )

    def steps_at_once(self, name: str, statements: list[Any]) -> None:
        """Statements for all steps of a block of time, which the grid's second axis shares out."""
        text = self.text()
        text.line("for s in range(first + cuda.blockIdx.y, first + steps, cuda.gridDim.y):")
        text.depth += 1
        text.line("t = begin + (done + s) * direction")
        print_parts(text, parts_of(text, statements), True)
        self.add(name, text, comments=("All steps of a block of time at once.",))

    def merged(self, name: str, p: Product) -> None:
        """A product over all rows of all steps of a block of time, in tiles."""
        text = self.text()
        a, out = p.a.offset.without("s"), p.out.offset.without("s")
        inner, columns = text.coefficient(p.inner), text.coefficient(p.columns)
        left = f"{text.name(p.a.array)}, {text.affine(a)}, {text.coefficient(p.a_row)}, {text.coefficient(p.a_step)}"
        right = f"{text.name(p.panels.array)}, {text.affine(p.panels.offset)}, {columns}, 1"
        made = f"{text.name(p.out.array)}, {text.affine(out)}, {text.coefficient(p.out_row)}"
        self._tiled(text, p.out.array.dtype, (left, right, made), ("steps * rows", inner, columns), p.node)
        self.add(name, text, opens=False, comments=("One product over the rows of all steps.",))

    def time_sum(self, name: str, each: TimeSum) -> None:
        """A sum over all steps and rows: of products, or of columns."""
        text = self.text()
        right, out, width = text.name(each.right), text.name(each.out), text.size(each.right_width)
        if each.left is None:
            self._column_sums(text, each, right, f"{out}, column", width)
        else:
            assert each.left_width is not None
            rows = text.size(each.left_width)
            operands = f"{text.name(each.left)}, 0, 1, {rows}", f"{right}, 0, {width}, 1", f"{out}, 0, {width}"
            self._tiled(text, each.out.dtype, operands, (rows, "steps * rows", width), each.node)
        self.add(name, text, opens=False, comments=("A sum over all steps and rows.",))

    def _column_sums(self, text: CudaText, each: TimeSum, right: str, out: str, width: str) -> None:
        """Sums of columns: warps take blocks of 64 rows by turns, and the first one adds their sums in order."""
        dtype = each.out.dtype
        text.line("lane, group = cuda.threadIdx.x % 32, cuda.threadIdx.x // 32")
        text.line("column = cuda.blockIdx.x * 32 + lane")
        text.line(f"parts = cuda.shared.array({COLUMN_THREADS}, cuda.types.{dtype})")
        text.line(f"total = as_{dtype}(0)")
        text.line(f"for begins in range(0, steps * rows, {COLUMN_THREADS * 2}):")
        text.line("    row = begins + group * 64")
        text.line("    some = min(64, steps * rows - row)")
        text.line(f"    if column < {width} and some > 0:")
        text.line(
            f"        put(parts, cuda.threadIdx.x, sum_chain({right}, row * {width} + column, {width}, some))",
            each.node,
        )
        text.line("    cuda.syncthreads()")
        text.line(f"    if column < {width} and group == 0:")
        text.line(f"        for k in range(min({COLUMN_THREADS // 32}, (steps * rows - begins + 63) // 64)):")
        text.line("            total = total + element(parts, k * 32 + lane)")
        text.line("    cuda.syncthreads()")
        text.line(f"if column < {width} and group == 0:")
        text.line(f"    put({out}, total)")

    def _tiled(
        self, text: CudaText, dtype: Any, operands: tuple[str, str, str], shape: tuple[str, str, str], node: Any
    ) -> None:
        rows, inner, columns = shape
        text.line(f"shared = cuda.shared.array(TILE_SHARED, cuda.types.{dtype}, 16)")
        text.line(f"tiles = -(-({rows}) // TILE) * -(-({columns}) // TILE)")
        text.line("for tile in range(cuda.blockIdx.x, tiles, cuda.gridDim.x):")
        text.line(f"    tiled_product(tile, {', '.join(operands)}, {rows}, {inner}, {columns}, shared)", node)


def open_places(text: CudaText) -> None:
    """Say which of its two places a carry has at the present step, and which at the next one."""
    for variable, (even, odd) in places_by_turns(text).items():
        text.line(f"{variable} = {odd} if turn else {even}")


def places_by_turns(text: CudaText) -> dict[str, tuple[str, str]]:
    """Variables for what has two places: where it is at even steps and at odd ones."""
    found = {}
    for now, after in text.lowering.swaps:
        first, second = (text.size(cpu.slot(text, now, number)) for number in (0, 1))
        found[text.variable(now)] = first, second
        found[text.variable(after)] = second, first
    for variable, even, odd in text.by_turns.values():
        found[variable] = text.size(even), text.size(odd)
    return found


def open_step(text: CudaText) -> None:
    """Say which step it is."""
    text.line("t = begin + (done + s) * direction")
    text.line("turn = (done + s) & 1")


def _open_loop(text: CudaText) -> None:
    text.line("for s in range(first, first + steps):")
    text.depth += 1
    open_step(text)


def with_integers(
    text: CudaText, chunks: list[Chunk], places: dict[str, tuple[str, str]], numbers: dict[Any, int]
) -> list[Chunk]:
    """Chunks that get their integers by name from shared memory, and the one that puts them there.

    Registers are for weights: an integer that every step needs would have two of them for the whole time loop.
    places: of what has two; numbers: of the integers.
    """
    given = {word: f"integers[{numbers[key]}]" for key, (word, _) in text.sizes.items()}
    turns = {word: f"{given[odd]} if turn else {given[even]}" for word, (even, odd) in places.items()}
    begin = Chunk(
        Phase([Access("integers", True, "filled")]),
        [
            *(["    # for all steps; registers are for weights"] if text.explained else []),
            f"    integers = cuda.shared.array({len(numbers)}, cuda.types.int64)",
            f"    for p in range(thread, {len(numbers)}, threads):",
            "        integers[p] = sizes[p]",
        ],
    )
    made = [begin]
    for phase, lines in chunks:
        words = set(re.findall(r"\w+", "\n".join(line.partition("  #")[0] for line in lines)))
        found = [f"{word} = {where}" for word, where in {**turns, **given}.items() if word in words]
        if found:
            indent = Chunk(phase, lines).indent
            phase = Phase([*phase.accesses, Access("integers", False, "read")], phase.inner)
            lines = [*(indent + line for line in found), *lines]
        made.append(Chunk(phase, lines))
    return made


def _imports(lines: list[str]) -> list[str]:
    body = "\n".join(lines)
    words = set(re.findall(r"(\w+)\(", body))
    found = [name for name in [*_LIBRARY_NAMES, *_CONVERSIONS] if name in words]
    found += sorted(w for w in words if w.endswith(("_f32", "_f64")))
    made = [f"from {TARGET} import cuda"]
    if found:
        made.append(f"from {LIBRARY} import {', '.join(found)}")
    if "TILE" in body:
        made.append(f"from {TILES} import TILE, TILE_SHARED")
    if unusual := [name for name in ("inf", "nan") if f"({name})" in body or f"(-{name})" in body]:
        made.insert(0, f"from math import {', '.join(unusual)}")
    return made
