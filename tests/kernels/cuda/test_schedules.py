"""The three schedules run on the host, bit for bit as the cpu engine, and what fits which of them."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pytest

from minirnn import ops
from minirnn.errors import ArgumentError, EngineError
from minirnn.kernels.cuda.device import Limits
from minirnn.kernels.cuda.onchip import Held, registers_of, shared_out
from minirnn.kernels.cuda.schedule import SCHEDULES, plan
from minirnn.kernels.heavy import lower
from minirnn.kernels.program import Product
from minirnn.scan import step_graph
from minirnn.stepgraph.graph import StepGraph
from tests.stepgraph import steps
from tests.stepgraph.test_graph import PASSES, graph_of

from .host import KernelError
from .plans import Run, check, on_cpu, random_arrays, same_bits, signature
from .sampling import some_of

GATES = {"simple_rnn": 1, "gru": 3, "lstm": 4}


def cell(name: str, units: int, dtype: str, pass_: str, batch: int = 3, features: int = 5) -> StepGraph:
    """The graph of a built-in cell."""
    width = GATES[name] * units

    def numbers(*shape: int) -> np.ndarray:
        return steps.numbers(*shape).astype(dtype)

    step = getattr(steps, name)(numbers(features, width), numbers(units, width), numbers(width))
    h = numbers(batch, units)
    return step_graph(step, (h, numbers(batch, units)) if name == "lstm" else h, numbers(4, batch, features), pass_)


def slow(*values: str) -> Any:
    """Parameters of a test that only the slow set runs."""
    return pytest.param(*values, marks=pytest.mark.slow)


# runs --------------------------------------------------------------------------------------------
# More rows than are staged at a time, and more units than a block of 64; some blocks have fewer rows, or units, than
# others.  float64 in the grid keeps a part of the weights in shared memory.
RAGGED = [("simple_rnn", "float64", "backward", "grid"), slow("gru", "float32", "backward", "block")]


def ragged(name: str, dtype: str, pass_: str, schedule: str) -> Run:
    """A run of 19 rows and 70 units, some steps at a time."""
    units = 70 if schedule == "grid" or dtype == "float32" else 40
    graph = cell(name, units, dtype, pass_, batch=19)
    return check(
        graph, schedule, reverse=pass_ == "backward", seed=1, block=2, limits=Limits(multiprocessors=4), blocks=4
    )


@pytest.mark.parametrize(("name", "dtype", "pass_", "schedule"), RAGGED)
def test_ragged_sizes(name: str, dtype: str, pass_: str, schedule: str) -> None:
    run = ragged(name, dtype, pass_, schedule)
    assert run.plan.schedule == schedule
    assert ("kept" in run.plan.kernels["loop"]) == (schedule == "grid" and dtype == "float64")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, dtype, pass_, schedule", some_of(itertools.product(GATES, ["float32", "float64"], PASSES, SCHEDULES), 5)
)
def test_more_ragged_sizes(name: str, dtype: str, pass_: str, schedule: str) -> None:
    ragged(name, dtype, pass_, schedule)


@pytest.mark.slow
def test_sums_over_more_rows_than_a_block_adds_at_a_time_need_their_barriers() -> None:
    graph = cell("simple_rnn", 40, "float32", "backward", batch=37)
    run = check(graph, "step", length=35, seed=2)
    (name,) = (name for name, text in run.plan.kernels.items() if name.startswith("sum_") and "sum_chain" in text)
    for barrier in (1, 2):
        run.device.without = {name: barrier}
        with pytest.raises(KernelError):
            run(random_arrays(graph, 35), 35)


@pytest.mark.parametrize("schedule", ["block", slow("grid"), slow("step")])
def test_results_do_not_depend_on_the_batch_or_on_blocks_of_time(schedule: str) -> None:
    """Five rows at once or two of them, five steps at once or two at a time, give the same bits."""
    large, small = (cell("gru", 6, "float64", "forward", batch=n) for n in (5, 2))
    arrays = random_arrays(large, 5)
    carry, xs, *closed = arrays
    whole = Run(large, schedule)(arrays, 5)[1]
    part = Run(small, schedule)([carry[:2], xs[:, :2], *closed], 5, block=2)[1]
    assert whole is not None and part is not None and same_bits(part, whole[:, :2])
    assert not same_bits(part, whole[:, 1:3])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (r"(integers\[\d+\]) if turn else (\S+)", r"\2 if turn else \1"),
        slow(r"= sigmoid_f64\(", "= tanh_f64("),
        slow(r"\(done \+ s\) \* direction", "done * direction"),
        slow(r"as_float64\(1\) - ", "as_float64(1) + "),
    ],
)
def test_a_run_with_a_wrong_kernel_is_noticed(old: str, new: str) -> None:
    """A carry from the place where the next one goes, another function of a gate, time that stands still, a sign."""
    graph = cell("gru", 6, "float64", "forward")
    arrays = random_arrays(graph, 3)
    wanted = on_cpu(graph, arrays, 3, False)
    run = Run(graph, "block")
    text = re.sub(old, new, run.plan.kernels["loop"], count=1)
    assert text != run.plan.kernels["loop"]
    threads = next(launch.threads for launch in run.plan.launches if launch.kernel == "loop")
    run.kernels["loop"] = run.device.compile(text, "loop", signature(run.lowering), threads)
    try:
        found = run(arrays, 3)
    except KernelError:  # it reads what nothing has written
        return
    assert not all(a is None or same_bits(a, b) for a, b in zip(found, wanted, strict=True))


# indices -----------------------------------------------------------------------------------------
def embedding() -> StepGraph:
    table = steps.numbers(3, 4)

    def step(h: Any, ids: Any) -> Any:
        h = ops.tanh(h + ops.take(table, ids, axis=0))
        return h, h

    return step_graph(step, steps.numbers(5, 4), np.zeros((2, 5), np.int64))


@pytest.mark.parametrize("schedule", ["step", slow("block")])
def test_an_index_out_of_range_is_reported(schedule: str) -> None:
    run = Run(embedding(), schedule)
    arrays = random_arrays(run.graph, 2)
    for entry in (1, 3, -1):
        arrays[1][1, 2] = entry
        run(arrays, 2)
        assert run.status.tolist() == ([0, 0] if entry == 1 else [entry, 4])


# what fits ---------------------------------------------------------------------------------------
def schedule_of(graph: StepGraph, limits: Limits | None = None) -> str:
    return plan(lower(graph), limits).schedule


def test_the_first_schedule_that_fits_is_taken() -> None:
    assert schedule_of(cell("lstm", 96, "float32", "forward")) == "block"
    assert schedule_of(cell("lstm", 97, "float32", "backward")) in ("block", "grid")
    assert schedule_of(cell("lstm", 160, "float32", "forward")) == "grid"
    assert schedule_of(cell("lstm", 512, "float32", "backward")) == "grid"
    assert schedule_of(cell("lstm", 256, "float64", "backward")) == "grid"
    assert schedule_of(cell("lstm", 512, "float32", "backward"), Limits(multiprocessors=2)) == "step"


def test_what_does_not_fit_a_schedule_is_refused_with_the_figure() -> None:
    with pytest.raises(EngineError, match=r'"block"(.|\n)*1,048,576 bytes(.|\n)*188,416 bytes'):
        plan(lower(cell("lstm", 256, "float32", "forward")), schedule="block")
    with pytest.raises(EngineError, match=r'"grid"(.|\n)*bytes'):
        plan(lower(cell("lstm", 512, "float32", "forward")), Limits(multiprocessors=4), "grid")
    with pytest.raises(EngineError, match=r'"grid"(.|\n)*of another form'):
        plan(lower(graph_of("attention")), schedule="grid")
    with pytest.raises(ArgumentError, match="schedule"):
        plan(lower(graph_of("lstm")), schedule="warp")


def test_every_schedule_has_a_plan_for_steps_without_a_product() -> None:
    def step(h: Any, x: Any) -> Any:
        return h * x, h

    graph = step_graph(step, steps.numbers(3, 4), steps.numbers(2, 3, 4))
    assert plan(lower(graph), schedule="block").schedule == plan(lower(graph)).schedule == "block"


def test_registers_of_a_thread_follow_from_those_of_a_quarter() -> None:
    limits = Limits()
    assert [registers_of(n, limits) for n in (32, 128, 256, 288, 384, 576, 1024)] == [255, 255, 255, 168, 168, 96, 64]


@pytest.mark.parametrize("units", [1, 31, 33, 64, 65, 96])
def test_held_weights_fit_threads_registers_and_shared_memory(units: int) -> None:
    limits = Limits()
    for pass_ in PASSES:
        products = [p for p in lower(cell("lstm", units, "float32", pass_)).sections["loop"] if isinstance(p, Product)]
        held = shared_out(products, lambda columns: columns, limits, 60)
        assert held is not None
        for h in held:
            assert isinstance(h, Held)
            assert h.threads <= limits.threads_per_block and h.groups * h.each >= h.blocks
            assert h.registers + 60 <= registers_of(max(x.threads for x in held), limits)
            assert h.rows >= 1
