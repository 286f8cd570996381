"""The record of one primitive: everything minirnn knows about an operation, in one place.

A primitive's NumPy forward, shape rule, vjp, loop form, row rule and the domain from which its
tests draw stand together.  Nothing else in minirnn may name an operation to treat it specially.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ShapeError

PRIMITIVES: dict[str, Primitive] = {}

# How a value relates to the batch (see stepgraph/rows.py).  ROWS: axis 0 is the batch and each row
# was computed from the same row.  SHARED: no row of the batch went into it.  SUMMED: summed over the
# rows.  MIXED: rows are mixed in any other way.
ROWS, SHARED, SUMMED, MIXED = "rows", "shared", "summed", "mixed"


def broadcast_shapes(name: str, shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    """The shape that NumPy's broadcasting gives; ShapeError naming the operation if there is none."""
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        raise ShapeError(
            f"{name}: shapes do not broadcast",
            got=" and ".join(str(shape) for shape in shapes),
            expected="equal sizes, or 1, on each axis counted from the last",
        ) from None


def map_shape(primitive: Primitive, operands: tuple[Any, ...], params: dict[str, Any]) -> tuple[Any, Any]:
    """The default shape rule: broadcasting, and NumPy's promotion of equal or adapting dtypes."""
    shapes = [np.shape(x) if isinstance(x, (bool, int, float, complex)) else x.shape for x in operands]
    # The comparison costs less than NumPy's broadcasting and holds nearly always.
    shape = shapes[0] if all(s == shapes[0] for s in shapes) else broadcast_shapes(primitive.name, shapes)
    if primitive.result_dtype is not None:
        return shape, np.dtype(primitive.result_dtype)
    typed = operands[primitive.unified :] if primitive.unified is not None else operands
    dtypes = [x if isinstance(x, (bool, int, float, complex)) else x.dtype for x in typed]
    return shape, np.result_type(*dtypes)


def map_rows(classes: list[str], operands: tuple[Any, ...], node: Any) -> str:
    """The default row rule: rows stay rows if every operand with rows has the result's rank and rows."""
    if MIXED in classes:
        return MIXED
    if SUMMED in classes:
        return SUMMED if ROWS not in classes and _commutes_with_sum(node, classes) else MIXED
    if ROWS not in classes:
        return SHARED
    return ROWS if all(has_rows_of(node, x) for x, c in zip(operands, classes, strict=True) if c == ROWS) else MIXED


def has_rows_of(node: Any, x: Any) -> bool:
    """Whether axis 0 of an operand becomes axis 0 of the node's result; a batch of one may be broadcast to more."""
    shape = node.outputs[0].shape
    return len(x.shape) == len(shape) and x.shape[:1] == shape[:1]


def _commutes_with_sum(node: Any, classes: list[str]) -> bool:
    """Whether it is the same to apply the node and to sum: to a sum of sums, or to one sum that is scaled."""
    summed = classes.count(SUMMED)
    return summed == 1 if node.primitive.linear == "each" else node.primitive.linear == "all" and summed == len(classes)


def map_per_row(node: Any, classes: list[str]) -> list[bool]:
    """Which operands without rows have one entry a row all the same, and are read row by row."""
    return [
        ROWS in classes and c == SHARED and not isinstance(x, (bool, int, float, complex)) and has_rows_of(node, x)
        for x, c in zip(node.inputs, classes, strict=True)
    ]


@dataclass(frozen=True, eq=False)
class Primitive:
    """One operation.

    forward(*arrays, **params) computes with NumPy; vjp(ct, out, *inputs, **params) returns one
    cotangent an input, None where there is none, or a function of no arguments where computing it
    is worth avoiding; shape(primitive, operands, params) returns (shape, dtype), a list of such
    pairs if `multiple`.  `form` is the loop form it lowers to: map, contract, reduce, view, gather,
    scatter, window, source, random, or over all of time: scan or hold.  `rows` says how it treats
    the batch, `per_row` which operands have an entry a row though no row went into them, and
    `resize(params, n)` gives the params for another number of rows.
    """

    name: str
    forward: Callable[..., Any]
    vjp: Callable[..., Any] | None = None
    shape: Callable[..., Any] = map_shape
    form: str = "map"
    rows: Callable[..., str] = map_rows
    per_row: Callable[[Any, list[str]], list[bool]] = map_per_row
    resize: Callable[[dict[str, Any], int], dict[str, Any]] | None = None
    linear: str | None = None  # "all": linear in all floating operands together; "each": in each by itself
    unified: int | None = 0  # from this operand on they must agree in dtype; None: no such rule
    float_only: bool = False  # integers are cast to the default float first
    result_dtype: Any = None
    multiple: bool = False  # returns several outputs
    selective: bool = False  # the vjp also takes needed=(bool per input)
    analytic: bool = True  # complex step applies
    domain: tuple[tuple[float, float], ...] = ()  # for maps: where tests sample each operand
    samples: Callable[[np.random.Generator], tuple[list[Any], dict[str, Any]]] | None = None

    def __post_init__(self) -> None:
        PRIMITIVES[self.name] = self

    def __repr__(self) -> str:
        return f"<primitive {self.name}>"
