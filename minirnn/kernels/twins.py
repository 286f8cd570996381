"""The functions of lanes.py as plain Python on one number, for kernels that run without the JIT.

LANES is 1, so a kernel's vector loops go element by element, and every name means the same.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

LANES = 1


def place_in(array: Any, offset: int) -> tuple[Any, int]:
    """The memory of an array as one axis, and where the element `offset` places after its first stands there."""
    if array.ndim == 1 and array.strides[0] == array.itemsize:
        flat, first = array, 0
    else:
        steps = [(n - 1) * (stride // array.itemsize) for n, stride in zip(array.shape, array.strides, strict=True)]
        first = -sum(step for step in steps if step < 0)
        lowest = array[(..., *(slice(None, None, -1) if step < 0 else slice(None) for step in steps))]  # never a copy
        flat = as_strided(lowest, (1 + sum(map(abs, steps)),), (array.itemsize,))
    if not 0 <= first + offset < flat.size:
        raise IndexError(f"a kernel reaches for element {offset} of an array that has {flat.size}")
    return flat, first + offset


def element(array: Any, offset: int) -> Any:
    """One element of an array."""
    flat, place = place_in(array, offset)
    return flat[place]


def put(array: Any, offset: int, value: Any) -> None:
    """Set one element of an array."""
    flat, place = place_in(array, offset)
    flat[place] = value


def stride(array: Any, axis: int) -> int:
    """How many elements apart an array's neighbours along an axis are."""
    return int(array.strides[axis] // array.itemsize)


def load(array: Any, offset: int, count: int) -> Any:
    """The element at an offset; zero, and nothing read, if `count` is 0 or less."""
    return element(array, offset) if count > 0 else zeros(array)


def zeros(array: Any) -> Any:
    """A zero of an array's dtype."""
    return array.dtype.type(0)


def store(array: Any, offset: int, value: Any, count: int) -> None:
    """Put a number at an offset."""
    put(array, offset, value)


def load_apart(array: Any, offset: int, stride: int, count: int) -> Any:
    """As `load`."""
    return load(array, offset, count)


def store_apart(array: Any, offset: int, stride: int, value: Any, count: int) -> None:
    """As `store`."""
    put(array, offset, value)


def select(condition: Any, x: Any, y: Any) -> Any:
    """x where the condition holds, else y."""
    return np.where(condition, x, y)[()]


def fma(x: Any, y: Any, z: Any) -> Any:
    """Rounded once for float32, twice for float64, where Python has no exact one before 3.13."""
    dtype = np.result_type(*[v for v in (x, y, z) if isinstance(v, np.generic)])
    if dtype == np.float32:
        return np.float32(np.float64(x) * np.float64(y) + np.float64(z))
    exact = getattr(math, "fma", None)
    finite = exact is not None and all(math.isfinite(v) for v in (x, y, z))
    return np.float64(exact(x, y, z)) if finite and exact else np.float64(x) * np.float64(y) + np.float64(z)


sqrt = np.sqrt
absolute = np.abs
maximum = np.maximum
minimum = np.minimum


def as_float32(x: Any) -> Any:
    """Converted to float32."""
    return np.float32(x)


def as_float64(x: Any) -> Any:
    """Converted to float64."""
    return np.float64(x)


def as_int32(x: Any) -> Any:
    """Converted to int32."""
    return np.int32(x)


def as_int64(x: Any) -> Any:
    """Converted to int64."""
    return np.int64(x)


def as_bool(x: Any) -> Any:
    """Whether it is not zero."""
    return np.bool_(x)
