"""The numpy engine: runs a split step graph with NumPy, every node a function call.

Before and after run once on T x B rows.  The loop runs a list of calls on numbered places; what
leaves a step goes into buffers over time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ..autodiff.primitive import ROWS, SUMMED, Primitive
from ..autodiff.tensor import Node, Tensor
from .graph import StepGraph
from .rows import batch_size, operand_classes
from .split import CONSTANT, Split, split

Forward = Callable[..., Any]


def own_forward(primitive: Primitive) -> Forward:
    """A primitive's NumPy forward."""
    return primitive.forward


def run(
    graph: StepGraph,
    arrays: list[Any],
    length: int,
    reverse: bool,
    forward_of: Callable[[Primitive], Forward] = own_forward,
) -> list[np.ndarray]:
    """Run `length` time steps of the graph.

    arrays: the initial carry, the xs (time first) and the closed-over inputs; returns the final
    carry, the stacked ys and the sums.  forward_of: what computes a primitive.
    """
    key = ("program", forward_of)
    program = graph.cache.get(key)
    if program is None:
        program = graph.cache[key] = Program(graph, forward_of)
    # Masked rows and branches that a `where` did not take may overflow; what they give is not used.
    with np.errstate(all="ignore"):
        return program(arrays, length, reverse)


class Program:
    """A step graph prepared for running: the split, and the loop as calls on numbered places."""

    def __init__(self, graph: StepGraph, forward_of: Callable[[Primitive], Forward]) -> None:
        self.graph, self.forward_of = graph, forward_of
        self.split: Split = split(graph)
        size = batch_size(graph)
        self.batch = 1 if size is None else size
        self.levels, self.classes = self.split.levels, self.split.classes
        # Values that exist for all time steps at once, before or after the loop.
        self.whole = {id(t) for t in graph.xs} | _outputs(self.split.before) | _outputs(self.split.after)
        # A place for each value that the loop touches; `read` come anew at each step, `fixed` once.
        self.places: dict[int, int] = {}
        self.read: list[Tensor] = []
        self.fixed: list[Tensor] = []
        self.carry_places = [self._place(t) for t in graph.carry_in]
        self.calls = [self._call(node) for node in self.split.loop]
        self.next_places = [self._place_of(t) for t in graph.carry_out]
        wanted = [t for node in self.split.before + self.split.after for t in node.tensors]
        self.written = self._from_loop([*wanted, *graph.ys])
        self.added = self._from_loop(graph.sums)

    def _from_loop(self, tensors: Iterable[Tensor]) -> list[Tensor]:
        """Those that differ from step to step and exist one step at a time."""
        found = {id(t): t for t in tensors if self.levels[id(t)] != CONSTANT and id(t) not in self.whole}
        return list(found.values())

    def _place(self, t: Tensor) -> int:
        return self.places.setdefault(id(t), len(self.places))

    def _place_of(self, t: Tensor) -> int:
        """The place of an operand; what no node of the loop made is read from outside."""
        if id(t) not in self.places:
            (self.fixed if self.levels[id(t)] == CONSTANT else self.read).append(t)
        return self._place(t)

    def _call(self, node: Node) -> tuple[Callable[..., Any], tuple[int, ...], Any]:
        numbers = {i: x for i, x in enumerate(node.inputs) if not isinstance(x, Tensor)}
        operands = tuple(self._place_of(x) for x in node.inputs if isinstance(x, Tensor))
        outputs = [self._place(o) for o in node.outputs]
        return bind(node, numbers, self.forward_of), operands, outputs if node.primitive.multiple else outputs[0]

    def __call__(self, arrays: list[Any], length: int, reverse: bool) -> list[np.ndarray]:
        graph = self.graph
        env = {id(t): a for t, a in zip(graph.inputs, arrays, strict=True)}
        initial = [env[id(t)] for t in graph.carry_in]
        if length == 0:
            return self._nothing(initial)
        for node in self.split.once:
            evaluate(node, env, self.forward_of)
        rows = length * self.batch
        merged = {id(t): env[id(t)].reshape(rows, *t.shape[1:]) for t in graph.xs if self.classes[id(t)] == ROWS}
        run_merged(self.split.before, self.split, env, merged, rows, self.forward_of)
        over_time = {id(t): env[id(t)] for t in graph.xs}
        for node in self.split.before:
            for o in node.outputs:
                over_time[id(o)] = merged[id(o)].reshape(length, *o.shape)
        final, buffers, totals = self._loop(initial, env, over_time, length, reverse)
        over_time.update(buffers)
        for key, buffer in buffers.items():
            if self.classes[key] == ROWS:
                merged[key] = buffer.reshape(rows, *buffer.shape[2:])
        run_merged(self.split.after, self.split, env, merged, rows, self.forward_of)
        stacked = [self._over_time(t, env, over_time, merged, length) for t in graph.ys]
        sums = [self._sum(t, env, over_time, merged, totals, length) for t in graph.sums]
        return [*final, *stacked, *sums]

    def _nothing(self, initial: list[Any]) -> list[np.ndarray]:
        ys = [np.zeros((0, *t.shape), t.dtype) for t in self.graph.ys]
        return [*initial, *ys, *[np.zeros(t.shape, t.dtype) for t in self.graph.sums]]

    def _loop(
        self, initial: list[Any], env: dict[int, Any], over_time: dict[int, Any], length: int, reverse: bool
    ) -> tuple[list[Any], dict[int, np.ndarray], dict[int, Any]]:
        values: list[Any] = [None] * len(self.places)
        for t in self.fixed:
            values[self.places[id(t)]] = env[id(t)]
        for place, value in zip(self.carry_places, initial, strict=True):
            values[place] = value
        reads = [(self.places[id(t)], over_time[id(t)]) for t in self.read]
        writes = [self.places[id(t)] for t in self.written]
        adds = [self.places[id(t)] for t in self.added]
        buffers: list[Any] = []
        totals: list[Any] = []
        if not (self.calls or writes or adds or self.next_places != self.carry_places):
            return initial, {}, {}
        for step in reversed(range(length)) if reverse else range(length):
            for place, sequence in reads:
                values[place] = sequence[step]
            for function, operands, out in self.calls:
                made = function(*[values[i] for i in operands])
                if type(out) is int:
                    values[out] = made
                else:
                    for place, value in zip(out, made, strict=True):
                        values[place] = value
            if not buffers and writes:
                buffers = [_buffer(values[place], length) for place in writes]
            for buffer, place in zip(buffers, writes, strict=True):
                buffer[step] = values[place]
            if adds:
                totals = [values[p] + totals[i] if totals else values[p] for i, p in enumerate(adds)]
            for place, value in zip(self.carry_places, [values[i] for i in self.next_places], strict=True):
                values[place] = value
        final = [values[place] for place in self.carry_places]
        written = {id(t): buffer for t, buffer in zip(self.written, buffers, strict=True)}
        return final, written, {id(t): total for t, total in zip(self.added, totals, strict=True)}

    def _over_time(self, t: Tensor, env: Any, over_time: Any, merged: Any, length: int) -> np.ndarray:
        if self.levels[id(t)] == CONSTANT:
            return np.broadcast_to(env[id(t)], (length, *t.shape))
        if id(t) in over_time:
            return over_time[id(t)]
        return merged[id(t)].reshape(length, *t.shape)

    def _sum(self, t: Tensor, env: Any, over_time: Any, merged: Any, totals: Any, length: int) -> Any:
        if self.levels[id(t)] == CONSTANT:
            return env[id(t)] * length
        if id(t) in totals:
            return totals[id(t)]
        if self.classes[id(t)] == SUMMED and id(t) in merged:
            return merged[id(t)]
        return np.sum(self._over_time(t, env, over_time, merged, length), axis=0)


def run_merged(
    nodes: list[Node],
    parts: Split,
    env: dict[int, Any],
    merged: dict[int, Any],
    rows: int,
    forward_of: Callable[[Primitive], Forward],
) -> None:
    """Run nodes on T x B rows at once: `env` has what does not change, `merged` the rest, row by row."""
    for node in nodes:
        per_row = node.primitive.per_row(node, operand_classes(node, parts.classes))
        operands = []
        for x, tile in zip(node.inputs, per_row, strict=True):
            if not isinstance(x, Tensor):
                operands.append(x)
            elif parts.levels[id(x)] != CONSTANT:
                operands.append(merged[id(x)])
            elif tile or parts.classes[id(x)] == ROWS:
                operands.append(tiled(env[id(x)], rows))
            else:
                operands.append(env[id(x)])
        params = node.params
        if parts.classes[id(node.outputs[0])] == ROWS and node.primitive.resize is not None:
            params = node.primitive.resize(params, rows)
        made = forward_of(node.primitive)(*operands, **params)
        for o, value in zip(node.outputs, made if node.primitive.multiple else (made,), strict=True):
            merged[id(o)] = value


def bind(node: Node, numbers: dict[int, Any], forward_of: Callable[[Primitive], Forward]) -> Callable[..., Any]:
    """The forward of a node with its params and number operands filled in."""
    function = forward_of(node.primitive)
    if node.params:
        function = functools.partial(function, **node.params)
    if not numbers:
        return function
    count = len(node.inputs)
    if count == 2:
        (position, number), *rest = numbers.items()
        if not rest:
            return (lambda y: function(number, y)) if position == 0 else (lambda x: function(x, number))

    def call(*operands: Any) -> Any:
        remaining = iter(operands)
        return function(*[numbers[i] if i in numbers else next(remaining) for i in range(count)])

    return call


def evaluate(node: Node, env: dict[int, Any], forward_of: Callable[[Primitive], Forward]) -> None:
    """Compute a node from values by the Tensor's id, and add its outputs to them."""
    operands = [env[id(x)] if isinstance(x, Tensor) else x for x in node.inputs]
    made = forward_of(node.primitive)(*operands, **node.params)
    for o, value in zip(node.outputs, made if node.primitive.multiple else (made,), strict=True):
        env[id(o)] = value


def tiled(array: Any, rows: int) -> Any:
    """One entry a row, repeated for each time step."""
    times = rows // array.shape[0] if array.shape[0] else 0
    return np.broadcast_to(array, (times, *array.shape)).reshape(rows, *array.shape[1:])


def _buffer(value: Any, length: int) -> np.ndarray:
    return np.empty((length, *np.shape(value)), np.asarray(value).dtype)


def _outputs(nodes: list[Node]) -> set[int]:
    return {id(o) for node in nodes for o in node.outputs}
