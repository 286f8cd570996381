"""The part of `mr.ops` that moves elements without computing: shapes, joins, slices, indices, constants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import config
from ..errors import ArgumentError, ShapeError
from . import elementwise, structure
from .dispatch import is_integer, one_axis, operand, public, several_axes, sizes_of
from .operators import PUBLIC
from .primitive import broadcast_shapes
from .tensor import Tensor


@public
def reshape(x: Any, shape: Any) -> Any:
    """The same elements in another shape; one size may be -1."""
    x, sizes = operand(x), list(sizes_of(shape))
    if sizes.count(-1) > 1:
        raise ShapeError("reshape: more than one size is -1", got=tuple(sizes))
    if -1 in sizes:
        known = -int(np.prod(sizes))
        if known == 0 or x.size % known:
            raise ShapeError("reshape: the size -1 has no value", got=f"{x.shape} to {tuple(sizes)}")
        sizes[sizes.index(-1)] = x.size // known
    if int(np.prod(sizes)) != x.size or any(n < 0 for n in sizes):
        raise ShapeError("reshape: another number of elements", got=f"{x.shape} to {tuple(sizes)}")
    return structure.reshape(x, tuple(sizes))


@public
def transpose(x: Any, axes: Any = None) -> Any:
    """The axes in another order, reversed by default."""
    x = operand(x)
    order = tuple(reversed(range(x.ndim))) if axes is None else tuple(one_axis(a, x.ndim, "transpose") for a in axes)
    if sorted(order) != list(range(x.ndim)):
        raise ShapeError("transpose: axes", got=axes, expected=f"an order of 0 .. {x.ndim - 1}")
    return x if order == tuple(range(x.ndim)) else structure.transpose(x, order)


@public
def swapaxes(x: Any, axis1: int, axis2: int) -> Any:
    """Two axes exchanged."""
    x = operand(x)
    order = list(range(x.ndim))
    a, b = one_axis(axis1, x.ndim, "swapaxes"), one_axis(axis2, x.ndim, "swapaxes")
    order[a], order[b] = order[b], order[a]
    return transpose(x, order)


@public
def broadcast_to(x: Any, shape: Any) -> Any:
    """x repeated to a shape."""
    x, shape = operand(x), sizes_of(shape)
    if broadcast_shapes("broadcast_to", [x.shape, shape]) != shape:
        raise ShapeError("broadcast_to", got=x.shape, expected=f"sizes that repeat to {shape}")
    return x if x.shape == shape else structure.broadcast_to(x, shape)


@public
def expand_dims(x: Any, axis: Any) -> Any:
    """x with new axes of size 1 at `axis` of the result."""
    x = operand(x)
    rank = x.ndim + (1 if is_integer(axis) else len(axis))
    places = several_axes(axis, rank, "expand_dims")
    sizes = iter(x.shape)
    return structure.reshape(x, tuple(1 if i in places else next(sizes) for i in range(rank)))


@public
def squeeze(x: Any, axis: Any = None) -> Any:
    """x without axes of size 1."""
    x = operand(x)
    if axis is None:
        return structure.reshape(x, tuple(n for n in x.shape if n != 1))
    axes = several_axes(axis, x.ndim, "squeeze")
    if any(x.shape[a] != 1 for a in axes):
        raise ShapeError("squeeze: an axis is not of size 1", got=f"{x.shape}, axis {axis}")
    return structure.reshape(x, tuple(n for i, n in enumerate(x.shape) if i not in axes))


@public
def concatenate(xs: Sequence[Any], axis: int = 0) -> Any:
    """The arrays one after the other along an axis."""
    arrays = [operand(x) for x in xs]
    if not arrays:
        raise ArgumentError("concatenate: no arrays")
    place = one_axis(axis, arrays[0].ndim, "concatenate")
    return arrays[0] if len(arrays) == 1 else structure.concatenate(arrays, place)


@public
def stack(xs: Sequence[Any], axis: int = 0) -> Any:
    """The arrays side by side along a new axis."""
    arrays = [operand(x) for x in xs]
    if not arrays:
        raise ArgumentError("stack: no arrays")
    if any(x.shape != arrays[0].shape for x in arrays):
        raise ShapeError("stack: shapes differ", got=[x.shape for x in arrays], expected="equal shapes")
    place = one_axis(axis, arrays[0].ndim + 1, "stack")
    return concatenate([expand_dims(x, place) for x in arrays], place)


@public
def split(x: Any, indices_or_sections: Any, axis: int = 0) -> list[Any]:
    """x cut along an axis: into equal parts, or before the given indices."""
    x = operand(x)
    axis = one_axis(axis, x.ndim, "split")
    n = x.shape[axis]
    if is_integer(indices_or_sections):
        parts = int(indices_or_sections)
        if parts <= 0 or n % parts:
            raise ShapeError("split: no equal parts", got=f"{n} elements", expected=f"{parts} equal parts")
        sizes = [n // parts] * parts
    else:
        cuts = [slice(int(i)).indices(n)[1] for i in indices_or_sections]  # counted from the end if negative
        sizes = [end - start for start, end in zip([0, *cuts], [*cuts, n], strict=True)]
        if any(size < 0 for size in sizes):
            raise ShapeError("split: the indices go back", got=list(indices_or_sections), expected="ascending indices")
    return [x] if len(sizes) == 1 else structure.split(x, tuple(sizes), axis)


@public
def flip(x: Any, axis: Any = None) -> Any:
    """x with the order along one axis, some or all of them reversed."""
    x = operand(x)
    places = several_axes(axis, x.ndim, "flip")
    slices = [(n - 1, None, -1) if i in places and n else (0, n, 1) for i, n in enumerate(x.shape)]
    return structure.slice_(x, tuple(slices))


@public
def pad(x: Any, pad_width: Any) -> Any:
    """x with zeros around it: (before, after) for each axis, or for all."""
    x = operand(x)
    try:
        widths = np.broadcast_to(np.asarray(pad_width, int), (x.ndim, 2)).tolist()
    except ValueError:
        raise ShapeError("pad: pad_width", got=pad_width, expected=f"(before, after) for {x.ndim} axes") from None
    if any(width < 0 for pair in widths for width in pair):
        raise ShapeError("pad: pad_width", got=pad_width, expected="widths of 0 or more")
    shape = tuple(before + n + after for n, (before, after) in zip(x.shape, widths, strict=True))
    return structure.place(x, tuple((a, a + n, 1) for n, (a, _) in zip(x.shape, widths, strict=True)), shape)


@public
def getitem(x: Any, index: Any) -> Any:
    """x[index]: integers, slices, None and ..., or one array of integers for axis 0."""
    x = operand(x)
    if isinstance(index, np.ndarray) and index.ndim == 0:
        index = index.item()
    if isinstance(index, (list, np.ndarray, Tensor)):
        if getattr(index, "dtype", np.dtype(int)).kind == "b":
            raise ArgumentError(
                "indexing by a mask makes a shape that depends on values", fix="use mr.ops.where(mask, x, 0)"
            )
        return take(x, index, axis=0)
    items = list(index) if isinstance(index, tuple) else [index]
    if sum(item is Ellipsis for item in items) > 1:
        raise ShapeError("an index has more than one ...")
    consumed = sum(item is not None and item is not Ellipsis for item in items)
    if consumed > x.ndim:
        raise ShapeError("too many indices", got=consumed, expected=f"at most {x.ndim} for shape {x.shape}")
    place = next((i for i, item in enumerate(items) if item is Ellipsis), len(items))
    items[place : place + 1] = [slice(None)] * (x.ndim - consumed)
    slices, shape, axis = [], [], 0
    for item in items:
        if item is None:
            shape.append(1)
            continue
        n = x.shape[axis]
        if isinstance(item, slice):
            start, stop, step = item.indices(n)
            length = len(range(start, stop, step))
            slices.append((start, stop if stop >= 0 else None, step) if length else (0, 0, 1))
            shape.append(length)
        elif is_integer(item) and not isinstance(item, bool):
            if not -n <= item < n:
                raise ShapeError(f"index {item} is outside of axis {axis}", got=x.shape, expected=f"{-n} .. {n - 1}")
            slices.append((int(item) % n, int(item) % n + 1, 1))
        else:
            raise ArgumentError(
                "an index of this kind has no gradient rule",
                got=repr(item),
                expected="integers and slices",
                fix="mr.ops.take(x, indices, axis) takes the entries that an array names",
            )
        axis += 1
    whole = all(s == (0, n, 1) for s, n in zip(slices, x.shape, strict=True))
    return structure.reshape(x if whole else structure.slice_(x, tuple(slices)), tuple(shape))


@public
def take(x: Any, indices: Any, axis: int | None = None) -> Any:
    """The entries of an axis (of the flattened x for None) that integers name; an index outside is an error."""
    x, indices = operand(x), operand(indices)
    if axis is None:
        x, axis = reshape(x, (x.size,)), 0
    axis = one_axis(axis, x.ndim, "take")
    if indices.dtype.kind not in "iu":
        raise ArgumentError("take: indices", got=f"dtype {indices.dtype}", expected="integers")
    if axis == 0:
        return structure.take(x, indices)
    order = [axis, *[i for i in range(x.ndim) if i != axis]]
    taken = structure.take(transpose(x, order), indices)
    rank = indices.ndim
    return transpose(taken, [*range(rank, rank + axis), *range(rank), *range(rank + axis, taken.ndim)])


@public
def one_hot(ids: Any, n: int, dtype: Any = None) -> Any:
    """1 at the place that each integer names, 0 elsewhere, along a new last axis of size n."""
    named = elementwise.equal(expand_dims(ids, -1), structure.arange(n, np.int64))
    return elementwise.cast(named, dtype or config.current_dtype())


def zeros(shape: Any, dtype: Any = None) -> Any:
    """An array of zeros."""
    return full(shape, 0, dtype)


def ones(shape: Any, dtype: Any = None) -> Any:
    """An array of ones."""
    return full(shape, 1, dtype)


def full(shape: Any, fill_value: float, dtype: Any = None) -> Any:
    """An array of one number."""
    sizes = sizes_of(shape)
    if any(n < 0 for n in sizes):
        raise ShapeError("full: a size is negative", got=sizes)
    if not isinstance(fill_value, (bool, int, float, complex, np.generic)):
        raise ArgumentError("full: fill_value", got=type(fill_value).__name__, expected="a number", fix="broadcast_to")
    return structure.full(sizes, fill_value, dtype or config.current_dtype())


def arange(n: int, dtype: Any = "int64") -> Any:
    """0, 1, ... n - 1."""
    return structure.arange(n, dtype)


@public
def zeros_like(x: Any) -> Any:
    """Zeros of the shape and dtype of x."""
    x = operand(x)
    return structure.full(x.shape, 0, x.dtype)


@public
def ones_like(x: Any) -> Any:
    """Ones of the shape and dtype of x."""
    x = operand(x)
    return structure.full(x.shape, 1, x.dtype)


PUBLIC["zeros"], PUBLIC["full"] = zeros, full
