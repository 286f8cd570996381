"""Dense, Embedding, LayerNormalization, Dropout, Lambda and the layers that join and reshape."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn.errors import ArgumentError, DtypeError, ShapeError
from minirnn.layers import (
    Activation,
    Add,
    Concatenate,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    Lambda,
    LayerNormalization,
    Masking,
    Multiply,
    Reshape,
    initializers,
    registry,
)
from tests.reference.checks import central_differences, max_error

RNG = np.random.default_rng(11)


def gradients_agree(layer: Any, x: np.ndarray) -> None:
    """The layer's gradients of a weighted sum, for x and every weight, against finite differences."""
    layer.build((None, *x.shape[1:]))
    layer.set_weights([RNG.normal(size=v.shape) for v in layer.weights])
    weights = layer.get_weights()
    ct = RNG.normal(size=np.asarray(layer(x)).shape)

    def loss(x: np.ndarray, *values: np.ndarray) -> Any:
        layer.set_weights(values)
        return np.sum(ct * np.asarray(layer(x)))

    wanted = central_differences(loss, x, *weights)
    layer.set_weights(weights)
    primal = mr.Tensor(x)
    with mr.Tape() as tape:
        tape.watch(primal)
        value = mr.ops.sum(mr.Tensor(ct) * layer(primal))
    found = tape.gradient(value, [primal, *layer.weights])
    for got, want in zip(found, wanted, strict=True):
        assert max_error(got, want) < 1e-8


@pytest.mark.parametrize("activation", [None, "tanh", "softmax"])
def test_dense_gradients(activation: str | None) -> None:
    gradients_agree(Dense(4, activation, dtype="float64"), RNG.normal(size=(2, 3, 5)))


@pytest.mark.parametrize("axis", [-1, 1, [1, 2]])
def test_layer_normalization_gradients(axis: Any) -> None:
    gradients_agree(LayerNormalization(axis, dtype="float64"), RNG.normal(size=(2, 3, 4)))


def test_embedding_gradients_add_up_repeated_rows() -> None:
    layer = Embedding(5, 3, dtype="float64")
    ids, ct = np.array([[1, 1, 4], [0, 1, 2]]), RNG.normal(size=(2, 3, 3))
    with mr.Tape() as tape:
        value = mr.ops.sum(layer(ids) * mr.Tensor(ct))
    wanted = np.zeros((5, 3))
    np.add.at(wanted, ids, ct)
    assert max_error(tape.gradient(value, layer.embeddings), wanted) < 1e-15


def test_dense_equals_its_formula() -> None:
    layer = Dense(4, "sigmoid", dtype="float64", bias_initializer="random_normal")
    x = RNG.normal(size=(3, 5))
    y = np.asarray(layer(x))
    kernel, bias = layer.get_weights()
    np.testing.assert_allclose(y, 1 / (1 + np.exp(-(x @ kernel + bias))), rtol=1e-13)
    assert [v.name for v in layer.weights] == ["kernel", "bias"]
    assert [v.name for v in Dense(4, use_bias=False).weights] == []


def test_dense_errors() -> None:
    layer = Dense(4, name="d")
    layer(np.ones((2, 5)))
    with pytest.raises(ShapeError, match=r"Dense 'd': input has 3 features .*\(batch=2, 3\)\) but .* built for 5"):
        layer(np.ones((2, 3)))
    with pytest.raises(ShapeError, match="Dense 'd'"):
        Dense(4, name="d")(np.ones(5))


def test_layer_normalization_equals_its_formula() -> None:
    layer = LayerNormalization(axis=[1, 2], epsilon=0.01, dtype="float64")
    x = RNG.normal(size=(2, 3, 4)) + 5
    layer.build(x.shape)
    gamma, beta = RNG.normal(size=(3, 4)), RNG.normal(size=(3, 4))
    layer.set_weights([gamma, beta])
    centered = x - x.mean(axis=(1, 2), keepdims=True)
    wanted = gamma * centered / np.sqrt((centered**2).mean(axis=(1, 2), keepdims=True) + 0.01) + beta
    np.testing.assert_allclose(np.asarray(layer(x)), wanted, rtol=1e-12)
    assert [v.name for v in layer.weights] == ["gamma", "beta"]
    assert LayerNormalization(scale=False, center=False)(x).shape == x.shape
    with pytest.raises(ShapeError, match="axis"):
        LayerNormalization(axis=3)(x)


def test_embedding_values_and_mask() -> None:
    layer = Embedding(6, 3, mask_zero=True)
    ids = np.array([[1, 0, 5]], np.int32)
    y = layer(ids)
    np.testing.assert_array_equal(y.numpy()[0], layer.get_weights()[0][[1, 0, 5]])
    np.testing.assert_array_equal(y.mask.numpy(), [[True, False, True]])
    np.testing.assert_array_equal(layer(ids.astype("float32")).numpy(), y.numpy())
    assert Embedding(6, 3)(ids).mask is None
    assert layer(np.zeros((0, 4), int)).shape == (0, 4, 3)


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        (np.array([[6]]), ArgumentError, "got: 6"),
        (np.array([[-1]]), ArgumentError, "got: -1"),
        (np.array([[0.5]]), DtypeError, "fractions"),
        (np.array([[np.nan]]), DtypeError, "fractions"),
        (np.array([[True]]), DtypeError, "booleans"),
    ],
)
def test_embedding_errors(ids: np.ndarray, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"(?s)Embedding.*{message}"):
        Embedding(6, 3)(ids)


def test_dropout_scales_what_it_keeps() -> None:
    layer = Dropout(0.25)
    x = np.ones((200, 50), "float32")
    y = layer(x, training=True).numpy()
    assert sorted(set(y.ravel().tolist())) == [0.0, np.float32(1 / 0.75)]
    assert abs(y.mean() - 1) < 0.02
    np.testing.assert_array_equal(layer(x).numpy(), x)
    np.testing.assert_array_equal(Dropout(0.0)(x, training=True).numpy(), x)
    assert not Dropout(1.0)(x, training=True).numpy().any()
    mr.seed(3)
    first = layer(x, training=True).numpy()
    assert not np.array_equal(layer(x, training=True).numpy(), first)
    mr.seed(3)
    np.testing.assert_array_equal(layer(x, training=True).numpy(), first)


def test_dropout_noise_shape_is_shared_over_time() -> None:
    y = Dropout(0.5, noise_shape=(None, 1, None))(np.ones((4, 6, 5)), training=True).numpy()
    np.testing.assert_array_equal(y, np.broadcast_to(y[:, :1], y.shape))
    with pytest.raises(ShapeError, match="noise_shape"):
        Dropout(0.5, noise_shape=(1, 2))(np.ones((4, 6, 5)), training=True)


@pytest.mark.parametrize("rate", [-0.1, 1.1, True])
def test_dropout_rates(rate: Any) -> None:
    with pytest.raises(ArgumentError, match="rate"):
        Dropout(rate)


def test_joining() -> None:
    a, b, c = RNG.normal(size=(2, 3)), RNG.normal(size=(2, 3)), RNG.normal(size=(1, 3))
    options = {"dtype": "float64"}
    np.testing.assert_allclose(Add(**options)([a, b, c]).numpy(), a + b + c)
    np.testing.assert_allclose(Multiply(**options)([a, b, c]).numpy(), a * b * c)
    np.testing.assert_array_equal(Concatenate(axis=0, **options)([a, b, c]).numpy(), np.concatenate([a, b, c]))
    with pytest.raises(ShapeError, match="another axis than -1"):
        Concatenate()([a, c])
    with pytest.raises(ArgumentError, match="a list"):
        Add()(a)


def test_masks_are_joined() -> None:
    first = Embedding(9, 3, mask_zero=True)(np.array([[1, 0, 2], [1, 1, 0]]))
    second = Embedding(9, 3, mask_zero=True)(np.array([[1, 1, 0], [1, 1, 0]]))
    bare = Embedding(9, 3)(np.array([[1, 0, 2], [1, 1, 0]]))
    both = [[True, False, False], [True, True, False]]
    for join in (Add(), Multiply(), Concatenate()):
        assert join([first, second]).mask.numpy().tolist() == both
        assert join([bare, second]).mask.numpy().tolist() == second.mask.numpy().tolist()
        assert join([bare, bare]).mask is None
    longer = Concatenate(axis=1)([first, bare]).mask.numpy()
    assert longer.tolist() == [[True, False, True, True, True, True], [True, True, False, True, True, True]]


def test_reshaping() -> None:
    x = RNG.normal(size=(2, 3, 4)).astype("float32")
    np.testing.assert_array_equal(Flatten()(x).numpy(), x.reshape(2, 12))
    assert Flatten()(x[:, 0, 0]).shape == (2, 1)
    assert Flatten()(x[:0]).shape == (0, 12)
    np.testing.assert_array_equal(Reshape((6, -1))(x).numpy(), x.reshape(2, 6, 2))
    assert Reshape((4, -1))(x[:0]).shape == (0, 4, 3)
    with pytest.raises(ShapeError, match="target_shape"):
        Reshape((5, -1))(x)
    with pytest.raises(ShapeError, match="target_shape"):
        Reshape((5, 2))(x)
    with pytest.raises(ArgumentError, match="target_shape"):
        Reshape((-1, -1))


def test_masking_zeroes_and_masks() -> None:
    x = np.array([[[1.0, 9.0], [9.0, 9.0], [0.0, 0.0]]], "float32")
    y = Masking(9.0)(x)
    np.testing.assert_array_equal(y.mask.numpy(), [[True, False, True]])
    np.testing.assert_array_equal(y.numpy(), [[[1, 9], [0, 0], [0, 0]]])


def double(x: Any) -> Any:
    return 2 * x


def test_lambda_stores_names_only() -> None:
    layer = Lambda(double, name="twice")
    np.testing.assert_array_equal(layer(np.ones((1, 2))).numpy(), [[2, 2]])
    config = json.loads(json.dumps(layer.get_config()))
    assert Lambda.from_config(config, custom_objects={"double": double}).function is double
    with pytest.raises(ArgumentError, match="custom_objects"):
        Lambda.from_config(config)
    with pytest.raises(ArgumentError, match="no name") as caught:
        Lambda(lambda x: x, name="nameless").get_config()
    assert "nameless" in "".join(caught.value.__notes__)
    known = Lambda(mr.ops.tanh)
    assert Lambda.from_config(known.get_config()).function is mr.ops.tanh


def test_lambda_arguments_and_mask() -> None:
    layer = Lambda(lambda x, by: x * by, arguments={"by": 3.0}, mask=lambda inputs, mask: mask)
    x = Embedding(4, 2, mask_zero=True)(np.array([[1, 0]]))
    assert layer(x).mask.numpy().tolist() == [[True, False]]
    assert Lambda(double)(x).mask is None
    with pytest.raises(ArgumentError, match="function"):
        Lambda(3)  # type: ignore[arg-type]


MAKERS: list[Callable[[], Any]] = [
    lambda: Dense(3, "relu", kernel_initializer=initializers.Constant(2.0), kernel_constraint="unit_norm", name="n"),
    lambda: Embedding(4, 3, mask_zero=True, embeddings_regularizer="l2"),
    lambda: Activation("softplus"),
    lambda: Dropout(0.3, noise_shape=(None, 1)),
    lambda: LayerNormalization([1, 2], epsilon=0.1, center=False, gamma_regularizer="l1"),
    lambda: Concatenate(axis=1),
    lambda: Add(dtype="float64"),
    lambda: Multiply(trainable=False),
    lambda: Flatten(),
    lambda: Reshape((2, -1)),
    lambda: Masking(-1.0),
]


@pytest.mark.parametrize("make", MAKERS)
def test_configurations_come_back(make: Callable[[], Any]) -> None:
    layer = make()
    written = json.loads(json.dumps(registry.serialize(layer)))
    again = registry.deserialize(written, "layer")
    assert type(again) is type(layer)
    assert again.get_config() == layer.get_config()
