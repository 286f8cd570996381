"""HIPS autograd: the LSTM's training step written by hand in NumPy."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from .contestants import Contestant, Work


def contestants(work: Work, threads: int) -> list[Contestant]:
    """The gradients of the sum of all outputs.  `threads`: BLAS's, which are set before NumPy is imported."""
    autograd = importlib.import_module("autograd")
    anp = importlib.import_module("autograd.numpy")
    (x,), weights, units = work.inputs, work.weights, work.case.units

    def sigmoid(z: Any) -> Any:
        return 1 / (1 + anp.exp(-z))

    def loss(weights: Any) -> Any:
        kernel, recurrent_kernel, bias = weights
        h = c = np.zeros((x.shape[0], units), x.dtype)
        total = 0.0
        for t in range(x.shape[1]):
            z = anp.dot(x[:, t], kernel) + bias + anp.dot(h, recurrent_kernel)
            i, f, candidate, o = (z[:, k * units : (k + 1) * units] for k in range(4))
            c = sigmoid(f) * c + sigmoid(i) * anp.tanh(candidate)
            h = sigmoid(o) * anp.tanh(c)
            total = total + anp.sum(h)
        return total

    gradient = autograd.grad(loss)
    return [
        Contestant(
            "autograd, by hand", "autograd", lambda: gradient(weights), lambda: list(map(np.asarray, gradient(weights)))
        )
    ]
