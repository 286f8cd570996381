"""Layers that Keras 3 makes, from the configurations that it writes: read, and the same numbers with its weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from minirnn import models  # noqa: F401  it registers Sequential
from minirnn.layers import registry
from tests.reference.checks import max_error

pytestmark = pytest.mark.peers

RNG = np.random.default_rng(73)
X = RNG.normal(size=(3, 6, 4)).astype("float32")
IDS = np.array([[1, 2, 0, 3, 0, 0], [4, 4, 1, 0, 2, 5], [0, 1, 2, 3, 4, 5]])


LAYERS: dict[str, Callable[[Any], Any]] = {
    "SimpleRNN": lambda k: k.layers.SimpleRNN(5, activation="relu", return_sequences=True, seed=3),
    "GRU": lambda k: k.layers.GRU(5, reset_after=False, recurrent_activation="hard_sigmoid", kernel_regularizer="l2"),
    "GRU after": lambda k: k.layers.GRU(5, go_backwards=True, bias_initializer="ones", dropout=0.1),
    "LSTM": lambda k: k.layers.LSTM(
        5,
        recurrent_dropout=0.2,
        unit_forget_bias=False,
        kernel_constraint=k.constraints.MaxNorm(2),
        bias_regularizer=k.regularizers.L1L2(0.1, 0.2),
        kernel_initializer=k.initializers.VarianceScaling(2.0, "fan_in", "untruncated_normal", seed=4),
        activation=k.activations.softsign,
    ),
    "RNN": lambda k: k.layers.RNN(k.layers.LSTMCell(5), return_sequences=True, unroll=True),
    "stacked": lambda k: k.layers.RNN([k.layers.GRUCell(3), k.layers.LSTMCell(2), k.layers.SimpleRNNCell(5)]),
    "Dense": lambda k: k.layers.Dense(5, activation="silu", dtype="float32"),
    "LayerNormalization": lambda k: k.layers.LayerNormalization(epsilon=1e-4),
    "Dropout": lambda k: k.layers.Dropout(0.3, seed=2),
    "Masking": lambda k: k.layers.Masking(0.5),
    "Activation": lambda k: k.layers.Activation("elu"),
    "Flatten": lambda k: k.layers.Flatten(),
    "Reshape": lambda k: k.layers.Reshape((12, 2)),
    "Sequential": lambda k: k.Sequential([k.layers.Input((6, 4)), k.layers.LSTM(3), k.layers.Dense(2)]),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_of_keras_3(keras: Any, name: str) -> None:
    theirs = LAYERS[name](keras)
    wanted = np.asarray(theirs(X))
    written = json.loads(json.dumps(keras.saving.serialize_keras_object(theirs)))
    ours = registry.deserialize(written, "layer")
    ours(X)
    ours.set_weights([np.asarray(v.value) for v in theirs.weights])
    assert (type(ours).__name__, ours.name) == (type(theirs).__name__, theirs.name)
    assert max_error(ours(X), wanted) < 1e-5
    again = registry.deserialize(json.loads(json.dumps(registry.serialize(ours))), "layer")
    assert again.get_config() == ours.get_config()


def test_an_embedding_and_an_input(keras: Any) -> None:
    theirs = keras.layers.Embedding(6, 3, mask_zero=True)
    ours = registry.deserialize(keras.saving.serialize_keras_object(theirs), "layer")
    theirs(IDS)
    ours(IDS)
    ours.set_weights([np.asarray(v.value) for v in theirs.weights])
    y = ours(IDS)
    assert max_error(y, np.asarray(theirs(IDS))) == 0
    np.testing.assert_array_equal(y.mask.numpy(), IDS != 0)
    written = keras.saving.serialize_keras_object(keras.layers.InputLayer((None, 3), name="i", dtype="int32"))
    layer = registry.deserialize(written, "layer")
    assert (layer.batch_shape, layer.dtype, layer.name) == ((None, None, 3), "int32", "i")


def test_initializers_regularizers_and_constraints(keras: Any) -> None:
    groups = {
        "initializer": (
            keras.initializers,
            "Zeros Ones Constant RandomNormal RandomUniform TruncatedNormal VarianceScaling GlorotNormal GlorotUniform "
            "HeNormal HeUniform LecunNormal LecunUniform Orthogonal",
        ),
        "regularizer": (keras.regularizers, "L1 L2 L1L2"),
        "constraint": (keras.constraints, "MaxNorm MinMaxNorm NonNeg UnitNorm"),
    }
    for kind, (module, names) in groups.items():
        for name in names.split():
            written = keras.saving.serialize_keras_object(getattr(module, name)())
            made = registry.deserialize(json.loads(json.dumps(written)), kind)
            theirs = {key: value for key, value in written["config"].items() if key in made.get_config()}
            assert made.get_config() == theirs, name
