"""Outputs at masked time steps: `hold` repeats the last valid one, `unhold` is its transpose.

Both take sequences (T, B, ...) and a mask (T, B), True where a step counts.  They read only what
stands in valid steps, so that what a masked step holds, NaN too, reaches nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .primitive import MIXED, SHARED, Primitive
from .tensor import apply


def _held(valid: np.ndarray, reverse: bool) -> tuple[Any, Any, Any]:
    """The masked (t, b) with a valid step before them, row by row, and the flat place t' * B + b of that step."""
    steps, batch = valid.shape
    times = np.where(valid, np.arange(steps)[:, None], steps if reverse else -1)
    last = np.minimum.accumulate(times[::-1])[::-1] if reverse else np.maximum.accumulate(times)
    b, t = np.nonzero((~valid & (last >= 0) & (last < steps)).T)
    return t, b, last[t, b] * batch + b


def _along(valid: np.ndarray, rank: int) -> np.ndarray:
    return valid.reshape(valid.shape + (1,) * (rank - 2))


def _hold_forward(ys: Any, valid: Any, reverse: bool) -> Any:
    out = np.array(ys)
    if out.size:
        t, b, last = _held(valid, reverse)
        out[~valid] = 0
        out[t, b] = ys[np.divmod(last, valid.shape[1])]
    return out


def _unhold_forward(cts: Any, valid: Any, reverse: bool) -> Any:
    out = np.array(cts)
    if out.size:
        t, b, last = _held(valid, reverse)
        out[~valid] = 0
        if len(last):
            # Row by row, the steps that repeat one step stand together: one sum for each run of them.
            starts = np.flatnonzero(np.r_[True, last[1:] != last[:-1]])
            out[np.divmod(last[starts], valid.shape[1])] += np.add.reduceat(cts[t, b], starts, axis=0, dtype=cts.dtype)
    return out


def _rows(classes: list[str], operands: Any, node: Any) -> str:
    return SHARED if all(c == SHARED for c in classes) else MIXED


def _record(name: str, forward: Any, transpose: Any) -> Primitive:
    return Primitive(
        name,
        forward,
        lambda ct, out, x, valid, reverse: (lambda: transpose(ct, valid, reverse), None),
        shape=lambda primitive, operands, params: (operands[0].shape, operands[0].dtype),
        form="hold",
        rows=_rows,
        linear="all",
        unified=None,
        samples=lambda rng: ([rng.normal(size=(5, 3, 2)), rng.random((5, 3)) > 0.5], {"reverse": False}),
    )


def hold(ys: Any, valid: Any, reverse: bool) -> Any:
    """In each masked step the y of the last valid one before it (after it, in `reverse`), zeros where there is none."""
    return apply(_hold, ys, valid, reverse=reverse)


def unhold(cts: Any, valid: Any, reverse: bool) -> Any:
    """At each valid step the sum of what stands at it and at the masked steps that repeat it; zeros elsewhere."""
    return apply(_unhold, cts, valid, reverse=reverse)


_hold = _record("hold", _hold_forward, unhold)
_unhold = _record("unhold", _unhold_forward, hold)
