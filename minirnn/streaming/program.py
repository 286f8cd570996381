"""The step graph of a stream, ready to run on fixed buffers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ..autodiff import random, trees
from ..autodiff.elsewhere import on_host
from ..autodiff.tensor import Tensor, Variable, unrecorded, wrap
from ..loop import kernels, run_forward
from ..stepgraph.graph import StepGraph, prune
from ..stepgraph.split import split
from ..stepgraph.trace import trace_whole_step

Buffers = list[np.ndarray]
Carries = tuple[Buffers, Buffers]  # a run reads one side and writes the other
Outputs = list[Callable[[], np.ndarray]]  # what makes new arrays of them until the next run


class Program:
    """A traced step on fixed buffers for its inputs and both sides of its carry.

    What reads neither the carry nor the inputs is computed once, and again when a weight has changed.
    """

    def __init__(
        self,
        step: Callable[..., Any],
        carry_form: Any,
        xs: Buffers,
        x_form: Any,
        carries: Carries,
        clock: Buffers,
        engine: str,
    ) -> None:
        leaves = [wrap(array) for array in carries[0]], carry_form
        traced, reachable = trace_whole_step(step, leaves, ([wrap(x[None]) for x in xs], x_form))
        key, time = clock
        self._engine = engine
        self._once, self._graph, self._kept = hoisted(prune(traced.graph))
        if engine == "numpy":  # which for one step gains nothing by running nodes for all steps at once
            self._graph = replace(self._graph, passes=())
        self._sources = traced.closed(reachable, wrap(key))
        self.draws = traced.draws  # random numbers, for which it reads the number of the step
        self._xs = [x[None] for x in (*xs, *([time] if self.draws else ()))]
        self._carries = carries
        self._prepare()

    def _prepare(self) -> None:
        """Read the weights, and compute what depends on nothing else."""
        self._weights = [(source, source.value) for source in self._sources if isinstance(source, Variable)]
        # Engines know closed-over arrays by identity, and the user's own may change.
        arrays = [on_host(source.value) if isinstance(source, Tensor) else np.array(source) for source in self._sources]
        found = run_forward(self._once, arrays, 1, False, self._engine) if self._once.nodes else []
        self._closed = [arrays[i] for i in self._kept] + [np.array(y[0], order="C") for y in found]
        self._bound = [self._bind(side) for side in (0, 1)] if self._engine == "cpu" else [None, None]
        # The user's own arrays may change without notice.
        self._is_current = all(isinstance(source, Tensor) for source in self._sources)

    def _bind(self, side: int) -> tuple[Callable[[], None], Outputs] | None:
        """The compiled step from one side of the carry to the other, which leaves its outputs where they were."""
        arrays = [*self._carries[side], *self._xs, *self._closed]
        bound = kernels().bind(self._graph, arrays, self._carries[1 - side])
        return None if bound is None else (bound[0], [y[0].copy for y in bound[1]])

    def run(self, side: int) -> Outputs:
        """One step from that side of the carry to the other."""
        for weight, value in self._weights:
            if weight.value is not value:
                self._is_current = False
                break
        if not self._is_current:
            self._prepare()
        bound = self._bound[side]
        if bound is not None:
            step, outputs = bound
            step()
            return outputs
        after = self._carries[1 - side]
        arrays = [*self._carries[side], *self._xs, *self._closed]
        results = run_forward(self._graph, arrays, 1, False, self._engine)
        for buffer, value in zip(after, results):
            buffer[...] = value
        return [y[0].copy for y in results[len(after) :]]


class Reference:
    """The step as plain Python on Tensors: what a Program is under the engine "reference"."""

    draws = True  # for all that is known

    def __init__(
        self, step: Callable[..., Any], carry_form: Any, xs: Buffers, x_form: Any, carries: Carries, clock: Buffers
    ) -> None:
        self._step, self._xs, self._x_form, self._clock = step, xs, x_form, clock
        self._carries, self._carry_form = carries, carry_form

    def run(self, side: int) -> Outputs:
        """See Program."""
        carry = trees.unflatten(self._carry_form, [wrap(array) for array in self._carries[side]])
        x = trees.unflatten(self._x_form, [wrap(array) for array in self._xs])
        key, time = self._clock
        with unrecorded(), random.drawing_from(random.Source(wrap(key), wrap(time))):
            new, outputs = self._step(carry, x)
        for buffer, value in zip(self._carries[1 - side], trees.flatten(new)[0], strict=True):
            buffer[...] = value.value
        return [y.value.copy for y in outputs]


def hoisted(graph: StepGraph) -> tuple[StepGraph, StepGraph, list[int]]:
    """A graph in two: what reads neither carry nor x, and the rest, which closes over the former's ys.

    Also the numbers of the closed-over inputs that the rest reads itself; they come first.
    """
    parts = split(graph)
    first = {id(node) for node in parts.once}
    rest = tuple(node for node in graph.nodes if id(node) not in first)
    wanted = {id(t): t for t in [*(t for node in rest for t in node.tensors), *graph.outputs]}
    made = {id(output) for node in parts.once for output in node.outputs}
    handed = tuple(t for key, t in wanted.items() if key in made)
    kept = [i for i, t in enumerate(graph.closed) if id(t) in wanted]
    once = prune(StepGraph((), (), graph.closed, tuple(parts.once), (), handed, passes=graph.passes))
    closed = (*(graph.closed[i] for i in kept), *handed)
    return once, replace(graph, closed=closed, nodes=rest, cache={}), kept
