"""What stands around the compiled loop of a step graph, on every target alike.

A loop program's arguments are given by the caller, are the same at every step and prepared once for each
set of closed-over arrays, or are made anew by each call; its results are among them.  Random numbers are
drawn before it runs.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..autodiff import trees
from ..autodiff.tensor import Node
from ..errors import ShapeError
from ..stepgraph import interpret
from ..stepgraph.graph import StepGraph
from .arrays import forward_of
from .lower import Lowering, Panels
from .program import ROWS_KEY, Array, Buffer


class Ready(NamedTuple):
    """What does not change over time, for one set of closed-over arrays."""

    closed: list[Any]
    values: dict[int, Any]  # by the Tensor's id
    fixed: list[Any]  # the kernel's arguments


class Values(Protocol):
    """Arrays by their Tensors' ids."""

    def __getitem__(self, key: int) -> Any: ...

    def __contains__(self, key: int) -> bool: ...


class LoopProgram(abc.ABC):
    """A lowered step graph, and where the arguments of its kernel come from.

    The places of a call's arrays: what is given (initial carry, xs, random numbers), what is fixed, what is made.
    """

    def __init__(self, graph: StepGraph, lowering: Lowering) -> None:
        self.graph, self.lowering = graph, lowering
        self.ready: Ready | None = None
        self.arrays = list(lowering.arrays.values())
        self.batch = 1 if lowering.batch is None else lowering.batch
        self.drawn = [o for node in lowering.drawn for o in node.outputs]
        sequences = (*graph.xs, *self.drawn)
        carries = len(graph.carry_in)
        self.first_closed = carries + len(graph.xs)
        keys = {array: key for key, array in lowering.arrays.items()}
        by_role: dict[str, list[Array]] = {}
        for array in self.arrays:
            by_role.setdefault(array.role, []).append(array)
        places = {id(t): carries + k for k, t in enumerate(sequences)}
        found = {a: keys[a][1] for a in by_role.get("carry", [])}
        found.update((a, places[id(lowering.sources[a])]) for a in by_role.get("x", []))
        self.read = frozenset(found.values())
        self.fixed = [a for a in self.arrays if a.role in ("constant", "panels")]
        self.made = [a for role in ("final", "y", "stack", "sum") for a in by_role.get(role, [])]
        self.dtypes = [a.dtype for a in self.made]
        given = carries + len(sequences)
        found.update((a, given + k) for k, a in enumerate([*self.fixed, *self.made]))
        # Outputs take the order of time and batch that the caller's inputs have; sums over time want time first.
        self.shown = {id(t) for t in graph.ys[: len(graph.ys) - graph.residuals]}
        self.turned = [
            k for k, a in enumerate(self.made) if a.role == "y" and a.rowed and id(lowering.sources[a]) in self.shown
        ]
        self.in_order = trees.picker([found.get(a, 0) for a in self.arrays])  # scratch memory comes later
        self._shapes_before: tuple[Any, Any] = ((), ())
        self.over_time = {**places, **{id(lowering.sources[a]): found[a] for a in by_role.get("stack", [])}}
        ys = {id(lowering.sources[a]): found[a] for a in by_role.get("y", [])}
        self.ys = [ys.get(id(t), t) for t in graph.ys]
        self.plain = all(isinstance(y, int) for y in self.ys)
        sums = {id(lowering.sources[a]): found[a] for a in by_role.get("sum", [])}
        self.sum_places = [sums.get(id(t)) for t in graph.sums]
        summed = {id(x.left) for x in lowering.time_sums} | {id(x.right) for x in lowering.time_sums}
        self.dense = frozenset(k for a, k in found.items() if a.role == "x" and id(a) in summed)
        finals = [found[a] for a in by_role.get("final", [])]
        self.results_of = trees.picker([*finals, *self.ys] if self.plain else finals)

    def prepare(self, closed: list[Any]) -> Ready:
        """Compute and lay out what is the same at every step, as far as it is not the same as before."""
        graph, lowering = self.graph, self.lowering
        ready = self.ready
        before = {} if ready is None else ready.values
        fixed_before = {} if ready is None else dict(zip(self.fixed, ready.fixed, strict=True))
        env = {id(t): a for t, a in zip(graph.closed, closed, strict=True)}
        once = lowering.parts.once
        for node in [*once, *[n for n in graph.nodes if n.primitive.form == "source" and n not in once]]:
            if before and all(env[id(t)] is before[id(t)] for t in node.tensors):
                env.update((id(o), before[id(o)]) for o in node.outputs)
            else:
                self.evaluate_once(node, env)
        panels = {p.array: p for p in lowering.panels}
        fixed = []
        for array in self.fixed:
            source = id(lowering.sources[array])
            value = env[source]
            is_known = before and value is before[source]
            fixed.append(fixed_before[array] if is_known else self.lay_out(array, value, panels.get(array)))
        self.ready = Ready(closed, env, fixed)
        return self.ready

    def evaluate_once(self, node: Node, env: dict[int, Any]) -> None:
        """Compute a node that is the same at every step."""
        interpret.evaluate(node, env, forward_of)

    @abc.abstractmethod
    def lay_out(self, array: Array, value: Any, panels: Panels | None) -> Any:
        """A value that is the same at every step, as the kernel reads it; in panels if they are given."""

    def shapes(self, length: int, time_first: bool) -> tuple[list[Any], list[Any]]:
        """The shapes and dtypes of the arrays that a call makes."""
        made_for, shapes = self._shapes_before
        if made_for != (length, time_first):
            sources = self.lowering.sources
            shapes = [(length, *sources[a].shape) if a.time else sources[a].shape for a in self.made]
            for k in () if time_first else self.turned:
                steps, rows, *rest = shapes[k]
                shapes[k] = (rows, steps, *rest)
            self._shapes_before = (length, time_first), shapes
        return shapes, self.dtypes

    def without_steps(self, given: list[Any]) -> list[Any]:
        """The results of a call over no time."""
        graph = self.graph
        ys = [np.zeros((0, *t.shape), t.dtype) for t in graph.ys]
        return [*given[: len(graph.carry_in)], *ys, *[np.zeros(t.shape, t.dtype) for t in graph.sums]]

    def draw(self, values: Values, sequences: list[Any], length: int) -> list[Any]:
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

    def other_ys(self, pool: Any, values: Values, length: int) -> Iterator[Any]:
        """The ys, where some of them were made by no kernel."""
        for y in self.ys:
            if isinstance(y, int):
                yield pool[y]
            elif id(y) in self.over_time:
                yield pool[self.over_time[id(y)]]
            else:
                yield np.broadcast_to(values[id(y)], (length, *y.shape))


def address_of(array: Any) -> int:
    """Where the first element of a NumPy array is."""
    found: int = array.__array_interface__["data"][0]
    return found


def places_of_buffers(buffers: Iterable[Buffer], rows: int, block: int) -> tuple[dict[Any, int], dict[str, int]]:
    """Where buffers lie in scratch memory for so many rows and time steps, by the keys of their sizes.

    Also how many elements of each dtype they take.
    """
    used: dict[str, int] = {}
    values: dict[Any, int] = {}
    for b in buffers:
        dtype, count = str(b.dtype), _elements(b, rows)
        values["pace", b.name] = count
        for slot in range(b.slots):
            at = used.get(dtype, 0)
            values[("at", b.name) if b.slots == 1 else ("at", b.name, slot)] = at
            used[dtype] = at + -(-count * (block if b.over_time else 1) // 16) * 16
    return values, used


def block_of_steps(buffers: Iterable[Buffer], rows: int, bytes_at_once: int) -> int:
    """How many steps' buffers fit into that many bytes; at least one."""
    per_step = sum(_elements(b, rows) * b.dtype.itemsize for b in buffers if b.over_time)
    return max(1, bytes_at_once // max(per_step, 1))


def _elements(buffer: Buffer, rows: int) -> int:
    return int(np.prod([rows if d.key == ROWS_KEY else d.value for d in buffer.dims]))


def refuse_index(entry: int, entries: int) -> None:
    """An index outside of its table: said as NumPy's forward says it."""
    expected = f"0 .. {entries - 1}, as the axis has {entries} entries"
    raise ShapeError("take: an index is out of range", got=entry, expected=expected)
