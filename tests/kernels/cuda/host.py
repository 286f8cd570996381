"""A CUDA device that is not there: kernels that numba-cuda compiled run on the host, with a device's rules.

What runs is the LLVM IR that libNVVM would get (retarget.py), each CUDA thread a fiber (fibers.py).  Raised as
`KernelError`, whatever the order of threads and blocks: an access outside the arrays of the launch, a read of
what nothing wrote, two threads that access an element without a barrier between them (one of them writing), a
barrier that some threads of a block do not come to, blocks that wait for others that have ended.  The order of
threads and blocks is given by a seed, so results can be compared between orders.

It does not show whether libNVVM and ptxas are right, what weak memory order does, or the limits and the speed
of a device.
"""

from __future__ import annotations

import ctypes
import functools
import inspect
import threading
from typing import Any

import numpy as np

from minirnn.kernels.cuda import target
from minirnn.kernels.cuda.device import Limits

from .fibers import BY_HOST, ROW, SHADOW, Fault, Fibers, Reason, State, state
from .retarget import HostCode, host_code

_MARGIN = 256  # bytes before and after an array, which belong to none; arrays begin at multiples of it
_SHARED = "shared memory"
_grid_epoch = 1
_running = threading.Lock()  # there is one state, and one kernel runs at a time


class KernelError(Exception):
    """A kernel did what a device does not allow, or does not promise anything about."""


class HostBuffer:
    """Memory of the device: `array` is what is in it, `shadow` who accessed each element last."""

    def __init__(self, shape: Any, dtype: Any, written: bool = False) -> None:
        dtype = np.dtype(dtype)
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        size = int(np.prod(shape, dtype=np.int64))
        raw = np.full(size * dtype.itemsize + 3 * _MARGIN, 0xFF, np.uint8)  # NaN where it holds floats
        begin = 2 * _MARGIN - raw.ctypes.data % _MARGIN
        self.array: np.ndarray = raw[begin : begin + size * dtype.itemsize].view(dtype).reshape(shape)
        self.shadow = np.zeros((size, SHADOW), np.int32)
        self.whole: HostBuffer | None = None  # of which this is a part
        if written:
            self.shadow[:, 0] = BY_HOST

    @classmethod
    def over(cls, array: np.ndarray, shadow: np.ndarray | None = None) -> HostBuffer:
        """Memory that is there already, which somebody has written unless its shadow says otherwise."""
        made = cls.__new__(cls)
        made.array = array
        made.shadow = np.full((array.size, SHADOW), BY_HOST, np.int32) if shadow is None else shadow
        made.whole = None
        return made

    def part(self, first: int, size: int) -> HostBuffer:
        """The elements from `first` on."""
        made = HostBuffer.over(self.array[first : first + size], self.shadow[first : first + size])
        made.whole = self.whole or self
        return made

    def overlaps(self, other: HostBuffer) -> bool:
        """Whether another part of the same memory has some of its elements, but not just the same ones."""
        begin, first = self.array.ctypes.data, other.array.ctypes.data
        end, last = begin + self.array.nbytes, first + other.array.nbytes
        is_shared = (self.whole or self) is (other.whole or other)
        return is_shared and (begin, end) != (first, last) and begin < last and first < end

    @property
    def size(self) -> int:
        """How many elements it has."""
        return self.array.size

    @property
    def dtype(self) -> np.dtype[Any]:
        """What it holds."""
        return self.array.dtype

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """As a device's arrays show themselves to others."""
        return {**self.array.__array_interface__, "version": 3, "stream": None}


class HostKernel:
    """A compiled kernel that runs on the host."""

    def __init__(self, compiled: target.Compiled, names: list[str]) -> None:
        self.compiled = compiled
        self.names = names
        self._code: dict[int, HostCode] = {}

    def run(
        self,
        grid: int | tuple[int, int],
        threads: int,
        *arguments: Any,
        shared: int = 0,
        seed: int = 0,
        without: int = 0,
    ) -> dict[str, int]:
        """Launch it with blocks in x and y; returns how many barriers and bytes that took.

        arguments: integers and HostBuffers; NumPy arrays stand for buffers that are copied in and out.
        seed: the order of threads and blocks; 0 is the natural one.  without: the number of a barrier that is left
        out, counted from 1 in the order of the text.
        """
        buffers = [HostBuffer(a.shape, a.dtype, written=True) if isinstance(a, np.ndarray) else a for a in arguments]
        for argument, buffer in zip(arguments, buffers):
            if isinstance(argument, np.ndarray):
                buffer.array[...] = argument
        grid = (grid, 1) if isinstance(grid, int) else grid
        try:
            with _running:
                launch = _Launch(self, self._code_for(shared), grid, threads, buffers, seed)
                state[State.WITHOUT] = without
                launch.run()
        finally:
            for argument, buffer in zip(arguments, buffers):
                if isinstance(argument, np.ndarray):
                    argument[...] = buffer.array
        return launch.counts()

    def shared_bytes(self, dynamic: int = 0) -> int:
        """Bytes of shared memory that a block has, with those that a launch adds."""
        return sum(size for _, _, size, _ in self._code_for(dynamic).shared)

    def barriers(self, shared: int = 0) -> int:
        """How many barriers there are in its text and in the functions that it calls."""
        return self._code_for(shared).barriers

    def _code_for(self, shared: int) -> HostCode:
        if shared not in self._code:
            self._code[shared] = host_code(self.compiled, shared)
        return self._code[shared]


@functools.cache
def host_kernel(text: str, name: str, signature: str, threads: int | None = None) -> HostKernel:
    """The kernel `name` of a module's text, for the host; equal arguments give the same one."""
    names = list(inspect.signature(target.function(text, name)).parameters)
    return HostKernel(target.compiled(text, name, signature, threads), names)


class HostDevice:
    """The device that kernels run on when there is none; `minirnn.kernels.cuda.device.Device` says what it can do.

    seed: the order of threads and blocks.  blocks: how many blocks of a cooperative grid it holds at once.
    `launched` counts the launches of each kernel by its name; `without` names the barrier that is left out of one.
    """

    name = "the host in place of a device"

    def __init__(self, seed: int = 0, blocks: int = 16, limits: Limits | None = None) -> None:
        self.seed, self.blocks = seed, blocks
        # Memory that had another use before would hide reads of what nothing has written.
        self.limits = limits or Limits(multiprocessors=blocks, kept_bytes=0)
        self.launched: dict[str, int] = {}
        self.without: dict[str, int] = {}

    # memory
    def empty(self, size: int, dtype: Any) -> HostBuffer:
        return HostBuffer(size, dtype)

    def to_device(self, array: np.ndarray, stream: Any = None) -> HostBuffer:
        buffer = HostBuffer(array.size, array.dtype, written=True)
        buffer.array[...] = array.reshape(-1)
        return buffer

    def to_host(self, buffer: HostBuffer, stream: Any = None) -> np.ndarray:
        return buffer.array.copy()

    def copy(self, source: HostBuffer, target: HostBuffer, stream: Any = None) -> None:
        target.array[...] = source.array
        target.shadow[:, 0] = np.where(source.shadow[:, 0] == 0, 0, BY_HOST)

    def part(self, buffer: HostBuffer, first: int, size: int) -> HostBuffer:
        return buffer.part(first, size)

    def address(self, buffer: HostBuffer) -> int:
        return buffer.array.ctypes.data

    def foreign(self, owner: Any) -> HostBuffer:
        if isinstance(owner, HostBuffer):
            return owner
        view = type("View", (), {"__array_interface__": {**owner.__cuda_array_interface__, "version": 3}})()
        return HostBuffer.over(np.asarray(view).reshape(-1))

    def free_memory(self) -> int:
        return 1 << 34

    # kernels
    def compile(self, text: str, name: str, signature: str, threads: int) -> HostKernel:
        return host_kernel(text, name, signature, threads)

    def cooperative_blocks(self, kernel: HostKernel, threads: int, shared: int) -> int:
        return self.blocks

    def launch(
        self, kernel: HostKernel, launch: Any, blocks: tuple[int, int], arguments: list[Any], stream: Any
    ) -> None:
        name = kernel.compiled.name
        if kernel.compiled.cooperative and not launch.cooperative:
            raise KernelError(f"{name} waits for the grid, but is not launched cooperatively")
        if launch.cooperative and blocks[0] * blocks[1] > self.blocks:
            raise KernelError(f"{name}: {blocks} blocks of a cooperative grid, but the device holds {self.blocks}")
        if launch.threads > (kernel.compiled.threads or self.limits.threads_per_block):
            raise KernelError(f"{name}: {launch.threads} threads, compiled for {kernel.compiled.threads}")
        if kernel.shared_bytes(launch.shared) > self.limits.shared_per_block:
            raise KernelError(f"{name}: {kernel.shared_bytes(launch.shared)} bytes of shared memory")
        if 0 in blocks:
            raise KernelError(f"{name} is launched with {blocks} blocks")
        self.launched[name] = self.launched.get(name, 0) + 1
        without = self.without.get(name, 0)
        kernel.run(blocks, launch.threads, *arguments, shared=launch.shared, seed=self.seed, without=without)

    def launcher(self, kernel: HostKernel, arguments: list[Any], stream: Any) -> Any:
        return lambda kernel, launch, blocks, *first: self.launch(kernel, launch, blocks, [*first, *arguments], stream)

    def stream(self, handle: int) -> Any:
        return handle

    def wait(self, stream: Any) -> None:
        pass


class _Launch:
    """One launch of a kernel."""

    def __init__(
        self, kernel: HostKernel, code: HostCode, grid: tuple[int, int], threads: int, arguments: list[Any], seed: int
    ) -> None:
        self.kernel, self.code, self.grid, self.threads = kernel, code, grid, threads
        self.blocks = grid[0] * grid[1]
        self.cooperative = kernel.compiled.cooperative
        self.block_barriers = self.grid_barriers = 0
        self._random = np.random.default_rng(seed) if seed else None
        self._ranges: list[tuple[str, int, int, Any, np.ndarray]] = []  # name, begin, unit, dtype, shadow
        self._arguments = arguments
        self._fill_arguments()

    def _fill_arguments(self) -> None:
        words: list[int] = []
        types = self.kernel.compiled.argument_types
        if len(types) != len(self._arguments):
            raise TypeError(f"{self.kernel.compiled.name} has {len(types)} arguments and got {len(self._arguments)}")
        for name, kind, argument in zip(self.kernel.names + ["*"] * len(types), types, self._arguments):
            if not isinstance(argument, HostBuffer):
                words.append(int(argument))
                continue
            array = argument.array
            if str(kind.dtype) != str(array.dtype) or kind.ndim != array.ndim:
                raise TypeError(f"argument {name} is {kind} and got {array.dtype} of shape {array.shape}")
            words += [0, 0, array.size, array.itemsize, array.ctypes.data, *array.shape, *array.strides]
            others = [other for other in self._arguments if isinstance(other, HostBuffer)]
            known = (argument.whole or argument) if any(map(argument.overlaps, others)) else argument
            self._ranges.append((name, known.array.ctypes.data, array.itemsize, array.dtype, known.shadow))
        memory = np.array(words, np.int64)
        _memory_at(self.code.arguments, memory.nbytes)[:] = memory.view(np.uint8)

    def run(self) -> None:
        """All blocks from beginning to end."""
        global _grid_epoch
        _grid_epoch += 1
        state[State.READ : State.SHARED_WRITTEN + 1] = 0
        state[State.THREADS], (state[State.BLOCKS_X], state[State.BLOCKS_Y]) = self.threads, self.grid
        if self.cooperative:
            self._run_together(self._order(self.blocks))
        else:
            for block in self._order(self.blocks):
                self._run_together(np.array([block]))

    def counts(self) -> dict[str, int]:
        """Barriers that blocks and the grid waited at, and bytes of device and of shared memory."""
        return {
            "block barriers": self.block_barriers,
            "grid barriers": self.grid_barriers,
            "read": int(state[State.READ]),
            "written": int(state[State.WRITTEN]),
            "shared read": int(state[State.SHARED_READ]),
            "shared written": int(state[State.SHARED_WRITTEN]),
        }

    def _order(self, count: int) -> np.ndarray:
        return np.arange(count) if self._random is None else self._random.permutation(count)

    def _run_together(self, blocks: np.ndarray) -> None:
        """Blocks that may wait for one another."""
        global _grid_epoch
        fibers = Fibers(len(blocks) * self.threads, self.code.address)
        memories = [_Shared(self.code) for _ in blocks]
        running = set(range(len(blocks)))
        while running:
            for place in self._order(len(blocks)):
                if place in running:
                    self._run_block(fibers, int(place), int(blocks[place]), memories[place])
            if fibers.overflowed():
                raise KernelError("a fiber's stack is too small for this kernel: STACK of fibers.py")
            ended = {place for place in running if fibers.reasons[place * self.threads] == Reason.DONE}
            if ended and ended != running:
                raise KernelError(
                    f"{self.kernel.compiled.name} waits for ever: {len(ended)} of {self.blocks} blocks have ended, "
                    "the others wait for the whole grid"
                )
            if ended:
                running.clear()
            else:
                self.grid_barriers += 1
                _grid_epoch += 1

    def _run_block(self, fibers: Fibers, place: int, block: int, memory: _Shared) -> None:
        """A block until it ends or waits for the grid."""
        first = place * self.threads
        state[State.BLOCK], state[State.FIRST_FIBER] = block, first
        state[State.BLOCK_X], state[State.BLOCK_Y] = block % self.grid[0], block // self.grid[0]
        state[State.GRID_EPOCH] = _grid_epoch
        ranges = self._ranges + memory.ranges()
        table = _table(ranges)
        state[State.TABLE], state[State.RANGES] = table.ctypes.data, len(table)
        memory.enter()
        reasons, sites = (a[first : first + self.threads] for a in (fibers.reasons, fibers.sites))
        while True:
            memory.epoch += 1
            state[State.BLOCK_EPOCH] = memory.epoch
            faulty = fibers.resume(first + self._order(self.threads))
            if faulty is not None:
                self._explain(block, faulty - first, Fault(int(fibers.sites[faulty])), ranges)
            if (reasons != reasons[0]).any() or (sites != sites[0]).any():
                self._diverged(block, reasons, sites)
            if reasons[0] != Reason.BLOCK_BARRIER:
                break
            self.block_barriers += 1
        memory.leave()

    def _explain(self, block: int, thread: int, fault: Fault, ranges: list[Any]) -> None:
        """Raise what is wrong with an access."""
        address = int(state[State.ADDRESS])
        who = f"{self.kernel.compiled.name}: thread {thread} of block {block}"
        name, begin, unit, dtype, shadow = min(
            ranges, key=lambda r: max(r[1] - address, address - (r[1] + r[2] * (len(r[4]) - 1)), 0)
        )
        element = (address - begin) // unit
        where = f"{name}[{element}] ({dtype}, {len(shadow)} elements)"
        if fault == Fault.OUT_OF_BOUNDS:
            raise KernelError(f"{who} accesses memory out of bounds, next to {where}")
        if fault == Fault.MISALIGNED:
            raise KernelError(f"{who} accesses several elements at once at {where}, which is not aligned for them")
        if fault == Fault.UNWRITTEN:
            raise KernelError(f"{who} reads {where}, which nothing has written")
        other = int(state[State.OTHER_BLOCK]), int(state[State.OTHER_THREAD])
        them = "several threads" if -1 in other else f"thread {other[1]} of block {other[0]}"
        raise KernelError(f"{who} and {them} access {where}, one of them writes, and no barrier is between them")

    def _diverged(self, block: int, reasons: np.ndarray, sites: np.ndarray) -> None:
        """Raise that threads of a block wait at different places."""
        words = {Reason.DONE: "have ended", Reason.GRID_BARRIER: "wait for the grid"}
        found = []
        for reason, site in sorted(set(zip(reasons.tolist(), sites.tolist()))):
            count = int(((reasons == reason) & (sites == site)).sum())
            found.append(f"{count} {words.get(Reason(reason), f'wait at barrier {site}')}")
        raise KernelError(f"{self.kernel.compiled.name}: the threads of block {block} part: {', '.join(found)}")


class _Shared:
    """A block's shared memory: kept here while the block does not run, and who accessed it last."""

    def __init__(self, code: HostCode) -> None:
        self.epoch = 0
        self._code = code
        self._kept = [np.full(size, 0xFF, np.uint8) for _, _, size, _ in code.shared]
        self._shadows = [np.zeros((size // unit, SHADOW), np.int32) for _, _, size, unit in code.shared]
        self._constants = [np.full((size, SHADOW), BY_HOST, np.int32) for _, size in code.constants]

    def ranges(self) -> list[tuple[str, int, int, Any, np.ndarray]]:
        """The ranges of memory that only this block has."""
        found: list[tuple[str, int, int, Any, np.ndarray]] = []
        for (name, address, _, unit), shadow in zip(self._code.shared, self._shadows):
            found.append((f"{_SHARED} {name}", address, unit, f"{unit} bytes", shadow))
        for (address, _), shadow in zip(self._code.constants, self._constants):
            found.append(("a constant table", address, 1, "bytes", shadow))
        return found

    def enter(self) -> None:
        """The block goes on."""
        for (_, address, size, _), kept in zip(self._code.shared, self._kept):
            _memory_at(address, size)[:] = kept

    def leave(self) -> None:
        """The block stops."""
        for (_, address, size, _), kept in zip(self._code.shared, self._kept):
            kept[:] = _memory_at(address, size)


def _memory_at(address: int, size: int) -> np.ndarray:
    return np.frombuffer((ctypes.c_uint8 * size).from_address(address), np.uint8)


def _table(ranges: list[tuple[str, int, int, Any, np.ndarray]]) -> np.ndarray:
    """Ranges of memory as the native check reads them, in order of their addresses."""
    rows = set()
    for name, begin, unit, _, shadow in ranges:
        counter = State.SHARED_READ if name.startswith(_SHARED) else State.READ
        rows.add((begin, begin + unit * len(shadow), unit.bit_length() - 1, shadow.ctypes.data, int(counter)))
    return np.array(sorted(rows), np.int64).reshape(-1, ROW)
