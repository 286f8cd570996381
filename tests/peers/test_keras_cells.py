"""Cells written once, for Keras's Layer and for ours, over time in both: flags, states, stacks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn import layers
from tests.reference.cells import Array
from tests.reference.checks import assert_agree

pytestmark = pytest.mark.peers

RNG = np.random.default_rng(77)
B, T, F, U = 3, 6, 2, 4
X = RNG.normal(size=(B, T, F)).astype("float32")
# Rows begin valid: before its first valid step Keras on JAX shows the state instead of zeros (semantics D4).
MASK = np.array([[1, 0, 1, 1, 0, 0], [1, 1, 0, 0, 1, 0], [1, 1, 1, 1, 1, 1]], bool)


def one_state(layer: Any, ops: Any) -> Any:
    """The class of a cell with one state, written against a Layer and its operations."""

    class OneState(layer):  # type: ignore[misc]
        def __init__(self, units: int, **options: Any) -> None:
            super().__init__(**options)
            self.units = self.state_size = self.output_size = units

        def build(self, input_shape: Any) -> None:
            self.kernel = self.add_weight(shape=(input_shape[-1], self.units), initializer="ones", name="kernel")
            self.recurrent = self.add_weight(shape=(self.units, self.units), initializer="ones", name="recurrent")
            self.built = True

        def call(self, inputs: Any, states: Any) -> Any:
            h = ops.tanh(ops.matmul(inputs, self.kernel) + ops.matmul(states[0], self.recurrent))
            return h, [h]

    return OneState


def two_states(layer: Any, ops: Any) -> Any:
    """A cell with two states, whose initial values are not zeros and whose training differs."""

    class TwoStates(layer):  # type: ignore[misc]
        def __init__(self, units: int, **options: Any) -> None:
            super().__init__(**options)
            self.units = self.output_size = units
            self.state_size = [units, units]

        def build(self, input_shape: Any) -> None:
            self.kernel = self.add_weight(shape=(input_shape[-1], self.units), initializer="ones", name="kernel")
            self.first = self.add_weight(shape=(self.units, self.units), initializer="ones", name="first")
            self.second = self.add_weight(shape=(self.units, self.units), initializer="ones", name="second")
            self.built = True

        def get_initial_state(self, batch_size: Any = None) -> Any:
            return [ops.ones((batch_size, self.units)) * 0.3, ops.ones((batch_size, self.units)) * -0.2]

        def call(self, inputs: Any, states: Any, training: bool = False) -> Any:
            a, b = states
            output = ops.tanh(ops.matmul(inputs, self.kernel) + ops.matmul(a, self.first))
            b = ops.sigmoid(ops.matmul(b, self.second) + output) * (2.0 if training else 1.0)
            return output, [output, b]

    return TwoStates


def both(keras: Any, make: Any, **options: Any) -> tuple[Any, Any]:
    """The RNN of Keras and ours over the cells that `make(cell of one state, of two, layers)` returns."""
    theirs = keras.layers.RNN(
        make(one_state(keras.layers.Layer, keras.ops), two_states(keras.layers.Layer, keras.ops), keras.layers),
        **options,
    )
    ours = layers.RNN(make(one_state(layers.Layer, mr.ops), two_states(layers.Layer, mr.ops), layers), **options)
    theirs.build(X.shape)
    ours.build((None, T, F))
    weights = [RNG.normal(size=v.shape).astype("float32") for v in ours.weights]
    ours.set_weights(weights)
    theirs.set_weights(weights)
    return theirs, ours


def as_named(results: Any) -> dict[str, Array]:
    flat = []
    for result in results if isinstance(results, (list, tuple)) else [results]:
        flat.extend(result if isinstance(result, (list, tuple)) else [result])
    return {str(number): np.asarray(value) for number, value in enumerate(flat)}


CELLS = {
    "one": lambda one, two, lib: one(U),
    "two": lambda one, two, lib: two(U),
    "stack": lambda one, two, lib: [lib.LSTMCell(5), two(U), lib.GRUCell(3)],
    "layers": lambda one, two, lib: [lib.GRUCell(5, reset_after=False), lib.LSTMCell(4, unit_forget_bias=False)],
}


@pytest.mark.parametrize("mask", [None, MASK], ids=["all", "mask"])
@pytest.mark.parametrize("options", [
    {"return_sequences": True, "return_state": True}, {"return_state": True},
    {"go_backwards": True, "return_sequences": True}, {"unroll": True, "return_sequences": True, "return_state": True},
], ids=lambda o: "-".join(o))  # fmt: skip
@pytest.mark.parametrize("name", CELLS)
def test_cells_in_keras_and_here(keras: Any, name: str, options: dict[str, Any], mask: Any) -> None:
    if mask is not None and options.get("go_backwards"):
        mask = mask[:, ::-1]
    theirs, ours = both(keras, CELLS[name], **options)
    for training in (False, True):
        found, wanted = ours(X, mask=mask, training=training), theirs(X, mask=mask, training=training)
        assert_agree(as_named(found), as_named(wanted), 1e-5)


def test_states_from_call_to_call(keras: Any) -> None:
    theirs, ours = both(keras, CELLS["two"], stateful=True, return_sequences=True)
    for _ in range(2):
        assert_agree(as_named(ours(X)), as_named(theirs(X)), 1e-5)
    theirs.reset_state()
    ours.reset_states()
    assert_agree(as_named(ours(X)), as_named(theirs(X)), 1e-5)
