"""Stateful layers: states from call to call, resets, batch sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn.errors import ArgumentError, ShapeError, StateError
from minirnn.layers import GRU, LSTM, RNN, Bidirectional, ConvLSTM2D, Input, StackedRNNCells
from minirnn.layers.cells import GRUCell, LSTMCell
from minirnn.layers.functional import FunctionGraph
from minirnn.models import Model, Sequential, load_model

RNG = np.random.default_rng(14)
B, T, F, U = 3, 6, 2, 4


def pair(**options: Any) -> tuple[Any, Any]:
    """A stateful layer, and one that is not, with the same weights."""
    held = LSTM(U, stateful=True, return_sequences=True, dtype="float64", **options)
    plain = LSTM(U, return_sequences=True, return_state=True, dtype="float64", **options)
    for layer in (held, plain):
        layer.build((None, None, F))
    plain.set_weights(held.get_weights())
    return held, plain


def test_pieces_are_the_whole() -> None:
    held, plain = pair()
    x = RNG.normal(size=(B, T, F))
    whole, *final = plain(x)
    pieces = [held(x[:, :1]), held(x[:, 1:4]), held(x[:, 4:])]
    np.testing.assert_allclose(np.concatenate([p.numpy() for p in pieces], axis=1), whole.numpy(), atol=1e-14)
    for got, want in zip(held.states, final, strict=True):
        np.testing.assert_allclose(got.numpy(), want.numpy(), atol=1e-14)


def test_states_are_no_weights_and_carry_no_gradient() -> None:
    held, _ = pair()
    x = mr.Tensor(RNG.normal(size=(B, T, F)))
    with mr.Tape() as tape:
        tape.watch(x)
        held(x)
        second = mr.ops.sum(held(np.zeros((B, 1, F))))
    assert tape.gradient(second, x) is None
    assert len(held.weights) == 3


def test_reset() -> None:
    held, plain = pair()
    x = RNG.normal(size=(B, T, F))
    first = held(x).numpy()
    assert not np.array_equal(held(x).numpy(), first)
    held.reset_states()
    np.testing.assert_array_equal(held(x).numpy(), first)
    states = [RNG.normal(size=(B, U)) for _ in range(2)]
    held.reset_states(states=states)
    np.testing.assert_array_equal(held(x).numpy(), plain(x, initial_state=states)[0].numpy())
    held.reset_states()
    assert held.states is None


def test_reset_of_rows() -> None:
    held, plain = pair()
    x = RNG.normal(size=(B, T, F))
    held(x)
    before = [s.numpy() for s in held.states]
    for rows in ([1], 1, np.array([False, True, False]), [-2]):
        held.states = before
        held.reset_states(rows=rows)
        for was, now in zip(before, held.states, strict=True):
            np.testing.assert_array_equal(now.numpy(), was * [[1], [0], [1]])
    held.reset_states(states=[np.full((2, U), 5.0)] * 2, rows=[0, 2])
    assert held.states[0].numpy()[:, 0].tolist() == [5, 0, 5]
    held.reset_states(rows=[])
    assert held.states[0].numpy()[:, 0].tolist() == [5, 0, 5]
    for rows in ([3], [0.5], [[0]], [True, False]):
        with pytest.raises(ArgumentError, match="rows"):
            held.reset_states(rows=rows)


def test_states_before_the_first_call() -> None:
    held, plain = pair()
    held.reset_states()
    with pytest.raises(StateError, match="(?s)number of rows.*Input"):
        held.reset_states(rows=[0])
    states = [RNG.normal(size=(B, U)) for _ in range(2)]
    held.reset_states(states=states)
    x = RNG.normal(size=(B, T, F))
    np.testing.assert_array_equal(held(x).numpy(), plain(x, initial_state=states)[0].numpy())


def test_an_explicit_initial_state_wins_and_is_followed() -> None:
    held, plain = pair()
    x = RNG.normal(size=(B, T, F))
    held(x)
    states = [RNG.normal(size=(B, U)) for _ in range(2)]
    wanted, *final = plain(x, initial_state=states)
    np.testing.assert_array_equal(held(x, initial_state=states).numpy(), wanted.numpy())
    np.testing.assert_array_equal(held.states[1].numpy(), final[1].numpy())


def test_the_batch_size_stays_until_a_reset() -> None:
    held, _ = pair(name="s")
    held(np.zeros((B, T, F)))
    with pytest.raises(StateError, match="(?s)LSTM 's'.*batch size 2.*batch size 3.*reset_states"):
        held(np.zeros((2, T, F)))
    with pytest.raises(StateError):
        held(np.zeros((1, T, F)))
    held.reset_states()
    assert held(np.zeros((2, T, F))).shape == (2, T, U)


def test_a_batch_size_of_the_input_stays_for_good() -> None:
    layer = GRU(U, stateful=True)
    x = Input(batch_shape=(B, None, F))
    graph = FunctionGraph([x], [layer(x)])
    assert layer.states is None
    graph.run([mr.Tensor(np.zeros((B, T, F), "float32"))])
    layer.reset_states()
    with pytest.raises(StateError, match="(?s)batch size 2.*batch size 3"):
        layer(np.zeros((2, T, F)))
    with pytest.raises(ShapeError):
        layer.reset_states(states=[np.zeros((2, U))])


def test_a_fixed_batch_has_states_from_a_reset_on() -> None:
    layer = LSTM(U, stateful=True)
    layer.build((B, T, F))
    layer.reset_states()
    assert [s.numpy().tolist() for s in layer.states] == [np.zeros((B, U)).tolist()] * 2
    layer.reset_states([np.ones((B, U)), np.full((B, U), 2.0)])
    assert [s.numpy()[0, 0] for s in layer.states] == [1.0, 2.0]
    layer.reset_states(rows=[0])
    assert layer.states[1].numpy()[:, 0].tolist() == [0.0, 2.0, 2.0]


class Counting:
    """A plain cell that begins with 7 and adds the input."""

    state_size = F

    def call(self, inputs: Any, states: Any) -> Any:
        return states[0] + inputs, [states[0] + inputs]

    def get_initial_state(self, batch_size: int) -> Any:
        return [np.full((batch_size, F), 7.0)]


@pytest.mark.parametrize("make", [lambda: GRU(F, stateful=True), lambda: RNN(Counting(), stateful=True)])
def test_rows_before_the_first_call_of_a_known_batch(make: Any) -> None:
    layer = make()
    begins = 7.0 if isinstance(layer.cell, Counting) else 0.0
    Model(x := Input(batch_shape=(B, None, F)), layer(x))
    with pytest.raises(ShapeError):
        layer.reset_states(np.ones((2, F)), rows=[1])
    assert layer.states is None
    layer.reset_states(np.ones((1, F)), rows=[1])
    assert layer.states[0].numpy().tolist() == [[begins] * F, [1.0] * F, [begins] * F]
    layer.states = None
    layer.reset_states(rows=[0])
    assert layer.states[0].numpy()[:, 0].tolist() == [0.0, begins, begins]
    assert layer(np.zeros((B, T, F), "float32")).shape == (B, F)


def test_rows_of_images_and_both_ways_before_the_first_call() -> None:
    images = ConvLSTM2D(2, 3, stateful=True)
    Model(x := Input(batch_shape=(B, None, 5, 6, 1)), images(x))
    images.reset_states([np.ones((1, 3, 4, 2))] * 2, rows=[2])
    assert images.states[1].numpy()[:, 0, 0, 0].tolist() == [0, 0, 1]
    both = Bidirectional(GRU(U, stateful=True))
    with pytest.raises(StateError, match="number of rows"):
        both.reset_states(rows=[0])
    Model(x := Input(batch_shape=(B, None, F)), both(x))
    both.reset_states([np.ones((1, U)), np.full((1, U), 2.0)], rows=[1])
    assert [s.numpy()[:, 0].tolist() for s in both.states] == [[0, 1, 0], [0, 2, 0]]


def test_a_cell_that_knows_its_states_once_it_is_built() -> None:
    class Late:
        state_size: Any = None

        def build(self, input_shape: Any) -> None:
            self.state_size = input_shape[-1]

        def call(self, inputs: Any, states: Any) -> Any:
            return inputs + states[0], [inputs + states[0]]

    layer = RNN(Late(), stateful=True)
    layer.reset_states()
    with pytest.raises(StateError, match="(?s)only when it is built.*call the layer"):
        layer.reset_states([np.ones((B, F))])
    layer.build((None, T, F))
    layer.reset_states([np.ones((B, F))])
    assert layer(np.zeros((B, T, F), "float32")).numpy().tolist() == [[1.0] * F] * B


def test_states_of_unknown_size_are_looked_at_in_the_first_call() -> None:
    layer = ConvLSTM2D(2, 3, stateful=True, dtype="float64")
    states = [RNG.normal(size=(B, 3, 4, 2)) for _ in range(2)]
    layer.reset_states(states)
    layer.reset_states(rows=[1])
    with pytest.raises(ShapeError, match="(?s)state 0.*batch=3, 3, 4, 2.*batch=3, 4, 3, 2"):
        layer(np.ones((B, T, 6, 5, 1)))
    assert not layer.built
    with pytest.raises(ShapeError):
        layer.reset_states([np.ones((B, 3, 4, 5))] * 2)
    states = [state * [[[[1]]], [[[0]]], [[[1]]]] for state in states]
    x = RNG.normal(size=(B, T, 5, 6, 1))
    got = layer(x).numpy()
    np.testing.assert_array_equal(got, layer(x, initial_state=states).numpy())


@pytest.mark.parametrize("shape", [{"batch_input_shape": (B, None, F)}, {"input_shape": (T, F)}], ids=lambda s: [*s][0])
def test_a_first_layer_says_the_shape(shape: dict[str, Any], tmp_path: Path) -> None:
    model = Sequential([LSTM(U, stateful=True, return_sequences=True, **shape), GRU(2, stateful=True)])
    assert model.built and len(model.weights) == 6
    x = RNG.normal(size=(B, T, F)).astype("float32")
    model(x)
    before = [s.numpy() for s in model.layers[0].states]
    model.save(tmp_path / "m.safetensors")
    again = load_model(tmp_path / "m.safetensors")
    assert again.layers[0].batch_input_shape == model.layers[0].batch_input_shape
    for was, now in zip(before, again.layers[0].states, strict=True):
        np.testing.assert_array_equal(was, now.numpy())
    np.testing.assert_array_equal(again(x).numpy(), model(x).numpy())
    with pytest.raises((ShapeError, StateError), match="(?s)2.*3"):
        model(x[:2])
    model.reset_states()
    if "input_shape" in shape:
        assert model(x[:2]).shape == (2, 2)
    else:
        with pytest.raises((ShapeError, StateError), match="(?s)2.*3"):
            model(x[:2])


def test_masked_steps_hold_the_states_between_calls() -> None:
    held, _ = pair()
    held(RNG.normal(size=(B, T, F)))
    before = [s.numpy() for s in held.states]
    held(RNG.normal(size=(B, 2, F)), mask=np.array([[1, 1], [0, 0], [1, 0]], bool))
    np.testing.assert_array_equal(held.states[0].numpy()[1], before[0][1])
    assert not np.array_equal(held.states[0].numpy()[0], before[0][0])


def test_reset_is_zero_even_where_the_cell_begins_elsewhere() -> None:
    class Counter:
        state_size = 1

        def call(self, x: Any, states: Any) -> Any:
            return states[0] + x, [states[0] + x]

        def get_initial_state(self, batch_size: int) -> Any:
            return [np.full((batch_size, 1), 10.0)]

    layer = RNN(Counter(), stateful=True, dtype="float64")
    x = np.ones((1, 2, 1))
    assert [layer(x).item(), layer(x).item()] == [12.0, 14.0]
    layer.reset_states()
    assert layer(x).item() == 2.0


def test_stacked_states() -> None:
    layer = RNN(StackedRNNCells([LSTMCell(3), GRUCell(2)]), stateful=True)
    layer(np.ones((B, T, F)))
    assert [[s.shape for s in cell] for cell in layer.states] == [[(B, 3), (B, 3)], [(B, 2)]]
    layer.reset_states(states=[[np.ones((B, 3)), np.ones((B, 3))], [np.ones((B, 2))]])
    layer.reset_states(rows=[0])
    assert layer.states[1][0].numpy()[:, 0].tolist() == [0, 1, 1]


def test_errors() -> None:
    with pytest.raises(StateError, match="must be stateful"):
        LSTM(2).reset_states()
    held, _ = pair()
    held(np.zeros((B, T, F)))
    with pytest.raises(StateError, match="has 2 states but was passed 1"):
        held.reset_states(states=[np.zeros((B, U))])
    with pytest.raises(ShapeError, match="state_size"):
        held.reset_states(states=[np.zeros((B, U + 1))] * 2)
    with pytest.raises(ShapeError, match="another batch size"):
        held.reset_states(states=[np.zeros((B, U)), np.zeros((B + 1, U))])
