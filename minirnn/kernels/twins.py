"""The functions of lanes.py as plain Python on one number, for kernels that run without the JIT.

LANES is 1, so a kernel's vector loops go element by element, and every name means the same.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

LANES = 1


def _flat(array: Any, offset: int) -> Any:
    """The memory from an array's first element to its last, as one axis; IndexError outside of it."""
    reach = 1 + sum((n - 1) * (stride // array.itemsize) for n, stride in zip(array.shape, array.strides, strict=True))
    if not 0 <= offset < reach:
        raise IndexError(f"a kernel reaches for element {offset} of an array of {reach}")
    return as_strided(array, (reach,), (array.itemsize,))


def element(array: Any, offset: int) -> Any:
    return _flat(array, offset)[offset]


def put(array: Any, offset: int, value: Any) -> None:
    _flat(array, offset)[offset] = value


def load(array: Any, offset: int, count: int) -> Any:
    return element(array, offset)


def zeros(array: Any) -> Any:
    return array.dtype.type(0)


def store(array: Any, offset: int, value: Any, count: int) -> None:
    put(array, offset, value)


def load_apart(array: Any, offset: int, stride: int, count: int) -> Any:
    return element(array, offset)


def store_apart(array: Any, offset: int, stride: int, value: Any, count: int) -> None:
    put(array, offset, value)


def select(condition: Any, x: Any, y: Any) -> Any:
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
copysign = np.copysign
maximum = np.maximum
minimum = np.minimum


def bits(x: Any) -> Any:
    return x.view(np.int32 if x.dtype == np.float32 else np.int64)


def from_bits(x: Any) -> Any:
    return x.view(np.float32 if x.dtype == np.int32 else np.float64)


def as_float32(x: Any) -> Any:
    return np.float32(x)


def as_float64(x: Any) -> Any:
    return np.float64(x)


def as_int32(x: Any) -> Any:
    return np.int32(x)


def as_int64(x: Any) -> Any:
    return np.int64(x)


def as_bool(x: Any) -> Any:
    return np.bool_(x)


def count_from(start: int) -> Any:
    return np.int64(start)
