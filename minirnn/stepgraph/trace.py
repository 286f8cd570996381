"""From a Python step to its step graph, and the memory of steps that were traced before.

A step is known by what it can reach (reach.py) and by the shapes of its inputs.  The Tensors and
arrays that it can reach are inputs: another one of the same shape in the same place needs no new
trace.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import config
from ..autodiff import random, trees
from ..autodiff.tensor import Number, Tensor
from ..autodiff.trace import Trace
from ..errors import DtypeError, ShapeError, TraceError
from .graph import StepGraph, prune
from .passes import active_passes
from .provenance import argument_names, name_outputs
from .reach import Reach

_CACHE_SIZE = 256
_cache: OrderedDict[Any, Traced] = OrderedDict()
_lock = threading.Lock()

# What else decides a trace.  Rooms above add what their layers read while they are called.
SETTINGS: list[Callable[[], Any]] = [config.current_dtype, config.current_engine, active_passes]


@dataclass(eq=False)
class Traced:
    """A traced step: its graph, the form of its y, and where its closed-over values come from.

    `sources` has for each of graph.closed the place among the step's reachable arrays, or the value
    itself if the step made it; "key" stands for the random numbers' key.
    """

    graph: StepGraph
    y_form: Any
    sources: list[Any]
    draws: bool

    def closed(self, reachable: list[Any], key: Any) -> list[Any]:
        """The closed-over values of a run: `key` is the random numbers' key if the step draws any."""
        return [reachable[s] if isinstance(s, int) else key if isinstance(s, str) else s for s in self.sources]


class _StepSource(random.Source):
    """Random draws inside a traced step: key and step index are inputs that exist once needed."""

    def __init__(self, trace: Trace) -> None:
        super().__init__(None, None)
        self.trace = trace

    def next_draw(self) -> int:
        if self.key is None:
            self.key = self.trace.input((2,), "int64", "random_key")
            self.step = self.trace.input((), "int64", "t")
        return super().next_draw()


def trace_step(
    step: Callable[..., Any],
    carry: tuple[list[Tensor], Any],
    xs: tuple[list[Tensor], Any],
    masked: bool = False,
) -> tuple[Traced, list[Any]]:
    """The traced step for a carry and one step's x (leaves, form), and what `Traced.closed` needs for this run."""
    reach = Reach(step)
    key: Any = None
    if reach.words is not None:
        described = tuple((t.shape, t.dtype.str) for t in carry[0] + xs[0])
        key = (reach.words, described, repr(carry[1]), repr(xs[1]), masked, *[setting() for setting in SETTINGS])
        with _lock:
            traced = _cache.get(key)
            if traced is not None:
                _cache.move_to_end(key)
                return traced, reach.arrays
    traced, is_reusable = _trace(step, carry, xs, masked, reach)
    traced.graph = prune(traced.graph)
    if key is not None and is_reusable:
        with _lock:
            _cache[key] = traced
            if len(_cache) > _CACHE_SIZE:
                _cache.popitem(last=False)
    return traced, reach.arrays


def trace_whole_step(
    step: Callable[..., Any], carry: tuple[list[Tensor], Any], xs: tuple[list[Tensor], Any]
) -> tuple[Traced, list[Any]]:
    """As `trace_step`, always anew and with the nodes that no output needs."""
    reach = Reach(step)
    return _trace(step, carry, xs, False, reach)[0], reach.arrays


def _trace(step: Any, carry: Any, xs: Any, masked: bool, reach: Reach) -> tuple[Traced, bool]:
    (carry_leaves, carry_form), (x_leaves, x_form) = carry, xs
    user_step = step.step if masked else step
    carry_names = argument_names(user_step, 0, carry_form)
    x_names = argument_names(user_step, 1, x_form[-1][1] if masked else x_form)
    x_names = ["mask", *x_names] if masked else x_names
    with Trace() as trace, random.drawing_from(_StepSource(trace)) as source:
        carry_in = [trace.input(t.shape, t.dtype, n) for t, n in zip(carry_leaves, carry_names, strict=True)]
        x_in = [trace.input(t.shape, t.dtype, n) for t, n in zip(x_leaves, x_names, strict=True)]
        result = step(trees.unflatten(carry_form, carry_in), trees.unflatten(x_form, x_in))
        new_carry, y = check_result(result, carry_form, carry_leaves)
        carry_out = [trace.operand(t) for t in new_carry]
        y_leaves, y_form = trees.flatten(y)
        y_out = [trace.operand(t) for t in y_leaves]
    name_outputs(trace.nodes)
    places = {id(a): i for i, a in enumerate(reach.arrays)}
    literals = {id(t) for t in trace.literals}
    sources: list[Any] = []
    for outer, inner in trace.closed:
        place = places.get(id(outer))
        sources.append(outer if place is None else place)
        inner.name = inner.name or (None if place is None else reach.labels[place])
        inner.variable = None  # which this run has closed over; another may bring another one
    is_reusable = all(id(outer) in places or id(outer) in literals for outer, _ in trace.closed)
    closed = [inner for _, inner in trace.closed]
    draws = source.key is not None
    if draws:
        closed.append(source.key)
        sources.append("key")
        x_in.append(source.step)
    graph = StepGraph(
        tuple(carry_in),
        tuple(x_in),
        tuple(closed),
        tuple(trace.nodes),
        tuple(carry_out),
        tuple(y_out),
        guard=x_in[0] if masked else None,
        passes=active_passes(),
    )
    return Traced(graph, y_form, sources, draws), is_reusable


def check_result(result: Any, carry_form: Any, carry: list[Tensor]) -> tuple[list[Tensor], Any]:
    """The leaves of the new carry and the y that a step returned; errors in the step's terms."""
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        raise TraceError("scan: the step must return (carry, y)", got=type(result).__name__, expected="a pair")
    new_carry, y = result
    leaves, form = trees.flatten(new_carry)
    if not trees.same_form(form, carry_form):
        raise ShapeError(
            "scan: the step returned a carry of another structure",
            got=trees.describe(form),
            expected=f"{trees.describe(carry_form)}, as init",
        )
    checked = []
    for place, (new, old) in enumerate(zip(leaves, carry, strict=True)):
        if not isinstance(new, Tensor):
            new = Tensor(np.asarray(new, old.dtype if isinstance(new, Number) else None))
        where = f"leaf {place} of the carry" if len(carry) > 1 else "the carry"
        if new.shape != old.shape:
            raise ShapeError(
                f"scan: {where} changes its shape from step to step",
                got=f"{new.shape} from the step",
                expected=f"{old.shape}, as in init",
                fix="give init the shape that the step returns",
            )
        if new.dtype != old.dtype:
            raise DtypeError(
                f"scan: {where} changes its dtype from step to step",
                got=f"{new.dtype} from the step",
                expected=f"{old.dtype}, as in init",
                fix=f'cast init, or the new carry with mr.ops.cast(..., "{old.dtype}")',
            )
        checked.append(new)
    return checked, y
