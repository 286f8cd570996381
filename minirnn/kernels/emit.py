"""Printing a loop program as Python that Numba compiles for the CPU.

The shape of an interpreter: one function a kind of statement, lines appended to a text.  Maps run in
lanes along the last axis of their nest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from .contract import PACKING_BYTES
from .lower import Lowering
from .program import (
    ONE,
    Affine,
    Call,
    Chain,
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
from .text import Text
from .timesums import MOST_STEPS, packing_memory


def _print_nest(text: Text, nest: Nest) -> None:
    if not nest.body:
        return
    opened, variable, count = text.nest(nest.space, _offsets(nest))
    names: dict[int, str] = {}
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


def _offsets(nest: Nest) -> Iterator[Affine]:
    """Where a nest reads and writes."""
    for part in nest.body:
        if isinstance(part, Write):
            yield part.offset
        elif isinstance(part.expression, Load):
            yield part.expression.offset


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
    if p.each:
        _print_products_of_rows(text, p)
        return
    opened = text.loops(p.variables, p.loops)
    a, out, rows = p.a.offset, p.out.offset, text.coefficient(p.rows)
    if p.merged:
        a, out, rows = a.without("s"), out.without("s"), "steps * rows"
    text.used.add("product")
    arguments = [
        text.name(p.a.array), text.affine(a), text.coefficient(p.a_row), text.coefficient(p.a_step),
        text.name(p.panels.array), text.affine(p.panels.offset),
        text.name(p.out.array), text.affine(out), text.coefficient(p.out_row),
        rows, text.coefficient(p.inner), text.coefficient(p.columns), "0" if p.merged else "s", "team",
    ]  # fmt: skip
    text.line(f"product({', '.join(arguments)})", p.node)
    text.depth -= opened


def _print_products_of_rows(text: Text, p: Product) -> None:
    wide = [k for k, size in enumerate(p.loops) if size != ONE]
    plain, rows = (wide[:-1], text.size(p.loops[wide[-1]])) if wide else ([], "1")
    opened = text.loops(tuple(p.variables[k] for k in plain), tuple(p.loops[k] for k in plain))
    text.used.add("multiply_each")
    arguments = []
    for each in (p.a, p.panels, p.out):
        variable = p.variables[wide[-1]] if wide else ""
        stride = each.offset.stride_of(variable)
        arguments += [text.name(each.array), text.affine(each.offset.without(variable))]
        arguments.append("0" if stride is None else text.coefficient(stride))
    arguments += [rows, text.coefficient(p.inner), text.coefficient(p.columns)]
    text.line(f"multiply_each({', '.join(arguments)})", p.node)
    text.depth -= opened


def _print_chain(text: Text, chain: Chain) -> None:
    opened, variable, count = text.nest(chain.space, (chain.a.offset, chain.b.offset, chain.out.offset))
    inner = text.coefficient(chain.inner)
    dtype = chain.out.array.dtype
    text.line(f"total = as_{dtype}(-0.0)", chain.node)  # to which adding the first block changes nothing
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
    rows = _summed_together(text, r)
    outer = len(r.loops) - bool(rows)
    opened = text.loops(r.variables[:outer], r.loops[:outer])
    before = [r.source.offset, r.out.offset]
    offset, at = (text.affine(o.without(r.variables[-1]) if rows else o) for o in before)
    source, target = text.name(r.source.array), f"{text.name(r.out.array)}, {at}"
    step, count = text.coefficient(r.step), text.coefficient(r.count)
    if rows:
        text.used.add("sum_rows")
        apart, out_apart = (text.coefficient(o.stride_of(r.variables[-1]) or ()) for o in before)
        text.line(f"sum_rows({source}, {offset}, {apart}, {rows}, {step}, {count}, {target}, {out_apart})", r.node)
    elif r.columns is not None:
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


def _summed_together(text: Text, r: Reduce) -> str:
    """The number of rows, a sum's last loop, if one call can sum them all, as they are the same distance apart."""
    if r.kind != "sum" or r.columns is not None or r.source.array.dtype.kind != "f" or not r.loops:
        return ""
    strides = [o.stride_of(r.variables[-1]) for o in (r.source.offset, r.out.offset)]
    return "" if None in strides or any(map(text.in_any_order, strides)) else text.size(r.loops[-1])


def _print_gather(text: Text, g: Gather) -> None:
    opened = text.loops(g.variables, g.loops)
    text.line(f"entry = element({text.name(g.index.array)}, {text.affine(g.index.offset)})", g.node)
    text.line(f"if entry < 0 or entry >= {text.size(g.entries)}:")
    text.line("    put(status, 0, entry)")
    text.line(f"    put(status, 1, 1 + {text.size(g.entries)})")
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
        text.line(f"at{k} = {text.affine(where)}", w.node if k == 0 else None)
        inside.append(f"0 <= at{k} < {text.size(size)}")
        large = large.plus(along(f"at{k}").scaled_by(stride))
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


_PRINTERS: dict[type, Callable[[Text, Any], None]] = {
    Nest: _print_nest, Product: _print_product, Chain: _print_chain, Reduce: _print_reduce, Gather: _print_gather,
    Fill: _print_fill, Window: _print_window, Move: _print_move,
}  # fmt: skip


# the whole ---------------------------------------------------------------------------------------
def print_statement(text: Text, statement: Any) -> None:
    """Add the lines of one statement of the program."""
    _PRINTERS[type(statement)](text, statement)


def kernel_text(lowering: Lowering, name: str, explained: bool = False, bound: bool = False) -> Text:
    """The printed kernel: runs `length` steps of `rows` rows, in blocks of `block` steps.

    `begin` and `direction` say which time step is the first and where to go from there, `order` which rows
    of what goes over time, `team` who helps with products.  A `bound` kernel runs one step of all rows from
    and to fixed addresses, so that a call hands over next to nothing: the carry's two places are where the
    caller has it.
    """
    text = Text(lowering, explained, in_order=bound)
    text.depth = 1
    if not bound:
        for move in carry_moves(text, lowering, to_start=True):
            print_statement(text, move)
    for now, after in lowering.swaps:
        names = f"{text.variable(now)}, {text.variable(after)}"
        text.line(f"{names} = {text.size(slot(text, now, 0))}, {text.size(slot(text, now, 1))}")
    text.line("for done in range(0, length, block):")
    text.depth += 1
    text.line("steps = min(block, length - done)")
    _print_over_block(text, lowering.sections["before"])
    if lowering.sections["loop"] or lowering.swaps:
        _open_steps(text)
        for statement in lowering.sections["loop"]:
            print_statement(text, statement)
        for now, after in lowering.swaps:
            a, b = text.variable(now), text.variable(after)
            text.line(f"{a}, {b} = {b}, {a}")
        text.depth -= 1
    _print_over_block(text, lowering.sections["after"])
    text.depth -= 1
    if not bound:
        for move in carry_moves(text, lowering, to_start=False):
            print_statement(text, move)
        _print_time_sums(text, lowering)
    body, text.lines, text.depth = text.lines, [], 1
    if bound:
        text.line("length, begin, direction, block, rows, team = 1, 0, 1, 1, sizes[0], 0")
        for k, array in enumerate(lowering.arrays.values()):
            if array.role not in ("carry", "final"):
                text.line(f"{text.name(array)} = {array.dtype}_at(addresses[{k}])")
        for k, (given, _) in enumerate(text.sizes.values()):
            text.line(f"{given} = sizes[{k + 1}]")
        text.lines = [f"def {name}(addresses, sizes):", *text.lines, *body]
        return text
    for key, (given, _) in text.sizes.items():
        text.line(f"{given} = {_where_from(key, text, lowering)}")
    arguments = ", ".join(
        [
            "length",
            "begin",
            "direction",
            "block",
            "rows",
            "team",
            "order",
            "sizes",
            "status",
            *_arguments(text, lowering),
        ]
    )
    text.lines = [f"def {name}({arguments}):", *text.lines, *body]
    return text


def _print_time_sums(text: Text, lowering: Lowering) -> None:
    """The sums over time, unless there are so many steps that threads share them out afterwards."""
    if not lowering.time_sums:
        return
    text.line(f"if length <= {text.size(MOST_STEPS)}:")
    text.depth += 1
    for each in lowering.time_sums:
        right, out, width = text.name(each.right), text.name(each.out), text.size(each.right_width)
        if each.left is None:
            text.used.add("sum_columns")
            text.line(f"sum_columns({right}, 0, {width}, length * rows, {width}, {out}, 0)", each.node)
            continue
        text.used.add("sum_of_products")
        dtype = each.out.dtype
        memory, at = packing_memory(lowering, PACKING_BYTES // dtype.itemsize, dtype)
        operands = (
            f"{text.name(each.left)}, 0, {right}, 0, {out}, 0, length * rows, {text.size(each.left_width)}, {width}"
        )
        text.line(f"sum_of_products({operands}, {text.name(memory)}, {text.size(at)})", each.node)
    text.depth -= 1


def _arguments(text: Text, lowering: Lowering) -> list[str]:
    return [text.name(array) for array in lowering.arrays.values()]


def _where_from(key: Any, text: Text, lowering: Lowering) -> str:
    """Strides that a caller's arrays bring are read off them, the other integers come in `sizes`."""
    if key[0] == "of":
        array = next(text.name(a) for a in lowering.arrays.values() if a.name == key[1])
        return f"stride({array}, {key[2]})"
    passed = [k for k in text.sizes if k[0] != "of"]
    return f"sizes[{passed.index(key)}]"


def slot(text: Text, now: str, number: int) -> Size:
    """Where one of a carry's two places begins."""
    word = text.variable(now)[: -len("_now")]
    return Size(place_key(now, number), 0, f"{word}_{'first' if number == 0 else 'second'}")


def place_key(now: str, number: int) -> tuple[str, str, int]:
    """The key of one of a carry's two places among a kernel's integers; `now`: the variable of the present one."""
    return "at", now[: -len("_now")], number


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
        print_statement(text, statement)
    text.depth -= open_loop


def carry_moves(text: Text, lowering: Lowering, to_start: bool) -> list[Move]:
    """The carry into its first place, or out of its last."""
    moves = []
    for k, t in enumerate(lowering.graph.carry_in):
        place = lowering.places[id(t), "step"]
        role = "carry" if to_start else "final"
        rowed = lowering.rows_first(t)
        array = lowering.array((role, k), t, role, rank=len(t.shape), rowed=rowed)
        outside = Load(array, Affine())
        first = Affine((), ((slot(text, lowering.swaps[k][0], 0),),))
        inside = Load(place.array, first if to_start else place.base)
        count = tuple(s for s in lowering.dims.sizes(t) if s != ONE)
        moves.append(Move(outside, inside, count) if to_start else Move(inside, outside, count))
    return moves
