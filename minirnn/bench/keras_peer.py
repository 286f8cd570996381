"""Keras on JAX: its ConvLSTM2D under `jit`; gradients by `grad` under `jit`."""

from __future__ import annotations

import importlib
import os
from typing import Any

import numpy as np

from .contestants import Arrays, Contestant, Work


def contestants(work: Work, threads: int) -> list[Contestant]:
    """Keras's own layer; `threads` as for JAX.  Nobody if Keras was imported with another backend before."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    keras, jax = importlib.import_module("keras"), importlib.import_module("jax")
    if keras.backend.backend() != "jax":
        return []
    ours = work.layer.cell
    layer = keras.layers.ConvLSTM2D(ours.filters, ours.kernel_size, padding="same", return_sequences=True)
    layer.build(work.inputs[0].shape)
    others = [v.value for v in layer.non_trainable_variables]
    weights, x = [jax.numpy.asarray(w) for w in work.weights], jax.numpy.asarray(work.inputs[0])

    def forward(weights: list[Any], x: Any) -> Any:
        return layer.stateless_call(weights, others, x)[0]

    def loss(weights: list[Any], x: Any) -> Any:
        return forward(weights, x).sum()

    compiled = jax.jit(jax.grad(loss) if work.case.training else forward)

    def run() -> Any:
        return jax.block_until_ready(compiled(weights, x))

    def results() -> Arrays:
        found = run()
        return [np.asarray(y) for y in (found if work.case.training else [found])]

    return [Contestant("keras on jax", "keras", run, results)]
