"""Which steps count: masks and weights laid beside the values that losses and metrics make.

Predictions have shape (batch, ..., features); losses and metrics make one value for each place of
(batch, ...).  A mask and a weight have the leading axes of that: (batch,) or (batch, time).  Padded
steps are replaced before anything is computed, so that NaN in them reaches no value and no gradient.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..autodiff import ops
from ..autodiff.tensor import Tensor, as_tensor
from ..errors import ShapeError

# What stands in for padded values: logs, roots and quotients of it are finite, also of 1 - prediction;
# a target may be a class, so it is a whole number.
PREDICTION, TARGET, LABEL = 0.5, 1.0, 0


def pair(y_true: Any, y_pred: Any, label: str) -> tuple[Tensor, Tensor]:
    """Both as Tensors of one shape and float dtype, with at least the axes (batch, features).

    A last axis of size one may be missing on one side.  ShapeError for any other difference: broadcasting
    targets against predictions hides mistakes.
    """
    y_pred = _floating(y_pred)
    y_true = _targets_like(y_true, y_pred)
    if y_true.ndim == y_pred.ndim - 1 and y_pred.shape[-1] == 1:
        y_true = ops.expand_dims(y_true, -1)
    elif y_true.ndim == y_pred.ndim + 1 and y_true.shape[-1] == 1:
        y_pred = ops.expand_dims(y_pred, -1)
    if y_true.shape != y_pred.shape:
        raise ShapeError(
            f"{label}: targets and predictions have different shapes", got=y_true.shape, expected=y_pred.shape
        )
    if y_pred.ndim == 1:
        return ops.expand_dims(y_true, -1), ops.expand_dims(y_pred, -1)
    return y_true, y_pred


def _floating(y_pred: Any) -> Tensor:
    y_pred = as_tensor(y_pred)
    return y_pred if y_pred.dtype.kind in "fc" else ops.multiply(y_pred, 1.0)


def _targets_like(y_true: Any, y_pred: Tensor) -> Tensor:
    """Targets in the dtype of the predictions; a Tensor of the other floating dtype is left to raise."""
    if isinstance(y_true, Tensor) and y_true.dtype.kind in "fc":
        return y_true
    return as_tensor(y_true, y_pred.dtype)


def find_mask(y_pred: Tensor, mask: Any, label: str) -> Tensor | None:
    """The mask to use, bool with leading axes of `y_pred`: the one given, else the one attached to `y_pred`."""
    mask = y_pred.mask if mask is None else mask
    if mask is None:
        return None
    mask = as_tensor(mask)
    mask = mask if mask.dtype == bool else ops.not_equal(mask, 0)
    if mask.ndim > 1 and mask.ndim == y_pred.ndim and mask.shape[-1] == 1:
        mask = ops.squeeze(mask, -1)
    if mask.shape != y_pred.shape[: mask.ndim]:
        raise ShapeError(
            f"{label}: the mask does not fit the predictions",
            got=mask.shape,
            expected=f"the leading axes of {y_pred.shape}",
        )
    return mask


def prepared(y_true: Any, y_pred: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Targets (floats in the predictions' dtype) and predictions, something harmless in the steps that do not count."""
    if not isinstance(y_true, Tensor):
        y_true = np.asarray(y_true)
        y_true = as_tensor(y_true, y_pred.dtype if y_true.dtype.kind == y_pred.dtype.kind == "f" else None)
    if mask is None:
        return y_true, y_pred
    if mask.ndim == y_pred.ndim:  # (batch, time) predictions: every step has one feature
        y_pred = ops.expand_dims(y_pred, -1)
    return _fill(y_true, mask, TARGET if y_true.dtype.kind in "fc" else LABEL), _fill(y_pred, mask, PREDICTION)


def _fill(x: Tensor, mask: Tensor, value: float) -> Tensor:
    if x.ndim < mask.ndim:
        return x  # it lacks axes that the loss will ask for in its own words
    return ops.where(aligned(mask, x.shape, "the mask's axes"), x, value)


def aligned(weight: Tensor, shape: tuple[int, ...], label: str) -> Tensor:
    """`weight` with axes appended so that its leading axes stand beside those of `shape`.

    >>> aligned(as_tensor([1.0, 2.0]), (2, 5), "weights").shape
    (2, 1)
    """
    while weight.ndim > len(shape) and weight.shape[-1] == 1:
        weight = ops.squeeze(weight, -1)
    fits = weight.ndim <= len(shape) and all(w in (n, 1) for w, n in zip(weight.shape[1:], shape[1:], strict=False))
    if not fits or weight.shape[:1] != shape[: min(weight.ndim, 1)]:
        raise ShapeError(f"{label} do not fit the values", got=weight.shape, expected=f"leading axes of {shape}")
    return ops.reshape(weight, (*weight.shape, *[1] * (len(shape) - weight.ndim)))


def weigh(values: Tensor, sample_weight: Any, mask: Tensor | None, label: str) -> tuple[Tensor, Any, Any]:
    """The values, zero where they do not count and times their weights; which count; the weights.

    The last two are None where there is no mask and no weight, else of the shape of the values.
    """
    keep = weight = None
    if mask is not None:
        keep = ops.broadcast_to(aligned(mask, values.shape, f"{label}: the mask's axes"), values.shape)
        values = ops.where(keep, values, 0.0)
    if sample_weight is not None:
        weight = aligned(as_tensor(sample_weight, values.dtype), values.shape, f"{label}: the sample weights")
        weight = ops.broadcast_to(weight, values.shape)
        weight = weight if keep is None else ops.where(keep, weight, 0.0)
        values = values * weight
    return values, keep, weight
