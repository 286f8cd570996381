"""Constant operands of contractions, packed before a kernel runs."""

from __future__ import annotations

from typing import Any

import numpy as np

from .build import library_function
from .contract import aligned_empty, pack, packed_size
from .lower import Panels


def packed(value: Any, panels: Panels) -> Any:
    """A constant operand in column panels, one set of them for each entry of its batch axes."""
    batch, summed, columns = panels.counts
    value = value.transpose(panels.axes)
    entries = value.shape[:batch]
    inner = int(np.prod(value.shape[batch : batch + summed]))
    width = int(np.prod(value.shape[batch + summed :]))
    if summed > 1 or columns > 1 or batch > 1 or any(stride < 0 for stride in value.strides):
        value = np.ascontiguousarray(value)
    value = value.reshape((-1, inner, width)) if batch else value.reshape((inner, width))[None]
    size = packed_size(inner, width, value.dtype)
    made = aligned_empty(len(value) * size, value.dtype)
    row, column = (s // value.itemsize for s in value.strides[1:])
    for k, entry in enumerate(value):
        _pack(entry, row, column, inner, width, made, k * size)
    return made.reshape(-1, size)[: len(value)] if entries or batch else made


@library_function
def _pack(source: Any, row: int, column: int, inner: int, width: int, panels: Any, at: int) -> None:
    pack(source, 0, row, column, inner, width, panels, at)
