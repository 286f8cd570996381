"""JAX: `lax.scan` under `jit`, with the products of x taken out of it by hand; gradients by `grad` under `jit`."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from .contestants import Arrays, Contestant, Work

UNROLLED = 4
Weights = list[Any]


def contestants(work: Work, threads: int) -> list[Contestant]:
    """The scan, and the scan of which XLA sees some steps at once.

    `threads` does nothing here: JAX reads how many it may use from the environment, when it makes its
    first array (see `environment`).
    """
    jax = importlib.import_module("jax")
    return [
        _contestant(jax, work, "scan", functools.partial(jax.lax.scan, unroll=1)),
        _contestant(jax, work, f"scan unrolled by {UNROLLED}", functools.partial(jax.lax.scan, unroll=UNROLLED)),
    ]


def _contestant(jax: Any, work: Work, name: str, scan: Any) -> Contestant:
    weights = [jax.numpy.asarray(w) for w in work.weights]
    # Sequences time first, as scan wants them.
    inputs = [jax.numpy.asarray(x.swapaxes(0, 1) if n == 0 and x.ndim >= 3 else x) for n, x in enumerate(work.inputs)]
    program, steps = _PROGRAMS[work.case.cell], work.case.steps

    def forward(weights: Weights, inputs: list[Any]) -> Any:
        return program(jax, scan, weights, inputs, steps)

    def loss(weights: Weights, inputs: list[Any]) -> Any:
        return forward(weights, inputs).sum()

    compiled = jax.jit(jax.grad(loss) if work.case.training else forward)

    def run() -> Any:
        return jax.block_until_ready(compiled(weights, inputs))

    def results() -> Arrays:
        found = run()
        return [np.asarray(g) for g in found] if work.case.training else [np.asarray(found).swapaxes(0, 1)]

    return Contestant(f"jax, {name}", "jax", run, results)


def _gates(jax: Any, z: Any, c: Any) -> tuple[Any, Any]:
    i, f, candidate, o = jax.numpy.split(z, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jax.numpy.tanh(candidate)
    return jax.nn.sigmoid(o) * jax.numpy.tanh(c), c


def _zeros(jax: Any, x: Any, units: int) -> Any:
    return jax.numpy.zeros((x.shape[1], units), x.dtype)


def _simple_rnn(jax: Any, scan: Any, weights: Weights, inputs: list[Any], steps: int) -> Any:
    kernel, recurrent_kernel, bias = weights
    (x,) = inputs

    def step(h: Any, x_part: Any) -> Any:
        h = jax.numpy.tanh(x_part + h @ recurrent_kernel)
        return h, h

    return scan(step, _zeros(jax, x, len(bias)), x @ kernel + bias)[1]


def _gru(jax: Any, scan: Any, weights: Weights, inputs: list[Any], steps: int) -> Any:
    kernel, recurrent_kernel, (input_bias, state_bias) = weights
    (x,) = inputs

    def step(h: Any, x_part: Any) -> Any:
        xz, xr, xh = jax.numpy.split(x_part, 3, axis=-1)
        hz, hr, hh = jax.numpy.split(h @ recurrent_kernel + state_bias, 3, axis=-1)
        z, r = jax.nn.sigmoid(xz + hz), jax.nn.sigmoid(xr + hr)
        h = z * h + (1 - z) * jax.numpy.tanh(xh + r * hh)
        return h, h

    return scan(step, _zeros(jax, x, len(recurrent_kernel)), x @ kernel + input_bias)[1]


def _lstm(jax: Any, scan: Any, weights: Weights, inputs: list[Any], steps: int) -> Any:
    kernel, recurrent_kernel, bias = weights
    (x,) = inputs

    def step(carry: Any, x_part: Any) -> Any:
        h, c = carry
        h, c = _gates(jax, x_part + h @ recurrent_kernel, c)
        return (h, c), h

    zeros = _zeros(jax, x, len(recurrent_kernel))
    return scan(step, (zeros, zeros), x @ kernel + bias)[1]


def _layer_norm_lstm(jax: Any, scan: Any, weights: Weights, inputs: list[Any], steps: int) -> Any:
    kernel, recurrent_kernel, x_gamma, x_beta, h_gamma, h_beta, c_gamma, c_beta = weights
    (x,) = inputs

    def norm(z: Any, gamma: Any, beta: Any) -> Any:
        centered = z - z.mean(axis=-1, keepdims=True)
        variance = (centered * centered).mean(axis=-1, keepdims=True)
        return centered * jax.lax.rsqrt(variance + 1e-5) * gamma + beta

    def step(carry: Any, x_part: Any) -> Any:
        h, c = carry
        i, f, candidate, o = jax.numpy.split(x_part + norm(h @ recurrent_kernel, h_gamma, h_beta), 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jax.numpy.tanh(candidate)
        h = jax.nn.sigmoid(o) * jax.numpy.tanh(norm(c, c_gamma, c_beta))
        return (h, c), h

    zeros = _zeros(jax, x, len(recurrent_kernel))
    return scan(step, (zeros, zeros), norm(x @ kernel, x_gamma, x_beta))[1]


def _attention_lstm(jax: Any, scan: Any, weights: Weights, inputs: list[Any], steps: int) -> Any:
    kernel, context_kernel, recurrent_kernel, bias, query_kernel = weights
    x, vectors = inputs

    def step(carry: Any, x_part: Any) -> Any:
        h, c = carry
        scores = jax.numpy.einsum("bd,bkd->bk", h @ query_kernel, vectors)
        context = jax.numpy.einsum("bk,bkd->bd", jax.nn.softmax(scores), vectors)
        h, c = _gates(jax, x_part + context @ context_kernel + h @ recurrent_kernel, c)
        return (h, c), h

    zeros = _zeros(jax, x, len(recurrent_kernel))
    return scan(step, (zeros, zeros), x @ kernel + bias)[1]


def _fed_back_lstm(jax: Any, scan: Any, weights: Weights, inputs: list[Any], steps: int) -> Any:
    kernel, recurrent_kernel, bias, out_kernel, out_bias = weights
    h, c = inputs

    def step(carry: Any, _: None) -> Any:
        y, h, c = carry
        h, c = _gates(jax, y @ kernel + h @ recurrent_kernel + bias, c)
        y = h @ out_kernel + out_bias
        return (y, h, c), y

    return scan(step, (jax.numpy.zeros_like(h), h, c), None, length=steps)[1]


def _stacked_lstm(jax: Any, scan: Any, weights: Weights, inputs: list[Any], steps: int) -> Any:
    """Layer after layer, so that the later ones' products with their inputs leave the loop as well."""
    (ys,) = inputs
    for layer in range(0, len(weights), 3):
        ys = _lstm(jax, scan, weights[layer : layer + 3], [ys], steps)
    return ys


def _conv_lstm(jax: Any, scan: Any, weights: Weights, inputs: list[Any], steps: int) -> Any:
    kernel, recurrent_kernel, bias = weights
    (x,) = inputs

    def convolved(images: Any, kernel: Any) -> Any:
        order = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=order)

    x_parts = convolved(x.reshape(-1, *x.shape[2:]), kernel) + bias

    def step(carry: Any, x_part: Any) -> Any:
        h, c = carry
        h, c = _gates(jax, x_part + convolved(h, recurrent_kernel), c)
        return (h, c), h

    zeros = jax.numpy.zeros((*x.shape[1:4], recurrent_kernel.shape[2]), x.dtype)
    return scan(step, (zeros, zeros), x_parts.reshape(*x.shape[:2], *x_parts.shape[1:]))[1]


_PROGRAMS: dict[str, Callable[..., Any]] = {
    "simple_rnn": _simple_rnn,
    "gru": _gru,
    "lstm": _lstm,
    "layer_norm_lstm": _layer_norm_lstm,
    "attention_lstm": _attention_lstm,
    "fed_back_lstm": _fed_back_lstm,
    "stacked_lstm": _stacked_lstm,
    "conv_lstm": _conv_lstm,
}
