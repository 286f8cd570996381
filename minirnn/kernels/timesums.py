"""Sums over time and rows that a kernel of few steps computes itself.

Otherwise what it stacked is summed afterwards (sums.py), by several threads if they are worth it: for
which a small problem would wait longer than for its loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..autodiff import contraction
from ..autodiff.tensor import Node, Tensor
from .lower import Lowering
from .program import ROWS_KEY, Array, Buffer, Size

MOST_STEPS = Size(("most_steps",), 0, "most_steps")  # up to which the kernel computes its sums


@dataclass
class TimeSum:
    """The sum over time and rows of a value (U), or of its products with another one (F): (F, U)."""

    node: Node
    left: Array | None
    left_width: Size | None
    right: Array
    right_width: Size
    out: Array

    @property
    def products(self) -> int:
        """How many products, or numbers, one row has."""
        return self.right_width.value * (1 if self.left_width is None else self.left_width.value)


def is_plain(spec: str) -> bool:
    """Whether a contraction is that of the first axes of two matrices, in order."""
    a, b, out = contraction.parse(spec)
    return len(a) == len(b) == 2 and a[0] == b[0] and out == a[1] + b[1]


def find(lowering: Lowering) -> list[TimeSum]:
    """Those of a graph's sums that are of these forms, of values that the kernel reads or stacks."""
    makers = {id(o): node for node in lowering.summed for o in node.outputs}
    found = []
    for t in lowering.graph.sums:
        node = makers.get(id(t))
        while node is not None and node.primitive.name == "reshape":
            node = makers.get(id(node.inputs[0]))
        operands = None if node is None else _operands(lowering, node)
        if node is not None and operands is not None and ("sum", id(t)) not in lowering.arrays:
            out = lowering.array(("sum", id(t)), t, "sum", rank=len(t.shape))
            (left, left_width), (right, right_width) = [(None, None), *operands][-2:]
            found.append(TimeSum(node, left, left_width, right, right_width, out))
    return found


def _operands(lowering: Lowering, node: Node) -> list[tuple[Any, Any]] | None:
    """The arrays that a sum is of, with the width of a row; None if it has another form."""
    params = node.params
    is_product = node.primitive.form == "contract" and is_plain(params["spec"])
    if not is_product and not (node.primitive.name == "sum" and params["axis"] == (0,)):
        return None
    found = []
    for x in node.inputs:
        array = _over_time(lowering, x) if isinstance(x, Tensor) and len(x.shape) == 2 else None
        if array is None or array.dtype != node.outputs[0].dtype or array.dtype.kind != "f":
            return None
        found.append((array, lowering.dims.size(x, 1)))
    return found


def _over_time(lowering: Lowering, x: Tensor) -> Array | None:
    if lowering.is_constant(x) or lowering.dims.size(x, 0).key != ROWS_KEY:
        return None
    return lowering.arrays.get(("stack", id(x))) or lowering.arrays.get(("x", id(x)))


def packing_memory(lowering: Lowering, size: int, dtype: np.dtype[Any]) -> tuple[Array, Size]:
    """Scratch memory of `size` elements, and where it begins."""
    name = f"packed_{dtype}"
    if not any(buffer.name == name for buffer in lowering.buffers):
        lowering.buffers.append(Buffer(name, dtype, (Size(("packed", str(dtype)), size),), False, 1, name))
    return lowering.work(dtype), Size(("at", name), 0, f"{name}_at")
