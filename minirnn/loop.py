"""The loop over time as one operation: a step graph run by an engine, and its backward, which is another one."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from itertools import repeat
from operator import is_not
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

from . import config
from .autodiff import ops, structure, trees
from .autodiff.elsewhere import on_host
from .autodiff.primitive import MIXED, SHARED, Primitive
from .autodiff.tensor import (
    Node,
    Tensor,
    active_recorders,
    apply,
    current_trace,
    is_recording,
    resolve,
    wrap,
)
from .stepgraph import interpret
from .stepgraph.adjoint import adjoint, is_float, linearize
from .stepgraph.graph import StepGraph


def run_forward(graph: StepGraph, arrays: list[Any], length: int, reverse: bool, engine: str) -> list[np.ndarray]:
    """Run a step graph on arrays: initial carry, xs and closed-over inputs to final carry, ys and sums.

    The one place where the engine is picked.
    """
    if engine == "cpu":
        results: list[np.ndarray] = kernels().run(graph, arrays, length, reverse)
        return results
    if engine == "cuda":
        return [*map(on_host, device_kernels().run(graph, arrays, length, reverse))]
    return interpret.run(graph, arrays, length, reverse)


COMPILED = ("cpu", "cuda")  # engines that have a printed loop
for _name in COMPILED:  # what runs outside of a loop gives the same bits on both
    config.register_array_functions(_name, lambda: importlib.import_module(".kernels.arrays", __package__).FUNCTIONS)
config.register_device("cuda", lambda: importlib.import_module(".kernels.cuda.device", __package__))


@functools.cache
def kernels() -> Any:
    """The compiled engine, which is imported when it is first needed."""
    return importlib.import_module(".kernels.run", __package__)


@functools.cache
def device_kernels() -> Any:
    """The engine on a device, which is imported when it is first needed."""
    return importlib.import_module(".kernels.cuda.run", __package__)


def printed_loop(graph: StepGraph, engine: str) -> str:
    """What a compiled engine, one of COMPILED, runs for a graph, as text for people."""
    if engine == "cpu":
        text: str = kernels().printed.source(graph)
        return text
    schedule = config.current_schedule()
    printed = importlib.import_module(".kernels.cuda.printed", __package__)
    text = printed.source(graph, None if schedule == "auto" else schedule)
    return text


def run_graph(
    graph: StepGraph, operands: list[Any], length: int, reverse: bool, engine: str, batch_first: bool = False
) -> tuple[Tensor, ...]:
    """Apply a step graph over time as one node; while something records, also stack its residuals.

    operands: initial carry, xs and closed-over inputs.  Arrays among them are not copied unless something
    records them or a result looks at one.  `batch_first` ys are (B, T, ...).
    """
    recorders, trace = active_recorders()
    keepers = [recorder for recorder in recorders if recorder.wants(operands)] if recorders else recorders
    chosen = linearize(graph) if keepers else graph
    if keepers and trace is None:
        operands = [x if type(x) is Tensor else resolve(x) for x in operands]
    outputs = None if trace is not None else _run(chosen, operands, length, reverse, engine, batch_first)
    if outputs is None or keepers:
        params = {"graph": chosen, "length": length, "reverse": reverse, "engine": engine, "batch_first": batch_first}
        if outputs is None:
            outputs = apply(_scan, *operands, **params)
        else:
            node = Node(_scan, tuple(operands), params, outputs)
            for recorder in keepers:
                recorder.keep(node)
    if not chosen.residuals:
        return outputs
    first_sum = len(graph.carry_out) + len(graph.ys)
    return outputs[:first_sum] + outputs[len(outputs) - len(graph.sums) :]


def _run(
    graph: StepGraph, operands: list[Any], length: int, reverse: bool, engine: str, batch_first: bool
) -> tuple[Tensor, ...] | None:
    """The outputs, without a node; None for a Tensor of a step that is over, of which `apply` says so."""
    if engine == "cuda":
        return _run_on_device(graph, operands, length, reverse, batch_first)
    arrays = [x if type(x) is ndarray else x.value for x in operands]
    if not _ON_HOST.issuperset(map(type, arrays)):
        if not all(x is not None for x in arrays):
            return None
        arrays = [*map(on_host, arrays)]
    first_closed = len(graph.carry_in) + len(graph.xs)
    borrowed = [x for x in operands[:first_closed] if type(x) is ndarray]
    for place in range(first_closed, len(operands)):
        if arrays[place] is operands[place]:  # engines know closed-over arrays by identity, and this one may change
            arrays[place] = np.array(arrays[place])
    results = run_forward(graph, arrays, length, reverse, engine)
    if borrowed:
        results = [np.array(r) if _looks_at(r, borrowed) else r for r in results]
    if batch_first:
        _turn(graph, results)
    return (*map(wrap, results),)


_ON_HOST = frozenset({ndarray})


def _run_on_device(
    graph: StepGraph, operands: list[Any], length: int, reverse: bool, batch_first: bool
) -> tuple[Tensor, ...] | None:
    """The same with Tensors that stay on the device; those of NumPy's arrays are sent there once."""
    engine, arrays = device_kernels(), []
    first_closed = len(graph.carry_in) + len(graph.xs)
    for place, x in enumerate(operands):
        if type(x) is np.ndarray:
            x = engine.to_send(x) if place < first_closed else np.array(x)
        else:
            x = x.value
            if x is None:
                return None
            if place < first_closed:
                x = engine.to_share(x)
        arrays.append(x)
    results = engine.run(graph, arrays, length, reverse)
    if batch_first:
        _turn(graph, results)
    return (*map(wrap, results),)


def _ys_of(graph: StepGraph) -> range:
    """The places of the ys among the outputs, but for the residuals."""
    carries = len(graph.carry_out)
    return range(carries, carries + len(graph.ys) - graph.residuals)


def _turn(graph: StepGraph, results: list[Any]) -> None:
    """Exchange time and batch of the ys."""
    for place in _ys_of(graph):
        results[place] = results[place].swapaxes(0, 1)


def swap_time(x: Any) -> Any:
    """(B, T, ...) as (T, B, ...), and back."""
    axes = (1, 0, *range(2, len(x.shape)))
    is_plain = type(x) is Tensor and not is_recording()
    return wrap(x.value.transpose(axes)) if is_plain else structure.transpose(x, axes)


def _looks_at(result: Any, arrays: list[np.ndarray]) -> bool:
    for x in arrays:
        if result is x or (result.base is not None and np.may_share_memory(result, x)):
            return True
    return False


# the primitive -----------------------------------------------------------------------------------
# Operands: initial carry, xs, closed-over inputs.  Outputs: final carry, ys, sums over time.
def _forward(
    *arrays: Any, graph: StepGraph, length: int, reverse: bool, engine: str, batch_first: bool
) -> list[Any]:  # fmt: skip
    results = run_forward(graph, [*map(on_host, arrays)], length, reverse, engine)
    if batch_first:
        _turn(graph, results)
    return results


def _shape(primitive: Primitive, operands: Any, params: Any) -> Any:
    graph, length = params["graph"], params["length"]
    carry = [(t.shape, t.dtype) for t in graph.carry_out]
    ys: list[Any] = [((length, *t.shape), t.dtype) for t in graph.ys]
    for place in _ys_of(graph) if params["batch_first"] else ():
        (steps, rows, *rest), dtype = ys[place - len(carry)]
        ys[place - len(carry)] = (rows, steps, *rest), dtype
    return [*carry, *ys, *[(t.shape, t.dtype) for t in graph.sums]]


class _Backward(NamedTuple):
    """The backward of a step graph for certain cotangents.

    `carry` are the outputs whose cotangents it begins with; `reads` picks its other operands,
    and `gives` says which of its results is the cotangent of each input.
    """

    graph: StepGraph
    carry: list[int]
    reads: Callable[[Any], tuple[Any, ...]]  # among the inputs, outputs and cotangents together
    gives: list[int | None]


def _backward(graph: StepGraph, has_ct: tuple[bool, ...], needed: tuple[bool, ...]) -> _Backward:
    key = ("backward", has_ct, needed)
    if key not in graph.cache:
        carries, first_closed, inputs = len(graph.carry_in), len(graph.carry_in) + len(graph.xs), len(graph.inputs)
        first_sum, outputs = carries + len(graph.ys), len(graph.outputs)
        carry = [i for i, t in enumerate(graph.carry_out) if is_float(t)]
        # The cotangents of the carry go on to the step before, whether anybody wants them or not.
        flows = tuple(is_float(t) and (i < carries or needed[i]) for i, t in enumerate(graph.inputs))
        seeded = tuple(i in carry or has for i, has in enumerate(has_ct))
        results = iter(range(inputs))
        graph.cache[key] = _Backward(
            adjoint(graph, seeded, flows),
            carry,
            trees.picker(
                [
                    *range(carries, first_closed),
                    *range(inputs + first_sum - graph.residuals, inputs + first_sum),
                    *[inputs + outputs + i for i in range(carries, first_sum) if has_ct[i]],
                    *range(first_closed, inputs),
                    *[inputs + outputs + i for i in range(first_sum, outputs) if has_ct[i]],
                ]
            ),
            [next(results) if flow else None for flow in flows],
        )
    made: _Backward = graph.cache[key]
    return made


def _vjp(
    cts: Any, outs: Any, *inputs: Any, graph: StepGraph, length: int, reverse: bool, engine: str, batch_first: bool,
    needed: Any,
) -> Any:  # fmt: skip
    """Another scan: the adjoint step over the residuals, in the other direction of time."""
    if batch_first:
        cts = [*cts]
        for place in _ys_of(graph):
            cts[place] = None if cts[place] is None else swap_time(cts[place])
    plan = _backward(graph, tuple(map(is_not, cts, repeat(None))), needed)
    operands = [_zeros(outs[place]) if cts[place] is None else cts[place] for place in plan.carry]
    operands += plan.reads((*inputs, *outs, *cts))
    results = run_graph(plan.graph, operands, length, not reverse, engine)
    return [None if place is None else results[place] for place in plan.gives]


_SMALL = 2**16


def _zeros(x: Tensor) -> Tensor:
    if current_trace() is not None:
        zeros: Tensor = ops.zeros_like(x)
        return zeros
    shape, dtype = x.shape, x.dtype
    return _small_zeros(shape, dtype) if x.value.nbytes <= _SMALL else wrap(np.zeros(shape, dtype))


@functools.lru_cache(maxsize=64)
def _small_zeros(shape: tuple[int, ...], dtype: Any) -> Tensor:
    """What any number of operations may read at once; larger ones are not worth the memory."""
    return wrap(np.zeros(shape, dtype))


def _rows(classes: list[str], operands: Any, node: Any) -> str:
    return SHARED if all(c == SHARED for c in classes) else MIXED


_scan = Primitive(
    "scan", _forward, _vjp, shape=_shape, form="scan", rows=_rows, unified=None, multiple=True, selective=True
)
