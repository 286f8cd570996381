"""Which cotangents masked rows have: in steps that mix rows they may not be taken for zero."""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn import ops
from minirnn.autodiff import trees
from minirnn.autodiff.primitive import MIXED, ROWS, SHARED
from minirnn.scan import _Masked
from minirnn.stepgraph import adjoint as adjoint_module
from minirnn.stepgraph import trace as trace_module
from minirnn.stepgraph.adjoint import gradient_graph
from minirnn.stepgraph.rows import classify, cotangent_classes
from minirnn.stepgraph.trace import trace_step

from .agreement import TOLERANCE, error
from .steps import example, numbers

B = T = 3  # as many rows as features, so that a sum over the rows can be a y
VALID = np.array([[1, 1, 0], [1, 0, 1], [1, 0, 0]], bool)


def centred(a: Any) -> Any:
    return a - ops.mean(a, axis=0)


# In a masked row h and x are zeros, but h + b is not, and the other rows see it.
STEPS: dict[str, Callable[[Any], Any]] = {
    "a sum over mixed rows": lambda b: lambda h, x: (h, centred(h + b)),
    "a sum over rows that are all alike": lambda b: lambda h, x: (ops.tanh(h * x + ops.mean(h + b, axis=0)), h),
    "a residual that the others see": lambda b: lambda h, x: (h, centred(ops.tanh(h + b))),
    "a sum over the rows as y": lambda b: lambda h, x: (h * x, ops.mean(ops.tanh(h + b), axis=0)),
}


def second_order(name: str, curved: bool, engine: str) -> list[Any]:
    """First and second derivatives; only if the loss is curved have ys a cotangent in the second order."""
    tensors = [mr.Tensor(numbers(*shape)) for shape in [(B, 3), (T, B, 3), (3,)]]
    with mr.Tape() as outer:
        outer.watch(tensors)
        with mr.Tape() as inner:
            inner.watch(tensors)
            results = mr.scan(STEPS[name](tensors[2]), *tensors[:2], mask=VALID, engine=engine)
            loss: Any = sum(((ops.sin(t) if curved else t) * numbers(*t.shape, seed=1)).sum() for t in results)
        first = inner.gradient(loss, tensors)
        projected: Any = sum((ops.sin(g) * numbers(*g.shape, seed=2)).sum() for g in first if g is not None)
    return [*first, *outer.gradient(projected, tensors)]


def agrees(name: str, curved: bool) -> bool:
    wanted = second_order(name, curved, "reference")
    for a, b in zip(second_order(name, curved, "numpy"), wanted, strict=True):
        a, b = (np.zeros(1) if t is None else t.numpy() for t in (a, b))
        if error(*np.broadcast_arrays(a, b)) > TOLERANCE:
            return False
    return True


@pytest.mark.parametrize("curved", [True, False])
@pytest.mark.parametrize("name", STEPS)
def test_second_order_of_masked_steps_that_mix_rows(name: str, curved: bool) -> None:
    assert agrees(name, curved)


def sums_taken_for_separate(graph: Any) -> tuple[str, ...]:
    kinds, sums = cotangent_classes(graph), len(graph.sums)
    return kinds[: len(kinds) - sums] + (SHARED,) * sums


def residuals_taken_for_separate(graph: Any) -> tuple[str, ...]:
    kinds = cotangent_classes(graph)
    end = len(kinds) - len(graph.sums)
    return kinds[: end - graph.residuals] + (ROWS,) * graph.residuals + kinds[end:]


@pytest.mark.parametrize(
    ("bug", "name", "curved"),
    [
        (sums_taken_for_separate, "a sum over mixed rows", True),
        (sums_taken_for_separate, "a sum over rows that are all alike", True),
        (residuals_taken_for_separate, "a residual that the others see", False),
        (residuals_taken_for_separate, "a sum over the rows as y", False),
    ],
)
def test_a_cotangent_taken_for_zero_in_masked_rows_is_found(
    bug: Any, name: str, curved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace_module, "_cache", collections.OrderedDict())
    monkeypatch.setattr(adjoint_module, "cotangent_classes", bug)
    assert not agrees(name, curved)


def test_only_steps_that_mix_rows_lose_the_selection() -> None:
    """Where no rows mix, the second order knows its rows as well as the first does, and guards all its sums."""
    step, h, xs = example("lstm", length=T)
    carry, sequences = (trees.flatten(trees.map(mr.Tensor, tree)) for tree in (h, (VALID, xs)))
    graph = trace_step(_Masked(step), carry, sequences, masked=True)[0].graph
    for _ in range(3):
        assert MIXED not in classify(graph).values()
        graph = gradient_graph(graph)
