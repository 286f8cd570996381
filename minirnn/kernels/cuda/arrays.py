"""Arrays in a device's memory, as values of Tensors: the host gets a copy when something on it looks at the elements.

A `DeviceArray` is a view of a flat buffer.  Views of it are views of the same buffer; every other function of NumPy,
and every operation on it, works on the copy on the host, which is made once.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.lib.stride_tricks import as_strided

from ...autodiff.elsewhere import register_array_type
from ...errors import ArgumentError
from ..loop_program import address_of
from . import streams
from .device import Buffer, Device, current
from .memory import Memory, copied, copied_once, taken


class DeviceArray(NDArrayOperatorsMixin):
    """An array of a device: shape, dtype and strides as NumPy has them, and views; elements are copied to the host."""

    __slots__ = ("__weakref__", "dtype", "first", "memory", "shape", "steps")

    def __init__(
        self, memory: Memory, shape: tuple[int, ...], dtype: Any, steps: tuple[int, ...] | None = None, first: int = 0
    ) -> None:
        self.memory, self.shape, self.dtype, self.first = memory, shape, np.dtype(dtype), first
        self.steps = dense_steps(shape) if steps is None else steps  # the distances along each axis, in elements

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The bytes of its elements."""
        return self.size * self.dtype.itemsize

    @property
    def strides(self) -> tuple[int, ...]:
        """The distances along each axis, in bytes."""
        return tuple(step * self.dtype.itemsize for step in self.steps)

    @property
    def is_dense(self) -> bool:
        """Whether its elements stand in order, without gaps."""
        return is_dense(self.shape, self.steps)

    def buffer(self, stream: Any) -> Buffer:
        """Its elements for a kernel on a stream, from the first one on."""
        whole = self.memory.for_stream(stream)
        if self.first == 0 and self.memory.buffer.size == self._reach:
            return whole
        return self.memory.device.part(whole, self.first, self._reach)

    @property
    def _reach(self) -> int:
        """How many elements there are from its first to its last one."""
        return 1 + sum((n - 1) * step for n, step in zip(self.shape, self.steps)) if self.size else 0

    # on the host -------------------------------------------------------------------------------------
    def host(self) -> np.ndarray:
        """NumPy's array of the same elements, which nobody may change."""
        memory = self.memory
        if self.is_dense and self.size < memory.buffer.size and not memory.is_on_host:
            return memory.device.to_host(self.buffer(memory.stream), memory.stream).reshape(self.shape)
        return as_strided(memory.host()[self.first :], self.shape, self.strides)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.host(), dtype=dtype, copy=copy)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if any(type(x) is DeviceArray for x in options.get("out", ())):
            return NotImplemented  # nobody may change it
        values = [x.host() if type(x) is DeviceArray else x for x in inputs]
        return getattr(ufunc, method)(*values, **options)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.host(), name)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of an array without axes")
        return self.shape[0]

    def __bool__(self) -> bool:
        return bool(self.host())

    def __float__(self) -> float:
        return float(self.host())

    def __int__(self) -> int:
        return int(self.host())

    def __index__(self) -> int:
        return self.host().__index__()

    def __repr__(self) -> str:
        return f"DeviceArray(shape={self.shape}, dtype={self.dtype}, device={self.memory.device.name!r})"

    def __reduce__(self) -> Any:
        return np.array, (self.host(),)  # what is stored or sent to another process

    # views -------------------------------------------------------------------------------------------
    def transpose(self, *axes: Any) -> DeviceArray:
        """The axes in another order."""
        order = axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes or range(self.ndim)[::-1]
        shape, steps = tuple(self.shape[a] for a in order), tuple(self.steps[a] for a in order)
        return DeviceArray(self.memory, shape, self.dtype, steps, self.first)

    def swapaxes(self, a: int, b: int) -> DeviceArray:
        """Two axes in each other's place."""
        order = [*range(self.ndim)]
        order[a], order[b] = order[b], order[a]
        return self.transpose(order)

    def reshape(self, *shape: Any) -> Any:
        """Another shape; a copy on the host if its elements do not stand in order."""
        if not self.is_dense:
            return self.host().reshape(*shape)
        made = as_strided(np.empty(1, np.bool_), self.shape, (0,) * self.ndim).reshape(*shape).shape
        return DeviceArray(self.memory, made, self.dtype, None, self.first)

    def __getitem__(self, index: Any) -> Any:
        parts = index if isinstance(index, tuple) else (index,)
        if not all(isinstance(part, (int, np.integer, slice)) or part is None or part is Ellipsis for part in parts):
            return self.host()[index]
        # NumPy's own arithmetic, on an array of which no element is ever read.
        pattern = as_strided(np.empty(1, self.dtype), self.shape, self.strides)
        view = pattern[(*parts, ...) if Ellipsis not in parts else parts]
        first = self.first + (address_of(view) - address_of(pattern)) // self.dtype.itemsize
        steps = tuple(stride // self.dtype.itemsize for stride in view.strides)
        return DeviceArray(self.memory, view.shape, self.dtype, steps, first)

    # for others --------------------------------------------------------------------------------------
    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Where the elements are, for other libraries; they must not write to them."""
        memory = self.memory
        memory.device.wait(memory.stream)
        memory.is_known_elsewhere = True
        at = memory.device.address(memory.buffer) + self.first * self.dtype.itemsize if self.size else 0
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (at, False),  # torch refuses memory that is said to be for reading only
            "strides": None if self.is_dense else self.strides,
            "version": 3,
            "stream": None,
        }


def _hold(*operands: Any, **params: Any) -> Any:
    from .holding import hold

    return hold(*operands, **params)


def _unhold(*operands: Any, **params: Any) -> Any:
    from .holding import unhold

    return unhold(*operands, **params)


register_array_type(DeviceArray, {"hold": _hold, "unhold": _unhold})


def dense_steps(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The distances along each axis, in elements, of an array in order.

    >>> dense_steps((2, 3, 4))
    (12, 4, 1)
    """
    steps = [1]
    for n in shape[:0:-1]:
        steps.append(steps[-1] * n)
    return tuple(steps[::-1]) if shape else ()


def is_dense(shape: tuple[int, ...], steps: tuple[int, ...]) -> bool:
    """Whether those are the distances of an array in order; of an axis with one entry it does not matter.

    >>> is_dense((5, 1, 3), (3, 99, 1)), is_dense((1, 2, 3), (3, 3, 1)), is_dense((2, 2), (1, 2))
    (True, True, False)
    """
    wanted = dense_steps(shape)
    return 0 in shape or all(n == 1 or a == b for n, a, b in zip(shape, steps, wanted, strict=True))


# to the device -----------------------------------------------------------------------------------
def made(shape: tuple[int, ...], dtype: Any, device: Device, stream: Any) -> DeviceArray:
    """A new array, whose elements are not set."""
    return DeviceArray(taken(math.prod(shape), dtype, device, stream), shape, dtype)


def sent(array: Any, device: Device, stream: Any) -> DeviceArray:
    """A new array with the elements of NumPy's."""
    return DeviceArray(copied(np.ascontiguousarray(array), device, stream), array.shape, array.dtype)


def sent_once(array: np.ndarray, device: Device, stream: Any) -> DeviceArray:
    """The same for an array that never changes: there is one copy, as long as it lives."""
    return DeviceArray(copied_once(array, device, stream), array.shape, array.dtype)


def adopted(owner: Any) -> DeviceArray:
    """The array of another library that stands on the device, without a copy."""
    device, stream = current(), streams.current()
    about = owner.__cuda_array_interface__
    if about.get("mask") is not None:
        raise ArgumentError(
            "an array on a device", got="one with a mask", expected="one without", fix="mask= of scan or of a layer"
        )
    shape = tuple(about["shape"])
    dtype = np.dtype(about["typestr"])
    bytes_apart = about.get("strides")
    steps = None if bytes_apart is None else tuple(stride // dtype.itemsize for stride in bytes_apart)
    if steps is not None and (min(steps, default=0) < 0 or not is_dense(shape, steps)):
        order = sorted(range(len(shape)), key=lambda axis: -steps[axis])
        turned = tuple(shape[a] for a in order)
        if not is_dense(turned, tuple(steps[a] for a in order)):
            raise too_scattered(shape, bytes_apart)
    return DeviceArray(Memory(device, device.foreign(_Flat(owner, about)), stream, owner), shape, dtype, steps)


class _Flat:
    """All elements of an array of another library, in the order in which they are in memory."""

    def __init__(self, owner: Any, about: dict[str, Any]) -> None:
        self.owner = owner
        self.shape = (math.prod(about["shape"]),)
        self.__cuda_array_interface__ = {**about, "shape": self.shape, "strides": None}


def too_scattered(shape: tuple[int, ...], strides: Any) -> Exception:
    """The error for an array with gaps between its elements."""
    return ArgumentError(
        "an array on a device with gaps between its elements",
        got=f"shape {shape}, strides {strides}",
        expected="all elements of a piece of memory, in any order of axes",
        fix="a copy of it, such as cupy.ascontiguousarray(x) or x.contiguous()",
    )
