"""What a layer returns by name, with the gradients of one number that is made of all of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

import minirnn as mr
from minirnn import ops

Array = np.ndarray


def weighing(shape: tuple[int, ...]) -> Array:
    """Weights that differ from element to element."""
    return np.cos(np.arange(np.prod(shape, dtype=int)) + len(shape)).reshape(shape)


def total(found: Iterable[Any]) -> Any:
    """The sum of all elements of some arrays, each weighed in its own way; also of complex ones."""
    return sum(np.sum(y * weighing(y.shape)) for y in found)


def named(found: Iterable[Any], gradients: Iterable[Any]) -> dict[str, Array]:
    """Results and gradients by name, as arrays."""
    results = {f"result {k}": np.asarray(y) for k, y in enumerate(found)}
    return results | {f"gradient {k}": np.asarray(g) for k, g in enumerate(gradients)}


def outcome(
    layer: Any, x: Array, states: Sequence[Array] = (), constants: Sequence[Array] = (), **options: Any
) -> dict[str, Array]:
    """What the layer returns, and the gradients of its `total` for x, the constants, the states and the weights.

    Constants that are no floats have no gradient.
    """
    sequence, begin, given = mr.Tensor(x), [mr.Tensor(s) for s in states], [mr.Tensor(c) for c in constants]
    watched = [sequence, *(c for c in given if c.dtype.kind == "f"), *begin]
    options |= {"initial_state": begin} if begin else {}
    options |= {"constants": given} if given else {}
    with mr.Tape() as tape:
        for t in watched:
            tape.watch(t)
        found = layer(sequence, **options)
        found = list(found) if isinstance(found, list) else [found]
        loss = sum(ops.sum(y * weighing(y.shape).astype(y.dtype)) for y in found)
    return named(found, tape.gradient(loss, [*watched, *layer.weights]))
