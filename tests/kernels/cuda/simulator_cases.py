"""Run by test_simulator.py in a process of its own: layers on the cuda engine in Numba's simulator.

There kernels are plain Python, one thread of the host for each of the device's, and NumPy arrays that know
their bounds.  The simulator's `grid.sync` does not wait for other blocks, so the schedule "grid" is not run.
"""

from __future__ import annotations

import re
import sys
from typing import Any

import numpy as np

from minirnn import config
from minirnn.kernels.cuda import device, target
from tests.kernels.same_bits_cases import differing

from . import test_cells

SCHEDULES = ("step", "block")


class SimulatedDevice:
    """A device of Numba's simulator: buffers are NumPy arrays."""

    name = "Numba's simulator"

    def __init__(self, change: tuple[str, str] | None = None) -> None:
        self.limits = device.Limits(multiprocessors=2)
        self.change = change
        self.launched = 0

    def empty(self, size: int, dtype: Any) -> np.ndarray:
        array = np.zeros(size, dtype)
        array.view(np.uint8)[...] = 0xFF  # NaN where it holds floats
        return array

    def to_device(self, array: np.ndarray, stream: Any = None) -> np.ndarray:
        return array.reshape(-1).copy()

    def to_host(self, buffer: np.ndarray, stream: Any = None) -> np.ndarray:
        return buffer.copy()

    def copy(self, source: np.ndarray, target: np.ndarray, stream: Any = None) -> None:
        target[...] = source

    def part(self, buffer: np.ndarray, first: int, size: int) -> np.ndarray:
        return buffer[first : first + size]

    def address(self, buffer: np.ndarray) -> int:
        return buffer.ctypes.data

    def free_memory(self) -> int:
        return 1 << 34

    def compile(self, text: str, name: str, signature: str, threads: int) -> Any:
        changed = text.replace(*self.change) if self.change else text
        # The simulator knows neither `cuda.types` nor an alignment of shared memory.
        plain = "import numba\n" + changed.replace("cuda.types.", "numba.")
        return getattr(target._module(re.sub(r"(shared\.array\(\w+, [\w.]+), 16\)", r"\1)", plain)), name)

    def cooperative_blocks(self, kernel: Any, threads: int, shared: int) -> int:
        return 0

    def launch(self, kernel: Any, launch: Any, blocks: tuple[int, int], arguments: list[Any], stream: Any) -> None:
        self.launched += 1
        kernel[blocks, launch.threads](*arguments)

    def launcher(self, kernel: Any, arguments: list[Any], stream: Any) -> Any:
        return lambda kernel, launch, blocks, *first: self.launch(kernel, launch, blocks, [*first, *arguments], stream)

    def wait(self, stream: Any) -> None:
        pass


def check(cell: str, dtype: str, schedule: str) -> None:
    """A layer in the simulator has the bits of the cpu engine."""
    simulated = SimulatedDevice()
    with device.using(simulated), config.schedule(schedule):
        made = test_cells.run(cell, dtype, "tiny", "cuda")
    assert simulated.launched
    assert differing(made, test_cells.on_cpu(cell, dtype, "tiny")) == [], (cell, dtype, schedule)


def check_that_bounds_are_checked() -> None:
    """A kernel that goes one row too far is refused."""
    with (
        device.using(SimulatedDevice(("min(row_first + tile, rows)", "row_first + tile + 1"))),
        config.schedule("step"),
    ):
        try:
            test_cells.run("SimpleRNN", "float32", "tiny", "cuda")
        except IndexError as error:
            assert "a kernel reaches for element" in str(error), error
            return
    raise AssertionError("an access out of bounds was not noticed")


if __name__ == "__main__":
    assert target.SIMULATED
    for case in sys.argv[1:]:
        check(*case.split(","))
    check_that_bounds_are_checked()
    print("checked", len(sys.argv) - 1)
