"""Comparing two ways to run the same step: forward, gradients, and gradients of gradients."""

from __future__ import annotations

from typing import Any

import numpy as np

import minirnn as mr
from minirnn import ops
from minirnn.scan import scan

from .random_steps import RandomStep

TOLERANCE = 1e-12


def error(got: Any, wanted: Any) -> float:
    """The largest error divided by max(1, the largest magnitude); infinite for NaN, shapes and dtypes that differ."""
    got, wanted = np.asarray(got), np.asarray(wanted)
    if got.shape != wanted.shape or got.dtype != wanted.dtype or not np.isfinite(got).all():
        return np.inf
    if not got.size:
        return 0.0
    return float(np.max(np.abs(got.astype(float) - wanted)) / max(1.0, np.max(np.abs(wanted))))


def _projection(tensors: list[Any], seed: int) -> Any:
    """A scalar with different weights on all elements, curved so that the second order is not zero."""
    total: Any = 0.0
    for place, t in enumerate(tensors):
        if t is not None and t.dtype.kind == "f":
            a, b = np.random.default_rng([seed, place]).normal(size=(2, *t.shape))
            total = total + (ops.sin(t) * a).sum() + (t * b).sum()
    return total


def results(drawn: RandomStep, order: int = 2, **options: Any) -> dict[str, Any]:
    """Everything a scan of the step gives: outputs, first and (order=2) second derivatives, by a readable name."""
    init, xs, closed = ([mr.Tensor(a) for a in drawn.arrays[group]] for group in ("init", "xs", "closed"))
    labels = [f"init {i}" for i in range(len(init))] + [f"x {i}" for i in range(len(xs))]
    labels += [f"closed {i}" for i in range(len(closed))]
    sources = [*init, *xs, *closed]
    labels = [label for label, t in zip(labels, sources, strict=True) if t.dtype.kind == "f"]
    sources = [t for t in sources if t.dtype.kind == "f"]
    with mr.Tape() as outer:
        outer.watch(sources)
        with mr.Tape() as inner:
            inner.watch(sources)
            carry, ys = scan(drawn.over(closed), init, xs, length=drawn.length, **options)
            loss = _projection([*carry, *ys], seed=1)
        found: dict[str, Any] = {f"carry {i}": t for i, t in enumerate(carry)}
        found |= {f"y {i}": t for i, t in enumerate(ys)}
        if not order or not isinstance(loss, mr.Tensor):
            return found
        first = inner.gradient(loss, sources)
        found |= {f"d {label}": g for label, g in zip(labels, first, strict=True) if g is not None}
        projected = _projection(first, seed=2)
    if order > 1 and isinstance(projected, mr.Tensor):
        second = outer.gradient(projected, sources)
        found |= {f"dd {label}": g for label, g in zip(labels, second, strict=True) if g is not None}
    return found


def disagreement(got: dict[str, Any], wanted: dict[str, Any]) -> dict[str, float]:
    """The errors above the tolerance, by name; a gradient that is missing on one side counts as zeros."""
    errors = {}
    for name in {**got, **wanted}:
        a, b = got.get(name), wanted.get(name)
        a = np.zeros(b.shape, b.dtype) if a is None else a
        b = np.zeros(a.shape, a.dtype) if b is None else b
        if (e := error(a, b)) > TOLERANCE:
            errors[name] = e
    return errors
