"""Printing the statements of a loop program for the threads of a CUDA block.

One function a kind of statement, as for the cpu (kernels/emit.py).  Where that prints loops, this shares out
their indices to threads: each element is computed by one thread, in the same order of sums.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..program import (
    ONE,
    Affine,
    Call,
    Chain,
    Coefficient,
    Fill,
    Gather,
    Let,
    Load,
    Move,
    Name,
    Nest,
    Product,
    Reduce,
    Size,
    Window,
    Write,
    along,
)  # fmt: skip
from .text import CudaText


def _one_each(variables: tuple[str, ...], sizes: tuple[Size, ...]) -> list[tuple[str, Coefficient]]:
    return [(variable, (size,)) for variable, size in zip(variables, sizes, strict=True)]


def _print_nest(text: CudaText, nest: Nest) -> None:
    if not nest.body:
        return
    opened = text.spread(_one_each(nest.variables, nest.space))
    names: dict[int, str] = {}
    for part in nest.body:
        if isinstance(part, Let):
            names[part.key] = text.word(part.word) if text.explained else f"v{part.key}"
            made = part.expression
            shown = text.load(made) if isinstance(made, Load) else text.call(made, names)
            text.line(f"{names[part.key]} = {shown}", part.node if isinstance(made, Call) else None)
        else:
            _print_write(text, part, names)
    text.depth -= opened


def _print_write(text: CudaText, write: Write, names: dict[int, str]) -> None:
    value, dtype = write.expression, write.array.dtype
    shown = names[value.key] if isinstance(value, Name) else f"as_{dtype}({value.value!r})"
    text.line(f"put({text.name(write.array)}, {text.affine(write.offset)}, {shown})")


def _print_product(text: CudaText, p: Product) -> None:
    axes = _one_each(p.variables, p.loops)
    opened = text.spread([*axes, ("row", p.rows), ("column", p.columns)])
    r, c = (along("row") if p.rows else Affine()), (along("column") if p.columns else Affine())
    a = f"{text.name(p.a.array)}, {text.affine(p.a.offset.plus(r.scaled_by(p.a_row)))}, {text.coefficient(p.a_step)}"
    b = f"{text.name(p.panels.array)}, {text.affine(p.panels.offset.plus(c))}, {text.coefficient(p.columns)}"
    out = f"{text.name(p.out.array)}, {text.affine(p.out.offset.plus(r.scaled_by(p.out_row)).plus(c))}"
    text.line(f"put({out}, product_element({a}, {b}, {text.coefficient(p.inner)}))", p.node)
    text.depth -= opened


def _print_chain(text: CudaText, chain: Chain) -> None:
    opened = text.spread(_one_each(tuple(f"i{k}" for k in range(len(chain.space))), chain.space))
    operands = []
    for load in (chain.a, chain.b):
        step = load.offset.stride_of("k")
        shown = "0" if step is None else text.coefficient(step)
        operands.append(f"{text.name(load.array)}, {text.affine(load.offset.without('k'))}, {shown}")
    out = f"{text.name(chain.out.array)}, {text.affine(chain.out.offset)}"
    text.line(f"put({out}, chain_element({', '.join(operands)}, {text.coefficient(chain.inner)}))", chain.node)
    text.depth -= opened


def _print_reduce(text: CudaText, r: Reduce) -> None:
    columns = () if r.columns is None else (r.columns,)
    opened = text.spread([*_one_each(r.variables, r.loops), ("column", columns)])
    c = along("column") if columns else Affine()
    source = f"{text.name(r.source.array)}, {text.affine(r.source.offset.plus(c))}"
    step, count = text.coefficient(r.step), text.coefficient(r.count)
    target = f"{text.name(r.out.array)}, {text.affine(r.out.offset.plus(c))}"
    dtype = r.source.array.dtype
    if dtype.kind == "f":
        text.line(f"put({target}, {r.kind}_chain({source}, {step}, {count}))", r.node)
    else:  # whole numbers, whose order does not matter
        first = "as_int64(0)" if r.kind == "sum" else f"as_int64(element({source}))"
        text.line(f"found = {first}", r.node)
        text.line(f"for k in range({count}):")
        each = f"as_int64(element({source} + k * {step}))"
        text.line(f"    found = found + {each}" if r.kind == "sum" else f"    found = max(found, {each})")
        text.line(f"put({target}, found)")
    text.depth -= opened


def _print_gather(text: CudaText, g: Gather) -> None:
    width, loops = ("i0", g.width), _one_each(g.variables, g.loops)
    # What is added to one element is added in the order of the loops.
    opened = text.spread([width]) + text.plain_loops(loops) if g.adds else text.spread([*loops, width])
    i0 = along("i0") if g.width else Affine()
    table = f"{text.name(g.table.array)}, entry * {text.coefficient(g.pace)} + {text.affine(g.table.offset.plus(i0))}"
    other = f"{text.name(g.other.array)}, {text.affine(g.other.offset.plus(i0))}"
    text.line(f"entry = {text.load(g.index)}", g.node)
    text.line(f"if entry < 0 or entry >= {text.size(g.entries)}:")
    text.line(f"    if cuda.atomic.cas(status, 1, 0, 1 + {text.size(g.entries)}) == 0:")
    text.line("        put(status, 0, entry)")
    if not g.adds:  # what comes of it is read, if only to be thrown away
        text.line(f"    put({other}, as_{g.other.array.dtype}(0))")
    text.line("else:")
    text.line(
        f"    put({table}, element({table}) + element({other}))" if g.adds else f"    put({other}, element({table}))"
    )
    text.depth -= opened


def _print_fill(text: CudaText, fill: Fill) -> None:
    rows, rest = _rows_apart(fill.count)
    opened = text.spread([("i0", rows), ("i1", rest)])
    offset = text.affine(fill.offset.plus(_element_of(rows, rest)))
    text.line(f"put({text.name(fill.array)}, {offset}, as_{fill.array.dtype}({fill.value!r}))")
    text.depth -= opened


def _print_move(text: CudaText, move: Move) -> None:
    rows, rest = _rows_apart(move.count)
    opened = text.spread([("i0", rows), ("i1", rest)])
    at = _element_of(rows, rest)
    source = text.load(Load(move.source.array, move.source.offset.plus(at)))
    text.line(f"put({text.name(move.target.array)}, {text.affine(move.target.offset.plus(at))}, {source})")
    text.depth -= opened


def _rows_apart(count: Coefficient) -> tuple[Coefficient, Coefficient]:
    """The first size, if there are several, and the others: neighbours in memory count as one axis."""
    kept = tuple(size for size in count if size != ONE)
    return (kept[:1], kept[1:]) if kept and kept[0].key == ("rows",) else ((), kept)


def _element_of(rows: Coefficient, rest: Coefficient) -> Affine:
    at = along("i0").scaled_by(rest) if rows else Affine()
    return at.plus(along("i1")) if rest else at


def _print_window(text: CudaText, w: Window) -> None:
    width, loops = ("i0", (w.width,)), _one_each(w.variables, w.loops)
    # A place is added to from several windows: in the order of the loops, by one thread for its row and channel.
    if w.adds:
        opened = text.spread([loops[0], width]) + text.plain_loops(loops[1:])
    else:
        opened = text.spread([*loops, width])
    inside, large = [], w.large.offset
    for k, (where, size, stride) in enumerate(w.places):
        text.line(f"at{k} = {text.affine(where)}", w.node if k == 0 else None)
        inside.append(f"0 <= at{k} < {text.size(size)}")
        large = large.plus(along(f"at{k}").scaled_by(stride))
    i0 = along("i0") if w.width != ONE else Affine()
    source = f"{text.name(w.large.array)}, {text.affine(large.plus(i0))}"
    small = f"{text.name(w.small.array)}, {text.affine(w.small.offset.plus(i0))}"
    text.line(f"if {' and '.join(inside)}:")
    if w.adds:
        text.line(f"    put({source}, element({source}) + element({small}))")
    else:
        text.line(f"    put({small}, element({source}))")
        text.line("else:")
        text.line(f"    put({small}, as_{w.small.array.dtype}(0))")
    text.depth -= opened


_PRINTERS: dict[type, Callable[[CudaText, Any], None]] = {
    Nest: _print_nest, Product: _print_product, Chain: _print_chain, Reduce: _print_reduce, Gather: _print_gather,
    Fill: _print_fill, Window: _print_window, Move: _print_move,
}  # fmt: skip


def print_statement(text: CudaText, statement: Any) -> None:
    """Add the lines of one statement of the program."""
    _PRINTERS[type(statement)](text, statement)
