"""How the cost grows with the number of time steps and of rows: the exponent of the power law that fits best."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .cases import Case
from .contestants import Contestant, Work
from .options import Options
from .report import Figure
from .turns import measure

LIMIT = 1.05
UNITS = 64
LENGTHS = (100, 300, 1000, 3000, 10_000)
BATCHES = (16, 64, 256, 1024)


def figures(options: Options) -> Iterator[Figure]:
    """Exponents for an LSTM, forward and in training."""
    lengths, batches = (LENGTHS[:3], BATCHES[:2]) if options.quick else (LENGTHS, BATCHES)
    for training in (False, True):
        work = "training" if training else "forward"
        cases = [Case("scaling", "lstm", 1, UNITS, (), training, steps) for steps in lengths]
        what = f"LSTM {work}, T from {lengths[0]} to {lengths[-1]} at B=1"
        yield Figure("scaling", what, _exponent(options, cases, lengths), "exponent", LIMIT)
        cases = [Case("scaling", "lstm", batch, UNITS, (), training) for batch in batches]
        what = f"LSTM {work}, B from {batches[0]} to {batches[-1]} at T=100"
        yield Figure("scaling", what, _exponent(options, cases, batches), "exponent", LIMIT)


def _exponent(options: Options, cases: Sequence[Case], sizes: Sequence[int]) -> float:
    contestants: list[Contestant] = []
    for case, size in zip(cases, sizes, strict=True):
        contestants.append(Work(case).on(options.judged)._replace(name=str(size)))
    timings = measure(contestants, options.rounds)
    return exponent(sizes, [timings[str(size)].median for size in sizes])


def exponent(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """The slope of log seconds over log size.

    >>> exponent([1, 10, 100], [2.0, 200.0, 20000.0])
    2.0
    """
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
