"""The text of one kernel while it is printed: its lines, its names, its integers and its expressions."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..stepgraph.provenance import source_line
from .lower import Lowering
from .program import ONE, ROWS_KEY, ZERO, Affine, Array, Call, Coefficient, Inexpressible, Load, Number, Size

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
# Names that the printing itself uses, or functions that a kernel may import; and what others look like.
LIKE_OURS = re.compile(r"(i\d+|i_\w|row\d+|row_\w|at\d+|as_\w+|\w+_f(32|64))")
RESERVED = frozenset(
    "length begin direction block rows team order sizes status steps done s t k m total part first entry addresses "
    "load store load_apart store_apart element put stride select fma sqrt absolute maximum minimum LANES inf nan "
    "product multiply_each sum_of_products sum_chain sum_rows sum_columns max_chain argmax_chain max_columns range min "
    "max".split()
)


class Text:
    """The lines of one kernel, and the integers that they ask for."""

    maps = MAPS
    reserved, like_ours = RESERVED, LIKE_OURS

    def __init__(self, lowering: Lowering, explained: bool = False, in_order: bool = False) -> None:
        self.lowering, self.explained, self.in_order = lowering, explained, in_order
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
        self._row_loops: dict[str, tuple[int, int]] = {}  # by their variable: the line where one begins, its depth
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
        taken = keyword.iskeyword(wish) or wish in self.reserved or self.like_ours.fullmatch(wish)
        wish = f"{wish}_" if taken or wish[0].isdigit() else wish
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
        parts = [self._number(v, c) + (f" * {self.coefficient(c)}" if c else "") for v, c in offset.terms]
        parts += [self.coefficient(c) for c in offset.constants]
        return " + ".join(parts) or "0"

    def _number(self, variable: str, coefficient: Coefficient) -> str:
        """A loop variable; for the rows of a caller's array, which row of the batch it stands for."""
        if variable not in self._row_loops or not self.in_any_order(coefficient):
            return self.variable(variable)
        row, (place, depth) = f"row{variable[1:]}", self._row_loops[variable]
        line = "    " * depth + f"{row} = element(order, {variable})"
        if self.lines[place : place + 1] != [line]:
            self.lines.insert(place, line)
        return row

    def in_any_order(self, coefficient: Coefficient | None) -> bool:
        """Whether a factor is the distance between rows of a caller's array, of which the kernel takes any."""
        of_rows = coefficient is not None and any(size.key[0] == "of" and size.key[2] == 1 for size in coefficient)
        return of_rows and not self.in_order

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
            function = self.elementary(name, call.dtype)
            extra = [self.number(repr(float(v)), call.dtype, False) for v in params.values()]
            return f"{function}({', '.join(operands + extra)})"
        if name not in self.maps:
            raise Inexpressible(name)
        dtype = call.operands[0].dtype if call.dtype == bool else call.dtype
        return self.maps[name].format(*operands, zero=f"as_{dtype}(0)", one=f"as_{dtype}(1)")

    def _operand(self, x: Any, wanted: Any, names: dict[int, str], variable: str, count: str, call: Call) -> str:
        if isinstance(x, Number):
            value = x.value
            text = f"{value!r}" if not isinstance(value, float) or np.isfinite(value) else _UNUSUAL[str(value)]
            alone = call.primitive == "where" or all(isinstance(o, Number) for o in call.operands)
            return self.number(text, wanted or x.dtype, alone)
        text = names[x.key]
        return text if wanted is None or x.dtype == wanted else f"as_{wanted}({text})"

    def number(self, text: str, dtype: Any, alone: bool) -> str:
        """A number among the operands of a map; `alone`: no other operand says what its dtype is."""
        return f"as_{dtype}({text})" if alone else text if not text.startswith("-") else f"({text})"

    def _power(self, x: str, exponent: float, dtype: Any) -> str:
        whole = int(exponent)
        if exponent == whole and 0 < abs(whole) <= LARGEST_PRODUCT:
            product = " * ".join([x] * abs(whole))
            return product if whole > 0 else f"{self.number('1', dtype, False)} / ({product})"
        if abs(exponent) == 0.5:
            return f"sqrt({x})" if exponent > 0 else f"{self.number('1', dtype, False)} / sqrt({x})"
        return f"{self.elementary('power', dtype)}({x}, as_{dtype}({exponent!r}))"

    def elementary(self, name: str, dtype: Any) -> str:
        """The library function for a dtype; those of another dtype than the rest say so."""
        if str(dtype) not in _SHORT:
            raise Inexpressible(f"{name} of {dtype}")
        full = f"{name}_{_SHORT[str(dtype)]}"
        self.used.add(full)
        return full

    # loops -------------------------------------------------------------------------------------------
    def loops(self, variables: tuple[str, ...], sizes: tuple[Size, ...]) -> int:
        """Open loops; returns how many, to be closed again."""
        opened = 0
        for variable, size in zip(variables, sizes, strict=True):
            if size != ONE:
                self.line(f"for {variable} in range({self.size(size)}):")
                self.depth += 1
                opened += 1
                self._row_loops.pop(variable, None)
                if size.key == ROWS_KEY:
                    self._row_loops[variable] = len(self.lines), self.depth
        return opened

    def nest(self, space: tuple[Size, ...], offsets: Iterable[Affine]) -> tuple[int, str, str]:
        """Open the loops of a nest; returns their number, the variable that runs in lanes, the count of lanes.

        Rows of a caller's array, to which one of the `offsets` leads, are in any order and run one by one.
        """
        wide = [k for k, size in enumerate(space) if size != ONE]
        last = wide[-1] if wide else None
        if last is not None and any(self.in_any_order(o.stride_of(f"i{last}")) for o in offsets):
            last = None
        plain = [k for k in wide if k != last]
        opened = self.loops(tuple(f"i{k}" for k in plain), tuple(space[k] for k in plain))
        if last is None:
            self.line("m = 1")
            return opened, "none", "m"
        self.line(f"for i{last} in range(0, {self.size(space[last])}, LANES):")
        self.depth += 1
        self.line(f"m = {self.size(space[last])} - i{last}")
        return opened + 1, f"i{last}", "m"


_ARRAY_WORDS = {
    "x": "{}_sequence",
    "constant": "{}_constant",
    "panels": "{}_panels",
    "y": "{}_out",
    "stack": "{}_stack",
    "sum": "{}_sum",
    "carry": "{}_initial",
    "final": "{}_final",
}  # fmt: skip
_UNUSUAL = {"inf": "inf", "-inf": "-inf", "nan": "nan"}


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
