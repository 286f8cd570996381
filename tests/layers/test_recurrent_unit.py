"""RecurrentUnit: one time step of a layer or a cell, in a graph and by itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn import RecurrentUnit
from minirnn.errors import ArgumentError, ShapeError, StateError
from minirnn.layers import GRU, LSTM, RNN, Dense, GRUCell, Input, Layer, LSTMCell, SimpleRNN, SimpleRNNCell, TensorShape
from minirnn.models import Model
from tests.reference.cells import KINDS, Array, random_case
from tests.reference.checks import max_error


@pytest.fixture(autouse=True)
def _in_float64() -> Iterator[None]:
    with mr.default_dtype("float64"):
        yield


def draw(*shape: int) -> Array:
    return np.random.default_rng(sum(shape) + len(shape)).normal(size=shape)


MAKERS: dict[str, Any] = {
    "simple_rnn": SimpleRNN,
    "gru_reset_after": GRU,
    "gru_reset_before": lambda units: GRU(units, reset_after=False),
    "lstm": LSTM,
}


@pytest.mark.parametrize("kind", KINDS)
def test_one_step_equals_the_formulas(kind: str) -> None:
    """[output, *new_states]; the output is the first state."""
    case = random_case(kind, seed=61)
    unit = RecurrentUnit(MAKERS[kind](case.initial_states[0].shape[1]))
    x = case.x[:, 0]
    unit(x, states=list(case.initial_states))
    unit.set_weights(case.weights)
    found = unit(x, states=list(case.initial_states))
    wanted = KINDS[kind].step(x, case.initial_states, case.weights)
    assert isinstance(found, list)
    assert len(found) == 1 + KINDS[kind].states
    for one, other in zip(found, [wanted[0], *wanted], strict=True):
        assert max_error(one, other) < 1e-14


@pytest.mark.parametrize("kind", KINDS)
def test_in_a_graph(kind: str) -> None:
    case = random_case(kind, seed=62, batch=3, features=4, units=5)
    x, *states = Input((4,)), *(Input((5,)) for _ in case.initial_states)
    unit = RecurrentUnit(MAKERS[kind](5))
    out, *new_states = unit(x, states=states)
    assert [t.shape for t in (out, *new_states)] == [(None, 5)] * (1 + len(states))
    model = Model([x, *states], [out, *new_states])
    model.set_weights(case.weights)
    wanted = KINDS[kind].step(case.x[:, 0], case.initial_states, case.weights)
    found = model([case.x[:, 0], *case.initial_states])
    for one, other in zip(found, [wanted[0], *wanted], strict=True):
        assert max_error(one, other) < 1e-14
    again = Model.from_config(json.loads(json.dumps(model.get_config())))
    again.set_weights(model.get_weights())
    for one, other in zip(again([case.x[:, 0], *case.initial_states]), found, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


@pytest.mark.parametrize("symbolic", [False, True])
def test_without_inputs_it_reads_one_zero(symbolic: bool) -> None:
    """The layer is then built for one feature."""
    unit = RecurrentUnit(GRU(5))
    h = draw(3, 5)
    if symbolic:
        state = Input((5,))
        model = Model(state, unit(None, states=state))
        found = model(h)
    else:
        found = unit(states=h)
    assert [w.shape for w in unit.weights] == [(1, 15), (5, 15), (2, 15)]
    unit.set_weights([draw(*w.shape) for w in unit.weights])
    found = model(h) if symbolic else unit(states=h)
    wanted = unit(np.zeros((3, 1)), states=[h])
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def test_called_twice_it_shares_its_weights() -> None:
    unit = RecurrentUnit(SimpleRNN(5))
    x1, x2, h = Input((4,)), Input((4,)), Input((5,))
    _, h1 = unit(x1, states=h)
    _, h2 = unit(x2, states=h1)
    model = Model([x1, x2, h], h2)
    assert len(model.weights) == 3
    a, b, start = draw(3, 4), draw(3, 4) + 1, draw(3, 5)
    layer = SimpleRNN(5)
    layer(np.stack([a, b], axis=1))
    layer.set_weights(model.get_weights())
    assert max_error(model([a, b, start]), layer(np.stack([a, b], axis=1), initial_state=start)) < 1e-15


def test_states_may_be_bare_or_listed() -> None:
    unit, x, h = RecurrentUnit(SimpleRNN(5)), draw(3, 4), draw(3, 5)
    bare = unit(x, states=h)
    for states in ([h], (h,), [mr.Tensor(h)]):
        for one, other in zip(unit(x, states=states), bare, strict=True):
            np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def test_what_the_layer_does_with_time_does_not_matter() -> None:
    x, h = draw(3, 4), draw(3, 5)
    plain = RecurrentUnit(SimpleRNN(5))
    wanted = plain(x, states=h)
    options: list[dict[str, Any]] = [
        {"return_sequences": True, "return_state": True, "go_backwards": True},
        {"stateful": True},
        {"unroll": True},
        {"time_major": True, "unroll": True},
    ]
    for option in options:
        layer = SimpleRNN(5, **option)
        unit = RecurrentUnit(layer)
        unit(x, states=h)
        unit.set_weights(plain.get_weights())
        for one, other in zip(unit(x, states=h), wanted, strict=True):
            np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
        assert layer.states is None


@pytest.mark.parametrize("unit_first", [True, False])
def test_a_layer_that_is_also_used_over_time(unit_first: bool) -> None:
    """Built by the one or by the other, the weights are the same."""
    layer = LSTM(5, return_sequences=True)
    unit = RecurrentUnit(layer)
    x, states = draw(3, 2, 4), [np.zeros((3, 5))] * 2
    if not unit_first:
        layer(x)
    out, *states = unit(x[:, 0], states=states)
    out, *_ = unit(x[:, 1], states=states)
    assert max_error(out, layer(x)[:, 1]) < 1e-15
    assert unit.weights == layer.weights
    with pytest.raises(ShapeError, match=r"(?s)RecurrentUnit 'rec.*input.*batch=3, 6.*batch=any, 4"):
        unit(draw(3, 6), states=states)


class MatrixCell:
    """A plain class whose state is a matrix: the sum of the outer products of its inputs."""

    state_size = TensorShape((4, 4))

    def call(self, inputs: Any, states: Any) -> Any:
        total = states[0] + mr.ops.expand_dims(inputs, 2) * mr.ops.expand_dims(inputs, 1)
        return mr.ops.sum(total, axis=2), [total]


class PairCell(Layer):
    """Two inputs at each step, two outputs."""

    state_size = 4

    def build(self, input_shape: Any) -> None:
        self.kernel = self.add_weight("kernel", (input_shape[0][-1], 4))

    def call(self, inputs: Any, states: Any) -> Any:
        a, b = inputs
        h = a @ self.kernel + b * states[0]
        return [h, a], [h]


def test_cells_of_all_kinds() -> None:
    x, h = draw(3, 4), draw(3, 5)
    layer = SimpleRNN(5)
    unit = RecurrentUnit(layer)
    wanted = unit(x, states=h)
    for other in (SimpleRNNCell(5), RNN(SimpleRNNCell(5))):
        bare = RecurrentUnit(other)
        bare(x, states=h)
        bare.set_weights(unit.get_weights())
        np.testing.assert_array_equal(np.asarray(bare(x, states=h)[0]), np.asarray(wanted[0]))
    total = draw(3, 4, 4)
    out, new = RecurrentUnit(MatrixCell())(x, states=total)
    np.testing.assert_allclose(np.asarray(new), total + x[:, :, None] * x[:, None])
    np.testing.assert_allclose(np.asarray(out), np.asarray(new).sum(2))
    pair = RecurrentUnit(PairCell())
    a, b = Input((2,)), Input((4,))
    first, second, new = pair([a, b], states=Input((4,)))
    assert [first.shape, second.shape, new.shape] == [(None, 4), (None, 2), (None, 4)]
    kernel = pair.get_weights()[0]
    found = pair([draw(3, 2), draw(3, 4)], states=total[:, 0])
    np.testing.assert_allclose(np.asarray(found[0]), draw(3, 2) @ kernel + draw(3, 4) * total[:, 0])


@pytest.mark.parametrize("cells", [[GRUCell(6), LSTMCell(5)], (GRUCell(6), LSTMCell(5))], ids=["list", "tuple"])
def test_stacked_cells(cells: Any) -> None:
    """States cell by cell, first cell first."""
    stack = RNN(cells, return_state=True)
    unit = RecurrentUnit(cells)
    x, states = draw(3, 4), [draw(3, 6), draw(3, 5), draw(3, 5) - 1]
    out, g, h, c = unit(x, states=states)
    found, (first,), (second, third) = stack(x[:, None], initial_state=[[states[0]], states[1:]])
    for one, other in zip((out, g, h, c), (found, first, second, third), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def test_configuration() -> None:
    unit = RecurrentUnit(LSTM(5, activation="relu", recurrent_dropout=0.25, name="inner"), name="outer")
    again = RecurrentUnit.from_config(json.loads(json.dumps(unit.get_config())))
    assert json.dumps(again.get_config()) == json.dumps(unit.get_config())
    assert (again.name, again.layer.name, again.layer.cell.recurrent_dropout) == ("outer", "inner", 0.25)
    assert again.dtype == "float64"


def test_gradients_and_masks() -> None:
    unit = RecurrentUnit(LSTM(5))
    x, h, c = mr.Tensor(draw(3, 4)), mr.Tensor(draw(3, 5)), mr.Tensor(draw(3, 5) * 2)
    x.mask = mr.Tensor(np.ones((3, 4), bool))
    with mr.Tape() as tape:
        tape.watch([x, h, c])
        out, new_h, new_c = unit(x, states=[h, c])
        loss = (out * new_c).sum()
    assert all(t.mask is None for t in (out, new_h, new_c))
    for tensor, gradient in zip((x, h, c), tape.gradient(loss, [x, h, c]), strict=True):
        assert gradient.shape == tensor.shape and np.abs(np.asarray(gradient)).max() > 0.01


# Misuse -------------------------------------------------------------------------------------------
def test_states_are_needed() -> None:
    for layer in (SimpleRNN(5), LSTM(5)):
        for states in (None, [], ()):
            message = r"(?s)RecurrentUnit 'rec.*must be passed input states when called.*expected: [12] of them"
            with pytest.raises(StateError, match=message):
                RecurrentUnit(layer)(draw(3, 4), states=states)


@pytest.mark.parametrize("symbolic", [False, True])
def test_states_that_do_not_fit(symbolic: bool) -> None:
    def tensor(*shape: int) -> Any:
        return Input(shape[1:]) if symbolic else draw(*shape)

    unit = RecurrentUnit(LSTM(5), name="mine")
    with pytest.raises(StateError, match="(?s)RecurrentUnit 'mine': Layer has 2 states but was passed 1"):
        unit(tensor(3, 4), states=tensor(3, 5))
    with pytest.raises(StateError, match="was passed 3"):
        unit(tensor(3, 4), states=[tensor(3, 5)] * 3)
    with pytest.raises(
        ShapeError, match=r"(?s)RecurrentUnit 'mine': state 1 is not compatible.*, 6\).*expected: .*, 5\)"
    ):
        unit(tensor(3, 4), states=[tensor(3, 5), tensor(3, 6)])
    if not symbolic:
        with pytest.raises(
            ShapeError, match=r"(?s)'mine': state 0 has another batch size.*batch=1.*expected: \(batch=3"
        ):
            unit(draw(3, 4), states=[draw(1, 5), draw(3, 5)])


@pytest.mark.parametrize("symbolic", [False, True])
def test_inputs_that_are_no_time_step(symbolic: bool) -> None:
    def tensor(*shape: int) -> Any:
        return Input(shape[1:]) if symbolic else draw(*shape)

    for shape in ((3, 7, 4), (3,)):
        with pytest.raises(
            ShapeError, match=r"(?s)RecurrentUnit 'mine': it takes one time step.*expected: \(batch, feat"
        ):
            RecurrentUnit(SimpleRNN(5), name="mine")(tensor(*shape), states=tensor(3, 5))
    unit = RecurrentUnit(SimpleRNN(5), name="mine")
    unit(tensor(3, 4), states=tensor(3, 5))
    for shape in ((3, 6), (3, 7, 4), (3,)):
        with pytest.raises(ShapeError, match=r"(?s)RecurrentUnit 'mine': input.*expected: \(batch=any, 4\)"):
            unit(tensor(*shape), states=tensor(3, 5))
    with pytest.raises(ShapeError, match=r"(?s)RecurrentUnit 'mine': input.*, 1\)"):
        unit(states=tensor(3, 5))


def test_things_that_are_no_recurrent_layer() -> None:
    for wrong in (Dense(4), "lstm", 3, LSTMCell, None, []):
        with pytest.raises(ArgumentError):
            RecurrentUnit(wrong)
    for wrong in ("x", [[1.0, 2.0]]):
        with pytest.raises((ArgumentError, ShapeError, StateError)):
            RecurrentUnit(SimpleRNN(5))(draw(3, 4), states=wrong)
        with pytest.raises((ArgumentError, ShapeError, StateError)):
            RecurrentUnit(SimpleRNN(5))(wrong, states=draw(3, 5))
