"""The masks that Tensors carry from layer to layer: which time steps of a sequence count."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..autodiff import ops, trees
from ..autodiff.tensor import Tensor


def masks_of(inputs: Any) -> Any:
    """The masks attached to Tensors, in the structure of `inputs`; None if there is none."""
    if isinstance(inputs, Tensor):
        return inputs.mask
    if isinstance(inputs, (list, tuple, dict)):
        leaves, form = trees.flatten(inputs)
        masks = [getattr(leaf, "mask", None) for leaf in leaves]
        if any(mask is not None for mask in masks):
            return trees.unflatten(form, masks)
    return None


def hides_nothing(mask: Any) -> bool:
    """Whether a mask is known to be True everywhere, so that a call may go without it."""
    return mask is not None and type(mask.value) is np.ndarray and bool(mask.value.all())


def attach_masks(outputs: Any, masks: Any) -> None:
    """Let each output carry its mask, where there is one.

    One mask for several outputs is that of all that have its axes and features behind them.  Of masks in a list
    the first may stand for several: where there are fewer masks than outputs, the last ones are told by their place.
    """
    if isinstance(outputs, Tensor) and isinstance(masks, Tensor):
        outputs.mask = masks
    elif isinstance(outputs, (list, tuple)) and isinstance(masks, Tensor):
        for output in outputs:
            if isinstance(output, Tensor) and output.ndim > masks.ndim and output.shape[: masks.ndim] == masks.shape:
                output.mask = masks
    elif isinstance(outputs, (list, tuple)) and isinstance(masks, (list, tuple)):
        leading = masks[:1] * (len(outputs) - len(masks))
        for output, mask in zip(outputs, [*leading, *masks], strict=False):
            attach_masks(output, mask)


def merged_mask(masks: Any) -> Any:
    """The AND of the masks that are there; None if none is."""
    merged = None
    for mask in trees.flatten(masks)[0]:
        merged = mask if merged is None else ops.logical_and(merged, mask)
    return merged
