"""Ragged batches: targets and weights beside padded predictions, and predictions as Ragged again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..autodiff.tensor import Tensor
from ..errors import ShapeError
from ..layers.masks import merged_mask
from ..layers.ragged import Ragged
from .data import Batch


def beside(batch: Batch, names: Sequence[str], outputs: Sequence[Tensor]) -> Batch:
    """The batch with Ragged targets and weights padded like the outputs, and with masks of where both count.

    Raises ShapeError where an output counts at a step for which there is no target.
    """
    has_ragged = any(isinstance(x, Ragged) for x in batch.inputs)
    targets, weights, masks = list(batch.targets), list(batch.weights), [output.mask for output in outputs]
    for place, (name, output) in enumerate(zip(names, outputs, strict=True)):
        target, weight = targets[place], weights[place]
        if isinstance(target, Ragged):
            where = f"targets of output {name!r}"
            padded = _like(target, output, where)
            _check_steps(padded, output, where)
            targets[place], masks[place] = np.asarray(padded), merged_mask([output.mask, padded.mask])
        elif target is not None and has_ragged:
            _check_dense(target, output, f"targets of output {name!r}")
        if isinstance(weight, Ragged):
            weights[place] = np.asarray(_like(weight, output, f"sample weights of output {name!r}"))
    return replace(batch, targets=targets, weights=weights, masks=masks)


def _like(ragged: Ragged, output: Tensor, where: str) -> Tensor:
    time = output.shape[1] if output.ndim > 1 else 0
    if ragged.shape[1] > time:
        row = int(np.argmax(ragged.lengths > time))
        raise ShapeError(
            f"{where}: row {row} of the batch has more steps than the predictions",
            got=f"{ragged.lengths[row]} steps",
            expected=f"at most {time}, for predictions of shape {output.shape}",
            fix=None if output.ndim > 2 else "return_sequences=True, if the model should predict at every step",
        )
    return ragged.tensor(length=time)


def _check_dense(target: Any, output: Tensor, where: str) -> None:
    if output.mask is not None and target.ndim > 1 and target.shape[1] != output.shape[1]:
        raise ShapeError(
            f"{where}: a batch of Ragged inputs is padded to its own longest row, and the targets are not",
            got=target.shape,
            expected=f"(batch, {output.shape[1]}, ...) as the predictions",
            fix="mr.Ragged.from_padded(y, x.lengths)",
        )


def _check_steps(target: Tensor, output: Tensor, where: str) -> None:
    if output.mask is None:
        return
    counts = np.asarray(output.mask)
    lacking = counts & ~np.asarray(target.mask)
    if lacking.any():
        row, step = (int(i) for i in np.argwhere(lacking)[0])
        raise ShapeError(
            f"{where}: row {row} of the batch has fewer steps than its input",
            got=f"{int(np.asarray(target.mask)[row].sum())} steps",
            expected=f"a target at step {step}, which counts",
        )


def rows_of(output: Tensor, symbol: Any, inputs: Sequence[Any]) -> np.ndarray | Ragged:
    """An output as an array; as a Ragged if it has a row of steps for each row of a Ragged input.

    It has if it carries a mask, or if `symbol`, which stands for it in the model's graph, has an axis 1 of
    unknown size.  The lengths are those of the Ragged inputs' that fit the mask most closely.
    """
    is_timed = output.mask is not None or (symbol is not None and symbol.shape[1:2] == (None,))
    found = [x.lengths for x in inputs if isinstance(x, Ragged)] if is_timed and output.ndim > 1 else []
    time = output.shape[1] if found else 0
    mask = None if output.mask is None else np.asarray(output.mask)
    fitting = [
        lengths
        for lengths in found
        if max(lengths, default=0) <= time
        and (mask is None or not (mask & (np.arange(time) >= lengths[:, None])).any())
    ]
    if not fitting:
        return output.numpy()
    # Without a mask only the longest row tells inputs of different lengths apart.
    closest = min(fitting, key=lambda lengths: (mask is None and max(lengths, default=0) != time, lengths.sum()))
    return Ragged.from_padded(output.numpy(), closest)


def joined(parts: Sequence[Any]) -> np.ndarray | Ragged:
    """The outputs of several batches as one."""
    first = parts[0]
    return first.joined_with(parts[1:]) if isinstance(first, Ragged) else np.concatenate(parts)
