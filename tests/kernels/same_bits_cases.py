"""What is compared bit by bit: recurrences with fixed weights, as functions of rows; and the comparison.

`python -m tests.kernels.same_bits_cases made.npz float32 lstm ...` writes what they give in a process of its own.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

import numpy as np

import minirnn as mr
from minirnn.layers import GRU, LSTM
from tests.stepgraph import steps

from .engine_cases import randomized

F, U, KEYS, D = 33, 70, 5, 18

# By name: arrays whose first axis is the batch; of x and of what is called y... the second one is time.
Rows = dict[str, Any]


def same(a: Any, b: Any) -> bool:
    """Equal bytes, any NaN equal to any NaN."""
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.dtype.kind == "f":
        nan = np.isnan(a)
        if (nan != np.isnan(b)).any():
            return False
        a, b = a[~nan], b[~nan]
    return a.tobytes() == b.tobytes()


def differing(made: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    assert made.keys() == wanted.keys()
    return [name for name in made if not same(made[name], wanted[name])]


def numbers(dtype: str, *shape: int, seed: int = 0) -> Any:
    """Random numbers of many magnitudes, so that the order of sums shows."""
    rng = np.random.default_rng([seed, *shape])
    return (rng.uniform(-1, 1, shape) * 2.0 ** rng.integers(-6, 3, shape)).astype(dtype)


def rows(name: str, dtype: str, batch: int, length: int, seed: int = 0) -> Rows:
    """The inputs of a recurrence."""
    made = {"x": numbers(dtype, batch, length, F, seed=seed), "h": numbers(dtype, batch, U, seed=seed)}
    if name == "lstm":
        made["c"] = numbers(dtype, batch, U, seed=seed + 1)
    if name == "attention":
        made["memory"] = numbers(dtype, batch, KEYS, D, seed=seed)
    return made


@functools.cache
def layer(name: str, dtype: str) -> Any:
    with mr.default_dtype(dtype):
        make = {"lstm": LSTM, "gru": GRU}[name]
        return randomized(make(U, return_sequences=True, return_state=True), None, None, F)


@functools.cache
def weights(dtype: str) -> list[Any]:
    """Of the attention."""
    return [mr.Tensor(numbers(dtype, *shape)) for shape in ((U, D), (F + D, U))]


def forward(name: str, dtype: str, given: Rows, mask: Any = None) -> Rows:
    """What a recurrence gives on the engine in force."""
    if name == "attention":
        query, kernel = weights(dtype)
        step = steps.attention(query, given["memory"], kernel)
        turned = None if mask is None else np.swapaxes(mask, 0, 1)
        h, ys = mr.scan(step, given["h"], np.swapaxes(given["x"], 0, 1), mask=turned)
        return {"h": h, **{f"y {k}": mr.ops.swapaxes(y, 0, 1) for k, y in ys.items()}}
    states = [given["h"], given["c"]] if name == "lstm" else [given["h"]]
    y, *new_states = layer(name, dtype)(given["x"], initial_state=states, mask=mask)
    return {"y": y, **dict(zip("hc", new_states, strict=False))}


def gradients(name: str, dtype: str, given: Rows, mask: Any = None) -> Rows:
    """The gradients of a curved loss towards the weights and towards x."""
    sources = weights(dtype) if name == "attention" else layer(name, dtype).trainable_variables
    x = mr.Tensor(given["x"])
    with mr.Tape() as tape:
        tape.watch([*sources, x])
        made = forward(name, dtype, {**given, "x": mr.ops.swapaxes(mr.ops.swapaxes(x, 0, 1), 0, 1)}, mask)
        loss = sum((value * value).sum() for value in made.values())
    *slopes, of_x = tape.gradient(loss, [*sources, x])
    return {"x": of_x, **{f"weight {k}": slope for k, slope in enumerate(slopes)}}


def results(name: str, dtype: str) -> dict[str, Any]:
    """For other machines: forward results and gradients of a few sizes."""
    made: dict[str, Any] = {}
    with mr.engine("cpu"):
        for batch, length in ((5, 9), (1, 3)):
            given = rows(name, dtype, batch, length)
            found = {f"forward {k}": v for k, v in forward(name, dtype, given).items()}
            if batch > 1:
                found |= {f"gradient {k}": v for k, v in gradients(name, dtype, given).items()}
            made |= {f"{name} {dtype} {batch} {k}": np.asarray(v) for k, v in found.items()}
    return made


def all_results(dtypes: str, *names: str) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name in names:
        for dtype in dtypes.split(","):
            made |= results(name, dtype)
    return made


if __name__ == "__main__":
    np.savez(sys.argv[1], **all_results(*sys.argv[2:]))
