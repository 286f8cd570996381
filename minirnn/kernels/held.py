"""Outputs of masked time steps: autodiff/holding.py's two operations in one pass over memory, on several threads."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import config
from ..autodiff import holding
from . import build, threads
from .parts import Part, array_part
from .tile import address

if build.JIT_OFF:
    from .twins import LANES, load, store, stride, zeros
else:
    from .lanes import LANES, load, store, stride, zeros

# Numbers that take about 100 microseconds; fewer are not worth a second thread's time.
_WORTH_THREADS = 300_000


@array_part("holding outputs", reads=(3, 2, 2), writes=(3,), integers=5)
def _hold_part(
    ys: Any, valid: Any, begins: Any, out: Any, first: int, stop: int, backwards: int, out_step: int, out_row: int
) -> None:
    """Rows of `hold`: ys (T, B, W), flags (T, B) that are 0 or 1, out with the strides out_step and out_row."""
    steps, width = ys.shape[0], ys.shape[2]
    for b in range(first, stop):
        source, target = address(ys, b * stride(ys, 1)), address(out, b * out_row)
        for w in range(0, width, LANES):
            held = zeros(source)
            for s in range(steps):
                t = steps - 1 - s if backwards else s
                if begins[t, b] != 0:
                    held = zeros(source)
                if valid[t, b] != 0:
                    held = load(source, t * stride(ys, 0) + w, width - w)
                store(target, t * out_step + w, held, width - w)


@array_part("the transpose of holding outputs", reads=(3, 2, 2), writes=(3,), integers=5)
def _unhold_part(
    cts: Any, valid: Any, begins: Any, out: Any, first: int, stop: int, backwards: int, out_step: int, out_row: int
) -> None:
    """Rows of `unhold`, with the arguments of `_hold_part`; the last step of a run is added first."""
    steps, width = cts.shape[0], cts.shape[2]
    for b in range(first, stop):
        source, target = address(cts, b * stride(cts, 1)), address(out, b * out_row)
        for w in range(0, width, LANES):
            total = zeros(source)
            for s in range(steps):
                t = s if backwards else steps - 1 - s
                total = load(source, t * stride(cts, 0) + w, width - w) + total
                if valid[t, b] != 0:
                    store(target, t * out_step + w, total, width - w)
                    total = zeros(source)
                else:
                    store(target, t * out_step + w, zeros(source), width - w)
                if begins[t, b] != 0:
                    total = zeros(source)


def _run(function: Part, otherwise: Any, x: Any, valid: Any, begins: Any, reverse: bool) -> Any:
    """One of the two on an array (T, B, ...) of floats; other dtypes, and masks without padding, are NumPy's."""
    if x.dtype not in (np.float32, np.float64) or x.size == 0 or valid.all():
        return otherwise(x, valid, *[] if begins is None else [begins], reverse=reverse)
    steps, batch = x.shape[:2]
    time_first = x.strides[0] >= x.strides[1]
    out = np.empty(x.shape if time_first else (batch, steps, *x.shape[2:]), x.dtype)
    width = x.size // (steps * batch)
    flat = x.reshape(steps, batch, width)
    if flat.strides[2] != x.itemsize:
        flat = np.ascontiguousarray(flat)
    flags = [(np.zeros_like(valid) if given is None else given).astype(x.dtype) for given in (valid, begins)]
    strides = (batch * width, width) if time_first else (width, steps * width)
    run = function.of(x.dtype)
    parts = config.current_threads() if x.size >= _WORTH_THREADS else 1
    ends = [batch * k // parts for k in range(parts + 1)]
    made = out.reshape(*out.shape[:2], width)
    threads.run(
        lambda first, stop: run(flat, *flags, made, first, stop, int(reverse), *strides),
        list(zip(ends, ends[1:], strict=False)),
    )
    return out if time_first else out.swapaxes(0, 1)


def hold(ys: Any, valid: Any, begins: Any = None, *, reverse: bool) -> Any:
    """As holding.hold, on arrays.

    >>> hold(np.array([[[3.0]], [[5.0]]]), np.array([[True], [False]]), reverse=False).ravel().tolist()
    [3.0, 3.0]
    """
    return _run(_hold_part, holding._hold_forward, ys, valid, begins, reverse)


def unhold(cts: Any, valid: Any, begins: Any = None, *, reverse: bool) -> Any:
    """As holding.unhold, on arrays.

    >>> unhold(np.array([[[3.0]], [[5.0]]]), np.array([[True], [False]]), reverse=False).ravel().tolist()
    [8.0, 0.0]
    """
    return _run(_unhold_part, holding._unhold_forward, cts, valid, begins, reverse)
