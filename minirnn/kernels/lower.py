"""From a split step graph to a loop program, for every target alike.

Views become index arithmetic.  Cheap maps have no place of their own: they are computed where they
are read.  What costs more is computed once, in a loop nest with everything of the same shape; it
gets a buffer only if something outside of its nest reads it.  Contractions, reductions, gathers and
windows are statements of their own (heavy.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..autodiff import contraction
from ..autodiff.primitive import SUMMED
from ..autodiff.tensor import Node, Tensor
from ..stepgraph.graph import StepGraph
from ..stepgraph.rows import batch_size
from ..stepgraph.split import CONSTANT, split
from .dims import Dims, axis_groups
from .program import (
    NOWHERE,
    ONE,
    ROWS_KEY,
    ZERO,
    Affine,
    Array,
    Buffer,
    Call,
    Inexpressible,
    Let,
    Load,
    Name,
    Nest,
    Number,
    Place,
    Size,
    Write,
    along,
)  # fmt: skip

DTYPES = ("float32", "float64", "int32", "int64", "bool")
# Maps that are computed once and not wherever they are read.
COSTLY = frozenset(
    "divide power sqrt exp expm1 log log1p sin cos tanh sigmoid softplus softsign elu power_by_number".split()
)
Index = tuple[Affine, ...]
Unit = tuple[str, int]  # a section and a place in its order


@dataclass(eq=False)
class Panels:
    """A constant operand of contractions that is packed before the kernel runs, and the order of its axes."""

    array: Array
    tensor: Tensor
    axes: tuple[int, ...]  # those of the batch, those that are summed, those of the columns
    counts: tuple[int, int, int]  # how many of each
    each: bool  # whether it has a matrix for each row


class Lowering:
    """A step graph on its way to a loop program, which `sections`, `arrays`, `buffers` and `swaps` are in the end."""

    def __init__(self, graph: StepGraph) -> None:
        self.graph = graph
        self.parts = split(graph, fused=True)
        self.classes, self.levels = self.parts.classes, self.parts.levels
        self.names = graph.names()
        self.dims = Dims(graph, self.classes, self.names)
        self.makers = {id(o): node for node in graph.nodes for o in node.outputs}
        self.numbers = {id(node): k for k, node in enumerate(graph.nodes)}
        self.arrays: dict[Any, Array] = {}
        self.sources: dict[Array, Any] = {}  # what each array argument stands for
        self.panels: list[Panels] = []
        self.buffers: list[Buffer] = []
        self.places: dict[tuple[int, str], Place] = {}  # where values stand, by Tensor and "step" or "time"
        self.sections: dict[str, list[Any]] = {"before": [], "loop": [], "after": []}
        self.computed_in: dict[int, Unit] = {}  # the nest that has a value at hand
        self.ready_after: dict[int, Unit] = {}  # the statement after which a value stands in its place
        self.registers: dict[Unit, dict[Any, Name]] = {}  # values with a name in a nest
        self.open_carries: dict[int, Place] = {}  # where a carry goes, while nothing has written it
        self.rows_stay = True  # whether the batch is the first axis everywhere, so that rows can be shared out
        self.outer_products: dict[int, Node] = {}  # sums over time that are contractions over time, too
        self.time_sums: list[Any] = []  # which the kernel computes itself if there are few steps
        self.checked = False  # whether anything reports through `status`
        # Sums over rows and time are computed after the kernel, from what it stacked.
        self.summed = [n for n in self.parts.after if any(self.classes[id(o)] == SUMMED for o in n.outputs)]
        # Random numbers never depend on the carry: they are drawn for all steps before the kernel.
        self.drawn = [n for n in graph.nodes if n.primitive.form == "random"]
        elsewhere = {
            id(n) for n in [*self.summed, *self.drawn] + [n for n in graph.nodes if n.primitive.form == "source"]
        }
        self.in_section: dict[str, list[Node]] = {
            "before": [n for n in self.parts.before if id(n) not in elsewhere],
            "loop": [n for n in self.parts.loop if id(n) not in elsewhere],
            "after": [n for n in self.parts.after if id(n) not in elsewhere],
        }
        # Values of the loop that are read after it are put where a whole block of them has room.
        self.wanted_after = {id(t) for n in self.in_section["after"] for t in n.tensors}
        self.section_of = {id(o): s for s, nodes in self.in_section.items() for n in nodes for o in n.outputs}
        self.batch = batch_size(graph)
        self._inputs()

    # inputs ------------------------------------------------------------------------------------------
    def _inputs(self) -> None:
        """Places of the carry, of the xs and of what was drawn."""
        self.swaps: list[tuple[str, str]] = []
        self.next_places: list[Place] = []
        for t in self.graph.carry_in:
            buffer = self.buffer(t, over_time=False, slots=2, word=self.names[id(t)])
            self.places[id(t), "step"] = self._contiguous(buffer, along(f"{buffer.name}_now"), t)
            self.next_places.append(self._contiguous(buffer, along(f"{buffer.name}_next"), t))
            self.swaps.append((f"{buffer.name}_now", f"{buffer.name}_next"))
        drawn = [o for n in self.drawn if self.levels[id(n.outputs[0])] != CONSTANT for o in n.outputs]
        for t in (*self.graph.xs, *drawn):
            self.places[id(t), "time"] = self.sequence_place(t, "x")

    def sequence_place(self, t: Tensor, role: str) -> Place:
        """An array argument with time on its first axis: an x, a y, or a stack for the sums."""
        rowed = self.rows_first(t)
        array = self.array((role, id(t)), t, role, rank=len(t.shape) + 1, time=True, rowed=rowed)
        word = array.name
        # Rows and time can stand in any order, what follows is contiguous.
        strides = list(self.contiguous_strides(t, word))
        if rowed:
            strides[0] = Size(("of", word, 1), 0, f"{word}_row")
        return Place(array, NOWHERE, tuple(strides), "t", Size(("of", word, 0), 0, f"{word}_step"))

    def array(self, key: Any, t: Any, role: str, rank: int, time: bool = False, rowed: bool = False) -> Array:
        """The array argument for a key, made at the first request."""
        if key not in self.arrays:
            if str(t.dtype) not in DTYPES:
                raise Inexpressible(f"values of {t.dtype}", self.makers.get(id(t)))
            made = Array(f"{role}{sum(a.role == role for a in self.arrays.values())}", t.dtype, rank, role, time, rowed)
            self.arrays[key] = made
            self.sources[made] = t
        return self.arrays[key]

    def contiguous_strides(self, t: Tensor, word: str) -> tuple[Size, ...]:
        """The strides of a contiguous array; ONE for the last axis that has more than one entry."""
        sizes = self.dims.sizes(t)
        strides: list[Size] = []
        for k in range(len(sizes)):
            rest = [s for s in sizes[k + 1 :] if s != ONE]
            if not rest:
                strides.append(ONE)
            elif len(rest) == 1:
                strides.append(rest[0])
            else:
                value = int(np.prod([s.value for s in rest]))
                strides.append(Size(("stride", *[s.key for s in rest]), value, f"{word}_stride{k}"))
        return tuple(strides)

    # buffers -----------------------------------------------------------------------------------------
    def buffer(self, t: Tensor, over_time: bool, slots: int = 1, word: str = "") -> Buffer:
        """A new part of the scratch memory with the shape of `t`."""
        if str(t.dtype) not in DTYPES:
            raise Inexpressible(f"values of {t.dtype}", self.makers.get(id(t)))
        made = Buffer(f"b{len(self.buffers)}_at", t.dtype, self.dims.sizes(t), over_time, slots, word)
        self.buffers.append(made)
        return made

    def work(self, dtype: Any) -> Array:
        """The scratch memory of a dtype."""
        key = ("work", str(dtype))
        if key not in self.arrays:
            self.arrays[key] = Array(f"work_{dtype}", np.dtype(dtype), 1, "work")
        return self.arrays[key]

    def _contiguous(self, buffer: Buffer, base: Affine, t: Tensor, order: tuple[int, ...] | None = None) -> Place:
        strides = self.contiguous_strides(t, buffer.name)
        if order is not None and order != tuple(range(len(order))):
            strides = self._ordered_strides(t, buffer.name, order)
        pace = Size(("pace", buffer.name), 0, f"{buffer.word}_pace") if buffer.over_time else ZERO
        return Place(self.work(t.dtype), base, strides, "s" if buffer.over_time else "", pace)

    def _ordered_strides(self, t: Tensor, word: str, order: tuple[int, ...]) -> tuple[Size, ...]:
        sizes = self.dims.sizes(t)
        self.rows_stay &= not any(sizes[axis].key == ROWS_KEY for axis in order[1:])
        strides = [ONE] * len(order)
        for k, axis in enumerate(order):
            rest = [sizes[a] for a in order[k + 1 :]]
            value = int(np.prod([s.value for s in rest]))
            strides[axis] = Size(("stride", *[s.key for s in rest]), value, f"{word}_stride{axis}") if rest else ONE
        return tuple(strides)

    # what a value is made of -------------------------------------------------------------------------
    def is_virtual(self, node: Node) -> bool:
        """Whether a node's output is computed wherever it is read."""
        form, name = node.primitive.form, node.primitive.name
        if form == "contract":
            return not contraction.summed_letters(node.params["spec"])
        return form == "view" or name == "full" or (form == "map" and name not in COSTLY)

    def own_section(self, t: Tensor) -> str:
        """The section in which a value comes about."""
        return self.section_of.get(id(t), "loop" if (id(t), "step") in self.places else "before")

    def constant(self, t: Tensor) -> Place:
        """The place of a value that is the same at every step."""
        array = self.array(("constant", id(t)), t, "constant", rank=len(t.shape), rowed=self.rows_first(t))
        return Place(array, NOWHERE, self.contiguous_strides(t, array.name))

    def known_place(self, t: Tensor, section: str) -> Place | None:
        """Where a value can be read in a section, None if nowhere."""
        found = self.places.get((id(t), "step")) if section == "loop" else None
        found = found or self.places.get((id(t), "time"))
        maker = self.makers.get(id(t))
        outside = id(t) not in self.section_of and (id(t), "step") not in self.places
        if found is None and outside and (maker is None or maker.primitive.name != "full"):
            return self.constant(t)
        return found

    def identity(self, t: Tensor) -> Index:
        """The index of the element that a nest over the value's own axes computes."""
        return tuple(NOWHERE if size == ONE else along(f"i{k}") for k, size in enumerate(self.dims.sizes(t)))

    def operand_index(self, x: Tensor, out: Tensor, index: Index) -> Index:
        """The index of a map's operand for an index of its output."""
        shift = len(out.shape) - len(x.shape)
        return tuple(
            NOWHERE if x.shape[k] != out.shape[k + shift] or self.dims.size(x, k) == ONE else index[k + shift]
            for k in range(len(x.shape))
        )

    def view_index(self, node: Node, out: Tensor, index: Index) -> Index | None:
        """The index of a view's source for an index of its output; None if axes are put together."""
        name, params, x = node.primitive.name, node.params, node.inputs[0]
        if name == "broadcast_to":
            return self.operand_index(x, out, index)
        if name == "transpose":
            source = [NOWHERE] * len(index)
            for k, axis in enumerate(params["axes"]):
                source[axis] = index[k]
            return tuple(source)
        if name == "slice":
            parts = enumerate(zip(params["slices"], index, strict=True))
            return tuple(self.sliced(node, k, part, i) for k, (part, i) in parts)
        if name == "split":
            piece, axis = [id(o) for o in node.outputs].index(id(out)), params["axis"]
            moved = index[axis]
            for o in node.outputs[:piece]:
                moved = moved.shifted(self.dims.size(o, axis))
            return (*index[:axis], moved, *index[axis + 1 :])
        if name == "reshape":
            groups = axis_groups(x, out)
            return None if any(len(left) > 1 for left, _ in groups) else self._regrouped(x, out, index, groups)
        raise Inexpressible(f"the view {name}", node)

    def sliced(self, node: Node, axis: int, part: tuple[int, int | None, int], index: Affine) -> Affine:
        """The index in the whole array of an index in a regular part of it."""
        start, _, step = part
        number = self.numbers[id(node)]
        pace = ONE if step == 1 else Size(("step", number, axis), step, f"step{axis}")
        first = ZERO if start == 0 else Size(("start", number, axis), start, f"start{axis}")
        return index.scaled(pace).shifted(first)

    def _regrouped(self, x: Tensor, out: Tensor, index: Index, groups: Any) -> Index:
        """The index before a reshape; axes that it put together are counted along the last of them."""
        source = [NOWHERE] * len(x.shape)
        for left, right in groups:
            for k, axis in enumerate(right if left else []):
                moved = index[axis]
                for a in right[k + 1 :]:
                    moved = moved.scaled(self.dims.size(out, a))
                source[left[-1]] = source[left[-1]].plus(moved)
        return tuple(source)

    def operands(self, node: Node, out: Tensor, index: Index, section: str) -> list[tuple[Any, Index]]:
        """The operands of a view or map, each with its index."""
        if node.primitive.form == "view":
            x = node.inputs[0]
            source = self.view_index(node, out, index)
            if source is None:
                # Where axes are put together, the source gets a place in which they are neighbours.
                self.keep(x, section, scratch=True)
                source = self._regrouped(x, out, index, axis_groups(x, out))
            return [(x, source)]
        if node.primitive.form == "contract":
            a, b, letters = contraction.parse(node.params["spec"])
            where = dict(zip(letters, index, strict=True))
            indices: list[Index] = [tuple(where[c] for c in part) for part in (a, b)]
        else:
            indices = [self.operand_index(x, out, index) if isinstance(x, Tensor) else () for x in node.inputs]
        return list(zip(node.inputs, indices, strict=True))

    def leaves(self, t: Any, index: Index, section: str) -> list[tuple[Tensor, Index]]:
        """Every computed or stored value that the expression for `t` at `index` reads, and where."""
        if not isinstance(t, Tensor):
            return []
        self.bring(t, section)
        node = self.makers.get(id(t))
        if node is None or not self.is_virtual(node) or self.known_place(t, section) is not None:
            return [(t, index)]
        given = self.operands(node, t, index, section)
        return [leaf for x, i in given for leaf in self.leaves(x, i, section)]

    def bring(self, t: Tensor, section: str) -> None:
        """Give a value of the loop a place for all steps of a block, if it is read after the loop."""
        if section == "after" and self.own_section(t) == "loop" and self.known_place(t, section) is None:
            self.keep(t, section)

    def expression(self, t: Any, index: Index, unit: Unit, dtype: Any = None) -> Any:
        """The expression for a value at an index of a nest; may add lets to the nest."""
        if not isinstance(t, Tensor):
            return Number(t, dtype)
        names = self.registers[unit]
        if (id(t), index) in names:
            return names[id(t), index]
        node = self.makers.get(id(t))
        if node is not None and node.primitive.name == "full":
            return Number(node.params["value"], t.dtype)
        self.bring(t, unit[0])
        elsewhere = self.computed_in.get(id(t), unit)
        if elsewhere != unit:
            self.keep(t, unit[0])
        place = self.known_place(t, unit[0]) if elsewhere != unit or id(t) not in self.computed_in else None
        if place is not None:
            made: Any = Load(place.array, place.at(index))
        elif node is None:
            raise Inexpressible("a value that has no place")
        elif node.primitive.form == "view":
            ((x, x_index),) = self.operands(node, t, index, unit[0])
            return self.expression(x, x_index, unit)
        elif node.primitive.form in ("map", "contract"):
            given = self.operands(node, t, index, unit[0])
            dtypes = self._operand_dtypes(node, t)
            parts = tuple(self.expression(x, i, unit, d) for (x, i), d in zip(given, dtypes, strict=True))
            product = node.primitive.form == "contract"
            params = () if product else tuple(sorted(node.params.items()))
            made = Call("multiply" if product else node.primitive.name, parts, params, t.dtype)
        else:
            raise Inexpressible(f"{node.primitive.name} where it is read", node)
        name = Name(len(names), t.dtype)
        names[id(t), index] = name
        self.sections[unit[0]][unit[1]].body.append(Let(name.key, made, node, self.names.get(id(t), "")))
        return name

    def _operand_dtypes(self, node: Node, out: Tensor) -> list[Any]:
        """The dtype that numbers among the operands adapt to."""
        if node.primitive.name == "where":
            return [np.dtype(bool), out.dtype, out.dtype]
        typed = [x.dtype for x in node.tensors]
        common = np.result_type(*typed) if typed else out.dtype
        return [common if node.primitive.result_dtype is bool else out.dtype for _ in node.inputs]

    # units -------------------------------------------------------------------------------------------
    def earliest(self, t: Any, index: Index, section: str, space: tuple[Size, ...]) -> int:
        """The first unit of a section in which a nest over `space` can compute an expression."""
        found = 0
        for leaf, at in self.leaves(t, index, section):
            where = self.computed_in.get(id(leaf))
            if where is not None and where[0] == section:
                nest = self.sections[section][where[1]]
                same = nest.space == space and at == self.identity(leaf)
                found = max(found, where[1] + (not same))
            elif id(leaf) in self.ready_after and self.ready_after[id(leaf)][0] == section:
                found = max(found, self.ready_after[id(leaf)][1] + 1)
        return found

    def nest_for(self, space: tuple[Size, ...], section: str, earliest: int) -> Unit:
        """A nest over `space` in a section, from a place in its order on."""
        units = self.sections[section]
        for k in range(earliest, len(units)):
            if isinstance(units[k], Nest) and units[k].space == space:
                return section, k
        return self.add(Nest(space), section)

    def add(self, statement: Any, section: str) -> Unit:
        """Put a statement at the end of a section."""
        self.sections[section].append(statement)
        unit = (section, len(self.sections[section]) - 1)
        if isinstance(statement, Nest):
            self.registers[unit] = {}
        return unit

    def compute(self, node: Node, section: str) -> None:
        """Compute a costly map in a nest of its shape."""
        (out,) = node.outputs
        space, index = self.dims.sizes(out), self.identity(out)
        given = self.operands(node, out, index, section)
        first = max((self.earliest(x, i, section, space) for x, i in given), default=0)
        unit = self.nest_for(space, section, first)
        self.computed_in[id(out)] = unit
        self.expression(out, index, unit)

    def write(self, t: Tensor, place: Place, section: str) -> Unit:
        """Put a value into a place."""
        return self.write_at(t, place.array, place.at(self.identity(t)), section)

    def write_at(self, t: Tensor, array: Array, offset: Affine, section: str, earliest: int = 0) -> Unit:
        """Put a value into an array, in a nest over its axes where it is at hand."""
        space, index = self.dims.sizes(t), self.identity(t)
        unit = self.computed_in.get(id(t))
        if unit is None or unit[0] != section or unit[1] < earliest:
            first = max(earliest, self.earliest(t, index, section, space))
            unit = self.nest_for(space, section, first)
        expression = self.expression(t, index, unit)
        self.sections[unit[0]][unit[1]].body.append(Write(array, offset, expression))
        return unit

    def keep(self, t: Tensor, section: str, scratch: bool = False, order: tuple[int, ...] | None = None) -> Place:
        """Give a value a place that can be read in a section; in scratch memory if that is asked for."""
        known = self.known_place(t, section)
        if known is not None and (known.array.role == "work" or not scratch) and order is None:
            return known
        own = self.own_section(t) if known is None or known.clock else section
        over_time = own != "loop" or section != "loop"
        place = self.home(t, over_time, order)
        unit = self.write(t, place, own)
        self.places[id(t), "time" if place.clock else "step"] = place
        self.computed_in.setdefault(id(t), unit)
        return place

    def home(self, t: Tensor, over_time: bool, order: tuple[int, ...] | None = None) -> Place:
        """A new place in scratch memory; for a value that goes on as the carry, the carry's own."""
        if not over_time and order is None and id(t) in self.open_carries:
            return self.open_carries.pop(id(t))
        over_time = over_time or (order is None and id(t) in self.wanted_after)
        buffer = self.buffer(t, over_time, word=self.names.get(id(t), "v"))
        base = NOWHERE.shifted(Size(("at", buffer.name), 0, f"{buffer.word}_at"))
        return self._contiguous(buffer, base, t, order)

    # results -----------------------------------------------------------------------------------------
    def is_made(self, t: Tensor) -> bool:
        """Whether a value comes about in the kernel, and is no input of it."""
        return id(t) in self.section_of or (id(t), "step") in self.places

    def is_constant(self, t: Tensor) -> bool:
        """Whether a value is the same at every step and known before the kernel runs."""
        return self.levels[id(t)] == CONSTANT and id(t) not in self.section_of

    def rows_first(self, t: Tensor) -> bool:
        """Whether axis 0 is the batch's, also of a value into which no row went."""
        return bool(t.shape) and self.dims.size(t, 0).key == ROWS_KEY

    def stacked(self, t: Tensor, role: str) -> None:
        """Have a value written at every time step to an array argument."""
        if (role, id(t)) not in self.arrays:
            self.write(t, self.sequence_place(t, role), self.own_section(t))
