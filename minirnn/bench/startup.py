"""From the start of a process to its first results, with nothing compiled before and with a warm cache."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator

from . import fresh
from .options import Options
from .report import Figure

UNITS = 64
# A second step graph of the LSTM's size: coupled gates, the candidate under an ELU.
PROGRAM = """
import json, sys, time
import numpy as np
import minirnn as mr
from minirnn.layers import LSTM, RNN, Layer

wishes = json.loads(sys.argv[1])
mr.engine(wishes["engine"])
mr.threads(wishes["threads"])
units = wishes["units"]


class OtherCell(Layer):
    def __init__(self):
        super().__init__()
        self.state_size = [units, units]

    def build(self, input_shape):
        self.kernel = self.add_weight("kernel", (input_shape[-1], 3 * units))
        self.recurrent_kernel = self.add_weight("recurrent_kernel", (units, 3 * units))
        self.bias = self.add_weight("bias", (3 * units,))

    def call(self, inputs, states):
        h, c = states
        f, candidate, o = mr.ops.split(inputs @ self.kernel + h @ self.recurrent_kernel + self.bias, 3, axis=-1)
        f = mr.ops.sigmoid(f)
        c = f * c + (1 - f) * mr.ops.elu(candidate)
        h = mr.ops.sigmoid(o) * mr.ops.tanh(c)
        return h, [h, c]


def train(layer):
    with mr.Tape() as tape:
        loss = layer(x).sum()
    return tape.gradient(loss, layer.trainable_variables)


x = np.random.default_rng(0).normal(size=(1, 100, units)).astype("float32")
lstm, other = LSTM(units, return_sequences=True), RNN(OtherCell(), return_sequences=True)
work = {
    "forward": lambda: lstm(x),
    "gradient": lambda: train(lstm),
    "other forward": lambda: other(x),
    "other gradient": lambda: train(other),
}
found = {}
for name in wishes["work"]:
    begin = time.perf_counter()
    for result in (r if isinstance(r := work[name](), list) else [r]):
        result.numpy()
    found[name] = time.perf_counter() - begin
    found[name + " since start"] = time.time() - wishes["began"]
print(json.dumps(found))
"""


def figures(options: Options) -> Iterator[Figure]:
    """Seconds, each with its limit; every process begins with the import of Python's own modules."""
    with tempfile.TemporaryDirectory(prefix="minirnn-bench-") as cache:
        found = _measured(options, cache, ["forward"])
        yield _figure("nothing cached: LSTM forward, the call", found["forward"], 2.5)
        yield _figure("nothing cached: first result since start", found["forward since start"], 3.5)
    with tempfile.TemporaryDirectory(prefix="minirnn-bench-") as cache:
        found = _measured(options, cache, ["gradient", "forward"])
        yield _figure("nothing cached: LSTM forward and backward, the call", found["gradient"], 5.0)
        yield _figure("nothing cached: first gradient since start", found["gradient since start"], 6.5)
        found = _measured(options, cache, ["forward", "gradient", "other forward", "other gradient"])
        yield _figure("warm cache: first LSTM result since start", found["forward since start"], 0.8)
        yield _figure("warm cache: first gradient since start", found["gradient since start"])
        yield _figure("another step, library cached: forward", found["other forward"], 1.2)
        yield _figure("another step, library cached: and backward", found["other gradient"], 3.0)


def _figure(what: str, seconds: float, limit: float | None = None) -> Figure:
    return Figure("start", what, seconds, "s", limit)


def _measured(options: Options, cache: str, work: list[str]) -> dict[str, float]:
    wishes = {"engine": options.judged, "threads": options.threads, "units": UNITS, "work": work}
    return fresh.run(PROGRAM, {**wishes, "began": time.time()}, MINIRNN_CACHE=cache)
