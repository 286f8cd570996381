"""The primitives that sum: contraction of two arrays, sum and maximum over axes, sliding windows.

There is one contraction, written in Einstein's notation ("bf,fu->bu").  Its cotangents are the
same contraction with the letters exchanged, so products, batched products and their derivatives of
any order are one primitive, and a letter says where the batch goes.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from ..errors import ArgumentError, ShapeError
from . import numerics
from .elementwise import cast, divide, equal, where
from .primitive import MIXED, ROWS, SHARED, SUMMED, Primitive
from .structure import broadcast_to, repeated, reshape
from .tensor import FLOATING, apply


# contract ----------------------------------------------------------------------------------------
@functools.lru_cache(maxsize=1024)
def parse(spec: str) -> tuple[str, str, str]:
    """The letters of the operands and of the result."""
    left, arrow, out = spec.partition("->")
    a, comma, b = left.partition(",")
    if not (arrow and comma and (a + b + out).isalpha()):
        raise ArgumentError("contract: not understood", got=repr(spec), expected='letters as in "bf,fu->bu"')
    for letter in set(a + b + out):
        if sum(letter in part for part in (a, b, out)) < 2 or max(p.count(letter) for p in (a, b, out)) > 1:
            raise ArgumentError(
                f"contract: letter {letter!r} of {spec!r}",
                expected="each letter once in at least two of: first operand, second operand, result",
                fix="sum over an axis of one operand with mr.ops.sum first",
            )
    return a, b, out


def summed_letters(spec: str) -> str:
    """The letters that are summed over, in the order of the first operand."""
    a, b, out = parse(spec)
    return "".join(c for c in a if c in b and c not in out)


@functools.lru_cache(maxsize=1024)
def plan(spec: str) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int, int, int]:
    """Axis orders that turn the operands into (batch, rows, sum) and (batch, sum, columns)."""
    a, b, out = parse(spec)
    batch = [c for c in out if c in a and c in b]
    rows = [c for c in out if c not in b]
    columns = [c for c in out if c not in a]
    summed = [c for c in a if c in b and c not in out]
    order_a = tuple(a.index(c) for c in batch + rows + summed)
    order_b = tuple(b.index(c) for c in batch + summed + columns)
    made = batch + rows + columns
    return order_a, order_b, tuple(made.index(c) for c in out), len(batch), len(rows), len(summed)


def contract_arrays(a: Any, b: Any, spec: str) -> Any:
    """The contraction as one (batched) matrix product of NumPy."""
    order_a, order_b, order_out, batch, rows, summed = plan(spec)
    a, b = a.transpose(order_a), b.transpose(order_b)
    if batch == 0 and rows <= 1 and summed == 1 and b.ndim <= 2:
        out = a @ b  # the common case, without reshaping
    else:
        batch_shape, row_shape = a.shape[:batch], a.shape[batch : batch + rows]
        sum_shape, column_shape = a.shape[batch + rows :], b.shape[batch + summed :]
        sizes = [int(np.prod(s)) for s in (row_shape, sum_shape, column_shape)]
        left = a.reshape((*batch_shape, sizes[0], sizes[1]))
        right = b.reshape((*batch_shape, sizes[1], sizes[2]))
        out = (left @ right).reshape(batch_shape + row_shape + column_shape)
    return out if order_out == tuple(range(len(order_out))) else out.transpose(order_out)


def contracted_shape(spec: str, *shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the result; ShapeError if the operands' shapes do not fit the letters."""
    a, b, out = parse(spec)
    sizes: dict[str, int] = {}
    for letters, shape in zip((a, b), shapes, strict=True):
        if len(letters) != len(shape):
            raise ShapeError(f"contract {spec!r}: an operand's rank", got=shape, expected=f"axes {letters}")
        for letter, n in zip(letters, shape, strict=True):
            if sizes.setdefault(letter, n) != n:
                raise ShapeError(
                    f"contract {spec!r}: the sizes of {letter!r} differ",
                    got=" and ".join(str(shape) for shape in shapes),
                    expected="one size for each letter",
                )
    return tuple(sizes[letter] for letter in out)


def _contract_vjp(ct: Any, out: Any, x: Any, y: Any, spec: str) -> Any:
    a, b, c = parse(spec)
    return lambda: contract(f"{c},{b}->{a}", ct, y), lambda: contract(f"{a},{c}->{b}", x, ct)


def _contract_rows(classes: list[str], operands: Any, node: Any) -> str:
    if MIXED in classes:
        return MIXED
    if SUMMED in classes:
        return SUMMED if sorted(classes) == [SHARED, SUMMED] else MIXED
    if ROWS not in classes:
        return SHARED
    a, b, out = parse(node.params["spec"])
    of_rows, other = (a, b) if classes[0] == ROWS else (b, a)
    row = of_rows[0]
    # An operand that has rows too, or one entry a row, has them on its first axis.
    if (row in other or classes == [ROWS, ROWS]) and other[:1] != row:
        return MIXED
    return SUMMED if row not in out else ROWS if out[0] == row else MIXED


def _contract_per_row(node: Any, classes: list[str]) -> list[bool]:
    a, b, _ = parse(node.params["spec"])
    return [ROWS in classes and c == SHARED and a[:1] == b[:1] for c in classes]


_contract = Primitive(
    "contract",
    contract_arrays,
    _contract_vjp,
    shape=lambda primitive, operands, params: (
        contracted_shape(params["spec"], *[x.shape for x in operands]),
        np.result_type(*[x.dtype for x in operands]),
    ),
    form="contract",
    rows=_contract_rows,
    per_row=_contract_per_row,
    linear="each",
    samples=lambda rng: ([rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 4, 5))], {"spec": "nij,njk->nik"}),
)


def contract(spec: str, a: Any, b: Any) -> Any:
    """The sum of products that Einstein's notation names; each letter stands in two of the three places."""
    return apply(_contract, a, b, spec=spec)


# sum and max -------------------------------------------------------------------------------------
# `axis` is a sorted tuple of axes >= 0.
def _reduced_shape(x: Any, axis: tuple[int, ...], keepdims: bool) -> tuple[int, ...]:
    return tuple(1 if i in axis else n for i, n in enumerate(x.shape) if keepdims or i not in axis)


def _like_input(reduced: Any, x: Any, axis: Any, keepdims: bool) -> Any:
    """The reduced array with its axes put back as axes of size 1."""
    return reduced if keepdims else reshape(reduced, tuple(1 if i in axis else n for i, n in enumerate(x.shape)))


def _reduce_rows(classes: list[str], operands: Any, node: Any) -> str:
    if classes[0] == ROWS and 0 in node.params["axis"]:
        return SUMMED if node.primitive.linear else MIXED
    if classes[0] == SUMMED and not node.primitive.linear:
        return MIXED
    return classes[0]


def _sum_dtype(x: Any) -> np.dtype[Any]:
    return x.dtype if x.dtype.kind in FLOATING else np.dtype("int64")


def _sum_vjp(ct: Any, out: Any, x: Any, axis: Any, keepdims: bool) -> Any:
    if len(axis) == len(x.shape):  # one number, which needs no axes to be broadcast
        return (lambda: repeated(ct, x.shape),)
    return (lambda: broadcast_to(_like_input(ct, x, axis, keepdims), x.shape),)


def sum_of_array(x: Any, axis: tuple[int, ...], keepdims: bool) -> Any:
    """NumPy's sum, of integers as int64."""
    return x.sum(axis=axis, dtype=_sum_dtype(x), keepdims=keepdims)


_sum = Primitive(
    "sum",
    sum_of_array,
    _sum_vjp,
    shape=lambda primitive, operands, params: (_reduced_shape(operands[0], **params), _sum_dtype(operands[0])),
    form="reduce",
    rows=_reduce_rows,
    linear="all",
    unified=None,
    samples=lambda rng: ([rng.normal(size=(2, 3, 4))], {"axis": (0, 2), "keepdims": False}),
)


def sum_over(x: Any, axis: tuple[int, ...], keepdims: bool) -> Any:
    """The sum over axes."""
    return apply(_sum, x, axis=axis, keepdims=keepdims)


def _max_vjp(ct: Any, out: Any, x: Any, axis: Any, keepdims: bool) -> Any:
    def share() -> Any:
        # Ties share the cotangent evenly.
        is_largest = equal(x, _like_input(out, x, axis, keepdims))
        ties = sum_over(cast(is_largest, x.dtype), axis, True)
        return where(is_largest, divide(_like_input(ct, x, axis, keepdims), ties), 0.0)

    return (share,)


def _max_shape(primitive: Primitive, operands: Any, params: Any) -> Any:
    x, axis = operands[0], params["axis"]
    if any(x.shape[a] == 0 for a in axis):
        raise ShapeError(f"{primitive.name} over an empty axis", got=x.shape, expected="at least one element")
    return _reduced_shape(x, axis, params.get("keepdims", False)), np.dtype(primitive.result_dtype or x.dtype)


_max = Primitive(
    "max",
    numerics.maximum_over,
    _max_vjp,
    shape=_max_shape,
    form="reduce",
    rows=_reduce_rows,
    unified=None,
    samples=lambda rng: ([rng.normal(size=(2, 3, 4))], {"axis": (1,), "keepdims": True}),
)


def max_over(x: Any, axis: tuple[int, ...], keepdims: bool) -> Any:
    """The largest element over axes."""
    return apply(_max, x, axis=axis, keepdims=keepdims)


_argmax = Primitive(
    "argmax",
    lambda x, axis: np.argmax(numerics.real(x), axis=axis[0]),
    None,
    shape=_max_shape,
    form="reduce",
    rows=_reduce_rows,
    unified=None,
    result_dtype="int64",
    analytic=False,
    samples=lambda rng: ([rng.normal(size=(3, 4))], {"axis": (1,)}),
)


def argmax(x: Any, axis: int) -> Any:
    """The index of the first largest element along an axis."""
    return apply(_argmax, x, axis=(axis,))


# windows and their transpose ---------------------------------------------------------------------
# x (B, *S, C) -> (B, *P, *K, C): the elements under a kernel of sizes K at each position P.
def _window_positions(n: int, size: int, stride: int, dilation: int, before: int, after: int) -> int:
    return (n + before + after - dilation * (size - 1) - 1) // stride + 1


def _window_slices(size: tuple[int, ...], params: Any, positions: tuple[int, ...]) -> Any:
    """For each offset in the kernel: the part of the padded input that it reads."""
    for offset in np.ndindex(*size):
        starts = [k * d for k, d in zip(offset, params["dilation"], strict=True)]
        places = zip(starts, params["strides"], positions, strict=True)
        yield offset, tuple(slice(start, start + step * (count - 1) + 1, step) for start, step, count in places)


def _windows_shape(primitive: Primitive, operands: Any, params: Any) -> Any:
    x, size = operands[0], params["size"]
    rest = zip(x.shape[1:-1], size, params["strides"], params["dilation"], params["padding"], strict=True)
    positions = tuple(_window_positions(n, k, s, d, *pad) for n, k, s, d, pad in rest)
    if any(p <= 0 for p in positions):
        raise ShapeError("conv: the kernel is larger than the padded input", got=x.shape[1:-1], expected=f">= {size}")
    return (x.shape[0], *positions, *size, x.shape[-1]), x.dtype


def _windows_forward(x: Any, **params: Any) -> Any:
    padded = np.pad(x, ((0, 0), *params["padding"], (0, 0)))
    shape, _ = _windows_shape(_windows, (x,), params)
    rank = len(params["size"])
    out = np.empty(shape, x.dtype)
    for offset, part in _window_slices(params["size"], params, shape[1 : 1 + rank]):
        out[(slice(None),) * (1 + rank) + offset] = padded[(slice(None), *part)]
    return out


def _overlap_forward(x: Any, spatial: tuple[int, ...], **params: Any) -> Any:
    rank = len(spatial)
    sizes = [n + sum(pad) for n, pad in zip(spatial, params["padding"], strict=True)]
    out = np.zeros((x.shape[0], *sizes, x.shape[-1]), x.dtype)
    for offset, part in _window_slices(params["size"], params, x.shape[1 : 1 + rank]):
        out[(slice(None), *part)] += x[(slice(None),) * (1 + rank) + offset]
    inner = tuple(slice(pad[0], pad[0] + n) for pad, n in zip(params["padding"], spatial, strict=True))
    return out[(slice(None), *inner)]


def _keep_rows(classes: list[str], operands: Any, node: Any) -> str:
    return classes[0]


_WINDOW_SAMPLE: dict[str, Any] = {"size": (2, 3), "strides": (1, 2), "dilation": (2, 1), "padding": ((1, 0), (1, 1))}
_windows = Primitive(
    "windows",
    _windows_forward,
    lambda ct, out, x, **params: (lambda: overlap_add(ct, x.shape[1:-1], **params),),
    shape=_windows_shape,
    form="window",
    rows=_keep_rows,
    linear="all",
    unified=None,
    samples=lambda rng: ([rng.normal(size=(2, 5, 6, 3))], _WINDOW_SAMPLE),
)
_overlap_add = Primitive(
    "overlap_add",
    _overlap_forward,
    lambda ct, out, x, spatial, **params: (lambda: apply(_windows, ct, **params),),
    shape=lambda primitive, operands, params: (
        (operands[0].shape[0], *params["spatial"], operands[0].shape[-1]),
        operands[0].dtype,
    ),
    form="window",
    rows=_keep_rows,
    linear="all",
    unified=None,
    samples=lambda rng: ([rng.normal(size=(2, 4, 3, 2, 3, 3))], {"spatial": (5, 6), **_WINDOW_SAMPLE}),
)


def windows(x: Any, size: Any, strides: Any, dilation: Any, padding: Any) -> Any:
    """The elements under a kernel at each of its positions: (B, *positions, *size, C)."""
    return apply(_windows, x, size=size, strides=strides, dilation=dilation, padding=padding)


def overlap_add(x: Any, spatial: tuple[int, ...], **params: Any) -> Any:
    """Each element added at the place that a window read it from, (B, *spatial, C): the transpose of `windows`."""
    return apply(_overlap_add, x, spatial=spatial, **params)
