"""What tests of repeated calls share: layers that have been called, inputs, and the comparison."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import minirnn as mr
from minirnn.layers import LSTM

B, T, F, U = 3, 5, 4, 6
RNG = np.random.default_rng(7)


def inputs(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape or (B, T, F))


def made(kind: Callable[..., Any] = LSTM, **options: Any) -> Any:
    """A layer in float64 that has been called, with weights that are no zeros."""
    layer = kind(U, dtype="float64", **options)
    layer(inputs())
    layer.set_weights([RNG.normal(size=v.shape) for v in layer.weights])
    layer(inputs())
    return layer


def flat(outputs: Any) -> list[np.ndarray]:
    return [np.array(t) for t in mr.autodiff.trees.flatten(outputs)[0]]


def assert_right(layer: Any, x: Any = None, **options: Any) -> list[np.ndarray]:
    """The outputs, which must be those of the engine that remembers nothing."""
    x = inputs() if x is None else x
    got = flat(layer(x, **options))
    with mr.engine("reference"):
        wanted = flat(layer(x, **options))
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)
    return got
