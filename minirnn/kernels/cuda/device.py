"""What the cuda engine asks of a device: memory, copies, compiled kernels and launches.

`Device` is the list of it.  `NumbaDevice` is a CUDA device through numba-cuda; it has never run, as no device was at
hand where minirnn was built.  Tests put another one in its place, which runs the same kernels on the host.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from ...errors import EngineError

if TYPE_CHECKING:
    from .schedule import Launch

# A flat, dense array in the device's memory: its size and dtype are those of a NumPy array.
Buffer = Any


# Starts a kernel: (kernel, launch, blocks, first, steps, done).
Launcher = Callable[[Any, "Launch", tuple[int, int], int, int, int], None]


class Limits(NamedTuple):
    """What a device has; registers, shared memory and threads are those of one block."""

    multiprocessors: int = 108
    registers_per_block: int = 65536
    registers_per_thread: int = 255
    shared_per_block: int = 48 * 1024
    threads_per_block: int = 1024
    capability: tuple[int, int] = (8, 0)
    kept_bytes: int = 0  # of memory that is not given back, but kept for later arrays


class Device(Protocol):
    """A device; buffers are flat, and a stream is what the device takes for one, None for its default."""

    name: str
    limits: Limits

    def empty(self, size: int, dtype: Any) -> Buffer:
        """Memory for `size` elements; MemoryError if there is not so much."""

    def to_device(self, array: np.ndarray, stream: Any) -> Buffer:
        """A copy of a C-contiguous array, of which the caller may do what he likes afterwards."""

    def to_host(self, buffer: Buffer, stream: Any) -> np.ndarray:
        """A flat copy, after all that the stream has to do."""

    def copy(self, source: Buffer, target: Buffer, stream: Any) -> None:
        """Copy between buffers of one size and dtype."""

    def part(self, buffer: Buffer, first: int, size: int) -> Buffer:
        """The elements from `first` on, in the same memory."""

    def address(self, buffer: Buffer) -> int:
        """Where it is in the device's memory."""

    def foreign(self, owner: Any) -> Buffer:
        """A buffer over the memory of an object with a dense `__cuda_array_interface__`."""

    def compile(self, text: str, name: str, signature: str, threads: int) -> Any:
        """The kernel `name` of a printed module, for blocks of so many threads.

        signature: the types of its arguments, as Numba writes them.
        """

    def cooperative_blocks(self, kernel: Any, threads: int, shared: int) -> int:
        """How many blocks of a cooperative kernel the device can hold at once."""

    def launcher(self, kernel: Any, arguments: list[Any], stream: Any) -> Launcher:
        """What starts kernels that take the same arguments as `kernel`, from the fourth on these.

        Whole numbers and buffers are arguments; the launcher takes a kernel, how it is launched, the numbers of
        blocks along two axes, and the first three arguments.
        """

    def stream(self, handle: int) -> Any:
        """The stream of this number, as CUDA, CuPy and torch know it."""

    def wait(self, stream: Any) -> None:
        """Wait until the stream has done what it was given."""

    def free_memory(self) -> int:
        """How many bytes could be had."""


# which device ------------------------------------------------------------------------------------
_chosen: list[Device] = []


def current() -> Device:
    """The device that the cuda engine uses; EngineError if there is none."""
    return _chosen[-1] if _chosen else _first_device()


@contextlib.contextmanager
def using(device: Device) -> Iterator[Device]:
    """Another device for a block, in all threads."""
    _chosen.append(device)
    try:
        yield device
    finally:
        _chosen.remove(device)


@functools.cache
def _first_device() -> Device:
    return NumbaDevice()


_WHAT = 'engine "cuda" cannot run here'
_FIX = 'mr.engine("cpu") gives the same bits; "cuda" needs an NVIDIA GPU and its driver'


_KEPT_BYTES = 1 << 29


class NumbaDevice:
    """The current CUDA device, through numba-cuda.  What is written here has not run on one."""

    def __init__(self) -> None:
        from . import target

        if reason := target.missing():
            what, _, fix = reason.partition(": ")
            raise EngineError(_WHAT, got=what, expected="the package numba-cuda and its compiler", fix=fix or _FIX)
        self._target, self._cuda = target, target.cuda
        try:
            device = self._cuda.get_current_device()
            name = device.name
        except Exception as error:  # the driver's own errors, which differ from version to version
            reason = next((line for line in str(error).splitlines() if "found" in line or "CUDA_" in line), str(error))
            raise EngineError(_WHAT, got=reason.rstrip("."), expected="a CUDA driver and a device", fix=_FIX) from None
        self.name = name.decode() if isinstance(name, bytes) else str(name)
        self.limits = Limits(
            multiprocessors=device.MULTIPROCESSOR_COUNT,
            registers_per_block=device.MAX_REGISTERS_PER_BLOCK,
            shared_per_block=min(device.MAX_SHARED_MEMORY_PER_BLOCK, Limits().shared_per_block),
            threads_per_block=device.MAX_THREADS_PER_BLOCK,
            capability=tuple(device.compute_capability),
            kept_bytes=_KEPT_BYTES,
        )

    # memory ------------------------------------------------------------------------------------------
    def empty(self, size: int, dtype: Any) -> Buffer:
        return _allocated(self._cuda.device_array, size, dtype)

    def to_device(self, array: np.ndarray, stream: Any) -> Buffer:
        # Host memory that is not pinned has been read when the call returns.
        return _allocated(self._cuda.to_device, array.reshape(-1), stream=stream or 0)

    def to_host(self, buffer: Buffer, stream: Any) -> np.ndarray:
        host: np.ndarray = buffer.copy_to_host(stream=stream or 0)
        self.wait(stream)
        return host

    def copy(self, source: Buffer, target: Buffer, stream: Any) -> None:
        target.copy_to_device(source, stream=stream or 0)

    def part(self, buffer: Buffer, first: int, size: int) -> Buffer:
        return buffer[first : first + size]

    def address(self, buffer: Buffer) -> int:
        return int(buffer.device_ctypes_pointer.value or 0)

    def foreign(self, owner: Any) -> Buffer:
        return self._cuda.as_cuda_array(owner).reshape(-1)

    def free_memory(self) -> int:
        return int(self._cuda.current_context().get_memory_info().free)

    # kernels -----------------------------------------------------------------------------------------
    def compile(self, text: str, name: str, signature: str, threads: int) -> Any:
        return self._target.compiled(text, name, signature, threads, self.limits.capability).launchable()

    def cooperative_blocks(self, kernel: Any, threads: int, shared: int) -> int:
        return int(kernel.max_cooperative_grid_blocks(threads, shared))

    def launcher(self, kernel: Any, arguments: list[Any], stream: Any) -> Launcher:
        start = self._target.launcher(kernel, arguments, stream or 0)
        return lambda kernel, launch, blocks, *first: start(kernel, blocks, launch.threads, launch.shared, first)

    def stream(self, handle: int) -> Any:
        return self._cuda.external_stream(handle)

    def wait(self, stream: Any) -> None:
        (self._cuda.default_stream() if stream is None else stream).synchronize()


def _allocated(make: Any, *arguments: Any, **options: Any) -> Buffer:
    try:
        return make(*arguments, **options)
    except Exception as error:  # the driver's own
        if "OUT_OF_MEMORY" in str(error).upper():
            raise MemoryError(str(error)) from None
        raise


def require() -> None:
    """EngineError unless the cuda engine can run here."""
    current()


def adopted(array: Any) -> Any:
    """What a Tensor holds for the array of another library on the device."""
    from .arrays import adopted

    return adopted(array)


def describe() -> str:
    """A line about the device, for bug reports."""
    try:
        device = current()
    except EngineError as error:
        return f"none: {error.got}"
    major, minor = device.limits.capability
    return f"{device.name}, compute capability {major}.{minor}, {device.limits.multiprocessors} multiprocessors"


def too_little(wanted: int, device: Device) -> EngineError:
    """The error for memory that the device does not have."""
    return EngineError(
        f'engine "cuda": too little memory on {device.name}',
        got=f"{device.free_memory() / 1e6:.1f} MB free",
        expected=f"{wanted / 1e6:.1f} MB",
        fix='a smaller batch, shorter sequences, or checkpoint=k; mr.engine("cpu") gives the same bits',
    )
