"""StackedRNNCells: order of states, constants, masks, nesting, against the cells run one after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn.errors import ArgumentError, StateError
from minirnn.layers import RNN, GRUCell, Layer, LSTMCell, SimpleRNNCell, StackedRNNCells, TensorShape, registry
from tests.reference.checks import max_error

RNG = np.random.default_rng(74)
B, T, F = 3, 5, 2
MASK = np.array([[0, 1, 1, 0, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]], bool)
X = RNG.normal(size=(B, T, F))


def cells() -> list[Any]:
    return [LSTMCell(3, dtype="float64"), GRUCell(4, dtype="float64"), SimpleRNNCell(5, dtype="float64")]


def made(stack: Any, **options: Any) -> Any:
    """A float64 RNN over a stack with random weights."""
    layer = RNN(stack, **{"return_sequences": True, "return_state": True, **options}, dtype="float64")
    layer.build((None, None, F))
    layer.set_weights([RNG.normal(size=v.shape) for v in layer.weights])
    return layer


def random_states(rows: int = B) -> list[Any]:
    return [[RNG.normal(size=(rows, n)) for n in sizes] for sizes in ([3, 3], [4], [5])]


def layer_by_layer(layer: Any, states: list[Any], **call: Any) -> tuple[Any, list[Any]]:
    """The same cells, each in an RNN of its own that reads what the one before it returned."""
    y, final = X, []
    for cell, own in zip(layer.cell.cells, states, strict=True):
        one = RNN(cell, return_sequences=True, return_state=True, dtype="float64")
        y, *new = one(np.asarray(y), initial_state=own, **call)
        final.append(new)
    return y, final


@pytest.mark.parametrize("engine", ["reference", "numpy"])
@pytest.mark.parametrize("call", [{}, {"mask": MASK}, {"lengths": [2, 5, 0]}], ids=["all", "mask", "lengths"])
def test_one_layer_is_three(engine: str, call: dict[str, Any]) -> None:
    layer, states = made(cells()), random_states()
    with mr.engine(engine):
        y, *final = layer(X, initial_state=states, **call)
        wanted, wanted_states = layer_by_layer(layer, states, **call)
    assert max_error(y, wanted) < 1e-14
    for got, want in zip(final, wanted_states, strict=True):
        assert isinstance(got, list)
        for a, b in zip(got, want, strict=True):
            assert max_error(a, b) < 1e-14


def test_states_in_the_reverse_order() -> None:
    layer, states = made(cells()), random_states()
    other = made(StackedRNNCells(layer.cell.cells, reverse_state_order=True))
    assert [len(shapes) for shapes in other.cell.state_size] == [1, 1, 2]
    layer.set_weights(other.get_weights())
    y, *final = layer(X, initial_state=states, mask=MASK)
    reversed_y, *reversed_final = other(X, initial_state=states[::-1], mask=MASK)
    np.testing.assert_array_equal(reversed_y, y)
    for got, want in zip(reversed_final, final[::-1], strict=True):
        for a, b in zip(got, want, strict=True):
            np.testing.assert_array_equal(a, b)
    assert [[s.shape for s in own] for own in other.get_initial_state(B)] == [[(B, 5)], [(B, 4)], [(B, 3), (B, 3)]]
    again = registry.deserialize(registry.serialize(other), "layer")
    assert again.cell.reverse_state_order is True and again.get_config() == other.get_config()


def test_one_cell_in_a_list() -> None:
    cell = LSTMCell(3, dtype="float64")
    alone = RNN(cell, return_state=True, dtype="float64")
    listed = RNN([cell], return_state=True)
    y, h, c = alone(X, mask=MASK)
    found, (found_h, found_c) = listed(X, mask=MASK)
    for got, want in ((found, y), (found_h, h), (found_c, c)):
        np.testing.assert_array_equal(got, want)


def test_stacks_in_stacks() -> None:
    a, b, c = cells()
    flat, nested = made([a, b, c]), RNN([StackedRNNCells([a, b]), c], return_sequences=True, return_state=True)
    y, *final = flat(X, mask=MASK)
    nested_y, (first, second), third = nested(X, mask=MASK)
    np.testing.assert_array_equal(nested_y, y)
    for got, want in zip([*first, *second, *third], [s for own in final for s in own], strict=True):
        np.testing.assert_array_equal(got, want)
    assert nested.cell.state_size[0] == [[TensorShape((3,))] * 2, [TensorShape((4,))]]


def test_the_flat_call_takes_all_states() -> None:
    layer, states = made(cells()), random_states()
    wanted = layer(X, initial_state=states)[0].numpy()
    np.testing.assert_array_equal(layer([X, *(s for own in states for s in own)])[0], wanted)
    np.testing.assert_array_equal(layer(X, initial_state=[s for own in states for s in own])[0], wanted)
    with pytest.raises(StateError, match="has 4 states but was passed 3"):
        layer(X, initial_state=[s for own in states for s in own][:3])


class Scaled(Layer):
    """A cell that needs a constant."""

    state_size = 3

    def call(self, x: Any, states: Any, constants: Any) -> Any:
        h = x + states[0] * constants[0]
        return h, [h]


def test_constants_reach_the_cells_that_take_them() -> None:
    layer = made([LSTMCell(3, dtype="float64"), Scaled(dtype="float64")])
    scale = RNG.normal(size=(B, 3))
    y = layer(X, constants=scale)[0].numpy()
    first = RNN(layer.cell.cells[0], return_sequences=True, dtype="float64")(X).numpy()
    h = np.zeros((B, 3))
    for t in range(T):
        h = first[:, t] + h * scale
        np.testing.assert_allclose(y[:, t], h, rtol=1e-13)
    np.testing.assert_array_equal(layer([X, scale])[0], y)
    # A stack takes them even if none of its cells does.
    layer = made(cells())
    for got, want in zip(layer(X, constants=scale), layer(X), strict=True):
        np.testing.assert_array_equal(got, want)


class Begins(Layer):
    """A cell that begins elsewhere than at zeros."""

    state_size = 5

    def call(self, x: Any, states: Any) -> Any:
        return x + states[0], [states[0] + 1.0]

    def get_initial_state(self, batch_size: int) -> Any:
        return mr.ops.full((batch_size, 5), 3.0, "float64")


def test_initial_states_are_those_of_the_cells() -> None:
    layer = made([SimpleRNNCell(5, dtype="float64"), Begins(dtype="float64")])
    assert layer.get_initial_state(2)[1][0].numpy().tolist() == [[3.0] * 5] * 2
    assert layer(X, mask=MASK)[2][0].numpy()[:, 0].tolist() == [6.0, 5.0, 3.0]
    assert StackedRNNCells(cells()).begins_with_zeros and not layer.cell.begins_with_zeros
    with pytest.raises(ArgumentError, match="batch_size"):
        layer.cell.get_initial_state()


def test_stateful_stacks_and_resets() -> None:
    layer = made(cells(), stateful=True, return_state=False)
    states = random_states()
    layer.reset_states(states=states)
    layer(X[:, :2])
    y = layer(X[:, 2:]).numpy()
    wanted = layer_by_layer(layer, states)[0].numpy()
    np.testing.assert_allclose(y, wanted[:, 2:], atol=1e-14)
    resets = np.zeros((B, T), bool)
    resets[1, 3] = True
    layer.reset_states(states=states)
    np.testing.assert_allclose(layer(X, reset_mask=resets).numpy()[[0, 2]], wanted[[0, 2]], atol=1e-14)
    assert max_error(layer.states[2][0].numpy()[1], wanted[1, -1]) > 1e-3
