"""Outputs of masked time steps on the device: autodiff/holding.py's two operations as loops over time of their own."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from ... import config
from ...autodiff import ops, structure, trees
from ...autodiff.elsewhere import on_host
from ...autodiff.tensor import abstract, wrap
from ...stepgraph.graph import StepGraph
from ...stepgraph.trace import trace_step
from .. import held
from .run import run, to_share

Step = Callable[[Any, Any], tuple[Any, Any]]


def hold(ys: Any, valid: Any, begins: Any = None, *, reverse: bool) -> Any:
    """As holding.hold, on an array of the device (T, B, ...)."""
    return _run(_hold_step, held.hold, ys, valid, begins, reverse, reverse)


def unhold(cts: Any, valid: Any, begins: Any = None, *, reverse: bool) -> Any:
    """As holding.unhold, on an array of the device (T, B, ...)."""
    return _run(_unhold_step, held.unhold, cts, valid, begins, reverse, not reverse)


def _hold_step(last: Any, given: Any) -> tuple[Any, Any]:
    """A step shows what is valid, or the last that was."""
    y, valid, begins = given
    y = ops.where(_along(valid, y), y, ops.where(_along(begins, y), 0.0, last))
    return y, y


def _unhold_step(total: Any, given: Any) -> tuple[Any, Any]:
    """A valid step gets the sum of its own cotangent and of those at the steps that repeat it."""
    ct, valid, begins = given
    total, here = ct + total, _along(valid, ct)
    kept = ops.where(ops.logical_or(here, _along(begins, ct)), 0.0, total)
    return kept, ops.where(here, total, 0.0)


def _along(flags: Any, y: Any) -> Any:
    return structure.reshape(flags, flags.shape + (1,) * (y.ndim - 1))


def _run(step: Step, on_cpu: Any, ys: Any, valid: Any, begins: Any, held_reverse: bool, reverse: bool) -> Any:
    flags = on_host(valid)
    if ys.dtype.kind != "f" or ys.size == 0 or flags.all():
        others = [] if begins is None else [on_host(begins)]
        return ys if flags.all() else on_cpu(on_host(ys), flags, *others, reverse=held_reverse)
    none = _zeros(flags.shape, np.dtype(bool)) if begins is None else begins
    graph = _graph(step, ys.shape[1:], ys.dtype)
    first = _zeros(ys.shape[1:], ys.dtype)
    with config.schedule_here("auto"):  # what is forced is forced for the user's loops
        _, found = run(graph, [*map(to_share, (first, ys, valid, none))], ys.shape[0], reverse)
    return found


@functools.lru_cache(maxsize=64)
def _graph(step: Step, shape: tuple[int, ...], dtype: Any) -> StepGraph:
    """The step's graph for rows of a shape."""
    zeros = wrap(_zeros(shape, dtype))
    flags = [abstract((1, shape[0]), np.dtype(bool)) for _ in range(2)]
    return trace_step(step, ([zeros], trees.LEAF), trees.flatten((abstract((1, *shape), dtype), *flags)))[0].graph


@functools.lru_cache(maxsize=64)
def _zeros(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    return np.zeros(shape, dtype)
