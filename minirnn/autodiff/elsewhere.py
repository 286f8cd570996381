"""Values of Tensors that stand on a device, in arrays that are not NumPy's.

Such an array has NumPy's attributes and views, and `host()`, NumPy's array of the same elements.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .. import config

# The types of such arrays, each with what it has in place of primitives' forward functions.
KINDS: dict[type, Mapping[str, Callable[..., Any]]] = {}


def register_array_type(kind: type, functions: Mapping[str, Callable[..., Any]]) -> None:
    """Let Tensors hold arrays of another type; `functions` run primitives, by their names, on the device."""
    KINDS[kind] = functions


def on_host(value: Any) -> np.ndarray:
    """NumPy's array of a Tensor's values, wherever they stand."""
    if type(value) is np.ndarray:
        return value
    array: np.ndarray = value.host() if type(value) in KINDS else np.asarray(value)
    return array


def is_on_device(value: Any) -> bool:
    """Whether it is an array that a library has on a device."""
    return not isinstance(value, np.ndarray) and hasattr(value, "__cuda_array_interface__")


def shared(value: Any, dtype: Any) -> Any:
    """What a Tensor holds for an array that a library has on a device: the same memory, unless the dtype differs."""
    found = config.array_on_device(value)
    return found if dtype is None or found.dtype == np.dtype(dtype) else found.host().astype(dtype)


def where_they_are(primitive: Any, forward: Callable[..., Any], values: list[Any]) -> tuple[Callable[..., Any], Any]:
    """The function that runs a primitive on values of which some are on a device, and the values that it takes."""
    for value in values:
        own = KINDS.get(type(value), {}).get(primitive.name)
        if own is not None:
            return own, values
    if primitive.form == "view":  # which leaves its array where it is
        return forward, values
    return forward, [on_host(value) if type(value) in KINDS else value for value in values]
