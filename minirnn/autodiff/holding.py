"""Outputs at masked time steps: `hold` repeats the last valid one, `unhold` is its transpose.

Both take sequences (T, B, ...) and a mask (T, B), True where a step counts.  They read only what
stands in valid steps, so that what a masked step holds, NaN too, reaches nothing.  Where `begins`
(T, B) is True a row begins anew: of the steps before it none is repeated.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .primitive import MIXED, SHARED, Primitive
from .tensor import apply


def _held(valid: np.ndarray, begins: Any, reverse: bool) -> tuple[Any, Any, Any]:
    """The masked (t, b) with a valid step before them, row by row, and the flat place t' * B + b of that step."""
    steps, batch = valid.shape
    last = _latest(valid, reverse)
    exists = ~valid & (last >= 0) & (last < steps)
    if begins is not None:
        begun = _latest(begins, reverse)
        exists &= (last <= begun) if reverse else (last >= begun)
    b, t = np.nonzero(exists.T)
    return t, b, last[t, b] * batch + b


def _latest(flags: np.ndarray, reverse: bool) -> np.ndarray:
    """Per (t, b) the last time up to t with a True, in `reverse` the first from t on; none is beyond the beginning."""
    steps = len(flags)
    times = np.where(flags, np.arange(steps)[:, None], steps if reverse else -1)
    return np.minimum.accumulate(times[::-1])[::-1] if reverse else np.maximum.accumulate(times)


def _hold_forward(ys: Any, valid: Any, begins: Any = None, *, reverse: bool) -> Any:
    if valid.all():
        return ys
    out = np.array(ys)
    if out.size:
        t, b, last = _held(valid, begins, reverse)
        out[~valid] = 0
        out[t, b] = ys[np.divmod(last, valid.shape[1])]
    return out


def _unhold_forward(cts: Any, valid: Any, begins: Any = None, *, reverse: bool) -> Any:
    if valid.all():
        return cts
    out = np.array(cts)
    if out.size:
        t, b, last = _held(valid, begins, reverse)
        out[~valid] = 0
        brought = cts[t, b]
        # Steps that bring nothing are left out of the sums, so that padding does not change their order.
        counts = brought.any(axis=tuple(range(1, brought.ndim)))
        brought, last = brought[counts], last[counts]
        if len(last):
            # Row by row, the steps that repeat one step stand together: one sum for each run of them.
            starts = np.flatnonzero(np.r_[True, last[1:] != last[:-1]])
            out[np.divmod(last[starts], valid.shape[1])] += np.add.reduceat(brought, starts, axis=0, dtype=cts.dtype)
    return out


def _rows(classes: list[str], operands: Any, node: Any) -> str:
    return SHARED if all(c == SHARED for c in classes) else MIXED


def _record(name: str, forward: Any, transpose: Any) -> Primitive:
    return Primitive(
        name,
        forward,
        lambda ct, out, x, *flags, reverse: (
            lambda: apply(transpose(), ct, *flags, reverse=reverse),
            *[None] * len(flags),
        ),
        shape=lambda primitive, operands, params: (operands[0].shape, operands[0].dtype),
        form="hold",
        rows=_rows,
        linear="all",
        unified=None,
        samples=lambda rng: ([rng.normal(size=(5, 3, 2)), rng.random((5, 3)) > 0.5], {"reverse": False}),
    )


def hold(ys: Any, valid: Any, reverse: bool, begins: Any = None) -> Any:
    """In each masked step the y of the last valid one before it (after it, in `reverse`), zeros where there is none."""
    return apply(_hold, ys, valid, *[] if begins is None else [begins], reverse=reverse)


def unhold(cts: Any, valid: Any, reverse: bool, begins: Any = None) -> Any:
    """At each valid step the sum of what stands at it and at the masked steps that repeat it; zeros elsewhere."""
    return apply(_unhold, cts, valid, *[] if begins is None else [begins], reverse=reverse)


_hold: Primitive = _record("hold", _hold_forward, lambda: _unhold)
_unhold: Primitive = _record("unhold", _unhold_forward, lambda: _hold)
