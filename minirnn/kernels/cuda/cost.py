"""What a plan costs on a device, on paper: what its kernels do (counts.py), and a time from stated assumptions.

None of the times has been measured: they order schedules and sizes, and say what a measurement should be compared
with.  `minirnn bench --engine cuda` measures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from ..loop_program import places_of_buffers
from ..lower import Lowering
from .counts import ArrayOf, BlockCounts, Counts, of_block
from .device import Limits
from .fit import Fit, fit_block, fit_grid
from .schedule import Launch, Plan


class Gpu(NamedTuple):
    """A device as the model knows it; docs/cuda.md says where each number is from."""

    name: str
    limits: Limits
    clock: float  # Hz
    lanes: dict[int, int]  # multiply-adds that a multiprocessor starts in a clock, by the bytes of a number
    cache: float  # bytes a second from the L2 cache
    memory: float  # bytes a second from the device's memory
    cache_latency: int = 200  # clocks
    shared_latency: int = 20
    arithmetic_latency: int = 4


A100 = Gpu("A100", Limits(108, capability=(8, 0)), 1.41e9, {4: 64, 8: 32}, 7.2e12, 1.555e12)
H100 = Gpu("H100", Limits(132, capability=(9, 0)), 1.755e9, {4: 128, 8: 64}, 9.0e12, 3.35e12)

# What is assumed of every device.
LAUNCH = 6.6e-6  # seconds that the host needs for a launch whose arrays are the ones of the launch before
GRID_BARRIER = 1.5e-6  # seconds in which all blocks wait for each other
BLOCK_BARRIER = 30  # clocks
FUNCTION = 40  # instructions of an elementary function
FUNCTION_LATENCY = 100  # clocks from its argument to its result
ACCESSES = 32  # that a multiprocessor starts in a clock


class LaunchCounts:
    """What the launches of one kernel do in a whole scan.

    first: its first block, which has as much to do as any other.  blocks: those of one launch, where the grid has
    a second axis (of time steps) one for all along it.
    """

    def __init__(self, launch: Launch, blocks: int, launches: int, of: Callable[[int], BlockCounts]) -> None:
        self.launch, self.blocks, self.launches = launch, blocks, launches
        self.first = of(0)
        self._of = of

    @property
    def runs_loop(self) -> bool:
        """Whether it goes from step to step."""
        return self.launch.each == "step" or self.launch.kernel == "loop"

    @property
    def each_step(self) -> Counts:
        """What the first block does in one step of the loop."""
        return self.first.total if self.launch.each == "step" else self.first.each_step

    def total(self) -> Counts:
        """What all blocks of all launches do."""
        total, last = Counts(), self._of(self.blocks - 1)
        if last == self.first:  # then so do those between them
            return total.add(last.total, self.blocks * self.launches)
        for block in range(self.blocks):
            total.add(self._of(block).total, self.launches)
        return total


def of_plan(plan: Plan, lowering: Lowering, rows: int, length: int) -> list[LaunchCounts]:
    """The counts of each launch of a scan of so many steps, all of them in one block of time."""
    sizes = _sizes_of(plan, lowering, rows, length)
    arrays = [ArrayOf(a.name, a.dtype.itemsize) for a in lowering.arrays.values()]
    found = []
    for launch in plan.launches:
        text = plan.kernels[launch.kernel]
        steps = 1 if launch.each == "step" else length
        blocks, _ = launch.grid(rows, steps)
        given = [0, steps, 0, 0, 1, rows, sizes, ArrayOf("status", 8), *arrays]
        arguments = dict(zip(_arguments_of(text, launch.kernel), given, strict=True))

        def of(
            block: int, text: str = text, arguments: Any = arguments, launch: Launch = launch, blocks: int = blocks
        ) -> BlockCounts:
            return of_block(text, arguments, launch.threads, (block, 0), (blocks, 1))

        found.append(LaunchCounts(launch, blocks, length if launch.each == "step" else 1, of))
    return found


def fits(lowering: Lowering, gpu: Gpu, schedule: str) -> bool:
    """Whether a loop program can be run on the device by "block" or "grid"."""
    return isinstance({"block": fit_block, "grid": fit_grid}[schedule](lowering, gpu.limits), Fit)


def loop_of(counts: Iterable[LaunchCounts]) -> LaunchCounts:
    """The launch that goes from step to step."""
    return next(c for c in counts if c.runs_loop)


# times -------------------------------------------------------------------------------------------
class StepTime(NamedTuple):
    """Seconds of one step of the loop, on paper: of the device, and what the host needs to start it."""

    waiting: float  # for memory and at barriers of the block
    computing: float  # the longest of: chains one after another, arithmetic, accesses
    fetching: float  # from the L2 cache, all blocks together
    grid_barriers: float
    host: float

    @property
    def total(self) -> float:
        """The host prepares the next launch while the device runs this one."""
        return max(self.host, self.waiting + max(self.computing, self.fetching) + self.grid_barriers)


def step_time(counts: LaunchCounts, gpu: Gpu, itemsize: int) -> StepTime:
    """What a step takes by the assumptions above; `itemsize` bytes a number."""
    each, per_launch = counts.each_step, counts.launch.each == "step"
    together = -(-counts.blocks // gpu.limits.multiprocessors)
    waiting = each.memory_phases * gpu.cache_latency + (each.phases - each.memory_phases) * gpu.shared_latency
    computing = max(
        each.serial * gpu.arithmetic_latency + each.serial_functions * FUNCTION_LATENCY,
        together * (each.multiply_adds + each.functions * FUNCTION) / gpu.lanes[itemsize],
        together * each.accesses / ACCESSES,
    )
    return StepTime(
        (waiting + each.barriers * BLOCK_BARRIER) / gpu.clock, computing / gpu.clock,
        counts.blocks * each.fetched / gpu.cache, each.grid_barriers * GRID_BARRIER,
        LAUNCH if per_launch else 0.0,
    )  # fmt: skip


# what kernels are given --------------------------------------------------------------------------
def _arguments_of(text: str, name: str) -> list[str]:
    start = text.index(f"def {name}(") + len(f"def {name}(")
    return text[start : text.index(")", start)].split(", ")


def _sizes_of(plan: Plan, lowering: Lowering, rows: int, length: int) -> tuple[int, ...]:
    """The integers that the kernels are given, for dense arrays."""
    values, _ = places_of_buffers(plan.buffers, rows, length)
    for array in lowering.arrays.values():
        shape = _shape_of(array, lowering, rows, length)
        values.update({("of", array.name, axis): math.prod(shape[axis + 1 :]) for axis in range(min(2, len(shape)))})
    return tuple(int(values.get(size.key, size.value)) for size in plan.sizes)


def _shape_of(array: Any, lowering: Lowering, rows: int, length: int) -> tuple[int, ...]:
    source = lowering.sources.get(array)
    if array.role == "panels":
        packing = next(p for p in lowering.panels if p.array is array)
        shape = [packing.tensor.shape[axis] for axis in packing.axes]
        return math.prod(shape[: packing.counts[0]]), math.prod(shape[packing.counts[0] :])
    shape = [*getattr(source, "shape", ())]
    if array.rowed and shape:
        shape[0] = rows
    return (length, *shape) if array.time else tuple(shape)
