"""What a stream holds: states that are read, assigned and reset; masked rows; weights that change in between."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn import RecurrentContainer, ops
from minirnn.errors import ArgumentError, DtypeError, ShapeError, StateError
from minirnn.layers import (
    GRU,
    LSTM,
    RNN,
    Dense,
    Input,
    Lambda,
    Masking,
    SimpleRNN,
)
from minirnn.models import Model
from tests.streaming.models import (
    MASK,
    PADDED,
    B,
    T,
    draw,
    pushed,
    randomized,
    two_layers,
)


@pytest.fixture(autouse=True)
def _in_float64() -> Iterator[None]:
    with mr.default_dtype("float64"):
        yield


# Masks ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("cell", [SimpleRNN, GRU, LSTM])
def test_mask_is_that_of_the_layer(cell: Any) -> None:
    x, layer = Input((None, 3)), cell(4, return_sequences=True, return_state=True)
    model = randomized(Model(x, layer(x)))
    data = np.where(MASK[..., None], draw(B, T, 3), np.nan)
    outputs = pushed(model.stream(B), data, masks=MASK)
    whole = layer(data, mask=MASK)
    np.testing.assert_allclose(np.stack([y[0] for y in outputs], 1), whole[0], rtol=1e-12)
    for state, wanted in zip(outputs[-1][1:], whole[1:], strict=True):
        np.testing.assert_allclose(state, wanted, rtol=1e-12)


def test_masked_rows_repeat_and_hold_whatever_is_in_between() -> None:
    """Also behind a layer that passes no mask on, and when only some pushes have a mask."""
    x = Input((None, 3))
    y = LSTM(4, return_sequences=True)(Lambda(ops.sin)(x))
    model = randomized(Model(x, Dense(2)(GRU(3, return_sequences=True)(Lambda(ops.sin)(y)))))
    stream, data = model.stream(2), draw(2, 3, 3)
    first = stream.push(data[:, 0])
    held = stream.state
    second = stream.push(data[:, 1], mask=[True, False])
    np.testing.assert_array_equal(second[1], first[1])
    for group, before in zip(stream.state, held, strict=True):
        for array, was in zip(group, before, strict=True):
            np.testing.assert_array_equal(array[1], was[1])
            assert (array[0] != was[0]).any()
    third = stream.push(data[:, 2], mask=np.array([[1], [1]]))
    np.testing.assert_allclose(third[0], model.predict(data[:1])[0, 2], rtol=1e-12)
    np.testing.assert_allclose(third[1], model.predict(data[1:, [0, 2]])[0, 1], rtol=1e-12)


def test_mask_meets_the_model_s_own() -> None:
    x = Input((None, 3))
    model = randomized(Model(x, LSTM(4, return_sequences=True)(Masking()(x))))
    outputs = pushed(model.stream(B), PADDED, masks=MASK)
    wanted = model.predict(np.where(MASK[..., None], PADDED, 0))
    np.testing.assert_allclose(np.stack([y[0] for y in outputs], 1), wanted, rtol=1e-12)


# States ---------------------------------------------------------------------------------------------
def test_states_are_read_as_copies_and_assigned() -> None:
    model, data = two_layers(), draw(B, T, 3)
    stream, other = model.stream(B), model.stream(B)
    ys = pushed(stream, data)
    stream.reset()
    pushed(stream, data, steps=3)
    middle = stream.state
    assert [len(group) for group in middle] == [2, 1]
    stream.state[0][0][:] = 99.0
    np.testing.assert_array_equal(stream.push(data[:, 3]), ys[3][0])
    other.state = middle
    np.testing.assert_array_equal(other.push(data[:, 3]), ys[3][0])
    other.state[0] = middle[0]
    other.state[-1] = middle[1][0]
    np.testing.assert_array_equal(other.push(data[:, 3]), ys[3][0])
    states = other.state
    states[1] = [np.zeros((B, 2), "float32")]
    np.testing.assert_array_equal(states[1], np.zeros((1, B, 2)))
    np.testing.assert_array_equal(other.state[1][0], np.zeros((B, 2)))


def test_states_that_do_not_fit_change_nothing() -> None:
    stream = two_layers().stream(B)
    stream.push(draw(B, 3))
    before = stream.state
    h, c, g = draw(B, 4), draw(B, 4), draw(B, 2)
    for bad, kind in [
        ([[h, c]], StateError),
        (None, StateError),
        ([[h, c], [g, g]], StateError),
        ([[h, c], [h]], ShapeError),
        ([[h[:1], c], [g]], ShapeError),
        ([[h, c], [g.astype(str)]], DtypeError),
    ]:
        with pytest.raises(kind, match="state"):
            stream.state = bad
    with pytest.raises(ShapeError, match="recurrent layer 1"):
        stream.state[1] = [h]
    for index in (2, -3, slice(0, 1)):
        with pytest.raises(StateError, match="2 layers"):
            stream.state[index] = [g]
    for group, was in zip(stream.state, before, strict=True):
        for array, old in zip(group, was, strict=True):
            np.testing.assert_array_equal(array, old)


@pytest.mark.parametrize("rows", [[1], [-2], [False, True, False], 1])
def test_reset_of_some_rows(rows: Any) -> None:
    x, h = Input((None, 3)), Input((4,))
    model = randomized(Model([x, h], GRU(4, return_sequences=True)(Masking()(x), initial_state=h)))
    data, first = draw(B, T, 3), draw(B, 4)
    stream = model.stream(B, inputs=[first])
    pushed(stream, data, steps=2)
    stream.reset(rows=rows)
    (y,) = pushed(stream, data[:, 2:], steps=1)[0]
    whole, anew = model.predict([data, first]), model.predict([data[:, 2:], first])
    np.testing.assert_allclose(y[[0, 2]], whole[[0, 2], 2], rtol=1e-12)
    np.testing.assert_allclose(y[1], anew[1, 0], rtol=1e-12)
    stream.reset(rows)
    np.testing.assert_array_equal(stream.push(draw(B, 3), mask=np.zeros(B))[1], np.zeros(4))  # nothing to repeat
    stream.reset()
    np.testing.assert_array_equal(stream.state[0][0], first)
    with pytest.raises(ArgumentError, match="rows"):
        stream.reset(rows=[B])


def test_streams_are_independent_and_leave_stateful_layers_alone() -> None:
    x = Input((None, 3))
    layer = LSTM(4, return_sequences=True, stateful=True)
    model, data = randomized(Model(x, layer(x))), draw(B, T, 3)
    layer(data)
    held = [np.asarray(s) for s in layer.states]
    one, two = model.stream(B), model.stream(B)
    ys = pushed(one, data)
    np.testing.assert_array_equal(pushed(two, data), ys)
    np.testing.assert_array_equal([np.asarray(s) for s in layer.states], held)
    model.reset_states()
    np.testing.assert_allclose(np.stack([y[0] for y in ys], 1), model.predict(data), rtol=1e-12)


def test_weights_are_read_at_each_push() -> None:
    model, data = two_layers(), draw(B, T, 3)
    stream = model.stream(B)
    stream.push(data[:, 0])
    states = stream.state
    weights = [w * 1.5 for w in model.get_weights()]
    other = two_layers()
    other.set_weights(weights)
    wanted = other.stream(B)
    wanted.state = states
    model.set_weights(weights)
    np.testing.assert_array_equal(stream.push(data[:, 1]), wanted.push(data[:, 1]))
    model.weights[-1].assign(np.zeros_like(weights[-1]))
    assert (stream.push(data[:, 2]) != wanted.push(data[:, 2])).any()


def test_learned_initial_states_are_read_at_each_reset() -> None:
    x, h = Input((2,)), Input((2,))
    running = RecurrentContainer(
        sequence_inputs=x, state_inputs=h, state_outputs=x + h, sequence_outputs=h, state_initializer="learned"
    )
    xs = Input((None, 2))
    model = Model(xs, running(sequences=xs))
    stream = model.stream(B)
    model.weights[0].assign([3.0, 4.0])
    assert (stream.push(draw(B, 2)) == 0).all()
    stream.reset()
    np.testing.assert_array_equal(stream.push(draw(B, 2)), np.tile([3.0, 4.0], (B, 1)))


def test_random_numbers_of_a_step_differ_from_step_to_step() -> None:
    x = Input((None, 3))
    model = Model(x, GRU(2, return_sequences=True)(x + 0.0) * 0 + Lambda(_noise)(Dense(2)(x)))
    with pytest.raises(ArgumentError, match="numbers for each entry"):
        model.stream()  # drawn for whole sequences

    class Noisy:
        state_size = 2

        def call(self, x: Any, states: Any) -> Any:
            y = states[0] + mr.random.uniform((x.shape[0], 2))
            return y, [y]

    stream = Model(x, RNN(Noisy(), return_sequences=True)(x)).stream(B)
    steps = np.diff([stream.push(draw(B, 3)) for _ in range(4)], axis=0)
    assert len(np.unique(steps)) == steps.size


def _noise(x: Any) -> Any:
    return x + mr.random.uniform(x.shape, x.dtype)
