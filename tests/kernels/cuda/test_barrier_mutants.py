"""Each barrier of the printed kernels is needed, and the executor notices when one is missing.

A barrier is left out of the compiled kernel; test_host.py shows that this is the same as to leave it out of the
text.  Races do not depend on the order of threads, so one run is enough.  A barrier whose absence nobody would
notice has no business in the kernel: every one of them has to be caught.  (test_products.py does the same for the
tiled product of the library, whose barriers matter for sizes of several tiles.)
"""

from __future__ import annotations

import re

import pytest

from minirnn.kernels.cuda.schedule import SCHEDULES
from minirnn.scan import step_graph
from minirnn.stepgraph.graph import StepGraph
from tests.stepgraph import steps

from .host import HostDevice, KernelError
from .plans import Run, on_cpu, random_arrays, same_bits

LENGTH = 3
ROWS, FEATURES, UNITS, MEMORY, QUERY = 19, 3, 70, 5, 2  # more rows than a tile has, more units than a block of sums
_BARRIER = re.compile(r"^ *(?:cuda\.syncthreads|\w+\.sync)\(\)", re.M)


def graph_of(name: str, pass_: str) -> StepGraph:
    """A step of tests/stepgraph/steps.py for these sizes."""
    draw, xs, h = steps.numbers, steps.numbers(LENGTH, ROWS, FEATURES), steps.numbers(ROWS, UNITS)
    if name == "attention":
        step = steps.attention(draw(UNITS, QUERY), draw(ROWS, MEMORY, QUERY), draw(FEATURES + QUERY, UNITS))
    else:
        columns = UNITS * {"simple_rnn": 1, "gru": 3, "lstm": 4}[name]
        step = getattr(steps, name)(draw(FEATURES, columns), draw(UNITS, columns), draw(columns))
    return step_graph(step, (h, draw(ROWS, UNITS, seed=1)) if name == "lstm" else h, xs, pass_=pass_)


def unnoticed(run: Run) -> tuple[int, list[tuple[str, int]]]:
    """How many barriers its kernels print, and those without which nothing is refused."""
    count, missed = 0, []
    arrays = random_arrays(run.graph, LENGTH)
    for kernel, text in run.plan.kernels.items():
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


@pytest.mark.parametrize("pass_", ["forward", "backward"])
@pytest.mark.parametrize("name", steps.EXAMPLES)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_barrier_is_needed_and_missed(schedule: str, name: str, pass_: str) -> None:
    graph = graph_of(name, pass_)
    run = Run(graph, schedule, HostDevice(seed=1, blocks=2))
    arrays = random_arrays(graph, LENGTH)
    for found, wanted in zip(run(arrays, LENGTH), on_cpu(graph, arrays, LENGTH, False), strict=True):
        assert found is None or same_bits(found, wanted)
    count, missed = unnoticed(run)
    print(count)
    assert count and not missed
