"""Each barrier of the printed kernels is needed, and the executor notices when one is missing.

A barrier is left out of the compiled kernel; test_host.py shows that this is the same as to leave it out of the
text.  Races do not depend on the order of threads, so one run is enough.  A barrier whose absence nobody would
notice has no business in the kernel: every one of them has to be caught.  (test_products.py does the same for the
tiled product of the library, whose barriers matter for sizes of several tiles.)
"""

from __future__ import annotations

import itertools
import re

import pytest

from minirnn.scan import step_graph
from minirnn.stepgraph.graph import StepGraph
from tests.stepgraph import steps

from .host import HostDevice, KernelError
from .plans import Run, on_cpu, random_arrays, same_bits

LENGTH = 3
# More rows than are staged at once, and sizes without common factors: by chance, threads could share out the last
# rows of a product in the way in which what comes next shares them out.
ROWS, FEATURES, MEMORY, QUERY = 19, 3, 5, 2
UNITS, FEWER = 71, 37  # more than a block of sums; what one block can hold of several gates

QUICK = {("step", "simple_rnn", "backward"), ("block", "gru", "forward"), ("grid", "lstm", "forward")}
CASES = [
    pytest.param(*case, marks=[] if case in QUICK else [pytest.mark.slow])
    for case in itertools.product(("step", "block", "grid"), steps.EXAMPLES, ("forward", "backward"))
    if case[:2] != ("grid", "attention")  # which no grid takes: its products are with a matrix for each row
]
_BARRIER = re.compile(r"^ *(?:cuda\.syncthreads|\w+\.sync)\(\)", re.M)


def graph_of(name: str, pass_: str, units: int) -> StepGraph:
    """A step of tests/stepgraph/steps.py for these sizes."""
    draw, xs, h = steps.numbers, steps.numbers(LENGTH, ROWS, FEATURES), steps.numbers(ROWS, units)
    if name == "attention":
        step = steps.attention(draw(units, QUERY), draw(ROWS, MEMORY, QUERY), draw(FEATURES + QUERY, units))
    else:
        columns = units * {"simple_rnn": 1, "gru": 3, "lstm": 4}[name]
        step = getattr(steps, name)(draw(FEATURES, columns), draw(units, columns), draw(columns))
    return step_graph(step, (h, draw(ROWS, units, seed=1)) if name == "lstm" else h, xs, pass_=pass_)


def unnoticed(run: Run) -> tuple[int, list[tuple[str, int]]]:
    """How many barriers its kernels print, and those without which nothing is refused."""
    count, missed = 0, []
    arrays = random_arrays(run.graph, LENGTH)
    for kernel, text in run.plan.kernels.items():
        if kernel.startswith("sum_"):  # for whose barriers there are too few rows: test_schedules.py
            continue
        printed = len(_BARRIER.findall(text))  # the library's have higher numbers
        assert run.kernels[kernel].barriers() >= printed
        count += printed
        for barrier in range(1, printed + 1):
            run.device.without = {kernel: barrier}
            try:
                run(arrays, LENGTH)
                missed.append((kernel, barrier))
            except KernelError:
                pass
    run.device.without = {}
    return count, missed


@pytest.mark.parametrize(("schedule", "name", "pass_"), CASES)
def test_every_barrier_is_needed_and_missed(schedule: str, name: str, pass_: str) -> None:
    several_gates = schedule == "block" and name in ("gru", "lstm")
    graph = graph_of(name, pass_, FEWER if several_gates else UNITS)
    run = Run(graph, schedule, HostDevice(seed=1, blocks=5 if schedule == "grid" else 2))
    arrays = random_arrays(graph, LENGTH)
    for found, wanted in zip(run(arrays, LENGTH), on_cpu(graph, arrays, LENGTH, False), strict=True):
        assert found is None or same_bits(found, wanted)
    count, missed = unnoticed(run)
    assert not missed
    assert count or (schedule, name, pass_) == ("step", "simple_rnn", "forward")
