"""Steps written by hand as a reader of a paper would write them. Golden files quote their lines: append, don't move."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minirnn import ops

Step = Callable[[Any, Any], Any]


def simple_rnn(kernel: Any, recurrent_kernel: Any, bias: Any) -> Step:
    def step(h: Any, x: Any) -> Any:
        h = ops.tanh(x @ kernel + h @ recurrent_kernel + bias)
        return h, h

    return step


def gru(kernel: Any, recurrent_kernel: Any, bias: Any) -> Step:
    def step(h: Any, x: Any) -> Any:
        x_z, x_r, x_candidate = ops.split(x @ kernel + bias, 3, axis=-1)
        h_z, h_r, h_candidate = ops.split(h @ recurrent_kernel, 3, axis=-1)
        z, r = ops.sigmoid(x_z + h_z), ops.sigmoid(x_r + h_r)
        candidate = ops.tanh(x_candidate + r * h_candidate)
        h = z * h + (1 - z) * candidate
        return h, h

    return step


def lstm(kernel: Any, recurrent_kernel: Any, bias: Any) -> Step:
    def step(carry: Any, x: Any) -> Any:
        h, c = carry
        i, f, g, o = ops.split(x @ kernel + h @ recurrent_kernel + bias, 4, axis=-1)
        i, f, o = ops.sigmoid(i), ops.sigmoid(f), ops.sigmoid(o)
        candidate = ops.tanh(g)
        c = f * c + i * candidate
        h = o * ops.tanh(c)
        return (h, c), h

    return step


def attention(query_kernel: Any, memory: Any, kernel: Any) -> Step:
    """Looks over a memory (B, K, D) at each step."""

    def scores_of(h: Any) -> Any:
        query = h @ query_kernel
        return ops.contract("bd,bkd->bk", query, memory)

    def step(h: Any, x: Any) -> Any:
        scores = scores_of(h)
        weights = ops.softmax(scores)
        context = ops.contract("bk,bkd->bd", weights, memory)
        h = ops.tanh(ops.concatenate([x, context], axis=-1) @ kernel + h)
        return h, {"context": context, "weights": weights}

    return step


B, F, U, K, D = 3, 4, 6, 5, 2


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    """Random numbers of a shape, other ones for another shape or seed."""
    return np.random.default_rng([seed, *shape]).uniform(-1, 1, shape)


def example(name: str, length: int = 7) -> tuple[Step, Any, Any]:
    """One of the steps with weights, the initial carry, and its sequence (T, B, F)."""
    gates = {"simple_rnn": 1, "gru": 3, "lstm": 4}
    xs = numbers(length, B, F)
    if name == "attention":
        step = attention(numbers(U, D), numbers(B, K, D), numbers(F + D, U))
    else:
        n = gates[name] * U
        step = {"simple_rnn": simple_rnn, "gru": gru, "lstm": lstm}[name](numbers(F, n), numbers(U, n), numbers(n))
    h = numbers(B, U)
    return step, (h, numbers(B, U, seed=1)) if name == "lstm" else h, xs


EXAMPLES = ("simple_rnn", "gru", "lstm", "attention")
