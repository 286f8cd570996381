"""Printing a loop program as Python that Numba compiles for the CPU.

The shape of an interpreter: one function a kind of statement, a table of names for the maps, lines
appended to a list.  Maps run in lanes along the last axis of their nest.
"""

from __future__ import annotations

import keyword
import re
from typing import Any

import numpy as np

from ..stepgraph.provenance import source_line
from .lower import Lowering
from .program import (
    ONE,
    ROWS_KEY,
    ZERO,
    Affine,
    Call,
    Chain,
    Coefficient,
    Fill,
    Gather,
    Inexpressible,
    Let,
    Load,
    Move,
    Name,
    Nest,
    Number,
    Product,
    Reduce,
    Size,
    Window,
    Write,
    along,
)  # fmt: skip

# How a map is written; {0}, {1} ... are its operands.
MAPS = {
    "add": "{0} + {1}",
    "subtract": "{0} - {1}",
    "multiply": "{0} * {1}",
    "divide": "{0} / {1}",
    "negative": "-{0}",
    "maximum": "maximum({0}, {1})",
    "minimum": "minimum({0}, {1})",
    "clip": "minimum(maximum({0}, {1}), {2})",
    "abs": "absolute({0})",
    "relu": "maximum({0}, {zero})",
    "sign": "select({0} > 0, {one}, select({0} < 0, -{one}, {0}))",
    "sqrt": "sqrt({0})",
    "where": "select({0}, {1}, {2})",
    "greater": "{0} > {1}",
    "greater_equal": "{0} >= {1}",
    "less": "{0} < {1}",
    "less_equal": "{0} <= {1}",
    "equal": "{0} == {1}",
    "not_equal": "{0} != {1}",
    "logical_and": "{0} & {1}",
    "logical_or": "{0} | {1}",
    "logical_not": "~{0}",
    "isfinite": "({0} - {0}) == 0",
    "cast": "{0}",
    "stop_gradient": "{0}",
    "alias": "{0}",
}
# Maps of the kernels' own library (elementary.py), by the name that they have there for each dtype.
LIBRARY = frozenset("exp expm1 log log1p tanh sigmoid softplus softsign elu sin cos power".split())
LARGEST_PRODUCT = 4  # whole powers up to this one are products
_BOOLEAN = ("logical_and", "logical_or", "logical_not")
_SHORT = {"float32": "f32", "float64": "f64"}


class Text:
    """The lines of one kernel, and the integers that they ask for."""

    def __init__(self, lowering: Lowering, explained: bool = False) -> None:
        self.lowering, self.explained = lowering, explained
        self.lines: list[str] = []
        self.depth = 1
        self._words: dict[str, int] = {}
        self.sizes: dict[Any, tuple[str, Size]] = {}
        self._carries: dict[str, str] = {}
        for t, (now, after) in zip(lowering.graph.carry_in, lowering.swaps, strict=True):
            word = self.word(f"{lowering.names[id(t)]}_at")
            self._carries.update({now: f"{word}_now", after: f"{word}_next"})
        self._note = ""  # of the line before
        self._array_names: dict[Array, str] = {}
        self.used: set[str] = set()  # library functions

    def line(self, text: str, node: Any = None) -> None:
        """Add a line; in the explained form with the line of the step that it came from."""
        note = source_line(node) if self.explained and node is not None else ""
        shown = f"  # {note}" if note and note != self._note else ""
        self._note = note or self._note
        self.lines.append("    " * self.depth + text + shown)

    def name(self, array: Array) -> str:
        """The name of an array; in the explained form from the user's."""
        if not self.explained:
            return array.name
        if array not in self._array_names:
            t = self.lowering.sources.get(array)
            word = self.lowering.names.get(id(t), array.role) if t is not None else array.name
            self._array_names[array] = self.word(_ARRAY_WORDS.get(array.role, "{}").format(word))
        return self._array_names[array]

    def word(self, wish: str) -> str:
        """A name that is not in use."""
        wish = re.sub(r"\W", "_", wish).strip("_") or "v"
        wish = f"{wish}_" if keyword.iskeyword(wish) or wish[0].isdigit() or wish in RESERVED else wish
        count = self._words.get(wish, 0)
        self._words[wish] = count + 1
        return wish if not count else self.word(f"{wish}_{count + 1}")

    # integers ----------------------------------------------------------------------------------------
    def size(self, size: Size) -> str:
        """The name of a size, which becomes an argument when it is first asked for."""
        if size == ONE:
            return "1"
        if size == ZERO:
            return "0"
        if size.key in (ROWS_KEY, ("steps",)):
            return str(size.key[0])
        if size.key not in self.sizes:
            name = self.word(size.word) if self.explained else f"n{len(self.sizes)}"
            self.sizes[size.key] = (name, size)
        return self.sizes[size.key][0]

    def coefficient(self, sizes: Coefficient) -> str:
        """A product of sizes."""
        return " * ".join(self.size(s) for s in sizes if s != ONE) or "1"

    def variable(self, name: str) -> str:
        """A variable; those that say where a carry is are named after it in the explained form."""
        return self._carries.get(name, name) if self.explained else name

    def affine(self, offset: Affine) -> str:
        """An offset."""
        parts = [self.variable(v) + (f" * {self.coefficient(c)}" if c else "") for v, c in offset.terms]
        parts += [self.coefficient(c) for c in offset.constants]
        return " + ".join(parts) or "0"

    # expressions -------------------------------------------------------------------------------------
    def load(self, load: Load, variable: str, count: str) -> str:
        """Sixteen elements along a loop variable, or sixteen times the same."""
        stride = load.offset.stride_of(variable)
        where = f"{self.name(load.array)}, {self.affine(load.offset)}"
        if stride is None:
            return f"as_{load.array.dtype}(element({where}))"
        if not stride:
            return f"load({where}, {count})"
        return f"load_apart({where}, {self.coefficient(stride)}, {count})"

    def call(self, call: Call, names: dict[int, str], variable: str, count: str) -> str:
        """A primitive on values of a nest."""
        name, params = call.primitive, dict(call.params)
        wanted = _wanted(call)
        operands = [
            self._operand(x, d, names, variable, count, call) for x, d in zip(call.operands, wanted, strict=True)
        ]
        if name == "cast":
            return f"as_{np.dtype(params['dtype'])}({operands[0]})"
        if name == "power_by_number":
            return self._power(operands[0], params["exponent"], call.dtype)
        if name in LIBRARY:
            function = self.library(name, call.dtype)
            extra = [repr(float(v)) for v in params.values()]
            return f"{function}({', '.join(operands + extra)})"
        if name not in MAPS:
            raise Inexpressible(name)
        return MAPS[name].format(*operands, zero=f"as_{call.dtype}(0)", one=f"as_{call.dtype}(1)")

    def _operand(self, x: Any, wanted: Any, names: dict[int, str], variable: str, count: str, call: Call) -> str:
        if isinstance(x, Number):
            value = x.value
            text = f"{value!r}" if not isinstance(value, float) or np.isfinite(value) else _UNUSUAL[str(value)]
            alone = call.primitive == "where" or all(isinstance(o, Number) for o in call.operands)
            return f"as_{wanted or x.dtype}({text})" if alone else text if value >= 0 else f"({text})"
        text = names[x.key]
        return text if wanted is None or x.dtype == wanted else f"as_{wanted}({text})"

    def _power(self, x: str, exponent: float, dtype: Any) -> str:
        whole = int(exponent)
        if exponent == whole and 0 < abs(whole) <= LARGEST_PRODUCT:
            product = " * ".join([x] * abs(whole))
            return product if whole > 0 else f"1 / ({product})"
        if abs(exponent) == 0.5:
            return f"sqrt({x})" if exponent > 0 else f"1 / sqrt({x})"
        return f"{self.library('power', dtype)}({x}, as_{dtype}({exponent!r}))"

    def library(self, name: str, dtype: Any) -> str:
        """The library function for a dtype; those of another dtype than the rest say so."""
        if str(dtype) not in _SHORT:
            raise Inexpressible(f"{name} of {dtype}")
        full = f"{name}_{_SHORT[str(dtype)]}"
        self.used.add(full)
        return full

    # statements --------------------------------------------------------------------------------------
    def statement(self, statement: Any) -> None:
        """One statement of the program."""
        _PRINTERS[type(statement)](self, statement)

    def loops(self, variables: tuple[str, ...], sizes: tuple[Size, ...]) -> int:
        """Open loops; returns how many, to be closed again."""
        opened = 0
        for variable, size in zip(variables, sizes, strict=True):
            if size != ONE:
                self.line(f"for {variable} in range({self.size(size)}):")
                self.depth += 1
                opened += 1
        return opened

    def nest(self, space: tuple[Size, ...]) -> tuple[int, str, str]:
        """Open the loops of a nest; returns their number, the variable that runs in lanes, the count of lanes."""
        wide = [k for k, size in enumerate(space) if size != ONE]
        for k in wide[:-1]:
            self.line(f"for i{k} in range({self.size(space[k])}):")
            self.depth += 1
        if not wide:
            return 0, "none", "1"
        last = wide[-1]
        self.line(f"for i{last} in range(0, {self.size(space[last])}, LANES):")
        self.depth += 1
        self.line(f"m = {self.size(space[last])} - i{last}")
        return len(wide), f"i{last}", "m"


_ARRAY_WORDS = {
    "x": "{}_sequence", "constant": "{}_constant", "panels": "{}_panels", "y": "{}_out", "stack": "{}_stack", "carry": "{}_initial", "final": "{}_final",
}  # fmt: skip
_UNUSUAL = {"inf": "inf", "-inf": "-inf", "nan": "nan"}
RESERVED = frozenset(
    "length begin direction block rows sizes status steps done s t k m load store load_apart store_apart element put "
    "select fma sqrt absolute maximum minimum LANES inf nan product range min max".split()
)


def _wanted(call: Call) -> list[Any]:
    """The dtype that each operand has to have."""
    count = len(call.operands)
    if call.primitive == "cast" or call.primitive == "isfinite":
        return [None] * count
    if call.primitive in _BOOLEAN:
        return [np.dtype(bool)] * count
    if call.primitive == "where":
        return [np.dtype(bool), call.dtype, call.dtype]
    if call.dtype == bool:
        typed = [x.dtype for x in call.operands if not isinstance(x, Number)]
        return [np.result_type(*typed) if typed else None] * count
    return [call.dtype] * count


def _print_nest(text: Text, nest: Nest) -> None:
    if not nest.body:
        return
    opened, variable, count = text.nest(nest.space)
    names: dict[int, str] = {}
    if opened == 0:
        text.line("m = 1")
    for part in nest.body:
        if isinstance(part, Let):
            wish = part.word if text.explained else f"v{part.key}"
            names[part.key] = text.word(wish) if text.explained else wish
            made = part.expression
            shown = (
                text.load(made, variable, count) if isinstance(made, Load) else text.call(made, names, variable, count)
            )
            text.line(f"{names[part.key]} = {shown}", part.node if isinstance(made, Call) else None)
        else:
            _print_write(text, part, names, variable, count)
    text.depth -= opened


def _print_write(text: Text, write: Write, names: dict[int, str], variable: str, count: str) -> None:
    value = write.expression
    shown = names[value.key] if isinstance(value, Name) else f"as_{write.array.dtype}({value.value!r})"
    stride = write.offset.stride_of(variable)
    where = f"{text.name(write.array)}, {text.affine(write.offset)}"
    if stride:
        text.line(f"store_apart({where}, {text.coefficient(stride)}, {shown}, {count})")
    else:
        text.line(f"store({where}, {shown}, {count})")


def _print_product(text: Text, p: Product) -> None:
    opened = text.loops(p.variables, p.loops)
    a, out, rows = p.a.offset, p.out.offset, text.coefficient(p.rows)
    if p.merged:
        a, out, rows = a.without("s"), out.without("s"), "steps * rows"
    text.used.add("product")
    arguments = [
        text.name(p.a.array), text.affine(a), text.coefficient(p.a_row), text.coefficient(p.a_step),
        text.name(p.panels.array), text.affine(p.panels.offset),
        text.name(p.out.array), text.affine(out), text.coefficient(p.out_row),
        rows, text.coefficient(p.inner), text.coefficient(p.columns), "0" if p.merged else "s",
    ]  # fmt: skip
    text.line(f"product({', '.join(arguments)})", p.node)
    text.depth -= opened


def _print_chain(text: Text, chain: Chain) -> None:
    opened, variable, count = text.nest(chain.space)
    if opened == 0:
        text.line("m = 1")
    inner = text.coefficient(chain.inner)
    dtype = chain.out.array.dtype
    text.line(f"total = as_{dtype}(0)", chain.node)
    text.line(f"for first in range(0, {inner}, 64):")
    text.depth += 1
    text.line(f"part = as_{dtype}(0)")
    text.line(f"for k in range(first, min(first + 64, {inner})):")
    text.depth += 1
    a, b = (text.load(load, variable, count) for load in (chain.a, chain.b))
    text.line(f"part = fma({a}, {b}, part)")
    text.depth -= 1
    text.line("total = total + part")
    text.depth -= 1
    _print_write(text, Write(chain.out.array, chain.out.offset, Name(0, dtype)), {0: "total"}, variable, count)
    text.depth -= opened


def _print_reduce(text: Text, r: Reduce) -> None:
    opened = text.loops(r.variables, r.loops)
    source, offset = text.name(r.source.array), text.affine(r.source.offset)
    step, count = text.coefficient(r.step), text.coefficient(r.count)
    target = f"{text.name(r.out.array)}, {text.affine(r.out.offset)}"
    if r.columns is not None:
        text.used.add(f"{r.kind}_columns")
        columns = text.size(r.columns)
        text.line(f"{r.kind}_columns({source}, {offset}, {step}, {count}, {columns}, {target})", r.node)
    elif r.source.array.dtype.kind == "f":
        text.used.add(f"{r.kind}_chain")
        text.line(f"put({target}, {r.kind}_chain({source}, {offset}, {step}, {count}))", r.node)
    else:  # whole numbers, whose order does not matter
        first = "0" if r.kind == "sum" else f"element({source}, {offset})"
        text.line(f"total = {first}", r.node)
        text.line(f"for k in range({count}):")
        each = f"element({source}, {offset} + k * {step})"
        text.line(f"    total = total + {each}" if r.kind == "sum" else f"    total = max(total, {each})")
        text.line(f"put({target}, total)")
    text.depth -= opened


def _print_gather(text: Text, g: Gather) -> None:
    opened = text.loops(g.variables, g.loops)
    text.line(f"entry = element({text.name(g.index.array)}, {text.affine(g.index.offset)})", g.node)
    text.line(f"if entry < 0 or entry >= {text.size(g.entries)}:")
    text.line("    put(status, 0, entry)")
    text.line("    put(status, 1, 1)")
    text.line("    continue" if opened else "    return")
    width = text.coefficient(g.width)
    text.line(f"for i0 in range(0, {width}, LANES):")
    text.depth += 1
    text.line(f"m = {width} - i0")
    table = f"{text.name(g.table.array)}, entry * {text.coefficient(g.pace)} + {text.affine(g.table.offset)} + i0"
    other = f"{text.name(g.other.array)}, {text.affine(g.other.offset)} + i0"
    if g.adds:
        text.line(f"store({table}, load({table}, m) + load({other}, m), m)")
    else:
        text.line(f"store({other}, load({table}, m), m)")
    text.depth -= opened + 1


def _print_fill(text: Text, fill: Fill) -> None:
    text.line(f"for i0 in range(0, {text.coefficient(fill.count)}, LANES):")
    where = f"{text.name(fill.array)}, {text.affine(fill.offset)} + i0"
    text.line(f"    store({where}, as_{fill.array.dtype}({fill.value!r}), {text.coefficient(fill.count)} - i0)")


def _print_move(text: Text, move: Move) -> None:
    count = text.coefficient(move.count)
    text.line(f"for i0 in range(0, {count}, LANES):")
    source = f"load({text.name(move.source.array)}, {text.affine(move.source.offset)} + i0, {count} - i0)"
    text.line(
        f"    store({text.name(move.target.array)}, {text.affine(move.target.offset)} + i0, {source}, {count} - i0)"
    )


def _print_window(text: Text, w: Window) -> None:
    opened = text.loops(w.variables, w.loops)
    inside, large = [], w.large.offset
    for k, (where, size, stride) in enumerate(w.places):
        text.line(f"x{k} = {text.affine(where)}", w.node if k == 0 else None)
        inside.append(f"0 <= x{k} < {text.size(size)}")
        large = large.plus(along(f"x{k}").scaled_by(stride))
    width = text.size(w.width)
    condition = " and ".join(inside)
    text.line(f"for i0 in range(0, {width}, LANES):")
    text.depth += 1
    text.line(f"m = {width} - i0")
    source = f"{text.name(w.large.array)}, {text.affine(large)} + i0"
    small = f"{text.name(w.small.array)}, {text.affine(w.small.offset)} + i0"
    if w.adds:
        text.line(f"if {condition}:")
        text.line(f"    store({source}, load({source}, m) + load({small}, m), m)")
    else:
        text.line(f"if {condition}:")
        text.line(f"    store({small}, load({source}, m), m)")
        text.line("else:")
        text.line(f"    store({small}, as_{w.small.array.dtype}(0), m)")
    text.depth -= opened + 1


_PRINTERS = {
    Nest: _print_nest, Product: _print_product, Chain: _print_chain, Reduce: _print_reduce, Gather: _print_gather,
    Fill: _print_fill, Window: _print_window, Move: _print_move,
}  # fmt: skip


# the whole ---------------------------------------------------------------------------------------
def kernel_text(lowering: Lowering, name: str, explained: bool = False, bound: bool = False) -> Text:
    """The printed kernel: runs `length` steps of `rows` rows, in blocks of `block` steps.

    `begin` and `direction` say which time step is the first and where to go from there.  A `bound`
    kernel runs one step from and to fixed addresses, so that a call hands over next to nothing.
    """
    text = Text(lowering, explained)
    text.depth = 1
    for move in _carry_moves(lowering, to_start=True):
        text.statement(move)
    for now, after in lowering.swaps:
        names = f"{text.variable(now)}, {text.variable(after)}"
        text.line(f"{names} = {text.size(_slot(now, 0))}, {text.size(_slot(now, 1))}")
    text.line("for done in range(0, length, block):")
    text.depth += 1
    text.line("steps = min(block, length - done)")
    _print_over_block(text, lowering.sections["before"])
    if lowering.sections["loop"] or lowering.swaps:
        _open_steps(text)
        for statement in lowering.sections["loop"]:
            text.statement(statement)
        for now, after in lowering.swaps:
            a, b = text.variable(now), text.variable(after)
            text.line(f"{a}, {b} = {b}, {a}")
        text.depth -= 1
    _print_over_block(text, lowering.sections["after"])
    text.depth -= 1
    for move in _carry_moves(lowering, to_start=False):
        text.statement(move)
    body, text.lines, text.depth = text.lines, [], 1
    if bound:
        text.line("length, begin, direction, block, rows = 1, 0, 1, 1, sizes[0]")
        for k, array in enumerate(lowering.arrays.values()):
            text.line(f"{text.name(array)} = {array.dtype}_at(addresses[{k}])")
        for k, (given, _) in enumerate(text.sizes.values()):
            text.line(f"{given} = sizes[{k + 1}]")
        text.lines = [f"def {name}(addresses, sizes):", *text.lines, *body]
        return text
    for key, (given, _) in text.sizes.items():
        text.line(f"{given} = {_where_from(key, text, lowering)}")
    arguments = ", ".join(
        ["length", "begin", "direction", "block", "rows", "sizes", "status", *_arguments(text, lowering)]
    )
    text.lines = [f"def {name}({arguments}):", *text.lines, *body]
    return text


def _arguments(text: Text, lowering: Lowering) -> list[str]:
    return [text.name(array) for array in lowering.arrays.values()]


def _where_from(key: Any, text: Text, lowering: Lowering) -> str:
    """Strides that a caller's arrays bring are read off them, the other integers come in `sizes`."""
    if key[0] == "of":
        array = next(text.name(a) for a in lowering.arrays.values() if a.name == key[1])
        return f"{array}.strides[{key[2]}] // {array}.itemsize"
    passed = [k for k in text.sizes if k[0] != "of"]
    return f"sizes[{passed.index(key)}]"


def _slot(now: str, number: int) -> Size:
    """Where one of a carry's two places begins."""
    buffer = now[: -len("_now")]
    return Size(("at", buffer, number), 0, f"{buffer}_{'first' if number == 0 else 'second'}")


def _open_steps(text: Text) -> None:
    text.line("for s in range(steps):")
    text.depth += 1
    text.line("t = begin + (done + s) * direction")


def _print_over_block(text: Text, statements: list[Any]) -> None:
    """Statements for all steps of a block; those that work step by step share a loop."""
    open_loop = False
    for statement in statements:
        merged = isinstance(statement, Product) and statement.merged
        if merged and open_loop:
            text.depth -= 1
            open_loop = False
        if not merged and not open_loop:
            _open_steps(text)
            open_loop = True
        text.statement(statement)
    text.depth -= open_loop


def _carry_moves(lowering: Lowering, to_start: bool) -> list[Move]:
    """The carry into its first place, or out of its last."""
    moves = []
    for k, t in enumerate(lowering.graph.carry_in):
        place = lowering.places[id(t), "step"]
        role = "carry" if to_start else "final"
        rowed = lowering.rows_first(t)
        array = lowering.array((role, k), t, role, rank=len(t.shape), rowed=rowed)
        outside = Load(array, Affine())
        slot = Affine((), ((_slot(lowering.swaps[k][0], 0),),))
        inside = Load(place.array, slot if to_start else place.base)
        count = tuple(s for s in lowering.dims.sizes(t) if s != ONE)
        moves.append(Move(outside, inside, count) if to_start else Move(inside, outside, count))
    return moves
