"""What becomes of cotangents between the rules: un-broadcasting, missing ones, and guards.

A guard is what `where` knows: behind a branch the cotangent is zero wherever that branch was not
selected.  Rules multiply cotangents by derivatives, and zero times an infinite derivative is NaN; so
the guard follows the cotangent backward, and the elementwise rules it meets select once more.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from .operators import PUBLIC
from .primitive import broadcast_shapes
from .tensor import Node, Tensor

# Makes the bools that say where a cotangent may be other than zero; their shape broadcasts to its shape.
# A function, because most guards are never asked for.
Guard = Callable[[], Tensor]


def unbroadcast(ct: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Sum a cotangent over the axes along which its operand was broadcast: the only place that does."""
    if ct.shape == shape:
        return ct
    extra = ct.ndim - len(shape)
    ones = [extra + i for i, n in enumerate(shape) if n == 1 and ct.shape[extra + i] != 1]
    summed = PUBLIC["sum"](ct, axis=tuple(range(extra)) + tuple(ones), keepdims=True)
    return PUBLIC["reshape"](summed, shape)


def zeros_where_none(cotangents: list[Tensor | None], sources: list[Tensor]) -> list[Tensor]:
    """Zeros for the sources that the target does not depend on, as the transforms return them."""
    return [
        PUBLIC["zeros"](x.shape, np.dtype(x.dtype)) if ct is None else ct
        for ct, x in zip(cotangents, sources, strict=True)
    ]


def operand_guards(node: Node, guards: list[Guard | None]) -> list[Guard | None]:
    """The guards of a node's operands, from those of its outputs; None where nothing is known."""
    if node.params.get("safe"):
        condition, of_output = node.inputs[0], guards[0]
        selected = functools.cache(lambda: PUBLIC["not_equal"](condition, 0))
        others = functools.cache(lambda: PUBLIC["equal"](condition, 0))
        branches: list[Guard] = (
            [selected, others] if of_output is None else [_both(selected, of_output), _both(others, of_output)]
        )
        return [None, *[_fitted(guard, node, x) for guard, x in zip(branches, node.inputs[1:], strict=True)]]
    if all(guard is None for guard in guards):
        return [None] * len(node.inputs)
    if node.primitive.form == "map" and guards[0] is not None:
        return [_fitted(guards[0], node, x) for x in node.inputs]
    if node.primitive.linear == "all":  # moves or adds elements, and so does its rule: with bools as well
        return [_moved(guards, node, position) for position in range(len(node.inputs))]
    return [None] * len(node.inputs)


def either(a: Guard, b: Guard) -> Guard:
    """The guard of a sum of two cotangents."""
    return functools.cache(lambda: PUBLIC["logical_or"](a(), b()))


def _both(a: Guard, b: Guard) -> Guard:
    return functools.cache(lambda: PUBLIC["logical_and"](a(), b()))


def _fitted(guard: Guard, node: Node, x: Any) -> Guard | None:
    """A guard of an elementwise node's output as one of its operand, which may have been broadcast."""
    if not isinstance(x, Tensor) or x.shape == node.outputs[0].shape:
        return guard
    return functools.cache(lambda: _any_along_broadcast(guard(), node.outputs[0].shape, x.shape))


def _moved(guards: list[Guard | None], node: Node, position: int) -> Guard:
    def move() -> Tensor:
        known = [
            PUBLIC["full"](out.shape, True, bool) if guard is None else PUBLIC["broadcast_to"](guard(), out.shape)
            for guard, out in zip(guards, node.outputs, strict=True)
        ]
        moved = node.pull(known)[position]
        moved = moved() if callable(moved) else moved
        return _any_along_broadcast(moved, moved.shape, node.inputs[position].shape)

    return functools.cache(move)


def _any_along_broadcast(guard: Tensor, from_shape: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
    if broadcast_shapes("where", [guard.shape, shape]) == shape:
        return guard
    counts = unbroadcast(PUBLIC["cast"](PUBLIC["broadcast_to"](guard, from_shape), "int64"), shape)
    return PUBLIC["greater"](counts, 0)
