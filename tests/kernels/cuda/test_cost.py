"""The counts of the cost model beside what kernels do when they run, and what its times depend on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn.errors import ArgumentError
from minirnn.kernels.cuda import cost
from minirnn.kernels.cuda.counts import ArrayOf, BlockCounts, of_block
from minirnn.kernels.cuda.schedule import plan
from minirnn.kernels.heavy import lower
from minirnn.layers import GRUCell, LSTMCell, SimpleRNNCell
from minirnn.stepgraph.graph import StepGraph

from .host import HostDevice, HostKernel
from .plans import Run, random_arrays

CELLS = {"simple_rnn": SimpleRNNCell, "gru": GRUCell, "lstm": LSTMCell}


def graph_of(name: str, units: int, rows: int, pass_: str = "forward", dtype: str = "float32") -> StepGraph:
    """The step graph of a built-in cell with three features."""
    cell = CELLS[name](units, dtype=dtype, bias_initializer="random_normal", recurrent_initializer="random_normal")
    xs = np.zeros((2, rows, 3), dtype)
    states = [np.zeros((rows, units), dtype) for _ in range(2 if name == "lstm" else 1)]
    cell(xs[0], states)
    return mr.step_graph(lambda carry, x: tuple(reversed(cell(x, carry))), states, xs, pass_)


class Watched:
    """What each kernel did while a plan ran on the host."""

    def __init__(self, graph: StepGraph, schedule: str, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: dict[str, dict[str, int]] = {}
        original = HostKernel.run

        def run(kernel: HostKernel, *arguments: Any, **options: Any) -> dict[str, int]:
            found = original(kernel, *arguments, **options)
            before = self.done.setdefault(kernel.compiled.name, dict.fromkeys(found, 0))
            before.update({key: before[key] + value for key, value in found.items()})
            return found

        monkeypatch.setattr(HostKernel, "run", run)
        self.run = Run(graph, schedule, HostDevice())
        self.run(random_arrays(graph, length), length)


@pytest.mark.parametrize(
    "name, pass_, schedule, dtype",
    [
        ("simple_rnn", "forward", "grid", "float32"),
        pytest.param("gru", "backward", "grid", "float32", marks=pytest.mark.slow),
        pytest.param("lstm", "forward", "block", "float32", marks=pytest.mark.slow),
        pytest.param("lstm", "forward", "grid", "float64", marks=pytest.mark.slow),
        pytest.param("simple_rnn", "backward", "step", "float32", marks=pytest.mark.slow),
    ],
)
def test_kernels_do_what_is_counted(
    name: str, pass_: str, schedule: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, length = 9, 4
    graph = graph_of(name, 7 if schedule == "block" else 70, rows, pass_, dtype)
    watched = Watched(graph, schedule, length, monkeypatch)
    run = watched.run
    for counts in cost.of_plan(run.plan, run.lowering, rows, length):
        kernel, total = counts.launch.kernel, counts.total()
        done = watched.done[kernel]
        assert counts.launches == run.device.launched[kernel]
        assert total.barriers == done["block barriers"]
        assert total.grid_barriers == done["grid barriers"] * counts.blocks
        assert total.written == done["written"]
        assert total.shared_written == done["shared written"]
        # What is not counted are the integers of `sizes`, which each thread may read once, or a block for all.
        y = counts.launch.grid(rows, length)[1] if counts.launch.each == "once" else 1
        threads = counts.launch.threads * counts.blocks * y * counts.launches
        assert total.read <= done["read"] <= total.read + 8 * threads * len(run.plan.sizes), kernel
        assert total.shared_read <= done["shared read"], kernel
    assert cost.loop_of(cost.of_plan(run.plan, run.lowering, rows, length)).runs_loop


KERNEL = """
def kernel(first, steps, done, rows, sizes, a, out):
    width = sizes[1]
    thread, threads = cuda.threadIdx.x, cuda.blockDim.x
    shared = cuda.shared.array(12, cuda.types.float32)
    weights = hold(a, thread, 4, 3 if thread < 2 else 0, 5)
    for s in range(first, first + steps):
        for p in range(thread, rows * width, threads):
            if p % width > 0:
                put(shared, p, element(a, s * rows * width + p))
        cuda.syncthreads()
        for row_at in range(0, rows, 2):
            if thread == 1:
                put(out, row_at, tanh_f32(chain_aligned(weights, 0, 5, shared, row_at, 1)))
            cuda.syncthreads()
"""


def counts_of(text: str, **changed: Any) -> BlockCounts:
    given = {
        "first": 0,
        "steps": 7,
        "done": 0,
        "rows": 3,
        "sizes": (9, 4),
        "a": ArrayOf("a", 4),
        "out": ArrayOf("out", 4),
    }
    return of_block(text, given | changed, 8)


def test_counts_of_a_kernel_by_hand() -> None:
    found = counts_of(KERNEL)
    assert (found.steps, found.shared_bytes, found.held) == (7, 48, 20)
    assert (found.outside.read, found.outside.fetched) == (24, 24)
    each = found.each_step
    # 12 elements of which each fourth is left out; rows 0 and 2 are computed by one thread.
    assert (each.read, each.shared_written, each.written) == (36, 36, 8)
    assert (each.shared_read, each.multiply_adds, each.functions) == (40, 10, 2)
    assert (each.accesses, each.barriers, each.serial) == (9 + 9 + 4 + 2, 3, 10)
    assert (each.memory_phases, each.phases) == (1, 3)
    assert found.total.read == 24 + 7 * 36


@pytest.mark.parametrize(
    "old, new, changes",
    [
        ("        cuda.syncthreads()\n        for row_at", "        for row_at", "barriers"),
        ("p % width > 0", "p % width >= 0", "shared_written"),
        ("thread == 1", "thread <= 1", "multiply_adds"),
    ],
)
def test_counts_follow_the_text(old: str, new: str, changes: str) -> None:
    assert old in KERNEL
    other, found = counts_of(KERNEL.replace(old, new)).each_step, counts_of(KERNEL).each_step
    assert getattr(other, changes) != getattr(found, changes)


def test_what_cannot_be_counted_is_refused() -> None:
    with pytest.raises(ArgumentError, match="while"):
        counts_of(KERNEL + "    while width:\n        width = 0\n")


def test_elements_are_fetched_once_and_not_from_oneself() -> None:
    text = "def kernel(sizes, a):\n    for p in range(cuda.threadIdx.x, 20, 8):\n        x = element(a, p % 5)\n"
    assert (counts_of(text).total.read, counts_of(text).total.fetched) == (80, 20)
    text += "    put(a, 2, x)\n    y = element(a, 2)\n"
    assert (counts_of(text).total.read, counts_of(text).total.fetched) == (80 + 32, 16)


def step_seconds(name: str, units: int, rows: int, schedule: str, gpu: cost.Gpu = cost.A100) -> float:
    lowering = lower(graph_of(name, units, rows))
    made = plan(lowering, gpu.limits, schedule)
    return cost.step_time(cost.loop_of(cost.of_plan(made, lowering, rows, 5)), gpu, 4).total


def test_times_depend_on_what_they_should() -> None:
    assert step_seconds("lstm", 64, 16, "block") < step_seconds("lstm", 64, 16, "grid")
    assert step_seconds("lstm", 256, 4, "grid") < step_seconds("lstm", 256, 4, "step")
    assert step_seconds("lstm", 256, 64, "grid", cost.H100) < step_seconds("lstm", 256, 64, "grid", cost.A100)
    assert step_seconds("gru", 64, 16, "step") >= cost.LAUNCH


def test_what_fits() -> None:
    def fits(units: int, schedule: str, dtype: str = "float32") -> bool:
        passes = ("forward", "backward")
        return all(cost.fits(lower(graph_of("lstm", units, 2, p, dtype)), cost.A100, schedule) for p in passes)

    assert fits(96, "block") and not fits(160, "block") and not fits(96, "block", "float64")
    assert fits(512, "grid") and fits(256, "grid", "float64") and not fits(1500, "grid")
