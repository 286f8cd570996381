"""Anyone's cell: plain classes and layers, states of any form, both kinds of get_initial_state, constants."""

from __future__ import annotations

import json
from collections import namedtuple
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn.autodiff import trees
from minirnn.errors import ArgumentError, ShapeError, StateError
from minirnn.layers import RNN, Dense, Input, Layer, LSTMCell, StackedRNNCells, TensorShape, registry
from minirnn.layers.functional import FunctionGraph

RNG = np.random.default_rng(15)
B, T, F = 2, 4, 3
each_engine = pytest.mark.parametrize("engine", ["reference", "numpy"])


class Minimal:
    """A plain class: h = x @ w + h @ u, output 2h."""

    def __init__(self, units: int = 2) -> None:
        self.state_size = units
        self.second = mr.Variable(RNG.normal(size=(units, units)), name="u")
        self.first = mr.Variable(RNG.normal(size=(F, units)), name="w")

    def call(self, inputs: Any, states: Any) -> Any:
        h = inputs @ self.first + states[0] @ self.second
        return 2 * h, [h]


@each_engine
def test_a_plain_class(engine: str) -> None:
    cell = Minimal()
    layer = RNN(cell, return_sequences=True, return_state=True, dtype="float64")
    x = RNG.normal(size=(B, T, F))
    with mr.engine(engine):
        y, h = layer(x)
    current = np.zeros((B, 2))
    for t in range(T):
        current = x[:, t] @ cell.first.numpy() + current @ cell.second.numpy()
        np.testing.assert_allclose(y.numpy()[:, t], 2 * current, rtol=1e-12)
    np.testing.assert_allclose(h.numpy(), current, rtol=1e-12)
    assert [v.name for v in layer.trainable_variables] == ["u", "w"]
    with mr.Tape() as tape:
        loss = mr.ops.sum(layer(x)[0])
    assert all(g is not None for g in tape.gradient(loss, layer.trainable_variables))


def test_a_plain_class_builds_once_and_may_hold_layers() -> None:
    class Holding:
        state_size = 2
        output_size = 2
        builds = 0

        def __init__(self) -> None:
            self.readout = Dense(2)

        def build(self, input_shape: Any) -> None:
            self.builds += 1
            assert input_shape == (None, F)

        def call(self, x: Any, states: Any) -> Any:
            h = states[0] + self.readout(x)
            return h, h  # a bare new state is one state

    layer = RNN(Holding())
    layer(np.ones((B, T, F)))
    layer(np.ones((B, T, F)))
    assert layer.cell.builds == 1
    assert [v.shape for v in layer.weights] == [(F, 2), (2,)]


@pytest.mark.parametrize("batch_form", ["keras2", "keras3", "none"])
def test_get_initial_state_in_both_forms(batch_form: str) -> None:
    class Begin:
        state_size = [TensorShape((2, 3)), 4]

        def call(self, x: Any, states: Any) -> Any:
            return states[1], states

    def keras2(self: Any, inputs: Any = None, batch_size: Any = None, dtype: Any = None) -> Any:
        assert inputs.shape == (B, T, F) and dtype == "float64"
        return [np.ones((batch_size, 2, 3)), np.full((batch_size, 4), 2.0)]

    def keras3(self: Any, batch_size: Any = None) -> Any:
        return [np.ones((batch_size, 2, 3)), np.full((batch_size, 4), 2.0)]

    if batch_form != "none":
        Begin.get_initial_state = {"keras2": keras2, "keras3": keras3}[batch_form]  # type: ignore[attr-defined]
    y, a, b = RNN(Begin(), return_state=True, dtype="float64")(np.ones((B, T, F)))
    assert y.shape == (B, 4) and a.shape == (B, 2, 3)
    assert b.numpy().max() == (0 if batch_form == "none" else 2)


def test_get_initial_state_of_another_shape() -> None:
    class Begin(Minimal):
        def get_initial_state(self, batch_size: int) -> Any:
            return [np.zeros((batch_size, 5))]

    with pytest.raises(ShapeError, match="get_initial_state"):
        RNN(Begin(), dtype="float64")(np.ones((B, T, F)))


Pair = namedtuple("Pair", ["left", "right"])


@each_engine
@pytest.mark.parametrize("masked", [False, True])
def test_nested_inputs_outputs_and_states(engine: str, masked: bool) -> None:
    class Nested:
        state_size = {"a": Pair(3, TensorShape((2, 2))), "b": [5]}

        def call(self, x: Any, states: Any) -> Any:
            (left, right), (b,) = states["a"], states["b"]
            left, b = left + x["u"], b + 1.0
            right = right + x["v"]
            return {"sum": left, "other": right * 2}, {"a": Pair(left, right), "b": [b]}

    u, v = RNG.normal(size=(B, T, 3)), RNG.normal(size=(B, T, 2, 2))
    layer = RNN(Nested(), return_sequences=True, return_state=True, dtype="float64")
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 1]], bool) if masked else np.ones((B, T), bool)
    with mr.engine(engine):
        other, total, left, right, b = layer({"u": u, "v": v}, mask=mask if masked else None)
    summed = np.cumsum(u * mask[..., None], axis=1)
    np.testing.assert_allclose(total.numpy(), summed)
    np.testing.assert_allclose(left.numpy(), summed[:, -1])
    np.testing.assert_allclose(right.numpy() * 2, other.numpy()[:, -1])
    assert b.numpy()[:, 0].tolist() == mask.sum(axis=1).tolist()
    last = RNN(Nested(), dtype="float64")({"u": u, "v": v}, mask=mask if masked else None)
    np.testing.assert_allclose(last[1].numpy(), summed[:, -1])


def test_an_output_of_another_size_than_the_state() -> None:
    class Wide:
        state_size = 2

        def call(self, x: Any, states: Any) -> Any:
            return mr.ops.concatenate([x, states[0]], -1), [states[0] + 1]

    x = RNG.normal(size=(B, T, F))
    y = RNN(Wide(), dtype="float64")(x, mask=np.array([[1, 1, 0, 0], [0, 0, 0, 0]], bool)).numpy()
    np.testing.assert_array_equal(y, [[*x[0, 1], 1, 1], [0] * 5])


@each_engine
def test_constants(engine: str) -> None:
    class Attending(Layer):
        state_size = 3
        output_size = 3

        def call(self, x: Any, states: Any, constants: Any = None) -> Any:
            scale, shift = constants
            h = states[0] * scale + x + shift
            return h, [h]

    layer = RNN(Attending(dtype="float64"))
    x, scale, shift, h = (RNG.normal(size=s) for s in ((B, T, 3), (B, 1), (B, 3), (B, 3)))
    current = h
    for t in range(T):
        current = current * scale + x[:, t] + shift
    with mr.engine(engine):
        np.testing.assert_allclose(layer(x, initial_state=h, constants=[scale, shift]).numpy(), current)
        np.testing.assert_allclose(layer([x, h, scale, shift]).numpy(), current)
    stacked = RNN(StackedRNNCells([LSTMCell(3, dtype="float64"), Attending(dtype="float64")]))
    assert stacked(x, constants=[scale, shift]).shape == (B, 3)


def test_the_flat_call() -> None:
    layer = RNN(LSTMCell(2, dtype="float64"), return_state=True)
    x, h, c = RNG.normal(size=(B, T, F)), RNG.normal(size=(B, 2)), RNG.normal(size=(B, 2))
    wanted = layer(x, initial_state=[h, c])
    for got, want in zip(layer([x, h, c]), wanted, strict=True):
        np.testing.assert_array_equal(got.numpy(), want.numpy())
    np.testing.assert_array_equal(layer([x])[0].numpy(), layer(x)[0].numpy())
    with pytest.raises(StateError, match="has 2 states but was passed 1"):
        layer([x, h])
    with pytest.raises(ArgumentError, match="does not support constants"):
        layer([x, h, c, c])
    with pytest.raises(ArgumentError, match="and initial_state"):
        layer([x, h, c], initial_state=[h, c])
    inputs = [Input((None, F), dtype="float64"), Input((2,), dtype="float64"), Input((2,), dtype="float64")]
    graph = FunctionGraph(inputs, layer(inputs))
    for got, want in zip(graph.run([mr.Tensor(a) for a in (x, h, c)]), wanted, strict=True):
        np.testing.assert_array_equal(got.numpy(), want.numpy())


def test_training_is_passed_to_cells_that_take_it() -> None:
    class Switch:
        state_size = 1

        def call(self, x: Any, states: Any, training: Any = None) -> Any:
            return x * (2.0 if training else 1.0), states

    layer = RNN(Switch(), dtype="float64")
    x = np.ones((1, 1, 1))
    assert [layer(x, training=True).item(), layer(x).item()] == [2, 1]


def test_a_registered_cell_comes_back() -> None:
    @registry.register("tests>Adder")
    class Adder(Layer):
        def __init__(self, size: int, **options: Any) -> None:
            super().__init__(**options)
            self.state_size = size

        def call(self, x: Any, states: Any) -> Any:
            return states[0] + x, [states[0] + x]

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "size": self.state_size}

    layer = RNN([Adder(3), LSTMCell(2)])
    config = registry.serialize(layer)
    again = registry.deserialize(config, "layer")
    assert isinstance(again.cell.cells[0], Adder) and again.get_config() == layer.get_config()


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (LSTMCell, "must be an object"),
        (object(), "needs a `call"),
        (Dense(3), "needs a `state_size`"),
        ([], "at least one cell"),
        (None, "needs a `call"),
    ],
)
def test_things_that_are_no_cells(cell: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        RNN(cell)


def test_cells_that_return_something_else() -> None:
    class Wrong:
        state_size = [2, 2]

        def call(self, x: Any, states: Any) -> Any:
            return states[0], states[:1]

    class Worse(Wrong):
        def call(self, x: Any, states: Any) -> Any:
            return states[0]

    with pytest.raises(ArgumentError, match="(?s)another number of states.*got: 1.*expected: 2"):
        RNN(Wrong())(np.ones((B, T, F)))
    with pytest.raises(ArgumentError, match="two things"):
        RNN(Worse())(np.ones((B, T, F)))


def test_inputs_that_differ() -> None:
    class Two:
        state_size = 1

        def call(self, x: Any, states: Any) -> Any:
            return x[0] + x[1], states

    layer = RNN(Two())
    layer((np.ones((B, T, 1)), np.ones((B, T, 1))))
    with pytest.raises(ShapeError, match="differ in batch size or number of time steps"):
        layer((np.ones((B, T, 1)), np.ones((B, T + 1, 1))))
    with pytest.raises(ShapeError, match="1 arrays"):
        layer(np.ones((B, T, 1)))


def test_get_initial_state_with_a_name_of_its_own() -> None:
    class Begin(Minimal):
        def get_initial_state(self, rows: int) -> Any:
            return np.full((rows, 2), 2.0)

    layer = RNN(Begin(), return_state=True, dtype="float64")
    assert layer(np.ones((B, 0, F)))[1].numpy().tolist() == [[2.0] * 2] * B


@pytest.mark.parametrize("return_sequences", [False, True])
def test_cells_that_look_at_values_can_be_unrolled(return_sequences: bool) -> None:
    class Looks:
        state_size = F

        def call(self, x: Any, states: Any) -> Any:
            sign = 1.0 if float(np.asarray(x).sum()) > 0 else -1.0
            return mr.ops.concatenate([x, x], -1) * sign, [states[0] + sign * x]

    x = RNG.normal(size=(B, T, F))
    layer = RNN(Looks(), unroll=True, return_sequences=return_sequences, return_state=True, dtype="float64")
    y, h = layer(x)
    signs = np.where(x.sum(axis=(0, 2)) > 0, 1.0, -1.0)[:, None]
    wanted = np.concatenate([x, x], -1) * signs
    np.testing.assert_allclose(y, wanted if return_sequences else wanted[:, -1])
    np.testing.assert_allclose(h, (x * signs).sum(axis=1))


def test_integers_become_states_of_the_layers_dtype() -> None:
    layer = RNN(LSTMCell(2, dtype="float64"), return_state=True)
    x, ones = RNG.normal(size=(B, T, F)), np.ones((B, 2), int)
    for got, want in zip(layer(x, initial_state=[ones, ones]), layer(x, initial_state=[ones * 1.0] * 2), strict=True):
        np.testing.assert_array_equal(got, want)


def test_constants_in_a_model_that_is_written_and_read() -> None:
    @registry.register("tests>Adds")
    class Adds(Layer):
        state_size = F

        def call(self, x: Any, states: Any, constants: Any) -> Any:
            h = states[0] + x * constants[0] + constants[1]
            return h, [h]

    inputs = [Input(shape, dtype="float64") for shape in ((None, F), (F,), (F,), (1,))]
    arrays = [RNG.normal(size=size) for size in ((B, T, F), (B, F), (B, F), (B, 1))]
    layer = RNN(Adds(dtype="float64"), return_sequences=True)
    wanted = layer(arrays[0], initial_state=arrays[1], constants=arrays[2:]).numpy()
    calls = (layer(inputs), layer(inputs[0], initial_state=inputs[1], constants=inputs[2:]))
    for graph in [FunctionGraph(inputs, [y]) for y in calls]:
        again = FunctionGraph.from_config(json.loads(json.dumps(graph.get_config())))
        assert again.layers[0].get_config()["num_constants"] == 2
        for one in (graph, again):
            np.testing.assert_array_equal(one.run([mr.Tensor(a) for a in arrays])[0], wanted)


@pytest.mark.parametrize("return_sequences", [False, True])
def test_numbers_in_output_size_are_a_shape_or_one_output_each(return_sequences: bool) -> None:
    class Outer:
        state_size = (2, 3)
        output_size = (2, 3)

        def call(self, x: Any, states: Any) -> Any:
            return mr.ops.expand_dims(x, 2) * mr.ops.ones((1, 1, 3), "float64"), states

    class Two(Outer):
        def call(self, x: Any, states: Any) -> Any:
            return (x, states[1] + 1.0), (states[0], states[1] + 1.0)

    x = RNG.normal(size=(B, T, 2))
    lead = (B, T) if return_sequences else (B,)
    mask = np.array([[0, 1, 1, 0], [0, 0, 0, 0]], bool)
    for call in ({}, {"mask": mask}):
        y = RNN(Outer(), return_sequences=return_sequences, dtype="float64")(x, **call)
        assert y.shape == (*lead, 2, 3)
        first, second = RNN(Two(), return_sequences=return_sequences, dtype="float64")(x, **call)
        assert first.shape == (*lead, 2) and second.shape == (*lead, 3)
    assert second.numpy().max() == 2.0


class Later(Layer):
    """A cell that knows its sizes once it is built."""

    state_size: Any = None
    output_size: Any = None

    def build(self, input_shape: Any) -> None:
        self.state_size = TensorShape([input_shape[-1]])
        self.output_size = input_shape[-1]

    def call(self, inputs: Any, states: Any) -> Any:
        return inputs, [s + 1.0 for s in states]


@pytest.mark.parametrize("stacked", [False, True])
def test_sizes_may_be_known_after_the_build(stacked: bool) -> None:
    x, mask, h = RNG.normal(size=(B, T, F)), np.array([[1, 1, 0, 0], [1, 1, 1, 1]], bool), np.full((B, F), 2.0)

    def made() -> RNN:
        return RNN([Later(dtype="float64")] if stacked else Later(dtype="float64"), return_state=True)

    for call in (lambda layer: layer(x, mask=mask, initial_state=h), lambda layer: layer([x, h], mask=mask)):
        y, s = call(made())
        s = s[0] if stacked else s
        np.testing.assert_array_equal(y, x[[0, 1], [1, 3]])
        np.testing.assert_array_equal(np.asarray(s)[:, 0], [4.0, 6.0])
    inputs = Input((None, F), dtype="float64"), Input((F,), dtype="float64")
    graph = FunctionGraph(inputs, trees.flatten(made()(inputs[0], initial_state=inputs[1]))[0])
    np.testing.assert_array_equal(graph.run([mr.Tensor(x), mr.Tensor(h)])[1].numpy()[:, 0], [6.0, 6.0])


def test_sizes_that_stay_unknown() -> None:
    class Never(Later):
        def build(self, input_shape: Any) -> None:
            pass

    with pytest.raises(ArgumentError, match="state_size"):
        RNN(Never())(np.ones((B, T, F)))


@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("size", [[2], 2, (2,), TensorShape((2,))])
def test_a_bare_output_for_each_form_of_output_size(size: Any, return_sequences: bool) -> None:
    class Bare:
        state_size = 2
        output_size = size

        def call(self, x: Any, states: Any) -> Any:
            return states[0] + x, [states[0] + x]

    x, mask = RNG.normal(size=(B, T, 2)), np.array([[1, 1, 0, 0], [1, 1, 1, 1]], bool)
    summed = np.cumsum(x * mask[..., None], axis=1)
    for engine in ("numpy", "reference"):
        with mr.engine(engine):
            y = RNN(Bare(), return_sequences=return_sequences, dtype="float64")(x, mask=mask)
        np.testing.assert_allclose(y, summed if return_sequences else summed[:, -1])
