"""The machine's own peak of fused multiply-adds in registers, and how near the kernels' product comes to it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from ..kernels import rates as machine
from .options import Options
from .report import Figure

ROWS, UNITS, GATES = 32, (128, 256), 4
LIMIT = 0.75


def figures(options: Options) -> Iterator[Figure]:
    """GFLOP/s in float32 of one core and of all threads, and the fraction that the LSTM loop's product reaches."""
    one = machine.peak("float32")
    yield Figure("peak", "fma in registers, one core", one / 1e9, "GFLOP/s")
    yield Figure("peak", f"fma in registers, {options.threads} threads", of_threads(options.threads) / 1e9, "GFLOP/s")
    for units in UNITS:
        # The peak anew, right before: clocks and neighbours change.
        one = machine.peak("float32")
        rate = machine.product_rate(ROWS, units, GATES * units, "float32")
        what = f"product of the LSTM's loop, B={ROWS} H={units}, one core"
        yield Figure("peak", what, rate / 1e9, "GFLOP/s")
        yield Figure("peak", f"{what}: fraction of the peak", rate / one, "", LIMIT, at_least=True)


def of_threads(threads: int) -> float:
    """Floating-point operations in a second of so many threads at once."""
    rates: list[float] = []
    machine.peak("float32")  # compiled
    workers = [threading.Thread(target=lambda: rates.append(machine.peak("float32"))) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(rates)
