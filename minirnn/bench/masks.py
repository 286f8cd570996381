"""What a mask costs, and what it saves: an LSTM on padded rows, as a multiple of its time without a mask."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import config
from ..autodiff.tape import Tape
from ..layers import LSTM
from .contestants import Contestant
from .options import Options
from .report import Figure
from .turns import measure

BATCH, UNITS, STEPS = 32, 128, 100
COST, SAVING = 1.1, 0.7


def figures(options: Options) -> Iterator[Figure]:
    """Ratios for right-padded rows of random lengths, and for lengths that average half of the steps."""
    rng = np.random.default_rng(0)
    steps = STEPS // 10 if options.quick else STEPS
    layer = LSTM(UNITS, return_sequences=True)
    x = rng.standard_normal((BATCH, steps, UNITS)).astype("float32")
    lengths = rng.permutation(np.linspace(0, steps, BATCH).round().astype(int))
    cases: dict[str, dict[str, Any]] = {
        "none": {},
        "a mask without padding": {"mask": np.ones((BATCH, steps), bool)},
        "a mask, right-padded": {"mask": np.arange(steps) < lengths[:, None]},
        "lengths, half of T on average": {"lengths": lengths},
    }
    layer(x)
    for training in (False, True):
        contestants = []
        for name, arguments in cases.items():
            run = _training(layer, x, arguments) if training else lambda given=arguments: layer(x, **given)
            contestants.append(Contestant(name, options.judged, run, list, lambda: config.engine(options.judged)))
        timings = measure(contestants, options.rounds)
        for name in list(cases)[1:]:
            what = f"LSTM {'training' if training else 'forward'}, {name}, B={BATCH} H={UNITS} T={steps}"
            limit = COST if name.startswith("a mask") else SAVING
            yield Figure("masks", what, timings[name].median / timings["none"].median, "of the time without", limit)


def _training(layer: LSTM, x: np.ndarray, arguments: dict[str, Any]) -> Any:
    def train() -> Any:
        with Tape() as tape:
            loss = layer(x, **arguments).sum()
        return tape.gradient(loss, layer.trainable_variables)

    return train
