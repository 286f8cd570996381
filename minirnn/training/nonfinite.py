"""Where a NaN came from: the first layer, and the first time step, whose values are not finite."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..autodiff import trees
from ..autodiff.tensor import Tensor, Variable
from ..errors import NonFiniteError
from ..layers.base import Layer, observe
from ..layers.ragged import Ragged
from .compiled import Compiled, Goal
from .data import Batch


class Place(NamedTuple):
    """Where an array first holds NaN or infinity: a row of the batch and, with a time axis, the step."""

    value: float
    row: int | None
    step: int | None

    def __str__(self) -> str:
        where = [f"first at time step {self.step}"] if self.step is not None else []
        where += [f"in row {self.row} of the batch"] if self.row is not None else []
        return ", ".join(where)


def all_finite(array: np.ndarray) -> bool:
    """Whether no element is NaN or infinite; one pass in the usual case."""
    if array.dtype.kind not in "fc":
        return True
    flat = array.ravel(order="K")
    with np.errstate(over="ignore", invalid="ignore"):
        # A sum of squares cannot hide a NaN or an infinity; it may overflow by itself.
        return bool(np.isfinite(np.dot(flat, flat))) or bool(np.isfinite(array).all())


def first_bad(value: Any, mask: Any = None) -> Place | None:
    """The first place, in time before rows, of an array (batch, time, ...) that counts and is not finite.

    >>> x = np.zeros((2, 3, 1)); x[1, 2] = np.nan
    >>> first_bad(x)
    Place(value=nan, row=1, step=2)
    """
    array = np.asarray(value)
    if array.dtype.kind not in "fc":
        return None
    bad = ~np.isfinite(array)
    if mask is not None and mask.shape == array.shape[: mask.ndim]:
        bad &= np.asarray(mask, dtype=bool).reshape(*mask.shape, *[1] * (array.ndim - mask.ndim))
    if not bad.any():
        return None
    if array.ndim >= 3:
        by_step = np.moveaxis(bad, 1, 0)
        step = _first(by_step)
        row = _first(by_step[step])
        return Place(float(array[row, step][bad[row, step]][0]), row, step)
    if array.ndim == 0:
        return Place(float(array), None, None)
    row = _first(bad)
    return Place(float(np.atleast_1d(array[row])[np.atleast_1d(bad[row])][0]), row, None)


def _first(bad: np.ndarray) -> int:
    """The first index along axis 0 with anything bad."""
    return int(np.argmax(bad.reshape(len(bad), -1).any(axis=1)))


class _Witness:
    """Sees the outputs of every layer of a run and remembers which were not finite, in order."""

    def __init__(self) -> None:
        self.bad: list[tuple[str, Place]] = []
        self.masks: list[Tensor] = []

    def __call__(self, label: str, outputs: Any) -> None:
        for output in trees.flatten(outputs)[0]:
            if isinstance(output, Tensor) and not output.is_abstract:
                if output.mask is not None:
                    self.masks.append(output.mask)
                place = first_bad(output, output.mask)
                if place is not None:
                    self.bad.append((label, place))

    def mask_for(self, array: np.ndarray) -> Tensor | None:
        """A mask that a layer made for the steps of an array (batch, time, ...)."""
        return next((mask for mask in self.masks if mask.shape == array.shape[:2]), None)


def explain(model: Any, compiled: Compiled, run: Callable[[], Any], batch: Batch, loss: float) -> NonFiniteError:
    """The error for a batch whose loss is not finite: who is to blame, where, and what to do.

    `run` computes the model's outputs for the batch once more, with the same random numbers and states.
    """
    symptom = f"the loss is {loss}"
    for variable in model.weights:
        place = first_bad(variable)
        if place is not None:
            return _error(f"{symptom} because the weight {named_weight(model, variable)} holds {place.value}")
    witness, outputs = _witnessed(run)
    inputs = [x.padded() if isinstance(x, Ragged) else x for x in batch.inputs]
    input_masks = [witness.mask_for(x) for x in inputs]
    names = [goal.name for goal in compiled.goals]
    # What reaches no output, such as NaN in steps that a mask of the user's leaves out, is not to blame.
    found = None
    if any(first_bad(output, mask) is not None for output, mask in zip(outputs, batch.masks, strict=True)):
        found = _in_data(symptom, "input", batch.input_names, inputs, input_masks)
        found = found or _in_layers(symptom, model, witness)
    return (
        found
        or _in_data(symptom, "target of output", names, batch.targets, batch.masks)
        or _in_data(symptom, "sample weight of output", names, batch.weights, batch.masks)
        or _in_losses(symptom, compiled.goals, outputs, batch)
    )


def explain_gradient(
    model: Any, variables: Sequence[Variable], gradients: Sequence[Any], run: Callable[[], Any], loss: float
) -> NonFiniteError:
    """The error for a step whose loss is finite and whose gradient is not."""
    bad = [v for v, g in zip(variables, gradients, strict=True) if g is not None and not all_finite(g.value)]
    names = ", ".join(named_weight(model, variable) for variable in bad)
    symptom = f"the loss is {loss:g}, but the gradient of {names} is not finite"
    return _in_layers(symptom, model, _witnessed(run)[0]) or _error(symptom)


def explain_update(model: Any, variables: Sequence[Variable], rate: float) -> NonFiniteError:
    """The error for an update that overflowed."""
    names = ", ".join(named_weight(model, v) for v in variables if not all_finite(v.value))
    return _error(f"the update of {names} overflowed, with a finite loss and gradient", f"learning rate {rate:g}")


def named_weight(model: Layer, variable: Variable) -> str:
    """A weight and the innermost layer that holds it, for messages."""
    owners = [layer for layer in model.all_layers() if any(v is variable for v in layer.weights)]
    return f"{variable.name!r}" + (f" of {owners[-1].label}" if owners else "")


def _error(what: str, got: str | None = None) -> NonFiniteError:
    return NonFiniteError(
        what,
        got=got,
        expected="finite numbers",
        where="the weights are those from before this step",
        fix="a smaller learning rate, clipnorm= in the optimizer, or losses with from_logits=True often help",
    )


def _witnessed(run: Callable[[], Any]) -> tuple[_Witness, list[Tensor]]:
    witness = _Witness()
    with observe(witness):
        return witness, trees.flatten(run())[0]


def _in_data(
    symptom: str, role: str, names: Sequence[str], arrays: Sequence[Any], masks: Sequence[Any]
) -> NonFiniteError | None:
    for name, array, mask in zip(names, arrays, masks, strict=True):
        # Weights and single features come as (batch, time).
        place = None if array is None else first_bad(array if np.ndim(array) != 2 else array[..., None], mask)
        if place is not None:
            return NonFiniteError(
                f"{symptom} because the {role} {name!r} is not finite",
                got=f"{place.value}, {place}",
                expected="finite numbers, or a mask that leaves these steps out",
            )
    return None


def _in_layers(symptom: str, model: Layer, witness: _Witness) -> NonFiniteError | None:
    if not witness.bad:
        return None
    label, place = witness.bad[0]
    owner, place = _enclosing(model, label, witness.bad) if place.step is None else (label, place)
    inside = "" if owner == label else f" (inside of it {label})"
    return _error(
        f"{symptom}: {owner} is the first layer whose output is not finite{inside}", f"{place.value}, {place}"
    )


def _enclosing(model: Layer, label: str, bad: list[tuple[str, Place]]) -> tuple[str, Place]:
    """The outermost layer around a cell that was seen step by step: that one knows the time."""
    for outer in model.all_layers()[1:]:
        if any(inner.label == label for inner in outer.all_layers()[1:]):
            place = next((place for seen, place in bad if seen == outer.label), None)
            if place is not None:
                return outer.label, place
    return label, bad[0][1]


def _in_losses(symptom: str, goals: Sequence[Goal], outputs: Sequence[Tensor], batch: Batch) -> NonFiniteError:
    known = zip(goals, outputs, batch.targets, batch.weights, batch.masks, strict=True)
    for goal, output, target, weight, mask in known:
        if goal.loss is None:
            continue
        apart = copy.copy(goal.loss)
        apart.reduction = "none"
        values = np.asarray(apart(target, output, weight, mask))
        place = first_bad(values[..., None] if output.ndim >= 3 and values.ndim == 2 else values)
        if place is not None or not np.isfinite(float(goal.latest[0])):
            what = f"{symptom}: {goal.loss.name} of output {goal.name!r} overflowed, its inputs are finite"
            return _error(what, "the sum over the batch" if place is None else f"{place.value}, {place}")
    return _error(f"{symptom} because a regularizer's penalty is not finite")
