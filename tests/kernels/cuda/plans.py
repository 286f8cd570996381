"""A plan's kernels run on the host, launch by launch, on random arrays; and the cpu engine's results for the same."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minirnn.kernels import run as cpu
from minirnn.kernels.arrays import forward_of
from minirnn.kernels.cuda.run import signature as of_arrays
from minirnn.kernels.cuda.schedule import Plan, plan
from minirnn.kernels.heavy import lower
from minirnn.kernels.lower import Lowering
from minirnn.kernels.program import ROWS_KEY
from minirnn.stepgraph import interpret
from minirnn.stepgraph.graph import StepGraph

from .host import HostDevice


def signature(lowering: Lowering) -> str:
    """The types of the arguments of every kernel."""
    return of_arrays([*lowering.arrays.values()])


def random_arrays(graph: StepGraph, length: int, seed: int = 0) -> list[np.ndarray]:
    """The arguments of a scan of the graph: carry, xs over time, what the step closes over."""
    rng = np.random.default_rng(seed)

    def some(dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
        if dtype.kind == "b":
            return rng.random(shape) < 0.5
        if dtype.kind != "f":
            return rng.integers(0, 2, shape, dtype)
        return (rng.standard_normal(shape) * 0.7).astype(dtype)

    carry = [some(t.dtype, t.shape) for t in graph.carry_in]
    closed = [some(t.dtype, t.shape) for t in graph.closed]
    return [*carry, *[some(t.dtype, (length, *t.shape)) for t in graph.xs], *closed]


def on_cpu(graph: StepGraph, arrays: list[np.ndarray], length: int, reverse: bool) -> list[np.ndarray]:
    """What the cpu engine computes: the last carry, ys and sums."""
    return cpu.run(graph, [a.copy() for a in arrays], length, reverse)


class Run:
    """A plan on the host; `results` are None where the kernels do not compute them."""

    def __init__(
        self, graph: StepGraph, schedule: str | None, device: HostDevice | None = None, **options: Any
    ) -> None:
        self.graph, self.device = graph, device or HostDevice()
        self.lowering = lower(graph)
        self.plan: Plan = plan(self.lowering, self.device.limits, schedule, **options)
        self.arrays = list(self.lowering.arrays.values())
        threads = {launch.kernel: launch.threads for launch in self.plan.launches}
        self.kernels = {
            name: self.device.compile(text, name, signature(self.lowering), threads[name])
            for name, text in self.plan.kernels.items()
        }

    def __call__(
        self, arrays: list[np.ndarray], length: int, reverse: bool = False, block: int = 1 << 20
    ) -> list[np.ndarray | None]:
        graph, lowering, device = self.graph, self.lowering, self.device
        block = min(block, length)
        first_closed = len(graph.carry_in) + len(graph.xs)
        env = {id(t): a for t, a in zip(graph.closed, arrays[first_closed:], strict=True)}
        sources = [n for n in graph.nodes if n.primitive.form == "source"]
        for node in [*lowering.parts.once, *[n for n in sources if n not in lowering.parts.once]]:
            interpret.evaluate(node, env, forward_of)
        given = {id(t): a for t, a in zip((*graph.carry_in, *graph.xs), arrays, strict=False)}
        rows = 1 if lowering.batch is None else lowering.batch
        values, work = self._layout(rows, block)
        keys = {array: key for key, array in lowering.arrays.items()}
        buffers = []
        for a in self.arrays:
            source: Any = lowering.sources.get(a)
            if a.role == "work":
                buffers.append(device.empty(work[str(a.dtype)], a.dtype))
            elif a.role in ("y", "stack", "sum", "final"):
                shape = (length, *source.shape) if a.time else source.shape
                buffers.append(device.empty(math.prod(shape), a.dtype))
                values.update({("of", a.name, axis): math.prod(shape[axis + 1 :]) for axis in range(len(shape))})
            else:
                over_time = given if a.role == "x" else env
                value = arrays[keys[a][1]] if a.role == "carry" else over_time[id(source)]
                if a.role == "panels":
                    packing = next(p for p in lowering.panels if p.array is a)
                    value = value.transpose(packing.axes)
                    values["of", a.name, 0] = math.prod(value.shape[packing.counts[0] :])
                elif a.time:
                    values.update({("of", a.name, axis): math.prod(value.shape[axis + 1 :]) for axis in range(2)})
                value = np.ascontiguousarray(value)
                buffers.append(device.to_device(value))
        sizes = np.array([values.get(size.key, size.value) for size in self.plan.sizes], np.int64)
        status = device.to_device(np.zeros(2, np.int64))
        begin, direction = (length - 1, -1) if reverse else (0, 1)
        arguments = [rows, device.to_device(sizes), status, *buffers]

        def launch(each: Any, first: int, steps: int, done: int) -> None:
            blocks = each.grid(rows, steps)
            device.launch(
                self.kernels[each.kernel], each, blocks, [first, steps, done, begin, direction, *arguments], None
            )

        launches = self.plan.launches
        for each in [x for x in launches if x.each == "begin"]:
            launch(each, 0, length, 0)
        for done in range(0, length, block):
            steps = min(block, length - done)
            middle = [x for x in launches if x.each in ("once", "step")]
            while middle:
                if middle[0].each == "once":
                    launch(middle.pop(0), 0, steps, done)
                    continue
                together = []
                while middle and middle[0].each == "step":
                    together.append(middle.pop(0))
                for s in range(steps):
                    for each in together:
                        launch(each, s, 1, done)
        for each in [x for x in launches if x.each == "end"]:
            launch(each, 0, length, 0)
        self.status = device.to_host(status)
        found = {a: device.to_host(b) for a, b in zip(self.arrays, buffers, strict=True)}
        return self._results(found, length)

    def _results(self, found: dict[Any, np.ndarray], length: int) -> list[np.ndarray | None]:
        def value(key: Any, shape: tuple[int, ...]) -> np.ndarray | None:
            array = self.lowering.arrays.get(key)
            return None if array is None else found[array].view(array.dtype).reshape(shape)

        graph = self.graph
        finals = [value(("final", k), t.shape) for k, t in enumerate(graph.carry_in)]
        ys = [value(("y", id(t)), (length, *t.shape)) for t in graph.ys]
        return [*finals, *ys, *[value(("sum", id(t)), t.shape) for t in graph.sums]]

    def _layout(self, rows: int, block: int) -> tuple[dict[Any, int], dict[str, int]]:
        values: dict[Any, int] = {}
        used: dict[str, int] = {}
        for b in self.plan.buffers:
            count = math.prod(rows if d.key == ROWS_KEY else d.value for d in b.dims)
            values["pace", b.name] = count
            for slot in range(b.slots):
                at = used.get(str(b.dtype), 0)
                values[("at", b.name) if b.slots == 1 else ("at", b.name, slot)] = at
                used[str(b.dtype)] = at + -(-count * (block if b.over_time else 1) // 16) * 16
        return values, used


def same_bits(found: np.ndarray, wanted: Any) -> bool:
    """Equal bytes, any NaN equal to any NaN."""
    wanted = np.asarray(wanted)
    if found.dtype != wanted.dtype or found.shape != wanted.shape:
        return False
    whole = found.dtype if found.dtype.kind != "f" else np.dtype(f"i{found.dtype.itemsize}")
    equal = found.view(whole) == np.ascontiguousarray(wanted).view(whole)
    return bool((equal | (found != found) & (wanted != wanted)).all())


def check(
    graph: StepGraph, schedule: str | None, length: int = 3, reverse: bool = False, seed: int = 0,
    block: int = 1 << 20, **options: Any,
) -> Run:  # fmt: skip
    """Run a graph's plan on the host and compare with the cpu engine, bit for bit."""
    run = Run(graph, schedule, HostDevice(seed=seed, **options))
    arrays = random_arrays(graph, length, seed)
    wanted = on_cpu(graph, arrays, length, reverse)
    found = run(arrays, length, reverse, block)
    for k, (a, b) in enumerate(zip(found, wanted, strict=True)):
        assert a is None or same_bits(a, b), f"result {k} of {run.plan.schedule}: {a} instead of {b}"
    assert any(a is not None for a in found)
    return run
