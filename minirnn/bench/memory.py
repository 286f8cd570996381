"""Peak memory beyond inputs and results: of inference over long sequences, of training with and without checkpoints."""

from __future__ import annotations

from collections.abc import Iterator

from . import fresh
from .options import Options
from .report import Figure

UNITS = 64
PROGRAM = """
import json, resource, sys, tracemalloc
import numpy as np
import minirnn as mr
from minirnn.kernels import recycled
from minirnn.layers import LSTM

wishes = json.loads(sys.argv[1])
mr.engine(wishes["engine"])
mr.threads(wishes["threads"])
layer = LSTM(wishes["units"], return_sequences=True, checkpoint=wishes["checkpoint"])


def work(x):
    if not wishes["training"]:
        return [layer(x)]
    with mr.Tape() as tape:
        loss = layer(x).sum()
    return tape.gradient(loss, layer.trainable_variables)


def status(name):  # bytes, as Linux counts them for this process
    with open("/proc/self/status") as lines:
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def resident(x):
    # The peak is counted from here on, on Linux; elsewhere from the start of the process.
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
        before, peak = status("VmRSS"), lambda: status("VmHWM")
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        peak = lambda: unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        before = peak()
    results = sum(np.asarray(t).nbytes for t in work(x))
    return peak() - before - results


def arrays(x):
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    found = work(x)
    _, peak = tracemalloc.get_traced_memory()
    return peak - before - sum(t.numpy().nbytes for t in found)


rng = np.random.default_rng(0)
work(rng.normal(size=(1, 200, wishes["units"])).astype("float32"))  # compiled, and warm
x = rng.normal(size=(1, wishes["steps"], wishes["units"])).astype("float32")
found = {"resident": resident(x)}
recycled.forget()
print(json.dumps({**found, "arrays": arrays(x)}))
"""


def figures(options: Options) -> Iterator[Figure]:
    """Megabytes, of NumPy's arrays and of the whole process, each in a process of its own."""
    shorter, longer = (1000, 10_000) if options.quick else (10_000, 100_000)
    inference = {}
    for steps in (shorter, longer):
        inference[steps] = _measured(options, steps, training=False)
        yield from _both(f"inference, LSTM B=1 H={UNITS} T={steps}", inference[steps])
    growth = inference[longer]["arrays"] - inference[shorter]["arrays"]
    yield Figure("memory", f"inference, arrays: T={longer} over T={shorter}", growth / 1e6, "MB", limit=1.0)
    for checkpoint in (None, round(shorter**0.5)):
        told = "" if checkpoint is None else f", checkpoint={checkpoint}"
        found = _measured(options, shorter, training=True, checkpoint=checkpoint)
        yield from _both(f"training, LSTM B=1 H={UNITS} T={shorter}{told}", found)


def _both(what: str, found: dict[str, float]) -> Iterator[Figure]:
    yield Figure("memory", f"{what}: arrays", found["arrays"] / 1e6, "MB")
    yield Figure("memory", f"{what}: process", found["resident"] / 1e6, "MB")


def _measured(options: Options, steps: int, training: bool, checkpoint: int | None = None) -> dict[str, float]:
    wishes = {"engine": options.judged, "threads": options.threads, "units": UNITS, "steps": steps}
    return fresh.run(PROGRAM, {**wishes, "training": training, "checkpoint": checkpoint})
