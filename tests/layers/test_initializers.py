"""Initializers, regularizers, constraints and activations: values, names, configurations."""

from __future__ import annotations

import json

import numpy as np
import pytest

import minirnn as mr
from minirnn.errors import ArgumentError, FormatError, ShapeError
from minirnn.layers import Dense, activations, constraints, initializers, registry, regularizers

RANDOM = ["RandomUniform", "RandomNormal", "TruncatedNormal", "VarianceScaling", "Orthogonal"]
PRESETS = ["GlorotUniform", "GlorotNormal", "HeUniform", "HeNormal", "LecunUniform", "LecunNormal"]
PLAIN = ["Zeros", "Ones", "Constant", "Identity"]


@pytest.mark.parametrize("name", RANDOM + PRESETS + PLAIN)
def test_configurations_come_back(name: str) -> None:
    made = getattr(initializers, name)()
    again = registry.deserialize(json.loads(json.dumps(registry.serialize(made))), "initializer")
    assert type(again) is type(made) and again.get_config() == made.get_config()
    assert type(initializers.get(registry.snake_case(name))) is type(made)
    value = made((4, 6), "float64")
    assert value.shape == (4, 6) and value.dtype == np.float64


@pytest.mark.parametrize("name", RANDOM + PRESETS)
def test_seeds(name: str) -> None:
    cls = getattr(initializers, name)
    own = cls(seed=5)
    np.testing.assert_array_equal(own((3, 4)), own((3, 4)))
    mr.seed(7)
    first, second = cls()((3, 4)), cls()((3, 4))
    mr.seed(7)
    np.testing.assert_array_equal(cls()((3, 4)), first)
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(
    ("name", "variance"),
    [
        ("GlorotUniform", 2 / 250),
        ("GlorotNormal", 2 / 250),
        ("HeUniform", 2 / 100),
        ("HeNormal", 2 / 100),
        ("LecunUniform", 1 / 100),
        ("LecunNormal", 1 / 100),
    ],
)
def test_variances_follow_the_fans(name: str, variance: float) -> None:
    value = getattr(initializers, name)(seed=1)((100, 150), "float64")
    assert abs(value.var() / variance - 1) < 0.05
    assert abs(value.mean()) < 0.01


def test_glorot_uniform_has_the_limit_of_the_whole_matrix() -> None:
    value = initializers.GlorotUniform(seed=2)((30, 400), "float64")
    limit = np.sqrt(6 / 430)
    assert 0.99 * limit < np.abs(value).max() <= limit


def test_fans_of_windows_and_vectors() -> None:
    assert initializers.fans((3, 5, 4, 7)) == (60, 105)
    assert initializers.fans((9,)) == (9, 9)
    assert initializers.fans(()) == (1, 1)


@pytest.mark.parametrize("shape", [(5, 20), (20, 5), (2, 3, 4)])
def test_orthogonal(shape: tuple[int, ...]) -> None:
    value = initializers.Orthogonal(gain=2.0, seed=3)(shape, "float64")
    assert value.shape == shape
    matrix = value.reshape(-1, shape[-1])
    product = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    np.testing.assert_allclose(product, 4 * np.eye(len(product)), atol=1e-12)


def test_truncated_normal_stays_within_two_deviations() -> None:
    value = initializers.TruncatedNormal(mean=1.0, stddev=0.5, seed=4)((5000,), "float64")
    assert np.abs(value - 1).max() <= 1.0


def test_errors_of_initializers() -> None:
    with pytest.raises(ShapeError, match="Identity"):
        initializers.Identity()((3,))
    with pytest.raises(ShapeError, match="Orthogonal"):
        initializers.Orthogonal()((3,))
    for wrong in ({"scale": 0.0}, {"mode": "fan"}, {"distribution": "gauss"}):
        with pytest.raises(ArgumentError, match="VarianceScaling"):
            initializers.VarianceScaling(**wrong)
    with pytest.raises(ArgumentError, match="glorot_uniform"):
        initializers.get("glorot_unifrm")


def test_configurations_of_keras_3() -> None:
    written = {
        "module": "keras.initializers",
        "class_name": "VarianceScaling",
        "config": {"scale": 2.0, "mode": "fan_in", "distribution": "untruncated_normal", "seed": None},
        "registered_name": None,
    }
    assert initializers.get(written).distribution == "normal"


def test_regularizers() -> None:
    weight = np.array([[1.0, -2.0], [3.0, 0.5]])
    assert float(regularizers.L1(0.1)(weight)) == pytest.approx(0.65)
    assert float(regularizers.L2(0.1)(weight)) == pytest.approx(1.425)
    assert float(regularizers.get("l1_l2")(weight)) == 0.0
    again = regularizers.get(registry.serialize(regularizers.L1L2(0.1, 0.2)))
    assert (again.l1, again.l2) == (0.1, 0.2)


def test_constraints() -> None:
    weight = np.array([[3.0, -0.3], [4.0, 0.4]], np.float32)
    np.testing.assert_allclose(np.linalg.norm(constraints.MaxNorm(2.0)(weight), axis=0), [2.0, 0.5], rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(constraints.UnitNorm()(weight), axis=0), [1.0, 1.0], rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(constraints.MinMaxNorm(1.0, 2.0)(weight), axis=0), [2, 1], rtol=1e-5)
    np.testing.assert_array_equal(constraints.NonNeg()(weight), [[3, 0], [4, np.float32(0.4)]])
    for made in (constraints.MaxNorm(3.0, axis=[0, 1]), constraints.NonNeg(), constraints.UnitNorm(1)):
        again = constraints.get(registry.serialize(made))
        assert again.get_config() == made.get_config()
        assert again(weight).dtype == np.float32


def test_penalties_and_constraints_of_a_layer() -> None:
    layer = Dense(2, kernel_regularizer=regularizers.L2(0.5), bias_constraint="non_neg", dtype="float64")
    layer.build((None, 3))
    (penalty,) = layer.losses
    assert float(penalty) == pytest.approx(0.5 * np.square(layer.get_weights()[0]).sum())
    ((variable, constraint),) = layer.constraints
    assert variable is layer.bias and constraint(np.array([-1.0])) == 0
    layer.trainable = False
    assert layer.losses == []


@pytest.mark.parametrize(
    "name", ["tanh", "sigmoid", "relu", "hard_sigmoid", "hard_sigmoid_keras2", "exponential", "swish"]
)
def test_activations_by_name(name: str) -> None:
    function = activations.get(name)
    x = np.array([-3.0, -0.5, 0.0, 0.5, 3.0])
    formula = {
        "tanh": np.tanh(x),
        "sigmoid": 1 / (1 + np.exp(-x)),
        "relu": np.maximum(x, 0),
        "hard_sigmoid": np.clip(x / 6 + 0.5, 0, 1),
        "hard_sigmoid_keras2": np.clip(0.2 * x + 0.5, 0, 1),
        "exponential": np.exp(x),
        "swish": x / (1 + np.exp(-x)),
    }[name]
    np.testing.assert_allclose(np.asarray(function(x)), formula, rtol=1e-12)
    assert activations.get(activations.serialize(function)) is function


def test_unknown_names_say_what_is_near() -> None:
    with pytest.raises(ArgumentError, match="'tanh'"):
        activations.get("tahn")
    with pytest.raises(ArgumentError, match="not a regularizer"):
        regularizers.get(3)


def test_registered_names() -> None:
    @registry.register("tests>double")
    def double(x: object) -> object:
        return x

    assert activations.serialize(double) == "tests>double"
    assert activations.get("tests>double") is double
    with pytest.raises(ArgumentError, match="already registered"):
        registry.register("tests>double")(np.sin)


def test_damaged_configurations() -> None:
    for damaged in (
        {"class_name": "Dense"},
        {"class_name": 3, "config": {}},
        {"class_name": "Dense", "config": [1]},
        7,
    ):
        with pytest.raises((FormatError, ArgumentError)):
            registry.deserialize(damaged, "layer")
    with pytest.raises(ArgumentError, match="no name"):
        registry.serialize(lambda x: x)
