"""The side-by-side benchmark: LSTM training on minirnn's engines and on the same LSTM written by hand.

Contestants take turns within one process, so that a machine whose speed drifts treats them alike;
medians are compared, as ratios.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from . import config
from .autodiff.tape import Tape
from .layers.recurrent import LSTM

# (batch, time steps, units); as many features as units.
CASES = ((1, 100, 128), (32, 100, 128))


class Row(NamedTuple):
    """One case: the median seconds of a training step by contestant."""

    batch: int
    steps: int
    units: int
    seconds: dict[str, float]

    def ratios(self) -> dict[str, float]:
        """How many times longer each of the others took than the numpy engine."""
        return {name: s / self.seconds["numpy"] for name, s in self.seconds.items() if name != "numpy"}


def run(rounds: int = 9, cases: Any = CASES) -> list[Row]:
    """Time a forward and backward pass (float32, the sum of all outputs) of every contestant in turns.

    >>> (row,) = run(rounds=1, cases=[(2, 3, 4)])
    >>> sorted(row.ratios())[-1]
    'reference'
    """
    return [
        Row(batch, steps, units, _medians(contestants(batch, steps, units), rounds)) for batch, steps, units in cases
    ]


def _medians(runners: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in runners}
    for runner in runners.values():
        runner()  # traces, caches and pages are warm for everyone
    for _ in range(rounds):
        for name, runner in runners.items():
            begin = time.perf_counter()
            runner()
            times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in times.items()}


def contestants(batch: int, steps: int, units: int) -> dict[str, Callable[[], Any]]:
    """The training steps to time by name, all on the same weights; autograd's only where it is installed."""
    x = np.random.default_rng(0).normal(size=(batch, steps, units)).astype("float32")
    layer = LSTM(units, return_sequences=True, dtype="float32")
    layer(x)

    def on(engine: str) -> Callable[[], list[Any]]:
        def train() -> list[Any]:
            with config.engine(engine):
                with Tape() as tape:
                    loss = layer(x).sum()
                gradients: list[Any] = tape.gradient(loss, layer.trainable_variables)
                return gradients

        return train

    runners: dict[str, Callable[[], Any]] = {"numpy": on("numpy"), "reference": on("reference")}
    if importlib.util.find_spec("autograd") is not None:
        runners["autograd"] = _by_hand_with_autograd(x, layer.get_weights(), units)
    return runners


def _by_hand_with_autograd(x: np.ndarray, weights: list[np.ndarray], units: int) -> Callable[[], Any]:
    import autograd
    import autograd.numpy as anp

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
    return lambda: gradient(weights)


def table(rows: list[Row]) -> str:
    """The rows as text: milliseconds, and ratios to the numpy engine."""
    lines = ["LSTM training step, float32, median ms (ratio to the numpy engine)"]
    for row in rows:
        parts = [f"numpy {1e3 * row.seconds['numpy']:.2f}"]
        parts += [f"{name} {1e3 * row.seconds[name]:.2f} ({ratio:.1f}x)" for name, ratio in row.ratios().items()]
        lines.append(f"  B={row.batch:<3} T={row.steps} H={row.units}   " + "   ".join(parts))
    return "\n".join(lines)


def as_json(rows: list[Row]) -> str:
    """The rows as JSON: seconds and ratios."""
    return json.dumps([{**row._asdict(), "ratios": row.ratios()} for row in rows], indent=2)
