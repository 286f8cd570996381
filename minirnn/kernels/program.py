"""The loop program: what a step graph is lowered to and what the emitters print.

A program is data of a few kinds, without the name of any operation in its structure: loop nests of
scalar expressions, products against packed panels, reductions, gathers, scatters and windows, in
three sections.  Integers that depend on sizes are `Size`s, known by what they mean and not by their
value, so that one printed program serves every size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..autodiff.tensor import Node


# integers ----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Size:
    """An integer that the kernel gets as an argument: what it is (`key`), its value, a word for its name."""

    key: tuple[Any, ...]
    value: int = field(compare=False)
    word: str = field(compare=False, default="n")


ONE = Size(("one",), 1)
ZERO = Size(("zero",), 0)
# The number of rows that a kernel call works on; its value is that of the whole batch.
ROWS_KEY = ("rows",)

Coefficient = tuple[Size, ...]  # a product of sizes


def value_of(coefficient: Coefficient) -> int:
    """A product of sizes as a number, for the whole batch."""
    return math.prod(size.value for size in coefficient)


@dataclass(frozen=True)
class Affine:
    """A sum of loop variables times sizes and of products of sizes: an index or an offset."""

    terms: tuple[tuple[str, Coefficient], ...] = ()
    constants: tuple[Coefficient, ...] = ()

    def scaled(self, size: Size) -> Affine:
        """This times a size."""
        if size == ONE:
            return self
        if size == ZERO:
            return NOWHERE
        return Affine(tuple((v, (*c, size)) for v, c in self.terms), tuple((*c, size) for c in self.constants))

    def scaled_by(self, coefficient: Coefficient) -> Affine:
        """This times a product of sizes."""
        made = self
        for size in coefficient:
            made = made.scaled(size)
        return made

    def plus(self, other: Affine) -> Affine:
        """The sum of two."""
        return Affine(self.terms + other.terms, self.constants + other.constants)

    def shifted(self, *sizes: Size) -> Affine:
        """This plus a product of sizes."""
        if ZERO in sizes:
            return self
        return Affine(self.terms, (*self.constants, tuple(s for s in sizes if s != ONE)))

    def without(self, variable: str) -> Affine:
        """What is left when a variable is zero."""
        return Affine(tuple(t for t in self.terms if t[0] != variable), self.constants)

    def stride_of(self, variable: str) -> Coefficient | None:
        """The factor of a variable, None if it does not occur; () is one."""
        found = [c for v, c in self.terms if v == variable]
        if len(found) > 1:
            raise Inexpressible("an index that uses one axis twice")
        return found[0] if found else None


NOWHERE = Affine()


def along(variable: str) -> Affine:
    """A loop variable by itself."""
    return Affine(((variable, ()),))


class Inexpressible(Exception):
    """Raised while lowering: what a kernel can't do, and the node that asks for it."""

    def __init__(self, reason: str, node: Node | None = None) -> None:
        super().__init__(reason)
        self.reason, self.node = reason, node


# places ------------------------------------------------------------------------------------------
@dataclass(eq=False)
class Array:
    """An array that the kernel is given.

    role: "work" (flat scratch, one per dtype), "carry", "x", "constant", "panels", "y", "stack", "sum"
    or "final".  `time` says that axis 0 is time.  `rowed` arrays have the batch on the next axis, of
    which a call may get a part.
    """

    name: str
    dtype: np.dtype[Any]
    rank: int
    role: str
    time: bool = False
    rowed: bool = False

    @property
    def written(self) -> bool:
        """Whether the kernel writes to it."""
        return self.role in ("work", "y", "stack", "sum", "final")


@dataclass(eq=False)
class Place:
    """Where a value stands: an array, an offset, a stride an axis, and how it moves with time.

    clock: "" for none, "s" for a block's own steps, "t" for time steps of the whole sequence.
    """

    array: Array
    base: Affine
    strides: tuple[Size, ...]
    clock: str = ""
    pace: Size = ZERO

    def at(self, index: tuple[Affine, ...]) -> Affine:
        """The offset of an element."""
        offset = self.base
        if self.clock:
            offset = offset.plus(along(self.clock).scaled(self.pace))
        for i, stride in zip(index, self.strides, strict=True):
            offset = offset.plus(i.scaled(stride))
        return offset


# expressions and statements ----------------------------------------------------------------------
@dataclass(frozen=True)
class Load:
    """An element (or sixteen neighbours) of an array."""

    array: Array
    offset: Affine


@dataclass(frozen=True)
class Number:
    """A number of the program's text."""

    value: Any
    dtype: Any


@dataclass(frozen=True)
class Name:
    """A value of the surrounding nest."""

    key: int
    dtype: Any


@dataclass(frozen=True)
class Call:
    """A primitive applied to expressions."""

    primitive: str
    operands: tuple[Any, ...]
    params: tuple[tuple[str, Any], ...]
    dtype: Any


@dataclass
class Let:
    """Give a value of a nest a name."""

    key: int
    expression: Any
    node: Node | None
    word: str = ""


@dataclass
class Write:
    """Put a value of a nest into an array."""

    array: Array
    offset: Affine
    expression: Any


@dataclass
class Nest:
    """Loops over the axes of a space around lets and writes; the last variable runs in lanes."""

    space: tuple[Size, ...]
    body: list[Any] = field(default_factory=list)

    @property
    def variables(self) -> tuple[str, ...]:
        """One a loop."""
        return tuple(f"i{k}" for k in range(len(self.space)))


@dataclass
class Product:
    """`rows` x `inner` times packed panels, once for each index of the outer loops."""

    node: Node
    loops: tuple[Size, ...]
    a: Load
    a_row: Coefficient
    a_step: Coefficient
    panels: Load
    out: Load
    out_row: Coefficient
    rows: Coefficient
    inner: Coefficient
    columns: Coefficient
    variables: tuple[str, ...]  # of the loops
    merged: bool  # over a whole block, whose steps and rows are one axis
    each: bool  # one row at a time, the last loop being over rows with a matrix each


@dataclass
class Chain:
    """A contraction of two values that both change: for each element one chain in blocks of 64."""

    node: Node
    space: tuple[Size, ...]
    inner: Coefficient
    a: Load
    b: Load
    out: Load


@dataclass
class Reduce:
    """A reduction of `count` elements `step` apart to one, for each index of the loops.

    With `columns` the elements are rows of that many neighbours, reduced column by column.
    """

    node: Node
    kind: str
    loops: tuple[Size, ...]
    source: Load
    step: Coefficient
    count: Coefficient
    out: Load
    columns: Size | None
    variables: tuple[str, ...]


@dataclass
class Gather:
    """Entries of a table that an index array names, copied out or (`adds`) added to them.

    `index` holds the number of an entry, `pace` elements long, at each index of the loops.
    """

    node: Node
    loops: tuple[Size, ...]
    index: Load
    entries: Size
    pace: Coefficient
    table: Load
    other: Load
    width: Coefficient
    variables: tuple[str, ...]
    adds: bool


@dataclass
class Fill:
    """A number written to `count` neighbours."""

    array: Array
    offset: Affine
    count: Coefficient
    value: Any


@dataclass
class Window:
    """Elements under a kernel, or their transpose, which adds each back where it was read.

    Of `places`, one a spatial axis, each is (offset that the loops make, size of the axis, stride in
    the large array); outside of it elements are zero.
    """

    node: Node
    loops: tuple[Size, ...]
    width: Size
    places: tuple[tuple[Affine, Size, Coefficient], ...]
    large: Load
    small: Load
    adds: bool
    variables: tuple[str, ...]


@dataclass(eq=False)
class Buffer:
    """A part of the scratch array of its dtype: for one step, or for a block of them."""

    name: str
    dtype: np.dtype[Any]
    dims: tuple[Size, ...]
    over_time: bool
    slots: int
    word: str  # from which printed kernels make names


@dataclass
class Move:
    """`count` neighbours copied from one array to another."""

    source: Load
    target: Load
    count: Coefficient
