"""The cpu engine: a step graph's kernel with its buffers, packed weights and threads.

Around one compiled kernel, which runs the whole time loop, stand three things in Python: what does
not change over time is computed and packed once for each set of weights; rows are shared out to
threads, each with scratch memory of its own; sums over time are products of what the kernel stacked.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .. import config
from ..autodiff import contraction
from ..autodiff.primitive import ROWS
from ..autodiff.tensor import Tensor
from ..errors import EngineError, EngineFallbackWarning, ShapeError
from ..stepgraph import interpret
from ..stepgraph.graph import StepGraph
from ..stepgraph.provenance import source_line
from . import build, outline, teamwork, threads
from .arrays import forward_of
from .build import library_function
from .contract import aligned_empty, pack, packed_size
from .emit import kernel_text
from .heavy import lower
from .lower import DTYPES, Lowering, Panels
from .program import ROWS_KEY, Array, Inexpressible
from .sums import Sums
from .text import MAPS, Text

# Scratch memory of a block of time steps: what fits the second cache beside the weights.
_BLOCK_BYTES = 1 << 20
# Below this many nanoseconds of work a second thread costs more than it brings.
_WORTH_A_THREAD = 100_000.0
_LANES_MODULE = "load store load_apart store_apart element put select fma sqrt absolute maximum minimum LANES".split()
_CONVERSIONS = [f"as_{dtype}" for dtype in DTYPES]


# What a printed kernel says of its arguments.
_ROLES = {
    "x": "read at every step",
    "y": "written at every step",
    "stack": "written at every step, for the sums over time",
    "constant": "the same at every step",
    "panels": "the same at every step, packed",
}


def run(graph: StepGraph, arrays: list[Any], length: int, reverse: bool) -> list[np.ndarray]:
    """Run `length` time steps of the graph: as `stepgraph.interpret.run`, compiled.

    A step that holds scans is interpreted, each inner scan being one call of its kernel.  So is one
    with a node that no kernel has, after a warning, if the engine is "auto"; else EngineError names it.
    """
    kernel = kernel_of(graph)
    if kernel is None:
        return interpret.run(graph, arrays, length, reverse, forward_of)
    return kernel(arrays, length, reverse)


def kernel_of(graph: StepGraph) -> Kernel | None:
    """The kernel of a graph, compiled at the first request; None if it has to be interpreted."""
    made = graph.cache.get("kernel")
    if made is None or (isinstance(made, Inexpressible) and config.engine_is_chosen()):
        try:
            made = "scans" if any(node.primitive.form == "scan" for node in graph.nodes) else Kernel(graph)
        except Inexpressible as reason:
            made = reason
            _refuse_or_warn(reason)
        graph.cache["kernel"] = made
    return made if type(made) is Kernel else None


def _refuse_or_warn(reason: Inexpressible) -> None:
    """Say which node has no kernel, and why."""
    what = "a step holds what no kernel can express"
    line = source_line(reason.node) if reason.node is not None else ""
    if config.engine_is_chosen():
        fix = 'scan(..., engine="numpy"), or mr.engine("auto"), which then runs this step with NumPy'
        raise EngineError(what, got=reason.reason, where=line or None, fix=fix) from None
    where = f" ({line})" if line else ""
    warnings.warn(f"{what}: {reason.reason}{where}; it runs with NumPy", EngineFallbackWarning, stacklevel=2)


def bind(graph: StepGraph, arrays: list[Any], final: list[Any]) -> tuple[Callable[[], None], list[np.ndarray]] | None:
    """One step of the graph on fixed arrays, as `Kernel.bind`; None if more than a kernel has to run."""
    kernel = kernel_of(graph)
    return None if kernel is None else kernel.bind(arrays, final)


def source(graph: StepGraph) -> str:
    """The printed kernel of a graph, with the names and the lines of the user's step."""
    lowering = lower(graph)
    text = kernel_text(lowering, "step_loop", explained=True)
    return "\n".join([*_summary(lowering, text), *text.lines]) + "\n"


def _summary(lowering: Lowering, text: Text) -> list[str]:
    """What the kernel is given and what is computed around it, as comments."""
    names = lowering.names
    lines = []
    for array, t in lowering.sources.items():
        if array.role in _ROLES:
            word = _ROLES[array.role]
            shape = ", ".join(map(str, t.shape))
            lines.append(f"# {text.name(array)}: {names.get(id(t), '?')} ({shape}) {t.dtype}, {word}")
    for node in lowering.summed:
        operands = ", ".join(names[id(x)] if isinstance(x, Tensor) else repr(x) for x in node.inputs)
        lines.append(
            f"# afterwards, over all time steps: {names[id(node.outputs[0])]} = {node.primitive.name}({operands})"
        )
    return lines


class _Ready(NamedTuple):
    """What does not change over time, for one set of closed-over arrays."""

    closed: list[Any]
    values: dict[int, Any]  # by the Tensor's id
    arguments: list[Any]  # the kernel's, with the constant ones filled in


class _Layout(NamedTuple):
    """How a number of rows lies in scratch memory."""

    block: int  # time steps
    sizes: np.ndarray  # the integers that the kernel is given
    needs: list[tuple[int, int, Any]]  # for each scratch array its number among the arguments, its size and dtype
    scratch: list[Any]  # sets of scratch arrays that no call uses now


class Kernel:
    """A step graph ready to run: the compiled loop, and where its arguments come from."""

    def __init__(self, graph: StepGraph) -> None:
        self.graph = graph
        self.lowering = lowering = lower(graph)
        self.text = text = kernel_text(lowering, "step_loop")
        self.arrays = list(lowering.arrays.values())
        for dtype in {str(a.dtype) for a in self.arrays if a.dtype.kind == "f"}:
            outline.prepare(dtype, {"pack", *text.used})
        self.function = _compiled(text, graph, _signature(self.arrays))
        self.batch = 1 if lowering.batch is None else lowering.batch
        self.cost = _cost(lowering) * self.batch if _shareable(lowering) else 0.0
        self.help = teamwork.wanted(lowering, self.batch, self.cost > 0)
        self.passed = [size for key, (_, size) in text.sizes.items() if key[0] != "of"]
        self._layouts: dict[int, _Layout] = {}
        self._ready: _Ready | None = None
        self._bound: Callable[..., None] | None = None
        self._place_arguments()
        self.sums = Sums(lowering)

    def _place_arguments(self) -> None:
        """For each role the numbers of its arguments, with what is needed to fill them."""
        graph, lowering = self.graph, self.lowering
        self.drawn = [o for node in lowering.drawn for o in node.outputs]
        sequences = {id(t): k for k, t in enumerate((*graph.xs, *self.drawn))}
        keys = {array: key for key, array in lowering.arrays.items()}
        by_role: dict[str, list[tuple[int, Array]]] = {}
        for number, array in enumerate(self.arrays):
            by_role.setdefault(array.role, []).append((number, array))
        self.carries = [(number, keys[a][1]) for number, a in by_role.get("carry", [])]
        self.finals = [(number, graph.carry_out[keys[a][1]].shape, a.dtype) for number, a in by_role.get("final", [])]
        self.xs = [(number, sequences[id(lowering.sources[a])]) for number, a in by_role.get("x", [])]
        self.outputs = [
            (number, lowering.sources[a].shape, a.dtype, a.rowed, a.role == "y")
            for role in ("y", "stack") for number, a in by_role.get(role, [])
        ]  # fmt: skip
        self.rowed = [(number, a.time) for number, a in enumerate(self.arrays) if a.rowed]
        self.inner = [
            np.empty((1, 1, *t.shape[1:]), t.dtype).strides[2:] if lowering.rows_first(t) else None
            for t in (*graph.xs, *self.drawn)
        ]
        made_ys = dict(self._numbers("y"))
        self.ys = [made_ys.get(id(t), t) for t in graph.ys]
        self.plain = all(isinstance(y, int) for y in self.ys)
        self.made = dict(self._numbers("stack"))

    def _numbers(self, role: str) -> list[tuple[int, int]]:
        """Pairs of a Tensor's id and the number of the argument that gets it."""
        return [(key[1], number) for number, key in enumerate(self.lowering.arrays) if key[0] == role]

    # preparing ---------------------------------------------------------------------------------------
    def _prepare(self, closed: list[Any]) -> _Ready:
        """Compute and pack what is the same at every step."""
        graph, lowering = self.graph, self.lowering
        env = {id(t): a for t, a in zip(graph.closed, closed, strict=True)}
        once = lowering.parts.once
        for node in [*once, *[n for n in graph.nodes if n.primitive.form == "source" and n not in once]]:
            interpret.evaluate(node, env, forward_of)
        panels = {p.array: p for p in lowering.panels}
        arguments: list[Any] = [None] * len(self.arrays)
        for number, array in enumerate(self.arrays):
            if array.role in ("constant", "panels"):
                value = env[id(lowering.sources[array])]
                packed = array.role == "panels"
                arguments[number] = _packed(value, panels[array]) if packed else np.require(value, None, ["C", "A"])
        self._ready = _Ready(closed, env, arguments)
        return self._ready

    def _layout(self, rows: int) -> _Layout:
        if len(self._layouts) > 64:
            self._layouts.clear()
        buffers = self.lowering.buffers
        counts = [int(np.prod([rows if d.key == ROWS_KEY else d.value for d in b.dims])) for b in buffers]
        per_step = sum(n * b.dtype.itemsize for n, b in zip(counts, buffers, strict=True) if b.over_time)
        block = max(1, min(1024, _BLOCK_BYTES // max(per_step, 1)))
        work = [(number, str(a.dtype)) for number, a in enumerate(self.arrays) if a.role == "work"]
        used = dict.fromkeys((dtype for _, dtype in work), 0)
        values: dict[Any, int] = {}
        for count, b in zip(counts, buffers, strict=True):
            values["pace", b.name] = count
            for slot in range(b.slots):
                at = used[str(b.dtype)]
                values[("at", b.name) if b.slots == 1 else ("at", b.name, slot)] = at
                used[str(b.dtype)] = at + -(-count * (block if b.over_time else 1) // 16) * 16
        sizes = np.array([values.get(size.key, size.value) for size in self.passed], np.int64)
        made = _Layout(block, sizes, [(number, used[dtype], dtype) for number, dtype in work], [])
        self._layouts[rows] = made
        return made

    # running -----------------------------------------------------------------------------------------
    def __call__(self, arrays: list[Any], length: int, reverse: bool) -> list[np.ndarray]:
        graph = self.graph
        carries, xs = len(graph.carry_in), len(graph.xs)
        closed = arrays[carries + xs :]
        if length == 0:
            ys = [np.zeros((0, *t.shape), t.dtype) for t in graph.ys]
            return [*arrays[:carries], *ys, *[np.zeros(t.shape, t.dtype) for t in graph.sums]]
        ready = self._ready
        if ready is None or not _same(ready.closed, closed):
            ready = self._prepare(closed)
        values, sequences = ready.values, arrays[carries : carries + xs]
        if self.drawn:
            values = dict(values)
            sequences = [*sequences, *self._draw(values, sequences, length)]
        arguments = ready.arguments.copy()
        for number, k in self.carries:
            a = arrays[k]
            flags = a.flags
            arguments[number] = a if flags.c_contiguous and flags.aligned else np.require(a, None, ["C", "A"])
        time_first = True
        for number, k in self.xs:
            x = sequences[k]
            flags = x.flags
            if not (flags.c_contiguous and flags.aligned):
                x = sequences[k] = _fitting(x, self.inner[k])
                time_first = time_first and not (x.ndim > 1 and x.strides[0] < x.strides[1])
            arguments[number] = x
        final = []
        for number, shape, dtype in self.finals:
            arguments[number] = made = np.empty(shape, dtype)
            final.append(made)
        for number, shape, dtype, rowed, is_y in self.outputs:
            # Outputs take the order of time and batch that the caller's inputs have.
            if time_first or not (rowed and is_y):
                arguments[number] = np.empty((length, *shape), dtype)
            else:
                arguments[number] = np.empty((shape[0], length, *shape[1:]), dtype).swapaxes(0, 1)
        status = np.zeros(2, np.int64) if self.lowering.checked else _NO_STATUS
        begin, direction = (length - 1, -1) if reverse else (0, 1)
        worth = self.cost * length
        if self.help is not None and length >= self.help.steps and teamwork.at_hand():
            teamwork.run(
                lambda team: self._rows(arguments, self.batch, length, begin, direction, status, team), self.help
            )
        elif worth < 2 * _WORTH_A_THREAD or self.batch < 2:
            self._rows(arguments, self.batch, length, begin, direction, status)
        else:
            self._share(arguments, int(worth / _WORTH_A_THREAD), length, begin, direction, status)
        if self.lowering.checked and status[1]:
            _refuse(int(status[0]), int(status[1]) - 1)
        if not graph.sums and self.plain:
            return [*final, *[arguments[number] for number in self.ys]]
        return [*final, *self._other_results(arguments, values, sequences, length)]

    def bind(self, arrays: list[Any], final: list[Any]) -> tuple[Callable[[], None], list[np.ndarray]] | None:
        """A call that runs one step on the given arrays again and again, allocating nothing, and its ys (1, ...).

        It reads carry, xs and closed-over inputs where they stand and writes the carry to `final`, which
        may be where it came from.  None if something besides the kernel has to run.
        """
        graph = self.graph
        if not self.plain or graph.sums or self.drawn or self.lowering.checked or build.JIT_OFF:
            return None
        arguments = self._prepare(arrays[len(graph.carry_in) + len(graph.xs) :]).arguments.copy()
        for number, k in self.carries:
            arguments[number] = arrays[k]
        for (number, _, _), array in zip(self.finals, final, strict=True):
            arguments[number] = array
        for number, k in self.xs:
            arguments[number] = arrays[len(graph.carry_in) + k]
        for number, shape, dtype, _, _ in self.outputs:
            arguments[number] = np.empty((1, *shape), dtype)
        layout = self._layouts.get(self.batch) or self._layout(self.batch)
        for number, size, dtype in layout.needs:
            arguments[number] = aligned_empty(size, dtype)
        text = kernel_text(self.lowering, "bound_step", bound=True)
        if self._bound is None:
            self._bound = _compiled(text, graph, "void(int64[::1], int64[::1])")
        places = {array.name: number for number, array in enumerate(self.arrays)}
        passed = dict(zip([size.key for size in self.passed], layout.sizes, strict=True))
        integers = [self.batch]
        for key in text.sizes:
            array = arguments[places[key[1]]] if key[0] == "of" else None
            integers.append(passed[key] if array is None else array.strides[key[2]] // array.itemsize)
        addresses = np.array([a.__array_interface__["data"][0] for a in arguments], np.int64)
        call = _BoundCall(self._bound, addresses, np.array(integers, np.int64))
        call.arrays = arguments  # which the addresses are of
        return call, [arguments[number] for number in self.ys]

    def _rows(
        self, arguments: list[Any], rows: int, length: int, begin: int, direction: int, status: Any, team: int = 0
    ) -> None:
        """One call of the compiled kernel."""
        layout = self._layouts.get(rows) or self._layout(rows)
        try:
            scratch = layout.scratch.pop()
        except IndexError:
            scratch = [aligned_empty(size, dtype) for _, size, dtype in layout.needs]
        for (number, _, _), array in zip(layout.needs, scratch, strict=True):
            arguments[number] = array
        self.function(length, begin, direction, layout.block, rows, team, layout.sizes, status, *arguments)
        layout.scratch.append(scratch)

    def _share(self, arguments: list[Any], pieces: int, length: int, begin: int, direction: int, status: Any) -> None:
        """The rows shared out to threads."""
        count = max(1, min(config.current_threads(), self.batch, pieces))
        if count == 1:
            self._rows(arguments, self.batch, length, begin, direction, status)
            return
        ends = [self.batch * k // count for k in range(count + 1)]

        def run_part(first: int, last: int) -> None:
            part = arguments.copy()
            for number, over_time in self.rowed:
                part[number] = part[number][:, first:last] if over_time else part[number][first:last]
            self._rows(part, last - first, length, begin, direction, status)

        threads.run(run_part, list(zip(ends, ends[1:], strict=False)))

    # random numbers, ys and sums ---------------------------------------------------------------------
    def _draw(self, values: dict[int, Any], sequences: list[Any], length: int) -> list[Any]:
        """The random numbers of every step."""
        over_time = {id(t): x for t, x in zip(self.graph.xs, sequences, strict=True)}
        for node in self.lowering.drawn:
            (out,) = node.outputs
            if id(out) in values:
                over_time[id(out)] = np.broadcast_to(values[id(out)], (length, *out.shape))
                continue
            made = np.empty((length, *out.shape), out.dtype)
            for t in range(length):
                operands = [over_time[id(x)][t] if id(x) in over_time else values[id(x)] for x in node.inputs]
                made[t] = node.primitive.forward(*operands, **node.params)
            over_time[id(out)] = made
        return [np.ascontiguousarray(over_time[id(t)]) for t in self.drawn]

    def _other_results(self, arguments: list[Any], values: dict[int, Any], sequences: list[Any], length: int) -> Any:
        """The ys, also those that no kernel made, and the sums over time."""
        given = {id(t): x for t, x in zip((*self.graph.xs, *self.drawn), sequences, strict=True)}
        over_time = {**given, **{key: arguments[number] for key, number in self.made.items()}}
        for y in self.ys:
            if isinstance(y, int):
                yield arguments[y]
            else:
                yield over_time[id(y)] if id(y) in over_time else np.broadcast_to(values[id(y)], (length, *y.shape))
        if self.graph.sums:
            yield from self.sums(over_time, values, length, self.batch)


class _BoundCall(functools.partial[None]):
    """A call on fixed addresses, and the arrays that have to live as long."""

    arrays: list[Any]


_NO_STATUS = np.zeros(2, np.int64)


def _same(remembered: list[Any], given: list[Any]) -> bool:
    for a, b in zip(remembered, given, strict=True):
        if a is not b:
            return False
    return True


def _refuse(entry: int, entries: int) -> None:
    """An index outside of its table: said as NumPy's forward says it."""
    expected = f"0 .. {entries - 1}, as the axis has {entries} entries"
    raise ShapeError("take: an index is out of range", got=entry, expected=expected)


def _fitting(x: Any, inner: tuple[int, ...] | None) -> Any:
    """An x that the kernel can read: time and rows in any order, each row contiguous."""
    return x if inner is not None and x.strides[2:] == inner and x.flags.aligned else np.require(x, None, ["C", "A"])


def _packed(value: Any, panels: Panels) -> Any:
    """A constant operand in column panels, one set of them for each entry of its batch axes."""
    batch, summed, columns = panels.counts
    value = value.transpose(panels.axes)
    entries = value.shape[:batch]
    inner = int(np.prod(value.shape[batch : batch + summed]))
    width = int(np.prod(value.shape[batch + summed :]))
    if summed > 1 or columns > 1 or batch > 1 or any(stride < 0 for stride in value.strides):
        value = np.ascontiguousarray(value)
    value = value.reshape((-1, inner, width)) if batch else value.reshape((inner, width))[None]
    size = packed_size(inner, width, value.dtype)
    made = aligned_empty(len(value) * size, value.dtype)
    row, column = (s // value.itemsize for s in value.strides[1:])
    for k, entry in enumerate(value):
        _pack(entry, row, column, inner, width, made, k * size)
    return made.reshape(-1, size)[: len(value)] if entries or batch else made


@library_function
def _pack(source: Any, row: int, column: int, inner: int, width: int, panels: Any, at: int) -> None:
    pack(source, 0, row, column, inner, width, panels, at)


def _compiled(text: Text, graph: StepGraph, signature: str) -> Callable[..., None]:
    """The compiled function of a printed kernel."""
    name = text.lines[0].partition(" ")[2].partition("(")[0]
    module = _imports(text) + "\n\n@kernel\n" + "\n".join(text.lines) + "\n"
    label = f"a step of {len(graph.nodes)} operations"
    return build.compiled(module, name, label=label, signature=signature)


def _imports(text: Text) -> str:
    """The lines that bring in what a printed kernel uses."""
    body = "\n".join(text.lines)
    lanes = [name for name in [*_LANES_MODULE, *_CONVERSIONS] if f"{name}(" in body or name == "LANES"]
    lines = [f"from minirnn.kernels.lanes import {', '.join(lanes)}"]
    contract = sorted(n for n in text.used if not n.endswith(("_f32", "_f64")))
    elementary = sorted(n for n in text.used if n.endswith(("_f32", "_f64")))
    if pointers := [f"{dtype}_at" for dtype in DTYPES if f"{dtype}_at(" in body]:
        lines.append(f"from minirnn.kernels.pointers import {', '.join(pointers)}")
    if contract:
        lines.append(f"from minirnn.kernels.contract import {', '.join(contract)}")
    if elementary:
        lines.append(f"from minirnn.kernels.elementary import {', '.join(elementary)}")
    if "inf" in body or "nan" in body:
        lines.append("from math import inf, nan")
    return "\n".join(lines)


def _signature(arrays: list[Array]) -> str:
    """The types of a kernel's arguments, as Numba writes them."""
    parts = ["int64"] * 6 + ["int64[::1]"] * 2
    for a in arrays:
        dtype = "boolean" if a.dtype == bool else str(a.dtype)
        layout = "A" if a.role in ("x", "y", "stack") else "C"
        rank = a.rank if a.role != "panels" else a.rank
        readonly = "" if a.written else ", True"
        parts.append(f"Array({dtype}, {rank}, '{layout}'{readonly})" if rank else f"Array({dtype}, 0, 'C'{readonly})")
    return f"void({', '.join(parts)})"


def _shareable(lowering: Lowering) -> bool:
    """Whether rows can be shared out: every value follows the rows, and rows stand on no other axis."""
    made = [o for nodes in lowering.in_section.values() for n in nodes for o in n.outputs]
    rows = all(lowering.classes[id(t)] == ROWS for t in [*made, *lowering.graph.carry_in])
    sizes = [lowering.dims.sizes(t) for t in [*made, *lowering.graph.inputs]]
    return rows and lowering.rows_stay and not any(size.key == ROWS_KEY for s in sizes for size in s[1:])


def _cost(lowering: Lowering) -> float:
    """About how many nanoseconds one row of one step takes."""
    cost = 0.0
    for nodes in lowering.in_section.values():
        for node in nodes:
            elements = sum(o.size for o in node.outputs) / max(lowering.batch or 1, 1)
            if node.primitive.form == "contract":
                a, b, out = contraction.parse(node.params["spec"])
                sizes = dict(zip(a + b, node.inputs[0].shape + node.inputs[1].shape, strict=True))
                summed = contraction.summed_letters(node.params["spec"])
                cost += elements * float(np.prod([sizes[c] for c in summed])) / 40
            else:
                cost += elements * 0.1 * (1 if node.primitive.name in MAPS else 5)
    return cost


__all__ = ["Inexpressible", "Kernel", "kernel_of", "run", "source"]
