"""Stateful models: states kept over fit, evaluate, predict and files, and put back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn import RecurrentContainer
from minirnn.errors import ShapeError, StateError
from minirnn.layers import GRU, LSTM, RNN, Bidirectional, Dense, Input, LSTMCell, SimpleRNNCell
from minirnn.models import Model, Sequential, load_model
from tests.reference.checks import max_error

RNG = np.random.default_rng(1)
B, T = 3, 4
X, Y = RNG.normal(size=(B, 2 * T, 2)), RNG.normal(size=(B, 2 * T, 1))


def container() -> RecurrentContainer:
    x, total = Input((4,), dtype="float64"), Input((4,), dtype="float64")
    new = mr.ops.tanh(x + total)
    begin = mr.initializers.Constant(0.25)
    return RecurrentContainer(x, new, state_inputs=total, state_outputs=new, state_initializer=begin, stateful=True)


def make() -> Sequential:
    """Every kind of layer that keeps states, one of them in a model in the model."""
    mr.seed(9)
    options: Any = {"return_sequences": True, "stateful": True, "dtype": "float64"}
    inner = Sequential([Input(batch_shape=(B, None, 4), dtype="float64"), GRU(4, **options)])
    cells = [LSTMCell(3, dtype="float64"), SimpleRNNCell(4, dtype="float64")]
    model = Sequential(
        [
            Input(batch_shape=(B, None, 2), dtype="float64"),
            RNN(cells, **options),
            inner,
            container(),
            Dense(1, dtype="float64"),
        ]
    )
    model.compile(mr.optimizers.Adam(0.01), "mse")
    return model


def states_of(model: Any) -> list[np.ndarray]:
    layers = [layer for layer in model.all_layers() if getattr(layer, "stateful", False)]
    return [np.asarray(leaf) for layer in layers for leaf in mr.autodiff.trees.flatten(layer.states)[0]]


def test_two_halves_are_the_whole() -> None:
    model = make()
    whole = model.predict(X)
    model.reset_states()
    halves = [model.predict(X[:, :T]), model.predict(X[:, T:])]
    assert max_error(np.concatenate(halves, axis=1), whole) < 1e-14
    assert len(states_of(model)) == 5


def test_evaluate_and_fit_go_on_with_the_states_too() -> None:
    model, other = make(), make()
    model.predict(X[:, :T])
    model.evaluate(X[:, T:], Y[:, T:], verbose=0)
    other.predict(X)
    assert all(max_error(a, b) < 1e-14 for a, b in zip(states_of(model), states_of(other), strict=True))
    model.fit(X, Y, epochs=2, shuffle=False, verbose=0)
    for _ in range(2):
        other.train_on_batch(X, Y)
    assert all(np.array_equal(a, b) for a, b in zip(states_of(model), states_of(other), strict=True))


def test_a_file_keeps_the_states_and_training_goes_on_from_them(tmp_path: Path) -> None:
    model = make()
    model.fit(X, Y, epochs=2, shuffle=False, verbose=0)
    model.save(tmp_path / "m.safetensors")
    copy = load_model(tmp_path / "m.safetensors")
    assert all(np.array_equal(a, b) for a, b in zip(states_of(copy), states_of(model), strict=True))
    np.testing.assert_array_equal(copy.predict(X), model.predict(X))
    histories = [m.fit(X, Y, epochs=3, initial_epoch=2, shuffle=False, verbose=0).history for m in (copy, model)]
    assert histories[0] == histories[1]
    fresh = make()
    fresh.save(tmp_path / "m.safetensors")
    assert load_model(tmp_path / "m.safetensors").layers[0].states is None


def test_a_bidirectional_layer_keeps_both_directions_in_a_file(tmp_path: Path) -> None:
    layers = [Bidirectional(LSTM(3, stateful=True, return_sequences=True)), Dense(1)]
    model = Sequential([Input(batch_shape=(B, None, 2)), *layers])
    model.predict(X)
    model.save(tmp_path / "m.safetensors")
    copy = load_model(tmp_path / "m.safetensors")
    assert len(states_of(model)) >= 4
    np.testing.assert_array_equal(copy.predict(X), model.predict(X))


def test_reset_states_of_a_model_passes_over_other_layers() -> None:
    model = make()
    model.predict(X)
    model.reset_states()
    first = model.predict(X[:, :1])
    begun = make()
    np.testing.assert_array_equal(first, begun.predict(X[:, :1]))
    Sequential([Input((None, 2)), LSTM(3), Dense(1)]).reset_states()


def test_the_container_begins_with_its_declared_states_after_a_reset() -> None:
    model = Sequential([Input(batch_shape=(B, None, 4), dtype="float64"), container()])
    x = RNG.normal(size=(B, 1, 4))
    model.predict(x)
    model.reset_states()
    assert max_error(model.predict(x), np.tanh(x + 0.25)) < 1e-15


@pytest.mark.parametrize("rows", [B - 1, B + 1])
def test_a_batch_of_another_size_is_refused_before_anything_runs(rows: int) -> None:
    model = make()
    model.predict(X)
    before = states_of(model)
    x = np.resize(X, (rows, T, 2))
    with pytest.raises((StateError, ShapeError), match="predict: RNN|batch"):
        model.predict(x, batch_size=8)
    with pytest.raises((StateError, ShapeError), match="batch"):
        model(x)
    assert all(np.array_equal(a, b) for a, b in zip(before, states_of(model), strict=True))


def test_samples_that_leave_a_smaller_last_batch_name_the_layer() -> None:
    x = Input((None, 2))
    model = Model(x, GRU(3, stateful=True, name="keeper")(x))
    with pytest.raises(
        StateError, match=r"predict: GRU 'keeper'(.|\n)*8 samples in batches of 3, one of them of 2(.|\n)*batches of 3"
    ):
        model.predict(np.zeros((8, T, 2)), batch_size=3)
    assert model.layers[1].states is None
    assert model.predict(np.zeros((6, T, 2)), batch_size=3).shape == (6, 3)
