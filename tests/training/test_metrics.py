"""Metrics against formulas in NumPy: streaming, masks, weights, the choice behind "accuracy"."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn.errors import ArgumentError
from minirnn.layers import registry
from minirnn.training import losses, metrics

Array = np.ndarray
B, T, K = 6, 5, 4
RNG = np.random.default_rng(5)
MASK = RNG.uniform(size=(B, T)) < 0.6
WEIGHT = RNG.uniform(0.1, 2, (B, T))
LABELS = RNG.integers(0, K, (B, T))
ONE_HOT = np.eye(K)[LABELS]
SCORES = RNG.standard_normal((B, T, K))
BITS = (RNG.uniform(size=(B, T, K)) < 0.5).astype(float)
SHARES = RNG.uniform(size=(B, T, K))
HITS = (SCORES.argmax(-1) == LABELS).astype(float)
RANKS = (SCORES > np.take_along_axis(SCORES, LABELS[..., None], -1)).sum(-1)

# name: (metric, targets, predictions, values of shape (batch, time))
CASES: dict[str, tuple[metrics.Metric, Array, Array, Array]] = {
    "mse": (metrics.MeanSquaredError(), BITS, SCORES, ((BITS - SCORES) ** 2).mean(-1)),
    "mae": (metrics.MeanAbsoluteError(), BITS, SCORES, np.abs(BITS - SCORES).mean(-1)),
    "binary": (metrics.BinaryAccuracy(), BITS, SHARES, ((SHARES > 0.5) == BITS).mean(-1)),
    "binary 0.3": (metrics.BinaryAccuracy(threshold=0.3), BITS, SHARES, ((SHARES > 0.3) == BITS).mean(-1)),
    "categorical": (metrics.CategoricalAccuracy(), ONE_HOT, SCORES, HITS),
    "sparse": (metrics.SparseCategoricalAccuracy(), LABELS, SCORES, HITS),
    "top": (metrics.TopKCategoricalAccuracy(k=2), ONE_HOT, SCORES, RANKS < 2),
    "sparse top": (metrics.SparseTopKCategoricalAccuracy(k=3), LABELS, SCORES, RANKS < 3),
    "equal": (metrics.Accuracy(), BITS, SHARES.round(), (SHARES.round() == BITS).mean(-1)),
    "cce": (
        metrics.CategoricalCrossentropy(from_logits=True),
        ONE_HOT,
        SCORES,
        -np.log((np.exp(SCORES) / np.exp(SCORES).sum(-1, keepdims=True))[ONE_HOT == 1].reshape(B, T)),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_streamed_means_equal_the_formula(name: str) -> None:
    metric, y, p, values = CASES[name]
    metric.reset_state()
    for rows in (slice(0, 1), slice(1, 4), slice(4, None)):
        metric.update_state(y[rows], p[rows])
    assert metric.result() == pytest.approx(values.mean(), rel=1e-12)
    metric.reset_state()
    assert metric.result() == 0
    assert metric(y[:2], p[:2]) == pytest.approx(values[:2].mean(), rel=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_masks_and_weights(name: str) -> None:
    metric, y, p, values = CASES[name]
    spoiled_y, spoiled_p = y.astype(float), p.copy()
    spoiled_y[~MASK] = spoiled_p[~MASK] = np.nan
    metric.reset_state()
    assert metric(spoiled_y, spoiled_p, mask=MASK) == pytest.approx(values[MASK].mean(), rel=1e-12)
    metric.reset_state()
    prediction = mr.Tensor(spoiled_p)
    prediction.mask = mr.Tensor(MASK)
    want = (values * WEIGHT)[MASK].sum() / WEIGHT[MASK].sum()
    assert metric(spoiled_y, prediction, WEIGHT) == pytest.approx(want, rel=1e-12)
    metric.reset_state()
    by_row = np.arange(B)
    want = (values * by_row[:, None]).sum() / (by_row.sum() * T)
    assert metric(y, p, by_row) == pytest.approx(want, rel=1e-12)


def test_root_of_the_mean_over_all_batches() -> None:
    metric = metrics.get("rmse")
    metric.update_state(BITS[:1], SCORES[:1])
    metric.update_state(BITS[1:], SCORES[1:])
    assert metric.result() == pytest.approx(np.sqrt(((BITS - SCORES) ** 2).mean()))


def test_mean_of_numbers() -> None:
    mean = metrics.Mean()
    mean.update_state([[1.0, 2.0], [3.0, 6.0]])
    mean.update_state(10.0, sample_weight=2.0)
    assert mean.result() == pytest.approx((12 + 20) / 6)


def test_large_sums_keep_their_precision() -> None:
    metric = metrics.MeanSquaredError()
    for _ in range(3):
        metric.update_state(np.zeros((1000, 1), "float32"), np.full((1000, 1), 0.1, "float32"))
    assert metric.result() == pytest.approx(np.float32(0.1).astype(float) ** 2, rel=1e-7)


# (loss, targets, predictions, which accuracy)
AUTOMATIC: dict[str, tuple[Any, Array, Array, float]] = {
    "sparse loss": (losses.get("scce"), LABELS, SCORES, HITS.mean()),
    "sparse loss, labels with an axis": (losses.get("scce"), LABELS[..., None], SCORES, HITS.mean()),
    "categorical loss": (losses.get("cce"), ONE_HOT, SCORES, HITS.mean()),
    "binary loss, many features": (losses.get("bce"), BITS, SHARES, ((SHARES > 0.5) == BITS).mean()),
    "binary loss from logits": (
        losses.BinaryCrossentropy(from_logits=True),
        BITS,
        SCORES,
        ((SCORES > 0) == BITS).mean(),
    ),
    "one feature": (losses.get("mse"), BITS[..., :1], SHARES[..., :1], ((SHARES > 0.5) == BITS)[..., 0].mean()),
    "labels": (None, LABELS, SCORES, HITS.mean()),
    "one-hot": (losses.get("mse"), ONE_HOT, SCORES, HITS.mean()),
}


@pytest.mark.parametrize("name", AUTOMATIC)
def test_accuracy_is_the_one_that_fits(name: str) -> None:
    loss, y, p, want = AUTOMATIC[name]
    metric = metrics.get("accuracy", loss)
    assert metric.name == "accuracy" and metric.direction == "up"
    assert metric(y, p) == pytest.approx(want)
    assert metrics.get("acc", loss).name == "acc"


def test_lookup() -> None:
    assert type(metrics.get("mse")) is metrics.MeanSquaredError and metrics.get("mse").name == "mse"
    assert metrics.get("MeanSquaredError").name == "MeanSquaredError"
    assert metrics.MeanSquaredError().name == "mean_squared_error"
    assert type(metrics.get("top_k_categorical_accuracy")) is metrics.TopKCategoricalAccuracy
    with pytest.raises(ArgumentError, match="'binary_accuracy'"):
        metrics.get("binary_acuracy")
    with pytest.raises(ArgumentError, match="not a metric"):
        metrics.get(None)


def bias(y_true: Any, y_pred: Any) -> Any:
    return mr.ops.mean(y_pred - y_true, axis=-1)


def test_a_function_is_a_metric() -> None:
    metric = metrics.get(bias)
    assert metric.name == "bias"
    assert metric(BITS, SCORES, mask=MASK) == pytest.approx((SCORES - BITS).mean(-1)[MASK].mean())


@pytest.mark.parametrize("name", CASES)
def test_configuration_round_trip(name: str) -> None:
    metric, y, p, values = CASES[name]
    copy = metrics.get(registry.serialize(metric))
    assert type(copy) is type(metric) and copy.name == metric.name
    assert copy(y, p) == pytest.approx(values.mean())
