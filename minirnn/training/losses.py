"""Losses: Keras's names and formulas, one value for each sample and step, reduced to one number.

A loss is the mean over all steps that count (not over padded ones); sample weights multiply the
values and do not change the divisor, as in Keras.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..autodiff import ops
from ..autodiff.tensor import Tensor, as_tensor
from ..errors import ArgumentError, ShapeError
from ..layers import registry
from .masked import find_mask, pair, prepared, weigh

EPSILON = 1e-7  # how far probabilities stay away from 0 and 1, as in Keras
REDUCTIONS = ("sum_over_batch_size", "sum", "mean_with_sample_weight", "none")


def mean_squared_error(y_true: Any, y_pred: Any) -> Tensor:
    """The mean of squared differences over the last axis.

    >>> mean_squared_error([[1.0, 2.0]], [[3.0, 2.0]]).numpy()
    array([2.], dtype=float32)
    """
    y_true, y_pred = pair(y_true, y_pred, "mean_squared_error")
    return ops.mean(ops.square(y_pred - y_true), axis=-1)


def mean_absolute_error(y_true: Any, y_pred: Any) -> Tensor:
    """The mean of absolute differences over the last axis.

    >>> mean_absolute_error([[1.0, 2.0]], [[4.0, 1.0]]).numpy()
    array([2.], dtype=float32)
    """
    y_true, y_pred = pair(y_true, y_pred, "mean_absolute_error")
    return ops.mean(ops.abs(y_pred - y_true), axis=-1)


def huber(y_true: Any, y_pred: Any, delta: float = 1.0) -> Tensor:
    """Half the squared difference up to `delta`, linear beyond; the mean over the last axis.

    Huber, Robust Estimation of a Location Parameter (1964).

    >>> huber([[0.0, 0.0]], [[1.0, 3.0]]).numpy()
    array([1.5], dtype=float32)
    """
    y_true, y_pred = pair(y_true, y_pred, "huber")
    error = y_pred - y_true
    near = ops.clip(error, -delta, delta)
    return ops.mean(near * (error - 0.5 * near), axis=-1)


def binary_crossentropy(y_true: Any, y_pred: Any, from_logits: bool = False, label_smoothing: float = 0.0) -> Tensor:
    """`-y log p - (1 - y) log(1 - p)`, the mean over the last axis; p = sigmoid(y_pred) if `from_logits`.

    Probabilities are kept 1e-7 away from 0 and 1; logits need no such limit.
    `label_smoothing` s moves targets to `y (1 - s) + s / 2`.

    >>> binary_crossentropy([[1.0]], [[-10000.0]], from_logits=True).numpy()
    array([10000.], dtype=float32)
    """
    y_true, y_pred = pair(y_true, y_pred, "binary_crossentropy")
    if label_smoothing:
        y_true = y_true * (1.0 - label_smoothing) + 0.5 * label_smoothing
    if from_logits:
        # Each term keeps its relative precision, which softplus(z) - y z loses for a large z.
        values = y_true * ops.softplus(-y_pred) + (1.0 - y_true) * ops.softplus(y_pred)
    else:
        p = ops.clip(y_pred, EPSILON, 1.0 - EPSILON)
        values = -(y_true * ops.log(p) + (1.0 - y_true) * ops.log1p(-p))
    return ops.mean(values, axis=-1)


def categorical_crossentropy(
    y_true: Any, y_pred: Any, from_logits: bool = False, label_smoothing: float = 0.0
) -> Tensor:
    """`-sum(y log p)` over the last axis; p = softmax(y_pred) if `from_logits`, else y_pred scaled to sum to one.

    `label_smoothing` s moves targets to `y (1 - s) + s / classes`.

    >>> categorical_crossentropy([[0.0, 1.0]], [[10000.0, 0.0]], from_logits=True).numpy()
    array([10000.], dtype=float32)
    """
    y_true, y_pred = pair(y_true, y_pred, "categorical_crossentropy")
    if y_pred.shape[-1] == 1:
        raise ShapeError(
            "categorical_crossentropy of a single class is always zero",
            got=y_pred.shape,
            expected="(batch, ..., classes) with two classes or more",
            fix="for one probability use binary_crossentropy",
        )
    if label_smoothing:
        y_true = y_true * (1.0 - label_smoothing) + label_smoothing / y_true.shape[-1]
    scores, log_total = _class_scores(y_pred, from_logits)
    return ops.sum(y_true, axis=-1) * log_total - ops.sum(y_true * scores, axis=-1)


def sparse_categorical_crossentropy(y_true: Any, y_pred: Any, from_logits: bool = False) -> Tensor:
    """`-log p[y]` for integer targets y of shape (batch, ...) or (batch, ..., 1); p as for `categorical_crossentropy`.

    Raises ArgumentError for a label that is no class.

    >>> sparse_categorical_crossentropy([1], [[0.25, 0.75]]).numpy().round(4)
    array([0.2877], dtype=float32)
    """
    y_pred = as_tensor(y_pred)
    labels = class_labels(y_true, y_pred, "sparse_categorical_crossentropy")
    scores, log_total = _class_scores(y_pred, from_logits)
    classes = y_pred.shape[-1]
    places = ops.reshape(labels, (-1,)) + np.arange(labels.size) * classes
    chosen = ops.reshape(ops.take(ops.reshape(scores, (-1,)), places), labels.shape)
    return log_total - chosen


def class_labels(y_true: Any, y_pred: Tensor, label: str) -> Tensor:
    """Integer labels of shape (batch, ...) for predictions (batch, ..., classes), checked."""
    y_true = as_tensor(y_true)
    if y_true.ndim == y_pred.ndim and y_true.shape[-1] == 1:
        y_true = ops.squeeze(y_true, -1)
    if y_pred.ndim == 0 or y_true.shape != y_pred.shape[:-1]:
        raise ShapeError(
            f"{label}: one integer label for each prediction over the classes",
            got=f"labels {y_true.shape}, predictions {y_pred.shape}",
            expected=f"labels {y_pred.shape[:-1]} or {(*y_pred.shape[:-1], 1)}",
            fix="for one-hot targets use categorical_crossentropy" if y_true.shape == y_pred.shape else None,
        )
    if not y_true.is_abstract:
        classes, values = y_pred.shape[-1], y_true.value
        wrong = ~((values >= 0) & (values < classes) & (values == np.floor(values)))
        if wrong.any():
            raise ArgumentError(
                f"{label}: a label is no class", got=values[wrong][0], expected=f"integers from 0 to {classes - 1}"
            )
    return y_true if y_true.dtype.kind in "iu" else ops.cast(y_true, "int64")


def _class_scores(y_pred: Tensor, from_logits: bool) -> tuple[Tensor, Any]:
    """Scores s and a number t for each row with log p = s - t; kept apart because t is smaller by one axis."""
    if not from_logits:
        p = y_pred / ops.sum(y_pred, axis=-1, keepdims=True)
        return ops.log(ops.clip(p, EPSILON, 1.0 - EPSILON)), 0.0
    scores = y_pred - ops.stop_gradient(ops.max(y_pred, axis=-1, keepdims=True))
    return scores, ops.log(ops.sum(ops.exp(scores), axis=-1))


class Loss:
    """The base: subclass it and define `call(y_true, y_pred)`, one value for each sample (and step).

    `reduction`: "sum_over_batch_size" (the mean over all values that count), "sum",
    "mean_with_sample_weight" (divided by the sum of the weights) or "none" (the values).

    >>> class Cubic(Loss):
    ...     def call(self, y_true, y_pred):
    ...         return ops.mean(ops.abs(y_pred - y_true) ** 3, axis=-1)
    >>> Cubic()(np.zeros((1, 2)), np.array([[1.0, 2.0]])).item()
    4.5
    """

    def __init__(self, reduction: str | None = "sum_over_batch_size", name: str | None = None) -> None:
        reduction = {None: "none", "mean": "sum_over_batch_size"}.get(reduction, reduction)
        if reduction not in REDUCTIONS:
            raise ArgumentError(
                f"{type(self).__name__}: reduction", got=repr(reduction), expected="one of " + ", ".join(REDUCTIONS)
            )
        self.reduction: str = reduction
        self.name = name or registry.snake_case(type(self).__name__)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """One value for each sample, or for each sample and step."""
        raise NotImplementedError(f"{type(self).__name__} has no call(y_true, y_pred)")

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None, mask: Any = None) -> Any:
        """The loss as a scalar Tensor; `mask` defaults to the one that layers attached to `y_pred`.

        `sample_weight`: (batch,) or (batch, time).  Raises ShapeError where shapes do not fit.
        """
        return self.with_count(y_true, y_pred, sample_weight, mask)[0]

    def with_count(self, y_true: Any, y_pred: Any, sample_weight: Any = None, mask: Any = None) -> tuple[Any, Any]:
        """The loss, and what it counts with in a mean over batches."""
        y_pred = as_tensor(y_pred)
        mask = find_mask(y_pred, mask, self.name)
        y_true, y_pred = prepared(y_true, y_pred, mask)
        values = as_tensor(self.call(y_true, y_pred))
        samples = float(y_pred.shape[0]) if y_pred.ndim else 1.0
        if values.ndim == 0:
            return self._already_reduced(values, sample_weight, mask), samples
        values, keep, weight = weigh(values, sample_weight, mask, self.name)
        if self.reduction == "none":
            return values, samples
        if self.reduction == "sum":
            return ops.sum(values), samples
        count: Any = values.size if keep is None else ops.sum(ops.cast(keep, values.dtype))
        if self.reduction == "mean_with_sample_weight" and weight is not None:
            count = ops.sum(weight)
        # Where nothing counts there is nothing to divide, and the loss is zero.
        safe = ops.where(ops.not_equal(count, 0), count, 1.0) if isinstance(count, Tensor) else max(count, 1)
        return ops.sum(values) / safe, count

    def _already_reduced(self, value: Tensor, sample_weight: Any, mask: Any) -> Tensor:
        if sample_weight is not None or mask is not None:
            raise ShapeError(
                f"{self.name}: a loss that returns one number can leave out no steps and weigh no samples",
                expected="one value for each sample, or for each sample and step",
            )
        return value

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"reduction": self.reduction, "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Loss:
        """The loss that `get_config` described."""
        return cls(**{key: value for key, value in config.items() if key != "dtype"})


@registry.register(kind="loss")
class FunctionLoss(Loss):
    """A function `f(y_true, y_pred, **settings)` as a Loss; it gives one value for each sample (and step)."""

    def __init__(
        self,
        function: Callable[..., Any],
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(reduction, name or getattr(function, "__name__", type(function).__name__))
        self.function, self.settings = function, settings

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """The function's values."""
        return self.function(y_true, y_pred, **self.settings)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments; ArgumentError for a function without a name, such as a lambda."""
        own = {} if type(self) is not FunctionLoss else {"function": registry.serialize(self.function)}
        return own | super().get_config() | self.settings

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Loss:
        """The loss that `get_config` described."""
        if isinstance(config.get("function"), dict):
            config = config | {"function": registry.deserialize(config["function"], "loss function")}
        return super().from_config(config)


@registry.register(kind="loss", aliases=("mse",))
class MeanSquaredError(FunctionLoss):
    """`mean_squared_error` as a Loss.

    >>> MeanSquaredError()(np.zeros((2, 1)), np.array([[1.0], [3.0]])).item()
    5.0
    """

    def __init__(self, reduction: str | None = "sum_over_batch_size", name: str | None = None) -> None:
        super().__init__(mean_squared_error, reduction, name)


@registry.register(kind="loss", aliases=("mae",))
class MeanAbsoluteError(FunctionLoss):
    """`mean_absolute_error` as a Loss."""

    def __init__(self, reduction: str | None = "sum_over_batch_size", name: str | None = None) -> None:
        super().__init__(mean_absolute_error, reduction, name)


@registry.register(kind="loss", aliases=("huber_loss",))
class Huber(FunctionLoss):
    """`huber` as a Loss."""

    def __init__(
        self, delta: float = 1.0, reduction: str | None = "sum_over_batch_size", name: str | None = None
    ) -> None:
        super().__init__(huber, reduction, name, delta=delta)


@registry.register(kind="loss", aliases=("bce",))
class BinaryCrossentropy(FunctionLoss):
    """`binary_crossentropy` as a Loss."""

    def __init__(
        self,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
    ) -> None:
        super().__init__(binary_crossentropy, reduction, name, from_logits=from_logits, label_smoothing=label_smoothing)


@registry.register(kind="loss", aliases=("cce",))
class CategoricalCrossentropy(FunctionLoss):
    """`categorical_crossentropy` as a Loss."""

    def __init__(
        self,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
    ) -> None:
        super().__init__(
            categorical_crossentropy, reduction, name, from_logits=from_logits, label_smoothing=label_smoothing
        )


@registry.register(kind="loss", aliases=("scce",))
class SparseCategoricalCrossentropy(FunctionLoss):
    """`sparse_categorical_crossentropy` as a Loss."""

    def __init__(
        self, from_logits: bool = False, reduction: str | None = "sum_over_batch_size", name: str | None = None
    ) -> None:
        super().__init__(sparse_categorical_crossentropy, reduction, name, from_logits=from_logits)


def get(loss: Any) -> Loss | None:
    """A Loss from itself, its name ("mse", "mean_squared_error", "MeanSquaredError"), a configuration or a function.

    Raises ArgumentError for an unknown name, with the nearest ones.

    >>> get("mse").name
    'mean_squared_error'
    """
    found = registry.get("loss", loss)
    if isinstance(found, type):  # a function's name, which leads to the class that computes it
        found = found()
    return found if found is None or isinstance(found, Loss) else FunctionLoss(found)
