"""Timing in turns: each contestant a little in every round, so that a machine whose speed drifts treats all alike."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

from .contestants import Contestant

ROUND = 0.02  # seconds that a contestant's turn takes at least
BUDGET = 3.0  # seconds of turns after which a slow contestant sits out, having had LEAST of them
LEAST = 3
REST, LONGEST_REST = 0.01, 20  # seconds of one look at what runs (longer than the kernel's ticks), and how many
WARM = 0.002  # seconds of calls that are not timed, after a rest


class Timing(NamedTuple):
    """Seconds of one call: the median of the turns and their quartiles."""

    median: float
    low: float
    high: float
    calls: int
    turns: int

    @property
    def spread(self) -> float:
        """Half the distance of the quartiles, as a fraction of the median."""
        return (self.high - self.low) / 2 / self.median


def measure(contestants: Sequence[Contestant], rounds: int) -> dict[str, Timing]:
    """Time everyone's `run` in turns; the one who begins changes from round to round.

    >>> timings = measure([Contestant("sleeper", "sleeper", lambda: time.sleep(0.01), list)], rounds=3)
    >>> 0.01 <= timings["sleeper"].median < 1
    True
    """
    calls = [_calls(contestant) for contestant in contestants]
    times: list[list[float]] = [[] for _ in contestants]
    spent = [0.0] * len(contestants)
    for turn in range(rounds):
        for place in range(len(contestants)):
            who = (turn + place) % len(contestants)
            if turn < LEAST or spent[who] < BUDGET:
                seconds = _turn(contestants[who], calls[who])
                times[who].append(seconds / calls[who])
                spent[who] += seconds
    return {c.name: timing(values, n) for c, values, n in zip(contestants, times, calls, strict=True)}


def timing(seconds: Sequence[float], calls: int) -> Timing:
    """The median and quartiles of some turns.

    >>> timing([3.0, 1.0, 2.0], calls=5)
    Timing(median=2.0, low=1.5, high=2.5, calls=5, turns=3)
    """
    low, median, high = seconds[0], seconds[0], seconds[0]
    if len(seconds) > 1:
        low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return Timing(median, low, high, calls, len(seconds))


def _calls(contestant: Contestant) -> int:
    """How many calls make a turn; afterwards compilers, caches and pages are warm."""
    with contestant.during():
        contestant.run()
    seconds = min(_turn(contestant, 1) for _ in range(2))
    return max(1, math.ceil(ROUND / max(seconds, 1e-7)))


def _turn(contestant: Contestant, calls: int) -> float:
    run = contestant.run
    _settle()
    with contestant.during():
        if calls > 1:
            begin = time.perf_counter()
            while time.perf_counter() - begin < WARM:
                run()
        begin = time.perf_counter()
        for _ in range(calls):
            run()
        return time.perf_counter() - begin


def _settle() -> None:
    """Wait until the threads of the one before no longer spin: onnxruntime's and OpenBLAS's do so for 40 ms."""
    for _ in range(LONGEST_REST):
        used = time.process_time()
        time.sleep(REST)
        if time.process_time() - used < REST / 5:
            return
