"""Losses against formulas in NumPy: values, gradients, masks, weights, extreme logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn.errors import ArgumentError, ShapeError
from minirnn.layers import registry
from minirnn.training import losses
from tests.reference.checks import central_differences, complex_step_gradients, max_error

Array = np.ndarray
B, T, K = 3, 5, 4
MASK = np.array([[1, 1, 0, 0, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]], bool)


def sigmoid(z: Array) -> Array:
    return 1 / (1 + np.exp(-z))


def softmax(z: Array) -> Array:
    e = np.exp(z)
    return e / e.sum(-1, keepdims=True)


def bce(y: Array, p: Array) -> Array:
    return -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean(-1)


def scce(y: Array, p: Array) -> Array:
    return -np.log(np.take_along_axis(p, y.astype(int)[..., None], -1)[..., 0])


def huber(y: Array, p: Array, d: float) -> Array:
    e = np.abs(p - y)
    return np.where(e <= d, 0.5 * e**2, d * (e - 0.5 * d)).mean(-1)


# name: (loss, formula for values of shape (batch, time), maker of targets, are predictions probabilities)
CASES: dict[str, tuple[losses.Loss, Callable[..., Array], str, bool]] = {
    "mse": (losses.MeanSquaredError(), lambda y, p: ((p - y) ** 2).mean(-1), "real", False),
    "mae": (losses.MeanAbsoluteError(), lambda y, p: np.abs(p - y).mean(-1), "real", False),
    "huber": (losses.Huber(delta=0.7), lambda y, p: huber(y, p, 0.7), "real", False),
    "bce": (losses.BinaryCrossentropy(), bce, "share", True),
    "bce logits": (losses.BinaryCrossentropy(from_logits=True), lambda y, z: bce(y, sigmoid(z)), "share", False),
    "bce smoothed": (
        losses.BinaryCrossentropy(True, label_smoothing=0.2),
        lambda y, z: bce(y * 0.8 + 0.1, sigmoid(z)),
        "share",
        False,
    ),
    "cce": (
        losses.CategoricalCrossentropy(),
        lambda y, p: -(y * np.log(p / p.sum(-1, keepdims=True))).sum(-1),
        "share",
        True,
    ),
    "cce logits": (
        losses.CategoricalCrossentropy(from_logits=True),
        lambda y, z: -(y * np.log(softmax(z))).sum(-1),
        "share",
        False,
    ),
    "cce smoothed": (
        losses.CategoricalCrossentropy(True, label_smoothing=0.2),
        lambda y, z: -((y * 0.8 + 0.2 / K) * np.log(softmax(z))).sum(-1),
        "share",
        False,
    ),
    "scce": (
        losses.SparseCategoricalCrossentropy(),
        lambda y, p: scce(y, p / p.sum(-1, keepdims=True)),
        "label",
        True,
    ),
    "scce logits": (
        losses.SparseCategoricalCrossentropy(from_logits=True),
        lambda y, z: scce(y, softmax(z)),
        "label",
        False,
    ),
}


def data(name: str, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    kind, probabilities = CASES[name][2:]
    y: Array = {
        "real": rng.standard_normal((B, T, K)),
        "share": rng.uniform(0.05, 0.95, (B, T, K)),
        "label": rng.integers(0, K, (B, T)),
    }[kind]
    p = rng.uniform(0.1, 0.9, (B, T, K)) if probabilities else 2 * rng.standard_normal((B, T, K))
    return y, p


def value_and_gradient(loss: Any, y: Any, p: Array, **options: Any) -> tuple[float, Array]:
    prediction = mr.Variable(p)
    with mr.Tape() as tape:
        value = loss(y, prediction, **options)
    return value.item(), tape.gradient(value, prediction).numpy()


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_equal_the_formula(name: str) -> None:
    loss, formula, kind, _ = CASES[name]
    y, p = data(name)
    value, gradient = value_and_gradient(loss, y, p)
    derivative = central_differences if name in ("mae", "huber") else complex_step_gradients
    tolerance = 1e-6 if name in ("mae", "huber") else 1e-12
    assert max_error(value, formula(y, p).mean()) < 1e-12
    assert max_error(gradient, derivative(lambda q: formula(y, q).mean(), p)[0]) < tolerance


@pytest.mark.parametrize("name", CASES)
def test_padded_steps_never_count_whatever_is_in_them(name: str) -> None:
    loss, formula, kind, _ = CASES[name]
    y, p = data(name)
    want = formula(y, p)[MASK].mean()
    spoiled_y, spoiled_p = y.astype(float), p.copy()
    spoiled_y[~MASK], spoiled_p[~MASK] = np.nan, np.inf
    value, gradient = value_and_gradient(loss, spoiled_y, spoiled_p, mask=MASK)
    clean_value, clean_gradient = value_and_gradient(loss, y, p, mask=MASK)
    assert max_error(value, want) < 1e-12 and value == clean_value
    assert np.array_equal(gradient, clean_gradient)
    assert (gradient[~MASK] == 0).all() and (gradient[MASK] != 0).any()


@pytest.mark.parametrize("name", CASES)
def test_float32_stays_float32(name: str) -> None:
    loss, formula, kind, _ = CASES[name]
    y, p = data(name)
    prediction = mr.Tensor(p, "float32")
    value = loss(y, prediction, mask=MASK)
    assert value.dtype == np.float32
    assert max_error(value.item(), formula(y, p)[MASK].mean()) < 1e-6


def test_a_mask_on_the_prediction_is_used() -> None:
    y, p = data("mse")
    prediction = mr.Tensor(p)
    prediction.mask = mr.Tensor(MASK)
    want = ((p - y) ** 2).mean(-1)[MASK].mean()
    assert max_error(losses.MeanSquaredError()(y, prediction).item(), want) < 1e-12
    assert max_error(losses.MeanSquaredError()(y, prediction, mask=MASK[..., None].astype(int)).item(), want) < 1e-12


def test_a_mask_for_predictions_with_one_value_a_step() -> None:
    rng = np.random.default_rng(1)
    y, p = rng.standard_normal((2, B, T))
    value, gradient = value_and_gradient(losses.MeanSquaredError(), y, p, mask=MASK)
    assert max_error(value, ((p - y) ** 2)[MASK].mean()) < 1e-12
    assert max_error(gradient, np.where(MASK, 2 * (p - y), 0) / MASK.sum()) < 1e-12


def test_sample_weights_multiply_and_do_not_change_the_divisor() -> None:
    y, p = data("mse")
    values = ((p - y) ** 2).mean(-1)
    by_row, by_step = np.array([0.5, 2.0, 3.0]), np.random.default_rng(2).uniform(size=(B, T))
    loss = losses.MeanSquaredError()
    assert max_error(loss(y, p, by_row).item(), (values * by_row[:, None]).mean()) < 1e-12
    assert max_error(loss(y, p, by_row[:, None]).item(), (values * by_row[:, None]).mean()) < 1e-12
    assert max_error(loss(y, p, by_step).item(), (values * by_step).mean()) < 1e-12
    assert max_error(loss(y, p, by_step, MASK).item(), (values * by_step)[MASK].sum() / MASK.sum()) < 1e-12


def test_weights_may_be_nan_where_nothing_counts() -> None:
    y, p = data("mse")
    weight = np.where(MASK, 2.0, np.nan)
    value, gradient = value_and_gradient(losses.MeanSquaredError(), y, p, sample_weight=weight, mask=MASK)
    assert max_error(value, 2 * ((p - y) ** 2).mean(-1)[MASK].mean()) < 1e-12
    assert np.isfinite(gradient).all()


def test_reductions() -> None:
    y, p = data("mae")
    values, weight = np.abs(p - y).mean(-1), np.array([0.5, 2.0, 3.0])
    weighted = values * weight[:, None]

    def reduced(reduction: str | None) -> Any:
        return losses.MeanAbsoluteError(reduction)(y, p, weight, MASK).numpy()

    assert max_error(reduced("sum"), weighted[MASK].sum()) < 1e-12
    shares = np.broadcast_to(weight[:, None], MASK.shape)[MASK]
    assert max_error(reduced("mean_with_sample_weight"), weighted[MASK].sum() / shares.sum()) < 1e-12
    assert max_error(reduced(None), np.where(MASK, weighted, 0)) < 1e-12
    with pytest.raises(ArgumentError, match="reduction"):
        losses.MeanAbsoluteError("median")


def test_all_steps_masked_is_zero_with_zero_gradient() -> None:
    for name, (loss, *_) in CASES.items():
        y, p = data(name)
        value, gradient = value_and_gradient(loss, y, p, mask=np.zeros((B, T), bool))
        assert value == 0 and (gradient == 0).all(), name


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [1e2, 1e4])
def test_extreme_logits(size: float, dtype: str) -> None:
    z = np.array([[size, -size, 0.0]], dtype)
    for label, want in ((0, 0.0), (1, 2 * size), (2, size)):
        one_hot = np.eye(3)[[label]]
        share = np.array([[1.0, 0.0, 0.0]])
        for value, gradient in (
            value_and_gradient(losses.SparseCategoricalCrossentropy(True), [label], z),
            value_and_gradient(losses.CategoricalCrossentropy(True), one_hot, z),
        ):
            assert max_error(value, want) < 1e-6
            assert max_error(gradient, share - one_hot) < 1e-6
    for target, want in ((1.0, 0.0), (0.0, size)):
        value, gradient = value_and_gradient(losses.BinaryCrossentropy(True), [[target]], z[:, :1])
        assert max_error(value, want) < 1e-6 and max_error(gradient, [[1 - target]]) < 1e-6
    value, gradient = value_and_gradient(losses.BinaryCrossentropy(True), [[1.0]], np.zeros((1, 1), dtype))
    assert max_error(value, np.log(2)) < 1e-6 and gradient.item() == -0.5


def test_small_losses_from_logits_keep_their_precision() -> None:
    value = losses.BinaryCrossentropy(True)([[1.0]], mr.Tensor([[30.0]], "float32")).item()
    assert abs(value / np.log1p(np.exp(-30.0)) - 1) < 1e-5


def test_probabilities_of_zero_and_one_give_finite_losses() -> None:
    for loss, y in (
        (losses.BinaryCrossentropy(), [[1.0, 0.0]]),
        (losses.CategoricalCrossentropy(), [[1.0, 0.0]]),
        (losses.SparseCategoricalCrossentropy(), [0]),
    ):
        value, gradient = value_and_gradient(loss, y, np.array([[0.0, 1.0]]))
        assert max_error(value, -np.log(1e-7)) < 1e-6 and np.isfinite(gradient).all()


def test_infinitely_unlikely_other_classes() -> None:
    z = np.array([[1.0, -np.inf, 2.0]])
    value, gradient = value_and_gradient(losses.SparseCategoricalCrossentropy(True), [0], z)
    assert max_error(value, np.log(1 + np.e)) < 1e-12
    assert np.isfinite(gradient).all() and gradient[0, 1] == 0


def test_labels_may_have_a_last_axis_of_one_and_be_floats() -> None:
    y, p = data("scce")
    loss = losses.SparseCategoricalCrossentropy()
    assert loss(y, p).item() == loss(y[..., None], p).item() == loss(y.astype("float32"), p).item()


def test_a_last_axis_of_one_may_be_missing() -> None:
    rng = np.random.default_rng(3)
    y, p = rng.standard_normal((2, 6))
    want = ((y - p) ** 2).mean()
    for a, b in ((y, p), (y[:, None], p), (y, p[:, None])):
        assert max_error(losses.MeanSquaredError()(a, b).item(), want) < 1e-12


@pytest.mark.parametrize(
    ("loss", "y", "p"),
    [
        ("mse", (3, 2), (3, 4)),
        ("mse", (3,), (3, 5)),
        ("mse", (3, 1), (3, 5)),
        ("mse", (4, 2), (3, 2)),
        ("scce", (3, 4), (3, 4)),
        ("scce", (2,), (3, 4)),
        ("cce", (3, 1), (3, 1)),
    ],
)
def test_shapes_that_do_not_fit_raise(loss: str, y: tuple[int, ...], p: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError):
        losses.get(loss)(np.zeros(y), np.ones(p))


@pytest.mark.parametrize("option", [{"mask": np.ones((B, T + 1))}, {"sample_weight": np.ones(T)}])
def test_masks_and_weights_that_do_not_fit_raise(option: dict[str, Array]) -> None:
    with pytest.raises(ShapeError, match="mean_squared_error"):
        losses.MeanSquaredError()(np.zeros((B, T, K)), np.zeros((B, T, K)), **option)


@pytest.mark.parametrize("label", [-1, K, 0.5, np.nan])
def test_labels_that_are_no_class_raise(label: float) -> None:
    with pytest.raises(ArgumentError, match="no class"):
        losses.SparseCategoricalCrossentropy()([label], np.full((1, K), 0.25))


def test_targets_of_the_other_float_dtype_are_cast_as_arrays_and_refused_as_tensors() -> None:
    p = mr.Tensor(np.ones((2, 3)), "float32")
    assert losses.MeanSquaredError()(np.zeros((2, 3)), p).dtype == np.float32
    with pytest.raises(mr.errors.DtypeError):
        losses.MeanSquaredError()(mr.Tensor(np.zeros((2, 3))), p)


def test_gradients_reach_targets_that_are_tensors() -> None:
    y = mr.Variable(np.array([[1.0, 2.0]]))
    with mr.Tape() as tape:
        value = losses.MeanSquaredError()(y, np.array([[3.0, 3.0]]))
    assert tape.gradient(value, y).numpy().tolist() == [[-2.0, -1.0]]


def test_lookup() -> None:
    for name, cls in (
        ("mse", "MeanSquaredError"),
        ("mean_absolute_error", "MeanAbsoluteError"),
        ("Huber", "Huber"),
        ("binary_crossentropy", "BinaryCrossentropy"),
        ("sparse_categorical_crossentropy", "SparseCategoricalCrossentropy"),
        ("CategoricalCrossentropy", "CategoricalCrossentropy"),
    ):
        assert type(losses.get(name)).__name__ == cls
    assert losses.get(None) is None
    with pytest.raises(ArgumentError, match="'mean_squared_error'"):
        losses.get("mean_squared_eror")


@pytest.mark.parametrize("name", CASES)
def test_configuration_round_trip(name: str) -> None:
    loss = CASES[name][0]
    copy = losses.get(registry.serialize(loss))
    y, p = data(name)
    assert type(copy) is type(loss) and copy(y, p).item() == loss(y, p).item()


def cubic(y_true: Any, y_pred: Any) -> Any:
    return mr.ops.mean(mr.ops.abs(y_pred - y_true) ** 3, axis=-1)


def test_a_function_is_a_loss_with_masks_and_weights() -> None:
    y, p = data("mse")
    values = (np.abs(p - y) ** 3).mean(-1)
    loss = losses.get(cubic)
    assert max_error(loss(y, p, mask=MASK).item(), values[MASK].mean()) < 1e-12
    with registry.custom_object_scope({"cubic": cubic}):
        assert losses.get(registry.serialize(loss))(y, p).item() == loss(y, p).item()
    whole = losses.get(lambda a, b: mr.ops.sum(b - a))
    assert max_error(whole(y, p).item(), (p - y).sum()) < 1e-12
    with pytest.raises(ShapeError, match="one number"):
        whole(y, p, mask=MASK)


def test_a_subclass_defines_call() -> None:
    class Cubic(losses.Loss):
        def call(self, y_true: Any, y_pred: Any) -> Any:
            return cubic(y_true, y_pred)

    y, p = data("mse")
    assert Cubic().name == "cubic" and Cubic()(y, p).item() == losses.get(cubic)(y, p).item()
