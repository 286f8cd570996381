"""What a call costs before and after its loop: one row, one step, one unit, everything traced before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .. import config
from ..autodiff import ops
from ..autodiff.tape import Tape
from ..autodiff.tensor import Variable
from ..layers import LSTM
from ..scan import scan
from .contestants import Contestant
from .options import Options
from .report import Figure
from .turns import measure

OUTSIDE, RECORDED = 20.0, 60.0  # microseconds


def figures(options: Options) -> Iterator[Figure]:
    """Microseconds of whole calls, the loop's own fraction of one included."""
    contestants = []
    for name, (call, variables) in {"layer": _layer(), "scan": _scan()}.items():
        for kind, run in (("outside a tape", call), ("with a tape and its gradient", _training(call, variables))):
            during = lambda: config.engine(options.judged)  # noqa: E731
            contestants.append(Contestant(f"{name}, {kind}", options.judged, run, list, during))
    for name, timing in measure(contestants, options.rounds).items():
        limit = OUTSIDE if name.endswith("outside a tape") else RECORDED
        yield Figure("overhead", f"{name}, B=T=H=1", 1e6 * timing.median, "us", limit)


def _layer() -> tuple[Callable[[], Any], list[Variable]]:
    layer, x = LSTM(1, return_sequences=True), np.ones((1, 1, 1), "float32")
    layer(x)
    return lambda: layer(x), layer.trainable_variables


def _scan() -> tuple[Callable[[], Any], list[Variable]]:
    kernel, recurrent_kernel = (Variable(np.ones((1, 1), "float32"), name=name) for name in ("kernel", "recurrent"))
    xs, start = np.ones((1, 1, 1), "float32"), np.zeros((1, 1), "float32")

    def step(h: Any, x: Any) -> Any:
        h = ops.tanh(x @ kernel + h @ recurrent_kernel)
        return h, h

    return lambda: scan(step, start, xs)[1], [kernel, recurrent_kernel]


def _training(call: Callable[[], Any], variables: list[Variable]) -> Callable[[], Any]:
    def train() -> Any:
        with Tape() as tape:
            loss = call().sum()
        return tape.gradient(loss, variables)

    return train
