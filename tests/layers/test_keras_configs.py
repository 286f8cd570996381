"""Configurations as Keras 2 wrote them, by hand; those of Keras 3 are in tests/peers/test_keras_configs.py."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from minirnn import activations
from minirnn.errors import ArgumentError, DtypeError
from minirnn.layers import GRU, LSTM, RNN, GRUCell, Input, LSTMCell, SimpleRNN, StackedRNNCells, registry
from minirnn.models import Sequential

RNG = np.random.default_rng(72)
UNIFORM = {
    "class_name": "VarianceScaling",
    "config": {"scale": 1.0, "mode": "fan_avg", "distribution": "uniform", "seed": None},
}
CELL: dict[str, Any] = {
    "units": 4,
    "activation": "tanh",
    "use_bias": True,
    "kernel_initializer": UNIFORM,
    "recurrent_initializer": {"class_name": "Orthogonal", "config": {"gain": 1.0, "seed": None}, "shared_object_id": 2},
    "bias_initializer": {"class_name": "Zeros", "config": {}},
    "kernel_regularizer": {"class_name": "L2", "config": {"l2": 0.01}},
    "recurrent_regularizer": None,
    "bias_regularizer": None,
    "kernel_constraint": {"class_name": "MaxNorm", "config": {"max_value": 2, "axis": 0}},
    "recurrent_constraint": None,
    "bias_constraint": None,
    "dropout": 0.1,
    "recurrent_dropout": 0.0,
    "implementation": 1,
}
GATED = {**CELL, "recurrent_activation": "hard_sigmoid"}
SEQUENCE: dict[str, Any] = {
    "trainable": True,
    "batch_input_shape": [None, 10, 3],
    "dtype": "float32",
    "return_sequences": True,
    "return_state": False,
    "go_backwards": True,
    "stateful": False,
    "unroll": False,
    "time_major": False,
    "activity_regularizer": None,
}
LSTM_OF_2 = {"class_name": "LSTM", "config": {"name": "lstm_1", **SEQUENCE, **GATED, "unit_forget_bias": True}}
GRU_OF_2017 = {
    "class_name": "GRU",
    "config": {
        "name": "gru_1",
        **{key: value for key, value in SEQUENCE.items() if key not in ("time_major", "return_state")},
        **GATED,
        "input_dim": 3,
        "input_length": 10,
    },
}
OF_CELLS = {
    "class_name": "RNN",
    "config": {
        "name": "rnn",
        **SEQUENCE,
        "num_constants": 2,
        "cell": {
            "class_name": "StackedRNNCells",
            "config": {
                "name": "stacked",
                "trainable": True,
                "dtype": {"class_name": "Policy", "config": {"name": "float32"}, "shared_object_id": 7},
                "cells": [
                    {"class_name": "LSTMCell", "config": {"name": "a", **GATED, "unit_forget_bias": False}},
                    {"class_name": "GRUCell", "config": {"name": "b", **GATED, "reset_after": True}},
                ],
            },
        },
    },
}


def read(config: dict[str, Any]) -> Any:
    before = copy.deepcopy(config)
    made = registry.deserialize(config, "layer")
    assert config == before
    return made


def test_an_lstm() -> None:
    layer = read(LSTM_OF_2)
    assert (layer.name, layer.units, layer.return_sequences, layer.go_backwards) == ("lstm_1", 4, True, True)
    assert layer.batch_input_shape == (None, 10, 3) and layer.cell.implementation == 1
    assert layer.cell.recurrent_activation is activations.hard_sigmoid_keras2 and layer.cell.dropout == 0.1
    assert layer.cell.kernel_constraint is not None and layer.cell.kernel_regularizer is not None
    # Our own configuration of it means the same.
    assert registry.deserialize(registry.serialize(layer), "layer").get_config() == layer.get_config()
    assert Sequential([layer]).output_names and layer.built


def test_a_gru_before_there_was_reset_after() -> None:
    layer = read(GRU_OF_2017)
    assert layer.cell.reset_after is False
    layer.build((None, 10, 3))
    assert layer.weights[2].shape == (12,)
    again = registry.deserialize(registry.serialize(layer), "layer")
    assert again.cell.reset_after is False
    with_option = {"class_name": "GRU", "config": {**GRU_OF_2017["config"], "reset_after": True}}
    assert read(with_option).cell.reset_after is True


def test_cells_in_a_stack() -> None:
    layer = read(OF_CELLS)
    assert isinstance(layer, RNN) and isinstance(layer.cell, StackedRNNCells)
    assert [type(cell) for cell in layer.cell.cells] == [LSTMCell, GRUCell]
    assert all(cell.recurrent_activation is activations.hard_sigmoid_keras2 for cell in layer.cell.cells)
    assert layer.get_config()["num_constants"] == 2


def test_hard_sigmoid_of_ours_stays_that_of_keras_3() -> None:
    for make in (LSTM, GRU, LSTMCell, GRUCell):
        layer = make(3, recurrent_activation="hard_sigmoid")
        again = registry.deserialize(registry.serialize(layer), "layer")
        assert getattr(again, "cell", again).recurrent_activation is activations.hard_sigmoid


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("SimpleRNN", {**SEQUENCE, **CELL, "name": "s", "ragged": False}),
        ("Embedding", {
            "name": "e", "trainable": True, "batch_input_shape": [None, 7], "dtype": "float32", "input_dim": 9,
            "output_dim": 4, "embeddings_initializer": UNIFORM, "embeddings_regularizer": None,
            "activity_regularizer": None, "embeddings_constraint": None, "mask_zero": True, "input_length": 7,
        }),
        ("Masking", {"name": "m", "trainable": True, "dtype": "float32", "mask_value": 0.0}),
        ("Dropout", {"name": "d", "trainable": True, "dtype": "float32", "rate": 0.5, "noise_shape": None, "seed": 3}),
        ("Flatten", {"name": "f", "trainable": True, "dtype": "float32", "data_format": "channels_last"}),
        ("InputLayer", {
            "batch_input_shape": [None, None, 3], "dtype": "float32", "sparse": False, "ragged": False, "name": "i",
        }),
        ("Dense", {
            "name": "d", "trainable": True, "dtype": "float32", "units": 2, "activation": "softmax", "use_bias": True,
            "kernel_initializer": UNIFORM, "bias_initializer": {"class_name": "Zeros", "config": {}},
            "kernel_regularizer": None, "bias_regularizer": None, "activity_regularizer": None,
            "kernel_constraint": None, "bias_constraint": None,
        }),
        ("LayerNormalization", {
            "name": "n", "trainable": True, "dtype": "float32", "axis": [2], "epsilon": 0.001, "center": True,
            "scale": True, "beta_initializer": {"class_name": "Zeros", "config": {}},
            "gamma_initializer": {"class_name": "Ones", "config": {}}, "beta_regularizer": None,
            "gamma_regularizer": None, "beta_constraint": None, "gamma_constraint": None,
        }),
    ],
)  # fmt: skip
def test_other_layers(name: str, config: dict[str, Any]) -> None:
    layer = read({"class_name": name, "config": config})
    assert (type(layer).__name__, layer.name) == (name, config["name"])


def test_what_would_mean_something_is_refused() -> None:
    for change in ({"activity_regularizer": "l2"}, {"unknown": None}, {"data_format": "channels_first"}):
        with pytest.raises(ArgumentError, match=next(iter(change))):
            read({"class_name": "LSTM", "config": {**LSTM_OF_2["config"], **change}})
    with pytest.raises(DtypeError, match="mixed_float16"):
        read({"class_name": "LSTM", "config": {**LSTM_OF_2["config"], "dtype": "mixed_float16"}})
    wrong = {"class_name": "GlorotUniform", "config": {"seed": None, "gain": 2.0}}
    with pytest.raises(ArgumentError, match="(?s)GlorotUniform.*gain"):
        read({"class_name": "LSTM", "config": {**LSTM_OF_2["config"], "kernel_initializer": wrong}})


def test_time_major_and_legacy_keys_of_a_call_that_works() -> None:
    config = {**LSTM_OF_2["config"], "time_major": True, "batch_input_shape": [10, None, 3]}
    layer = read({"class_name": "LSTM", "config": config})
    assert layer(RNG.normal(size=(10, 2, 3))).shape == (10, 2, 4)


# num_constants -------------------------------------------------------------------------------------
@registry.register("tests>Shifted")
class Shifted(SimpleRNN.cell_class):  # type: ignore[misc, name-defined]
    """A SimpleRNNCell that adds a constant to its output."""

    def call(self, inputs: Any, states: Any, constants: Any = None, training: Any = False) -> Any:
        h, states = super().call(inputs, states, training)
        return (h, states) if constants is None else (h + constants[0], states)


def test_num_constants_is_known_from_a_call_and_written() -> None:
    x, c, h = (RNG.normal(size=size) for size in ((2, 5, 3), (2, 4), (2, 4)))
    layer = RNN(Shifted(4, dtype="float64"))
    assert "num_constants" not in layer.get_config()
    layer(Input((None, 3), dtype="float64"), constants=[Input((4,), dtype="float64")])
    assert layer.get_config()["num_constants"] == 1
    again = registry.deserialize(registry.serialize(layer), "layer")
    again.build((None, None, 3))
    again.set_weights(layer.get_weights())
    wanted = layer(x, constants=c).numpy()
    # One array after the input may be a state or a constant; as in Keras 2, the known number decides.
    np.testing.assert_array_equal(again([x, c]).numpy(), wanted)
    np.testing.assert_array_equal(again([x, h, c]).numpy(), layer(x, initial_state=h, constants=c).numpy())
    unaware = RNN(again.cell)
    np.testing.assert_array_equal(unaware([x, h]).numpy(), again(x, initial_state=h).numpy())
