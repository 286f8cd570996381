"""Constant operands of contractions, packed before a kernel runs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .contract import aligned_empty, packed_size
from .lower import Panels
from .matmul import pack_array
from .rowproducts import FEW


def packed(value: Any, panels: Panels) -> Any:
    """A constant operand in column panels, one set of them for each entry of its batch axes.

    A row's own matrix of few columns is no more than put in order.
    """
    batch, summed, columns = panels.counts
    value = value.transpose(panels.axes)
    entries = value.shape[:batch]
    inner = math.prod(value.shape[batch : batch + summed])
    width = math.prod(value.shape[batch + summed :])
    if summed > 1 or columns > 1 or batch > 1 or any(stride < 0 for stride in value.strides):
        value = np.ascontiguousarray(value)
    value = value.reshape((math.prod(entries), inner, width))
    if panels.each and width <= FEW:
        as_it_is = aligned_empty(value.size, value.dtype).reshape(len(value), inner * width)
        as_it_is.reshape(value.shape)[...] = value
        return as_it_is
    size = packed_size(inner, width, value.dtype)
    made = aligned_empty(len(value) * size, value.dtype)
    for k, entry in enumerate(value):
        pack_array(entry, made, k * size)
    return made.reshape(len(value), size) if batch else made
