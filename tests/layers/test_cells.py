"""One step of the built-in cells, and StackedRNNCells: weights, first values, options, gradients."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn.errors import ArgumentError, ShapeError
from minirnn.layers import GRUCell, LSTMCell, SimpleRNNCell, StackedRNNCells, TensorShape, initializers, registry
from minirnn.layers.states import state_shapes
from tests.reference.checks import central_differences, max_error

RNG = np.random.default_rng(12)
B, F, U = 2, 3, 4
MAKERS: dict[str, Any] = {
    "simple": lambda **o: SimpleRNNCell(U, **o),
    "gru": lambda **o: GRUCell(U, **o),
    "gru_before": lambda **o: GRUCell(U, reset_after=False, **o),
    "lstm": lambda **o: LSTMCell(U, **o),
}
SHAPES = {
    "simple": [(F, U), (U, U), (U,)],
    "gru": [(F, 3 * U), (U, 3 * U), (2, 3 * U)],
    "gru_before": [(F, 3 * U), (U, 3 * U), (3 * U,)],
    "lstm": [(F, 4 * U), (U, 4 * U), (4 * U,)],
}
each_cell = pytest.mark.parametrize("kind", MAKERS)


def states_of(cell: Any) -> list[np.ndarray]:
    return [RNG.normal(size=(B, U)) for _ in np.atleast_1d(cell.state_size)]


@each_cell
def test_weights(kind: str) -> None:
    cell = MAKERS[kind]()
    cell.build((None, F))
    assert [v.name for v in cell.weights] == ["kernel", "recurrent_kernel", "bias"]
    assert [v.shape for v in cell.weights] == SHAPES[kind]
    bare = MAKERS[kind](use_bias=False)
    bare.build((None, F))
    assert [v.shape for v in bare.weights] == SHAPES[kind][:2]


@each_cell
def test_first_values(kind: str) -> None:
    cell = MAKERS[kind](dtype="float64")
    cell.build((None, F))
    kernel, recurrent, bias = cell.get_weights()
    limit = np.sqrt(6 / (F + kernel.shape[1]))
    assert np.abs(kernel).max() <= limit and np.abs(kernel).max() > 0.7 * limit
    np.testing.assert_allclose(recurrent @ recurrent.T, np.eye(U), atol=1e-12)
    wanted = np.zeros_like(bias)
    if kind == "lstm":
        wanted[U : 2 * U] = 1
    np.testing.assert_array_equal(bias, wanted)


def test_unit_forget_bias_replaces() -> None:
    options = {"bias_initializer": initializers.Constant(0.03), "dtype": "float64"}
    for flag, forget in ((True, 1.0), (False, 0.03)):
        cell = LSTMCell(2, unit_forget_bias=flag, **options)
        cell.build((None, 1))
        np.testing.assert_array_equal(cell.get_weights()[2], [0.03, 0.03, forget, forget, 0.03, 0.03, 0.03, 0.03])


@each_cell
@pytest.mark.parametrize("use_bias", [True, False])
def test_gradients(kind: str, use_bias: bool) -> None:
    cell = MAKERS[kind](use_bias=use_bias, dtype="float64", activation="softsign")
    cell.build((None, F))
    cell.set_weights([RNG.normal(size=v.shape) for v in cell.weights])
    x, states = RNG.normal(size=(B, F)), states_of(cell)
    cts = [RNG.normal(size=(B, U)) for _ in range(1 + len(states))]
    weights = cell.get_weights()

    def loss(x: Any, *rest: Any) -> Any:
        cell.set_weights(rest[len(states) :])
        output, new = cell(x, list(rest[: len(states)]))
        return sum(np.sum(ct * np.asarray(value)) for ct, value in zip(cts, [output, *new], strict=True))

    wanted = central_differences(loss, x, *states, *weights)
    cell.set_weights(weights)
    primals = [mr.Tensor(a) for a in (x, *states)]
    with mr.Tape() as tape:
        tape.watch(primals)
        output, new = cell(primals[0], primals[1:])
        value = sum(mr.ops.sum(mr.Tensor(ct) * y) for ct, y in zip(cts, [output, *new], strict=True))
    found = tape.gradient(value, [*primals, *cell.weights])
    for got, want in zip(found, wanted, strict=True):
        assert max_error(got, want) < 1e-7


@each_cell
def test_configurations_come_back(kind: str) -> None:
    cell = MAKERS[kind](
        activation="relu",
        dropout=0.2,
        recurrent_dropout=0.3,
        kernel_regularizer="l2",
        recurrent_constraint="max_norm",
        bias_initializer=initializers.RandomNormal(stddev=0.2, seed=4),
        implementation=1,
        name="cell",
    )
    again = registry.deserialize(json.loads(json.dumps(registry.serialize(cell))), "layer")
    assert type(again) is type(cell)
    assert again.get_config() == cell.get_config()
    assert again.activation is cell.activation


@each_cell
def test_initial_states(kind: str) -> None:
    cell = MAKERS[kind](dtype="float64")
    for states in (cell.get_initial_state(batch_size=B), cell.get_initial_state(np.ones((B, F)))):
        assert [s.shape for s in states] == [(B, U)] * (2 if kind == "lstm" else 1)
        assert all(s.dtype == np.float64 and not s.numpy().any() for s in states)
    with pytest.raises(ArgumentError, match="batch_size"):
        cell.get_initial_state()


@each_cell
def test_dropout_acts_in_training_only(kind: str) -> None:
    cell = MAKERS[kind](dropout=0.5, recurrent_dropout=0.5, dtype="float64")
    x, states = RNG.normal(size=(B, F)), states_of(cell)
    calm = cell(x, states)[0].numpy()
    np.testing.assert_array_equal(cell(x, states)[0].numpy(), calm)
    assert not np.array_equal(cell(x, states, training=True)[0].numpy(), calm)
    mr.seed(5)
    first = cell(x, states, training=True)[0].numpy()
    mr.seed(5)
    np.testing.assert_array_equal(cell(x, states, training=True)[0].numpy(), first)


def test_a_rate_of_one() -> None:
    x = RNG.normal(size=(B, F))
    for kind, drops in (("simple", True), ("gru", False), ("lstm", False)):
        cell = MAKERS[kind](dropout=1.0, dtype="float64")
        states = states_of(cell)
        got = cell(x, states, training=True)[0].numpy()
        np.testing.assert_array_equal(got, cell(x * (not drops), states)[0].numpy())
    assert (LSTMCell(2, dropout=1.5).dropout, LSTMCell(2, dropout=-1.0).dropout) == (1.0, 0.0)


def test_errors() -> None:
    with pytest.raises(ShapeError, match="one time step"):
        LSTMCell(2)(np.ones((2, 3, 4)), [np.zeros((2, 2))] * 2)
    with pytest.raises(ArgumentError, match="implementation"):
        GRUCell(2, implementation=3)
    with pytest.raises(ArgumentError, match="unknown_option"):
        LSTMCell(2, unknown_option=1)
    with pytest.raises(ArgumentError, match="an empty list"):
        StackedRNNCells([])
    with pytest.raises(ArgumentError, match="cell 1: a cell needs"):
        StackedRNNCells([LSTMCell(2), "no cell"])


def test_stacked_cells_run_one_after_the_other() -> None:
    stacked = StackedRNNCells([LSTMCell(3, dtype="float64"), SimpleRNNCell(5, dtype="float64")])
    assert (stacked.output_size, stacked.dtype) == (TensorShape((5,)), "float64")
    x, h, c, g = (RNG.normal(size=(B, n)) for n in (2, 3, 3, 5))
    y, ((h1, c1), (g1,)) = stacked(x, [[h, c], [g]])
    first, second = stacked.cells
    h2, (_, c2) = first(x, [h, c])
    g2, _ = second(h2, [g])
    for got, want in ((y, g2), (h1, h2), (c1, c2), (g1, g2)):
        np.testing.assert_array_equal(got.numpy(), want.numpy())
    assert [v.shape for v in stacked.weights] == [(2, 12), (3, 12), (12,), (3, 5), (5, 5), (5,)]
    again = registry.deserialize(json.loads(json.dumps(registry.serialize(stacked))), "layer")
    assert again.get_config() == stacked.get_config()


def test_state_sizes() -> None:
    one, two = TensorShape((3,)), TensorShape((4,))
    assert state_shapes(3) == [one]
    assert state_shapes((3, 4)) == (one, two)
    assert state_shapes([3, [4, (3, 4)]]) == [one, [two, TensorShape((3, 4))]]
    assert state_shapes(TensorShape((3, 4))) == [TensorShape((3, 4))]
    assert state_shapes({"a": 3}) == {"a": one}
    for wrong in ("3", 2.5, [None.__class__], True):
        with pytest.raises(ArgumentError, match="state_size"):
            state_shapes(wrong)
