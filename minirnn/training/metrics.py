"""Metrics: streaming means over batches, in which padded steps never count.

`update_state(y_true, y_pred, sample_weight, mask)` adds a batch, `result()` is a Python float, and
`reset_state()` starts anew.  Sums are kept in float64, so that a result depends on the batches only by rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..autodiff import ops
from ..autodiff.tensor import Tensor, as_tensor
from ..errors import ArgumentError
from ..layers import registry
from . import losses
from .masked import find_mask, pair, prepared, weigh

AUTOMATIC = ("accuracy", "acc")  # names whose meaning depends on the loss


class Metric:
    """The base: a weighted mean, to which a subclass's `update_state` adds with `add`.

    `direction`: "up" or "down", whichever is better, for callbacks that watch the metric.
    """

    direction: str | None = None

    def __init__(self, name: str | None = None) -> None:
        self.name = name or registry.snake_case(type(self).__name__)
        self.reset_state()

    def reset_state(self) -> None:
        """Forget all batches."""
        self.total = self.count = 0.0

    def add(self, total: float, count: float) -> None:
        """Add a sum of values and the sum of their weights."""
        self.total += total
        self.count += count

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None, mask: Any = None) -> None:
        """Add a batch; every metric defines its own."""
        raise NotImplementedError(f"{type(self).__name__} has no update_state")

    def result(self) -> float:
        """The mean so far; 0 before anything was added, as in Keras."""
        return self.total / self.count if self.count else 0.0

    def __call__(self, *args: Any, **kwargs: Any) -> float:
        """`update_state`, then `result`."""
        self.update_state(*args, **kwargs)
        return self.result()

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Metric:
        """The metric that `get_config` described, without its batches."""
        return cls(**{key: value for key, value in config.items() if key != "dtype"})


@registry.register(kind="metric")
class Mean(Metric):
    """The weighted mean of numbers.

    >>> mean = Mean()
    >>> mean.update_state([1.0, 3.0], sample_weight=[1.0, 3.0])
    >>> mean.result()
    2.5
    """

    def update_state(  # type: ignore[override]
        self, values: Any, sample_weight: Any = None
    ) -> None:
        """Add numbers of any shape; weights broadcast against them."""
        array = np.asarray(values, dtype=np.float64)
        weight = np.broadcast_to(1.0 if sample_weight is None else np.asarray(sample_weight, np.float64), array.shape)
        self.add(float(np.sum(array * weight)), float(np.sum(weight)))


@registry.register(kind="metric")
class FunctionMetric(Metric):
    """The mean of `f(y_true, y_pred, **settings)`, which gives one value for each sample (and step)."""

    def __init__(self, function: Callable[..., Any], name: str | None = None, **settings: Any) -> None:
        super().__init__(name or getattr(function, "__name__", type(function).__name__))
        self.function, self.settings = function, settings

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None, mask: Any = None) -> None:
        """Add a batch; `mask` defaults to the one attached to `y_pred`."""
        y_pred = as_tensor(y_pred)
        mask = find_mask(y_pred, mask, self.name)
        y_true, y_pred = prepared(y_true, y_pred, mask)
        values = as_tensor(self.function(y_true, y_pred, **self.settings), "float64")
        if values.ndim == 0:
            self.add(values.item(), 1.0)
            return
        values, keep, weight = weigh(values, sample_weight, mask, self.name)
        weights = keep if weight is None else weight
        count = values.size if weights is None else np.sum(np.asarray(weights), dtype=np.float64)
        self.add(float(np.sum(np.asarray(values))), float(count))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments; ArgumentError for a function without a name, such as a lambda."""
        own = {} if type(self) is not FunctionMetric else {"function": registry.serialize(self.function)}
        return own | super().get_config() | self.settings

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Metric:
        """The metric that `get_config` described."""
        if isinstance(config.get("function"), dict):
            config = config | {"function": registry.deserialize(config["function"], "metric function")}
        return super().from_config(config)


@registry.register(kind="metric", aliases=("mse",))
class MeanSquaredError(FunctionMetric):
    """The mean squared error.

    >>> MeanSquaredError()(np.zeros((2, 1)), np.array([[1.0], [3.0]]))
    5.0
    """

    direction = "down"

    def __init__(self, name: str | None = None) -> None:
        super().__init__(losses.mean_squared_error, name)


@registry.register(kind="metric", aliases=("rmse",))
class RootMeanSquaredError(MeanSquaredError):
    """The root of the mean squared error."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name or "root_mean_squared_error")

    def result(self) -> float:
        """The root of the mean so far."""
        return math.sqrt(super().result())


@registry.register(kind="metric", aliases=("mae",))
class MeanAbsoluteError(FunctionMetric):
    """The mean absolute error."""

    direction = "down"

    def __init__(self, name: str | None = None) -> None:
        super().__init__(losses.mean_absolute_error, name)


@registry.register(kind="metric", aliases=("bce",))
class BinaryCrossentropy(FunctionMetric):
    """The mean binary cross-entropy."""

    direction = "down"

    def __init__(self, name: str | None = None, from_logits: bool = False, label_smoothing: float = 0.0) -> None:
        super().__init__(losses.binary_crossentropy, name, from_logits=from_logits, label_smoothing=label_smoothing)


@registry.register(kind="metric", aliases=("cce",))
class CategoricalCrossentropy(FunctionMetric):
    """The mean cross-entropy of one-hot targets."""

    direction = "down"

    def __init__(self, name: str | None = None, from_logits: bool = False, label_smoothing: float = 0.0) -> None:
        super().__init__(
            losses.categorical_crossentropy, name, from_logits=from_logits, label_smoothing=label_smoothing
        )


@registry.register(kind="metric", aliases=("scce",))
class SparseCategoricalCrossentropy(FunctionMetric):
    """The mean cross-entropy of integer targets."""

    direction = "down"

    def __init__(self, name: str | None = None, from_logits: bool = False) -> None:
        super().__init__(losses.sparse_categorical_crossentropy, name, from_logits=from_logits)


def binary_accuracy(y_true: Any, y_pred: Any, threshold: float = 0.5) -> Tensor:
    """How often `y_pred > threshold` is the target (0 or 1); the mean over the last axis.

    >>> binary_accuracy([[1.0, 0.0, 0.0, 1.0]], [[0.9, 0.2, 0.7, 0.5]]).numpy()
    array([0.5], dtype=float32)
    """
    y_true, y_pred = pair(y_true, y_pred, "binary_accuracy")
    hits = ops.equal(ops.cast(y_pred > threshold, y_pred.dtype), y_true)
    return ops.mean(ops.cast(hits, y_pred.dtype), axis=-1)


def categorical_accuracy(y_true: Any, y_pred: Any) -> Tensor:
    """Whether prediction and target are largest at the same class.

    >>> categorical_accuracy([[0.0, 1.0], [1.0, 0.0]], [[0.1, 0.2], [0.3, 0.9]]).numpy()
    array([1., 0.], dtype=float32)
    """
    y_true, y_pred = pair(y_true, y_pred, "categorical_accuracy")
    return ops.cast(ops.equal(ops.argmax(y_true, -1), ops.argmax(y_pred, -1)), y_pred.dtype)


def sparse_categorical_accuracy(y_true: Any, y_pred: Any) -> Tensor:
    """Whether the prediction is largest at the class that the integer target names.

    >>> sparse_categorical_accuracy([1, 0], [[0.1, 0.2], [0.3, 0.9]]).numpy()
    array([1., 0.], dtype=float32)
    """
    y_pred = as_tensor(y_pred)
    labels = losses.class_labels(y_true, y_pred, "sparse_categorical_accuracy")
    return ops.cast(ops.equal(labels, ops.argmax(y_pred, -1)), _float_like(y_pred))


def sparse_top_k_categorical_accuracy(y_true: Any, y_pred: Any, k: int = 5) -> Tensor:
    """Whether fewer than `k` classes are predicted above the one that the integer target names.

    >>> sparse_top_k_categorical_accuracy([0, 1], [[0.5, 0.3, 0.2], [0.3, 0.1, 0.6]], k=2).numpy()
    array([1., 0.], dtype=float32)
    """
    y_pred = as_tensor(y_pred)
    labels = losses.class_labels(y_true, y_pred, "sparse_top_k_categorical_accuracy")
    scores, classes = np.asarray(y_pred), np.asarray(labels)
    own = np.take_along_axis(scores, classes[..., None], axis=-1)
    above = np.sum(scores > own, axis=-1)
    return as_tensor((above < k) & np.isfinite(own[..., 0]), _float_like(y_pred))


def top_k_categorical_accuracy(y_true: Any, y_pred: Any, k: int = 5) -> Tensor:
    """`sparse_top_k_categorical_accuracy` for one-hot targets.

    >>> top_k_categorical_accuracy([[1.0, 0.0, 0.0]], [[0.3, 0.1, 0.6]], k=2).numpy()
    array([1.], dtype=float32)
    """
    y_true, y_pred = pair(y_true, y_pred, "top_k_categorical_accuracy")
    return sparse_top_k_categorical_accuracy(ops.argmax(y_true, -1), y_pred, k)


def accuracy(y_true: Any, y_pred: Any) -> Tensor:
    """How often targets and predictions are equal; the mean over the last axis.

    >>> accuracy([[1.0, 2.0]], [[1.0, 3.0]]).numpy()
    array([0.5], dtype=float32)
    """
    y_true, y_pred = pair(y_true, y_pred, "accuracy")
    return ops.mean(ops.cast(ops.equal(y_true, y_pred), y_pred.dtype), axis=-1)


def _float_like(y_pred: Tensor) -> Any:
    return y_pred.dtype if y_pred.dtype.kind == "f" else np.dtype("float64")


@registry.register(kind="metric")
class Accuracy(FunctionMetric):
    """How often targets and predictions are equal (`metrics=["accuracy"]` is `AutomaticAccuracy`)."""

    direction = "up"

    def __init__(self, name: str | None = None) -> None:
        super().__init__(accuracy, name)


@registry.register(kind="metric")
class BinaryAccuracy(FunctionMetric):
    """How often `y_pred > threshold` is the target."""

    direction = "up"

    def __init__(self, name: str | None = None, threshold: float = 0.5) -> None:
        super().__init__(binary_accuracy, name, threshold=threshold)


@registry.register(kind="metric")
class CategoricalAccuracy(FunctionMetric):
    """How often prediction and one-hot target are largest at the same class."""

    direction = "up"

    def __init__(self, name: str | None = None) -> None:
        super().__init__(categorical_accuracy, name)


@registry.register(kind="metric")
class SparseCategoricalAccuracy(FunctionMetric):
    """How often the prediction is largest at the class that the integer target names."""

    direction = "up"

    def __init__(self, name: str | None = None) -> None:
        super().__init__(sparse_categorical_accuracy, name)


@registry.register(kind="metric", aliases=("top_k_categorical_accuracy",))
class TopKCategoricalAccuracy(FunctionMetric):
    """How often the class of the one-hot target is among the `k` with the largest predictions."""

    direction = "up"

    def __init__(self, k: int = 5, name: str | None = None) -> None:
        super().__init__(top_k_categorical_accuracy, name, k=k)


@registry.register(kind="metric", aliases=("sparse_top_k_categorical_accuracy",))
class SparseTopKCategoricalAccuracy(FunctionMetric):
    """How often the class of the integer target is among the `k` with the largest predictions."""

    direction = "up"

    def __init__(self, k: int = 5, name: str | None = None) -> None:
        super().__init__(sparse_top_k_categorical_accuracy, name, k=k)


class AutomaticAccuracy(FunctionMetric):
    """The accuracy that fits the loss of the output, or else the shapes: what "accuracy" means in compile.

    Binary cross-entropy: binary (threshold 0 for logits); categorical and sparse categorical ones
    likewise.  Other losses, as in Keras: one feature is binary, integer labels are sparse, else categorical.
    """

    direction = "up"

    def __init__(self, name: str | None = None, loss: Any = None) -> None:
        super().__init__(self._fitting, name or "accuracy")
        self.loss = loss

    def _fitting(self, y_true: Any, y_pred: Tensor) -> Tensor:
        if isinstance(self.loss, losses.BinaryCrossentropy) or y_pred.shape[-1:] in ((), (1,)):
            logits = getattr(self.loss, "settings", {}).get("from_logits", False)
            return binary_accuracy(y_true, y_pred, threshold=0.0 if logits else 0.5)
        y_true = as_tensor(y_true)
        labelled = y_true.ndim < y_pred.ndim or y_true.shape[-1] == 1
        sparse = isinstance(self.loss, losses.SparseCategoricalCrossentropy) or labelled
        return (sparse_categorical_accuracy if sparse else categorical_accuracy)(y_true, y_pred)


def get(metric: Any, loss: Any = None) -> Metric:
    """A Metric from itself, its name, a configuration or a function of (y_true, y_pred).

    A metric given by name is logged under that name; "accuracy" and "acc" choose the kind that
    fits `loss`.  Raises ArgumentError for an unknown name, with the nearest ones.

    >>> get("mae").name
    'mae'
    """
    if isinstance(metric, str) and metric in AUTOMATIC:
        return AutomaticAccuracy(metric, loss)
    found = registry.get("metric", metric)
    if isinstance(found, type):
        found = found()
    if found is None:
        raise ArgumentError("this is not a metric", got="None", expected="a name, a Metric or a function")
    found = found if isinstance(found, Metric) else FunctionMetric(found)
    if isinstance(metric, str):
        found.name = metric
    return found
