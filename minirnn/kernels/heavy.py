"""Lowering of what is a statement of its own: contractions, reductions, joins, gathers, scatters, windows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..autodiff import contraction
from ..autodiff.primitive import SHARED
from ..autodiff.tensor import Node, Tensor
from ..stepgraph.graph import StepGraph
from ..stepgraph.rows import operand_classes
from ..stepgraph.split import CONSTANT
from . import timesums
from .lower import Lowering, Panels, Unit
from .program import (
    NOWHERE,
    ONE,
    ROWS_KEY,
    ZERO,
    Affine,
    Chain,
    Coefficient,
    Fill,
    Gather,
    Inexpressible,
    Load,
    Place,
    Product,
    Reduce,
    Size,
    Window,
    along,
    value_of,
)  # fmt: skip


def lower_node(lowering: Lowering, node: Node, section: str) -> None:
    """Add the statements of a node that is no view and no cheap map."""
    name, form = node.primitive.name, node.primitive.form
    if form == "map":
        lowering.compute(node, section)
    elif form == "contract":
        _contract(lowering, node, section)
    elif form == "reduce":
        _reduce(lowering, node, section)
    elif form == "join":
        _join(lowering, node, section)
    elif name == "place":
        _place(lowering, node, section)
    elif form in ("gather", "scatter"):
        _gather(lowering, node, section)
    elif form == "window":
        _window(lowering, node, section)
    else:
        raise Inexpressible(f"{name}", node)


def _made(lowering: Lowering, out: Tensor, place: Place, unit: Unit) -> None:
    """Note where a statement's result stands."""
    lowering.places[id(out), "time" if place.clock else "step"] = place
    lowering.ready_after[id(out)] = unit


# addresses by letters ----------------------------------------------------------------------------
@dataclass
class _Reach:
    """How an operand is read: its array, its offset, and a stride for each letter."""

    load: Load
    strides: dict[str, Coefficient]


def _reach(
    lowering: Lowering, t: Tensor, letters: str, section: str, order: str | None = None, scratch: bool = True
) -> _Reach:
    """The address of a value's elements, letter by letter; it gets a place if it has none.

    With `order` the place is a new one that has its axes in that order.
    """
    index = tuple(NOWHERE if lowering.dims.size(t, k) == ONE else along(_variable(c)) for k, c in enumerate(letters))
    if order is not None:
        place = lowering.keep(t, section, scratch=True, order=tuple(letters.index(c) for c in order))
        offset, array = place.at(index), place.array
    else:
        source, at = _root(lowering, t, index, section)
        known = lowering.known_place(source, section)
        if known is None or (scratch and known.array.role not in ("work", "constant")):
            known = lowering.keep(source, section, scratch=True)
        offset, array = known.at(at), known.array
    strides = {c: found for c in letters if (found := offset.stride_of(_variable(c))) is not None}
    for c in letters:
        offset = offset.without(_variable(c))
        strides.setdefault(c, (ZERO,))
    return _Reach(Load(array, offset), strides)


def _root(lowering: Lowering, t: Tensor, index: Any, section: str) -> tuple[Tensor, Any]:
    """What a chain of views looks at, and the index there."""
    lowering.bring(t, section)
    node = lowering.makers.get(id(t))
    while node is not None and node.primitive.form == "view" and lowering.known_place(t, section) is None:
        ((t, index),) = lowering.operands(node, t, index, section)
        lowering.bring(t, section)
        node = lowering.makers.get(id(t))
    return t, index


def _together(strides: Sequence[Coefficient], sizes: Sequence[Size]) -> Coefficient | None:
    """The stride of several axes counted as one, if they are neighbours; () is one."""
    kept = [(stride, size) for stride, size in zip(strides, sizes, strict=True) if size != ONE]
    for (stride, _), (inner, size) in zip(kept, kept[1:], strict=False):
        if value_of(stride) != value_of(inner) * size.value:
            return None
    return kept[-1][0] if kept else ()


def _product_of(sizes: Sequence[Size]) -> Coefficient:
    return tuple(size for size in sizes if size != ONE)


def _variable(letter: str) -> str:
    """The loop variable of a letter."""
    return f"i_{letter}"


def _index_of(letter: str, size: dict[str, Size]) -> Affine:
    """The index along a letter's axis, nowhere if it has one entry."""
    return NOWHERE if size[letter] == ONE else along(_variable(letter))


def _variables(letters: Iterable[str]) -> tuple[str, ...]:
    return tuple(_variable(c) for c in letters)


# contract ----------------------------------------------------------------------------------------
def _contract(lowering: Lowering, node: Node, section: str) -> None:
    a, b, _ = contraction.parse(node.params["spec"])
    classes = operand_classes(node, lowering.classes)
    packable = [
        isinstance(x, Tensor) and lowering.levels[id(x)] == CONSTANT and id(x) not in lowering.section_of
        and classes[i] == SHARED
        for i, x in enumerate(node.inputs)
    ]  # fmt: skip
    if not any(packable):
        _chain(lowering, node, section)
        return
    side = 1 if packable[1] else 0
    if all(packable):
        raise Inexpressible("a contraction of two constants inside the loop", node)
    _panels_product(lowering, node, section, side, (a, b)[1 - side], (a, b)[side])


def _panels_product(lowering: Lowering, node: Node, section: str, side: int, a: str, b: str) -> None:
    """The varying operand `a` times the constant one, which is packed before the kernel runs."""
    x, weights, (out,) = node.inputs[1 - side], node.inputs[side], node.outputs
    letters = contraction.parse(node.params["spec"])[2]
    batch = [c for c in letters if c in a and c in b]
    rows = [c for c in letters if c not in b]
    columns = [c for c in letters if c not in a]
    summed = list(contraction.summed_letters(node.params["spec"]))
    size = {c: lowering.dims.size(t, k) for part, t in ((a, x), (b, weights)) for k, c in enumerate(part)}
    reach = _reach(lowering, x, a, section)
    step = _together([reach.strides[c] for c in summed], [size[c] for c in summed])
    if step is None:
        reach = _reach(lowering, x, a, section, order="".join(batch + rows + summed))
        step = _together([reach.strides[c] for c in summed], [size[c] for c in summed])
    if step is None:
        raise Inexpressible("a contraction over axes that do not stand together", node)
    made = "".join(batch + rows + columns)
    place = lowering.home(out, section != "loop", None if made == letters else tuple(letters.index(c) for c in made))
    target = place.at(tuple(_index_of(c, size) for c in letters))
    out_row = target.stride_of(_variable(rows[-1])) if rows else ()
    for c in letters:
        if c not in batch and c not in rows[:-1]:
            target = target.without(_variable(c))
    outer = batch + rows[:-1]
    each = bool(batch) and all(size[c] == ONE for c in rows) and step == ()
    panels = _packed(lowering, weights, b, batch, summed, columns, each)
    inner, width = _product_of([size[c] for c in summed]), _product_of([size[c] for c in columns])
    count = _product_of([size[c] for c in rows[-1:]])
    a_row = reach.strides[rows[-1]] if rows else (ZERO,)
    load, over_time = reach.load, section != "loop"
    for c in outer:
        load = Load(load.array, load.offset.plus(_index_of(c, size).scaled_by(reach.strides[c])))
    merged = over_time and not outer and rows and size[rows[-1]].key == ROWS_KEY
    entry = Size(("of", panels.array.name, 0), 0, f"{panels.array.name}_size")
    offset = NOWHERE
    for k, c in enumerate(batch):
        moved = _index_of(c, size)
        for later in batch[k + 1 :]:
            moved = moved.scaled(size[later])
        offset = offset.plus(moved.scaled(entry))
    lowering.rows_stay &= not any(size[c].key == ROWS_KEY for c in summed + columns)
    statement = Product(
        node=node, loops=tuple(size[c] for c in outer), a=load, a_row=a_row, a_step=step,
        panels=Load(panels.array, offset), out=Load(place.array, target), out_row=out_row or (),
        rows=count, inner=inner, columns=width, variables=_variables(outer), merged=bool(merged), each=each,
    )  # fmt: skip
    _made(lowering, out, place, lowering.add(statement, section))


def _packed(
    lowering: Lowering, weights: Tensor, b: str, batch: list[str], summed: list[str], columns: list[str], each: bool
) -> Panels:
    """The packed form of a constant operand, one for all contractions that want the same."""
    wanted = tuple(b.index(c) for c in batch + summed + columns)
    counts = (len(batch), len(summed), len(columns))
    key = ("panels", id(weights), wanted, counts, each)
    rowed = bool(batch) and lowering.rows_first(weights)
    if key not in lowering.arrays:
        array = lowering.array(key, weights, "panels", rank=2 if batch else 1, rowed=rowed)
        lowering.panels.append(Panels(array, weights, wanted, counts, each))
    array = lowering.arrays[key]
    return next(p for p in lowering.panels if p.array is array)


def _chain(lowering: Lowering, node: Node, section: str) -> None:
    """A contraction of two values that change from step to step."""
    a, b, letters = contraction.parse(node.params["spec"])
    (out,), summed = node.outputs, contraction.summed_letters(node.params["spec"])
    size = {
        c: lowering.dims.size(t, k)
        for part, t in ((a, node.inputs[0]), (b, node.inputs[1]))
        for k, c in enumerate(part)
    }
    loads = []
    for x, part in zip(node.inputs, (a, b), strict=True):
        reach = _reach(lowering, x, part, section, scratch=False)
        step = _together([reach.strides[c] for c in summed], [size[c] for c in summed])
        if step is None:
            order = "".join([c for c in part if c not in summed]) + summed
            reach = _reach(lowering, x, part, section, order)
            step = _together([reach.strides[c] for c in summed], [size[c] for c in summed])
        offset = reach.load.offset
        for c in part:
            if c not in summed and size[c] != ONE:
                offset = offset.plus(along(f"i{letters.index(c)}").scaled_by(reach.strides[c]))
        loads.append(Load(reach.load.array, offset.plus(along("k").scaled_by(step or ()))))
    lowering.rows_stay &= not any(size[c].key == ROWS_KEY for c in summed)
    place = lowering.home(out, section != "loop")
    space = tuple(size[c] for c in letters)
    target = Load(place.array, place.at(lowering.identity(out)))
    statement = Chain(node, space, _product_of([size[c] for c in summed]), loads[0], loads[1], target)
    _made(lowering, out, place, lowering.add(statement, section))


# reduce ------------------------------------------------------------------------------------------
def _reduce(lowering: Lowering, node: Node, section: str) -> None:
    name, x, (out,) = node.primitive.name, node.inputs[0], node.outputs
    floating = x.dtype.kind == "f"
    if name not in ("sum", "max", "argmax") or (name == "argmax" and not floating):
        raise Inexpressible(f"{name} of {x.dtype}", node)
    axes, keep = node.params["axis"], node.params.get("keepdims", False)
    letters = "".join(chr(ord("a") + k) for k in range(len(x.shape)))
    reduced = [letters[k] for k in axes]
    kept = [c for c in letters if c not in reduced]
    size = {c: lowering.dims.size(x, k) for k, c in enumerate(letters)}
    reach = _reach(lowering, x, letters, section, scratch=False)
    step = _together([reach.strides[c] for c in reduced], [size[c] for c in reduced])
    if step is None:
        reach = _reach(lowering, x, letters, section, order="".join(kept + reduced))
        step = _together([reach.strides[c] for c in reduced], [size[c] for c in reduced])
    assert step is not None
    lowering.rows_stay &= not any(size[c].key == ROWS_KEY for c in reduced)
    place = lowering.home(out, section != "loop")
    made = {c: k for k, c in enumerate(kept)} if not keep else {c: letters.index(c) for c in kept}
    index = [NOWHERE] * len(out.shape)
    for c in kept:
        index[made[c]] = NOWHERE if size[c] == ONE else along(_variable(c))
    target = place.at(tuple(index))
    # A last axis that stays runs in lanes.
    wide = [c for c in kept if size[c] != ONE]
    in_lanes = wide and floating and name != "argmax" and reach.strides[wide[-1]] == () != step
    columns = wide[-1] if in_lanes else None
    loops = [c for c in wide if c != columns]
    source = reach.load.offset
    for c in loops:
        source = source.plus(along(_variable(c)).scaled_by(reach.strides[c]))
    if columns:
        target = target.without(_variable(columns))
    statement = Reduce(
        node, name, tuple(size[c] for c in loops), Load(reach.load.array, source), step,
        _product_of([size[c] for c in reduced]), Load(place.array, target), size[columns] if columns else None,
        _variables(loops),
    )  # fmt: skip
    _made(lowering, out, place, lowering.add(statement, section))


# joins and scatters ------------------------------------------------------------------------------
def _join(lowering: Lowering, node: Node, section: str) -> None:
    (out,), axis = node.outputs, node.params["axis"]
    place = lowering.home(out, section != "loop")
    base, last = place.base, None
    for x in node.inputs:
        part = Place(place.array, base, place.strides, place.clock, place.pace)
        last = _latest(last, lowering.write(x, part, section))
        base = base.shifted(lowering.dims.size(x, axis), place.strides[axis])
    assert last is not None
    _made(lowering, out, place, last)


def _latest(a: Unit | None, b: Unit) -> Unit:
    return b if a is None or b[1] > a[1] else a


def _place(lowering: Lowering, node: Node, section: str) -> None:
    """Zeros with a value in a regular part of them."""
    x, (out,) = node.inputs[0], node.outputs
    place = lowering.home(out, section != "loop")
    fill = lowering.add(_zeros(lowering, out, place), section)
    index = lowering.identity(x)
    parts = enumerate(zip(node.params["slices"], index, strict=True))
    where = tuple(lowering.sliced(node, k, part, i) for k, (part, i) in parts)
    unit = lowering.write_at(x, place.array, place.at(where), section, fill[1] + 1)
    _made(lowering, out, place, unit)


def _zeros(lowering: Lowering, t: Tensor, place: Place) -> Fill:
    offset = place.at((NOWHERE,) * len(t.shape))
    return Fill(place.array, offset, _product_of(lowering.dims.sizes(t)), 0)


# gathers -----------------------------------------------------------------------------------------
def _gather(lowering: Lowering, node: Node, section: str) -> None:
    """`take`, or `scatter_add`, which goes the other way."""
    adds = node.primitive.name == "scatter_add"
    x, indices, (out,) = node.inputs[0], node.inputs[1], node.outputs
    table, entries = (out, x) if adds else (x, out)
    rank = len(indices.shape)
    letters = "".join(chr(ord("a") + k) for k in range(rank))
    rest = "".join(chr(ord("p") + k) for k in range(len(table.shape) - 1))
    size = {c: lowering.dims.size(indices, k) for k, c in enumerate(letters)}
    sizes = [lowering.dims.size(table, k + 1) for k in range(len(rest))]
    index = _reach(lowering, indices, letters, section, scratch=False)
    source = _reach(lowering, x, (letters if adds else "e") + rest, section, scratch=False)
    if _together([source.strides[c] for c in rest], sizes) not in ((), (ONE,)):
        source = _reach(
            lowering, x, (letters if adds else "e") + rest, section, order=(letters if adds else "e") + rest
        )
    place = lowering.home(out, section != "loop")
    at = place.at(tuple(along(_variable(c)) for c in (("e" if adds else letters) + rest)))
    made = _Reach(Load(place.array, at), {c: at.stride_of(_variable(c)) or () for c in ("e" if adds else letters)})
    for c in rest + letters + "e":
        made.load = Load(place.array, made.load.offset.without(_variable(c)))
    small, large = (source, made) if adds else (made, source)
    number, other = index.load.offset, small.load.offset
    for c in letters:
        if size[c] != ONE:
            number = number.plus(along(_variable(c)).scaled_by(index.strides[c]))
            other = other.plus(along(_variable(c)).scaled_by(small.strides[c]))
    if adds:
        lowering.add(_zeros(lowering, out, place), section)
    statement = Gather(
        node, tuple(size[c] for c in letters), Load(index.load.array, number), lowering.dims.size(table, 0),
        large.strides["e"], large.load, Load(small.load.array, other), _product_of(sizes), _variables(letters), adds,
    )  # fmt: skip
    lowering.checked = True
    _made(lowering, out, place, lowering.add(statement, section))


# windows -----------------------------------------------------------------------------------------
def _window(lowering: Lowering, node: Node, section: str) -> None:
    adds = node.primitive.name == "overlap_add"
    x, (out,), params = node.inputs[0], node.outputs, node.params
    large, small = (out, x) if adds else (x, out)
    rank, number = len(params["size"]), lowering.numbers[id(node)]
    at, kernel = "pqr"[:rank], "uvw"[:rank]
    letters = "b" + (at + kernel if adds else "xyz"[:rank]) + "c"
    reach = _reach(lowering, x, letters, section, scratch=False)
    if reach.strides["c"] not in ((), (ZERO,)):  # lanes run along the channels, which have to be neighbours
        reach = _reach(lowering, x, letters, section, order=letters)
    place = lowering.home(out, section != "loop")
    names = "b" + ("xyz"[:rank] if adds else at + kernel) + "c"
    offset = place.at(tuple(along(_variable(c)) for c in names))
    made = _Reach(Load(place.array, offset), {c: offset.stride_of(_variable(c)) or () for c in names})
    for c in names:
        made.load = Load(place.array, made.load.offset.without(_variable(c)))
    of_large, of_small = (made, reach) if adds else (reach, made)
    loops = {"b": lowering.dims.size(small, 0)}
    loops.update((c, lowering.dims.size(small, 1 + k)) for k, c in enumerate(at + kernel))
    small_offset = of_small.load.offset
    for c in loops:
        if loops[c] != ONE:
            small_offset = small_offset.plus(along(_variable(c)).scaled_by(of_small.strides[c]))
    places = []
    for k in range(rank):
        stride = Size(("stride_of", number, k), params["strides"][k], f"stride{k}")
        dilation = Size(("dilation", number, k), params["dilation"][k], f"dilation{k}")
        padding = Size(("padding", number, k), -params["padding"][k][0], f"first{k}")
        position, inside = _index_of(at[k], loops), _index_of(kernel[k], loops)
        where = position.scaled(stride).plus(inside.scaled(dilation)).shifted(padding)
        places.append((where, lowering.dims.size(large, 1 + k), of_large.strides["xyz"[k]]))
    large_offset = of_large.load.offset.plus(_index_of("b", loops).scaled_by(of_large.strides["b"]))
    if adds:
        lowering.add(_zeros(lowering, out, place), section)
    width = lowering.dims.size(large, len(large.shape) - 1)
    statement = Window(
        node, tuple(loops.values()), width, tuple(places), Load(of_large.load.array, large_offset),
        Load(of_small.load.array, small_offset), adds, _variables(loops),
    )  # fmt: skip
    _made(lowering, out, place, lowering.add(statement, section))


# the whole ---------------------------------------------------------------------------------------
def lower(graph: StepGraph) -> Lowering:
    """The loop program of a step graph; Inexpressible names the node that no kernel can run."""
    lowering = Lowering(graph)
    for t, place in zip(graph.carry_out, lowering.next_places, strict=True):
        if lowering.section_of.get(id(t)) == "loop":
            lowering.open_carries.setdefault(id(t), place)
    for section in ("before", "loop", "after"):
        for node in _as_late_as_possible(lowering, lowering.in_section[section]):
            if not lowering.is_virtual(node):
                lower_node(lowering, node, section)
    _stack_for_sums(lowering)
    for y in graph.ys:
        if lowering.is_made(y):
            lowering.stacked(y, "y")
    for t, place in zip(graph.carry_out, lowering.next_places, strict=True):
        if lowering.places.get((id(t), "step")) is not place:
            lowering.write(t, place, "loop")
    lowering.time_sums = timesums.find(lowering)
    return lowering


def _as_late_as_possible(lowering: Lowering, nodes: list[Node]) -> list[Node]:
    """The nodes of a section, maps and views only where another statement needs them.

    So they come into the nest of what reads them, and not through memory from one before.
    """
    order: list[Node] = []
    waiting: dict[int, int] = {}  # places among `nodes`, by the Tensors that they make
    for k, node in enumerate(nodes):
        if node.primitive.form == "map" or lowering.is_virtual(node):
            waiting.update((id(o), k) for o in node.outputs)
            continue
        needed: set[int] = set()
        unseen = list(node.tensors)
        while unseen:
            place = waiting.get(id(unseen.pop()))
            if place is not None and place not in needed:
                needed.add(place)
                unseen += nodes[place].tensors
        for place in sorted(needed):
            order.append(nodes[place])
            for o in nodes[place].outputs:
                del waiting[id(o)]
        order.append(node)
    return order + [nodes[place] for place in sorted(set(waiting.values()))]


def _stack_for_sums(lowering: Lowering) -> None:
    """What the sums over time read is written out at every step."""
    made = {id(o) for node in lowering.summed for o in node.outputs}
    for t in [t for node in lowering.summed for t in node.tensors]:
        if id(t) not in made and lowering.is_made(t):
            lowering.stacked(t, "stack")
    for t in lowering.graph.sums:
        if id(t) in made or not lowering.is_made(t):
            continue
        node = lowering.makers.get(id(t))
        # A sum of products over time is one contraction: what it multiplies is stacked, not what comes out.
        if node is not None and node.primitive.form == "contract" and all(_over_time(lowering, x) for x in node.inputs):
            lowering.outer_products[id(t)] = node
            for x in node.tensors:
                if lowering.is_made(x):
                    lowering.stacked(x, "stack")
        else:
            lowering.stacked(t, "stack")


def _over_time(lowering: Lowering, x: Tensor) -> bool:
    return lowering.is_made(x) or (id(x), "time") in lowering.places
