"""The primitives that move elements: views, joins, gathers, scatters, and arrays made from nothing."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from ..errors import ShapeError
from .primitive import MIXED, ROWS, SHARED, SUMMED, Primitive, has_rows_of
from .tensor import Tensor, apply, is_recording, wrap


def _resize_shape(params: dict[str, Any], rows: int) -> dict[str, Any]:
    return {**params, "shape": (rows, *params["shape"][1:])}


# reshape -----------------------------------------------------------------------------------------
def _reshape_shape(primitive: Primitive, operands: Any, params: Any) -> Any:
    x, shape = operands[0], params["shape"]
    if int(np.prod(shape)) != x.size:
        raise ShapeError("reshape: another number of elements", got=f"{x.shape} to {shape}")
    return shape, x.dtype


def _reshape_rows(classes: list[str], operands: Any, node: Any) -> str:
    return MIXED if classes[0] == ROWS and node.params["shape"][:1] != operands[0].shape[:1] else classes[0]


_reshape = Primitive(
    "reshape",
    lambda x, shape: x.reshape(shape),
    lambda ct, out, x, shape: (lambda: reshape(ct, x.shape),),
    shape=_reshape_shape,
    form="view",
    rows=_reshape_rows,
    resize=_resize_shape,
    linear="all",
    unified=None,
    samples=lambda rng: ([rng.normal(size=(3, 4))], {"shape": (2, 6)}),
)


def reshape(x: Any, shape: tuple[int, ...]) -> Any:
    """`x` in another shape of as many elements."""
    return x if x.shape == tuple(shape) else apply(_reshape, x, shape=tuple(shape))


# transpose ---------------------------------------------------------------------------------------
@functools.lru_cache(maxsize=1024)
def _inverse(axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(axes.index(i) for i in range(len(axes)))


def _transpose_rows(classes: list[str], operands: Any, node: Any) -> str:
    return MIXED if classes[0] == ROWS and node.params["axes"][0] != 0 else classes[0]


_transpose = Primitive(
    "transpose",
    lambda x, axes: x.transpose(axes),
    lambda ct, out, x, axes: (lambda: transpose(ct, _inverse(axes)),),
    shape=lambda primitive, operands, params: (
        tuple(operands[0].shape[a] for a in params["axes"]),
        operands[0].dtype,
    ),
    form="view",
    rows=_transpose_rows,
    linear="all",
    unified=None,
    samples=lambda rng: ([rng.normal(size=(2, 3, 4))], {"axes": (1, 2, 0)}),
)


def transpose(x: Any, axes: tuple[int, ...]) -> Any:
    """The axes of `x` in another order."""
    return apply(_transpose, x, axes=tuple(axes))


# broadcast_to ------------------------------------------------------------------------------------
def _broadcast_rows(classes: list[str], operands: Any, node: Any) -> str:
    return MIXED if classes[0] == ROWS and not has_rows_of(node, operands[0]) else classes[0]


def _broadcast_forward(x: Any, shape: tuple[int, ...]) -> Any:
    if type(x) is np.ndarray and x.size == 1 and x.ndim <= len(shape) and x.flags.c_contiguous:
        view: Any = np.ndarray(shape, x.dtype, x, 0, (0,) * len(shape))  # in a fifth of NumPy's time
        view.flags.writeable = False
        return view
    return np.broadcast_to(x, shape)


_broadcast = Primitive(
    "broadcast_to",
    _broadcast_forward,
    lambda ct, out, x, shape: (ct,),
    shape=lambda primitive, operands, params: (params["shape"], operands[0].dtype),
    form="view",
    rows=_broadcast_rows,
    resize=_resize_shape,
    linear="all",
    unified=None,
    samples=lambda rng: ([rng.normal(size=(3, 1))], {"shape": (2, 3, 4)}),
)


def broadcast_to(x: Any, shape: tuple[int, ...]) -> Any:
    """`x` repeated along new axes and axes of size 1."""
    return apply(_broadcast, x, shape=tuple(shape))


def repeated(x: Tensor, shape: tuple[int, ...]) -> Any:
    """A number at every place of an array: `broadcast_to`, at less cost where nothing records it."""
    if is_recording() or type(x.value) is not np.ndarray:
        return broadcast_to(x, shape)
    return wrap(_broadcast_forward(x.value, shape))


# slice and its transpose -------------------------------------------------------------------------
# `slices` is one (start, stop, step) an axis, normalised; a stop of None goes past the first element.
def _as_index(slices: Any) -> tuple[slice, ...]:
    return tuple(slice(*s) for s in slices)


def _slice_shape(primitive: Primitive, operands: Any, params: Any) -> Any:
    sizes = [len(range(n)[s]) for n, s in zip(operands[0].shape, _as_index(params["slices"]), strict=True)]
    return tuple(sizes), operands[0].dtype


def _slice_rows(classes: list[str], operands: Any, node: Any) -> str:
    """Rows stay rows unless some are left out, or put among others that are zero (`place`)."""
    if classes[0] != ROWS:
        return classes[0]
    rows, slices = node.inputs[0].shape[0], node.params["slices"]
    return ROWS if slices[0] == (0, rows, 1) and node.params.get("shape", (rows,))[0] == rows else MIXED


def _resize_slices(params: dict[str, Any], rows: int) -> dict[str, Any]:
    return {**params, "slices": ((0, rows, 1), *params["slices"][1:])}


_slice = Primitive(
    "slice",
    lambda x, slices: x[_as_index(slices)],
    lambda ct, out, x, slices: (lambda: place(ct, slices, x.shape),),
    shape=_slice_shape,
    form="view",
    rows=_slice_rows,
    resize=_resize_slices,
    linear="all",
    unified=None,
    samples=lambda rng: ([rng.normal(size=(5, 4))], {"slices": ((3, None, -2), (1, 3, 1))}),
)


def slice_(x: Any, slices: tuple[tuple[int, int | None, int], ...]) -> Any:
    """A regular part of `x`."""
    return apply(_slice, x, slices=slices)


def _place_forward(x: Any, slices: Any, shape: Any) -> Any:
    out = np.zeros(shape, x.dtype)
    out[_as_index(slices)] = x
    return out


def _resize_place(params: dict[str, Any], rows: int) -> dict[str, Any]:
    return _resize_shape(_resize_slices(params, rows), rows)


_place = Primitive(
    "place",
    _place_forward,
    lambda ct, out, x, slices, shape: (lambda: slice_(ct, slices),),
    shape=lambda primitive, operands, params: (params["shape"], operands[0].dtype),
    form="scatter",
    rows=_slice_rows,
    resize=_resize_place,
    linear="all",
    unified=None,
    samples=lambda rng: ([rng.normal(size=(2, 2))], {"slices": ((3, None, -2), (1, 3, 1)), "shape": (5, 4)}),
)


def place(x: Any, slices: tuple[tuple[int, int | None, int], ...], shape: tuple[int, ...]) -> Any:
    """Zeros of `shape` with `x` in a regular part of them: the transpose of `slice_`."""
    return apply(_place, x, slices=slices, shape=tuple(shape))


# split and concatenate ---------------------------------------------------------------------------
def _split_forward(x: Any, sizes: Any, axis: int) -> list[Any]:
    ends = np.cumsum(sizes)
    before = (slice(None),) * axis
    return [x[(*before, slice(end - size, end))] for size, end in zip(sizes, ends, strict=True)]


def _split_shape(primitive: Primitive, operands: Any, params: Any) -> Any:
    x, axis = operands[0], params["axis"]
    if sum(params["sizes"]) != x.shape[axis]:
        raise ShapeError("split: the sizes do not add up", got=params["sizes"], expected=f"{x.shape[axis]} in all")
    return [((*x.shape[:axis], size, *x.shape[axis + 1 :]), x.dtype) for size in params["sizes"]]


def _split_vjp(cts: Any, outs: Any, x: Any, sizes: Any, axis: int) -> Any:
    whole = [zeros_of(out.shape, out.dtype) if ct is None else ct for ct, out in zip(cts, outs, strict=True)]
    return (concatenate(whole, axis),)


def _along_rows(classes: list[str], operands: Any, node: Any) -> str:
    """Rows stay rows unless the node works along axis 0."""
    if set(classes) in ({ROWS}, {ROWS, SHARED}):
        return MIXED if node.params["axis"] == 0 else ROWS
    return classes[0] if len(set(classes)) == 1 else MIXED


_split = Primitive(
    "split",
    _split_forward,
    _split_vjp,
    shape=_split_shape,
    form="view",
    rows=_along_rows,
    linear="all",
    unified=None,
    multiple=True,
    samples=lambda rng: ([rng.normal(size=(3, 6))], {"sizes": (1, 3, 2), "axis": 1}),
)


def split(x: Any, sizes: tuple[int, ...], axis: int) -> list[Any]:
    """`x` cut along an axis into pieces of the given sizes."""
    return list(apply(_split, x, sizes=tuple(sizes), axis=axis))


def _concatenate_shape(primitive: Primitive, operands: Any, params: Any) -> Any:
    axis, first = params["axis"], operands[0].shape
    for x in operands:
        if len(x.shape) != len(first) or any(a != b for i, (a, b) in enumerate(zip(x.shape, first)) if i != axis):
            raise ShapeError(
                "concatenate: shapes differ", got=[t.shape for t in operands], expected=f"equal but for axis {axis}"
            )
    total = sum(x.shape[axis] for x in operands)
    return (*first[:axis], total, *first[axis + 1 :]), np.result_type(*[x.dtype for x in operands])


_concatenate = Primitive(
    "concatenate",
    lambda *xs, axis: np.concatenate(xs, axis),
    lambda ct, out, *xs, axis: split(ct, tuple(x.shape[axis] for x in xs), axis),
    shape=_concatenate_shape,
    form="join",
    rows=_along_rows,
    per_row=lambda node, classes: [ROWS in classes and c == SHARED for c in classes],
    linear="all",
    samples=lambda rng: ([rng.normal(size=(3, 2)), rng.normal(size=(3, 4))], {"axis": 1}),
)


def concatenate(xs: list[Any], axis: int) -> Any:
    """The arrays one after the other along an axis."""
    return apply(_concatenate, *xs, axis=axis)


# take and its transpose --------------------------------------------------------------------------
# Both work along axis 0; an index outside is an error, never wrapped and never clamped.
def _take_forward(x: Any, indices: Any) -> Any:
    lowest, highest = (indices.min(), indices.max()) if indices.size else (0, -1)
    if lowest < 0 or highest >= x.shape[0]:
        raise ShapeError(
            "take: an index is out of range",
            got=int(lowest if lowest < 0 else highest),
            expected=f"0 .. {x.shape[0] - 1}, as the axis has {x.shape[0]} entries",
        )
    return x[indices]


def _take_rows(classes: list[str], operands: Any, node: Any) -> str:
    if classes[0] == SHARED and classes[1] in (ROWS, SHARED):
        return classes[1]
    return SUMMED if classes == [SUMMED, SHARED] else MIXED


_take = Primitive(
    "take",
    _take_forward,
    lambda ct, out, x, indices: (lambda: scatter_add(ct, indices, x.shape[0]), None),
    shape=lambda primitive, operands, params: (operands[1].shape + operands[0].shape[1:], operands[0].dtype),
    form="gather",
    rows=_take_rows,
    per_row=lambda node, classes: [False, False],
    linear="all",
    unified=None,
    samples=lambda rng: ([rng.normal(size=(5, 3)), rng.integers(0, 5, (2, 4))], {}),
)


def take(x: Any, indices: Any) -> Any:
    """The entries of axis 0 of `x` that `indices` name."""
    return apply(_take, x, indices)


def _scatter_forward(x: Any, indices: Any, size: int) -> Any:
    flat, entry = indices.reshape(-1), x.shape[indices.ndim :]
    out = np.zeros((size, *entry), x.dtype)
    if flat.size:
        # One sum for each run of equal indices, in the order in which the entries stand.
        order = np.argsort(flat, kind="stable")
        ordered = flat[order]
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        out[ordered[starts]] = np.add.reduceat(x.reshape((flat.size, *entry))[order], starts, axis=0)
    return out


def _scatter_rows(classes: list[str], operands: Any, node: Any) -> str:
    if classes in ([ROWS, ROWS], [SUMMED, SHARED]):
        return SUMMED
    return SHARED if classes == [SHARED, SHARED] else MIXED


_scatter_add = Primitive(
    "scatter_add",
    _scatter_forward,
    lambda ct, out, x, indices, size: (lambda: take(ct, indices), None),
    shape=lambda primitive, operands, params: (
        (params["size"], *operands[0].shape[len(operands[1].shape) :]),
        operands[0].dtype,
    ),
    form="scatter",
    rows=_scatter_rows,
    linear="all",
    unified=None,
    samples=lambda rng: ([rng.normal(size=(2, 4, 3)), rng.integers(0, 5, (2, 4))], {"size": 5}),
)


def scatter_add(x: Any, indices: Any, size: int) -> Any:
    """Zeros of `size` entries with each entry of `x` added at its index: the transpose of `take`."""
    return apply(_scatter_add, x, indices, size=size)


# arrays made from nothing ------------------------------------------------------------------------
_full = Primitive(
    "full",
    lambda shape, value, dtype: np.full(shape, value, dtype),
    None,
    shape=lambda primitive, operands, params: (params["shape"], np.dtype(params["dtype"])),
    form="source",
    rows=lambda classes, operands, node: SHARED,
    unified=None,
    samples=lambda rng: ([], {"shape": (2, 3), "value": 1.5, "dtype": np.dtype("float64")}),
)


def full(shape: tuple[int, ...], value: float, dtype: Any) -> Any:
    """An array of one value."""
    return apply(_full, shape=tuple(shape), value=value, dtype=np.dtype(dtype))


def zeros_of(shape: tuple[int, ...], dtype: Any) -> Any:
    """An array of zeros."""
    return full(shape, 0, dtype)


_arange = Primitive(
    "arange",
    lambda n, dtype: np.arange(n, dtype=dtype),
    None,
    shape=lambda primitive, operands, params: ((params["n"],), np.dtype(params["dtype"])),
    form="source",
    rows=lambda classes, operands, node: SHARED,
    unified=None,
    samples=lambda rng: ([], {"n": 4, "dtype": np.dtype("int64")}),
)


def arange(n: int, dtype: Any) -> Any:
    """0, 1, ... n - 1."""
    return apply(_arange, n=int(n), dtype=np.dtype(dtype))
