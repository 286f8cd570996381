"""Constant operands of contractions, packed before a kernel runs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .contract import aligned_empty, packed_size
from .lower import Panels
from .matmul import pack_array


def packed(value: Any, panels: Panels) -> Any:
    """A constant operand in column panels, one set of them for each entry of its batch axes."""
    batch, summed, columns = panels.counts
    value = value.transpose(panels.axes)
    entries = value.shape[:batch]
    inner = math.prod(value.shape[batch : batch + summed])
    width = math.prod(value.shape[batch + summed :])
    if summed > 1 or columns > 1 or batch > 1 or any(stride < 0 for stride in value.strides):
        value = np.ascontiguousarray(value)
    value = value.reshape((-1, inner, width)) if batch else value.reshape((inner, width))[None]
    size = packed_size(inner, width, value.dtype)
    made = aligned_empty(len(value) * size, value.dtype)
    for k, entry in enumerate(value):
        pack_array(entry, made, k * size)
    return made.reshape(-1, size)[: len(value)] if entries or batch else made
