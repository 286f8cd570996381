"""Containers in models and in other containers' steps, around other layers; sharing, configuration, dropout."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn import RecurrentContainer, RecurrentUnit
from minirnn.errors import ArgumentError
from minirnn.layers import GRU, LSTM, RNN, Concatenate, Dense, Dropout, Input, Lambda, Layer, LSTMCell, SimpleRNN
from minirnn.models import Model, Sequential, load_model
from tests.reference.cells import Array
from tests.reference.checks import max_error

ENGINES = ["reference", "numpy"]
BATCH, OUTER, INNER = 3, 4, 5


@pytest.fixture(autouse=True)
def _in_float64() -> Iterator[None]:
    with mr.default_dtype("float64"):
        yield


def draw(*shape: int) -> Array:
    return np.random.default_rng(sum(shape) + len(shape)).normal(size=shape)


def randomize(layer: Any) -> None:
    layer.set_weights([draw(*w.shape) * 0.5 for w in layer.weights])


def results_and_gradients(layer: Any, *args: Any, sources: Any = (), **kwargs: Any) -> list[Array]:
    """What a layer returns, the gradients of the sum of its squares, and a product with the second derivative."""
    variables = [*layer.trainable_variables, *sources]
    with mr.Tape() as outer:
        outer.watch(list(sources))
        with mr.Tape() as inner:
            inner.watch(list(sources))
            found = layer(*args, **kwargs)
            found = found if isinstance(found, list) else [found]
            loss = sum((y * y).sum() for y in found)
        slopes = inner.gradient(loss, variables)
        along = sum((slope * slope).sum() for slope in slopes)
    second = outer.gradient(along, variables)
    return [np.asarray(t) for t in [*found, *slopes, *second]]


def running_sum(width: int, **options: Any) -> RecurrentContainer:
    x, s = Input((width,)), Input((width,))
    return RecurrentContainer(sequence_inputs=x, state_inputs=s, state_outputs=s + x, constant_outputs=s + x, **options)


def recurrent(width: int, units: int, **options: Any) -> RecurrentContainer:
    x, h = Input((width,)), Input((units,))
    out, new_h = RecurrentUnit(SimpleRNN(units))(x, states=h)
    return RecurrentContainer(
        sequence_inputs=x, sequence_outputs=out, constant_outputs=out, state_inputs=h, state_outputs=new_h, **options
    )


# In a step ----------------------------------------------------------------------------------------
def container_in_container(inner: Any = None, **options: Any) -> RecurrentContainer:
    """At each outer step the inner container reads a sequence of its own and begins with what it ended with."""
    words, before = Input((INNER, 2)), Input((3,))
    sequence, last = recurrent(2, 3, **inner or {})(words, states=before)
    shown = Lambda(lambda s: mr.ops.sum(s, axis=1))(sequence)
    return RecurrentContainer(
        sequence_inputs=words, sequence_outputs=[shown, sequence], state_inputs=before, state_outputs=last, **options
    )


def by_hand(weights: list[Array], x: Array, mask: Array | None = None) -> list[Array]:
    kernel, recurrent_kernel, bias = weights
    h = np.zeros((BATCH, 3))
    shown, sequences = [np.zeros((BATCH, 3))], [np.zeros((BATCH, INNER, 3))]
    for t in range(OUTER):
        inner, new_h = [], h
        for k in range(INNER):
            new_h = np.tanh(x[:, t, k] @ kernel + bias + new_h @ recurrent_kernel)
            inner.append(new_h)
        valid = np.ones(BATCH, bool) if mask is None else mask[:, t]
        h = np.where(valid[:, None], new_h, h)
        shown.append(np.where(valid[:, None], sum(inner), shown[-1]))
        sequences.append(np.where(valid[:, None, None], np.stack(inner, 1), sequences[-1]))
    return [np.stack(shown[1:], 1), np.stack(sequences[1:], 1)]


MASK = np.array([[0, 1, 0, 1], [1, 1, 1, 0], [0, 0, 0, 0]], bool)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"unroll": True},
        {"checkpoint": 3},
        {"inner": {"unroll": True}},
        {"inner": {"checkpoint": 2}, "checkpoint": 3},
    ],
    ids=str,
)
def test_a_container_in_a_containers_step(options: Any, masked: bool) -> None:
    container = container_in_container(**options)
    randomize(container)
    x = mr.Tensor(draw(BATCH, OUTER, INNER, 2))
    found = {}
    for engine in ENGINES:
        with mr.engine(engine):
            found[engine] = results_and_gradients(container, x, sources=[x], mask=MASK if masked else None)
    for one, other in zip(found["numpy"], found["reference"], strict=True):
        assert np.abs(other).max() > 0.01
        assert max_error(one, other) < 1e-12
    wanted = by_hand(container.get_weights(), np.asarray(x), MASK if masked else None)
    for one, other in zip(found["numpy"], wanted, strict=False):
        assert max_error(one, other) < 1e-13


def test_three_deep() -> None:
    def one_deeper(container: RecurrentContainer, shape: tuple[int, ...]) -> RecurrentContainer:
        x, total = Input(shape), Input((2,))
        return RecurrentContainer(
            sequence_inputs=x, state_inputs=total, state_outputs=container(x, states=total), constant_outputs=total
        )

    innermost = running_sum(2)
    middle = one_deeper(innermost, (4, 2))
    x = draw(BATCH, 3, 4, 2)
    outermost = one_deeper(middle, (3, 4, 2))
    y = draw(BATCH, 2, 3, 4, 2)
    np.testing.assert_allclose(np.asarray(middle(x)), x[:, :-1].sum((1, 2)))
    np.testing.assert_allclose(np.asarray(outermost(y)), y[:, :-1, :-1].sum((1, 2, 3)))


@pytest.mark.parametrize(
    "make", [lambda: LSTM(3), lambda: GRU(3), lambda: RNN(LSTMCell(3))], ids=["LSTM", "GRU", "RNN"]
)
def test_a_layer_over_time_inside_a_step(make: Any) -> None:
    """Words of letters: the layer reads the letters of a word, the container goes from word to word."""
    layer = make()
    letters, h = Input((INNER, 2)), Input((3,))
    out, new_h = RecurrentUnit(SimpleRNN(3))(layer(letters), states=h)
    container = RecurrentContainer(sequence_inputs=letters, sequence_outputs=out, state_inputs=h, state_outputs=new_h)
    randomize(container)
    x = draw(BATCH, OUTER, INNER, 2)
    words = np.stack([np.asarray(layer(x[:, t])) for t in range(OUTER)], axis=1)
    outer = SimpleRNN(3, return_sequences=True)
    outer.build((None, None, 3))
    outer.set_weights(container.get_weights()[3:])
    found = {}
    for engine in ENGINES:
        with mr.engine(engine):
            found[engine] = results_and_gradients(container, x)
    assert max_error(found["numpy"][0], outer(words)) < 1e-13
    for one, other in zip(*found.values(), strict=True):
        assert max_error(one, other) < 1e-12


def test_a_model_inside_a_step() -> None:
    a = Input((2,))
    inner = Model(a, Dense(3)(Dense(4, activation="tanh")(a)))
    x, s = Input((2,)), Input((3,))
    container = RecurrentContainer(
        sequence_inputs=x, state_inputs=s, state_outputs=s + inner(x), constant_outputs=s + inner(x)
    )
    assert len(container.weights) == 4
    data = draw(BATCH, OUTER, 2)
    np.testing.assert_allclose(container(data), sum(np.asarray(inner(data[:, t])) for t in range(OUTER)))


@pytest.mark.parametrize("initializer", [None, "ones", "learned"])
def test_initial_states_of_a_container_in_a_step(initializer: Any) -> None:
    inner = running_sum(2, state_initializer=initializer)
    x, s = Input((INNER, 2)), Input((2,))
    outer = RecurrentContainer(
        sequence_inputs=x,
        state_inputs=s,
        state_outputs=s * inner(x),
        constant_outputs=s * inner(x),
        state_initializer="ones",
    )
    data = draw(BATCH, OUTER, INNER, 2)
    start = 1.0 if initializer == "ones" else 0.0
    if initializer == "learned":
        outer.set_weights([np.array([3.0, 4.0])])
        start = np.array([3.0, 4.0])
    np.testing.assert_allclose(outer(data), (start + data.sum(2)).prod(1))


@pytest.mark.parametrize("engine", ENGINES)
def test_random_initial_states_of_a_container_in_a_step_need_a_seed(engine: str) -> None:
    def around(initializer: Any) -> RecurrentContainer:
        inner = running_sum(2, state_initializer=initializer, name="inner")
        x, s = Input((INNER, 2)), Input((2,))
        return RecurrentContainer(sequence_inputs=x, state_inputs=s, state_outputs=s, sequence_outputs=inner(x))

    data = np.zeros((BATCH, OUTER, INNER, 2))
    with mr.engine(engine):
        with pytest.raises(ArgumentError, match="(?s)RecurrentContainer 'inner': a random initial state.*states="):
            around("random_normal")(data)
        found = np.asarray(around(mr.initializers.RandomNormal(seed=3))(data))
    wanted = mr.initializers.RandomNormal(seed=3)((BATCH, 2), "float64")
    np.testing.assert_array_equal(found, np.broadcast_to(wanted[:, None], found.shape))


def test_stateful_layers_have_no_place_in_a_step() -> None:
    x, s = Input((INNER, 2)), Input((3,))

    def around(layer: Any) -> RecurrentContainer:
        y = layer(x)
        return RecurrentContainer(
            sequence_inputs=x, state_inputs=s, state_outputs=s + y, sequence_outputs=y, name="outer"
        )

    a = Input((INNER, 2))
    for layer in (
        LSTM(3, stateful=True),
        Model(a, LSTM(3, stateful=True)(a)),
        Sequential([SimpleRNN(3, stateful=True)]),
    ):
        with pytest.raises(
            ArgumentError, match="(?s)RecurrentContainer 'outer': a step may not contain a stateful layer"
        ):
            around(layer)
    step_x, h = Input((2,)), Input((3,))
    out, new_h = RecurrentUnit(SimpleRNN(3, stateful=True, return_sequences=True, go_backwards=True))(step_x, states=h)
    container = RecurrentContainer(sequence_inputs=step_x, state_inputs=h, state_outputs=new_h, sequence_outputs=out)
    assert container(draw(BATCH, INNER, 2)).shape == (BATCH, INNER, 3)


# In a model ---------------------------------------------------------------------------------------
def encoder_and_decoder() -> tuple[Model, list[Any]]:
    """Containers one after the other in a model, with layers before, between and after."""
    data = Input((None, 2))
    encoder, decoder_cell = recurrent(4, 3), RecurrentUnit(GRU(5))
    _, summary = encoder(Dense(4)(data))
    context, y, h = Input((3,)), Input((2,)), Input((5,))
    out, new_h = decoder_cell(Concatenate()([context, y]), states=h)
    new_y = Dense(2)(out)
    decoder = RecurrentContainer(
        constant_inputs=context,
        state_inputs=[y, h],
        state_outputs=[new_y, new_h],
        sequence_outputs=new_y,
        output_length=6,
    )
    return Model(data, Dense(7)(decoder(constants=summary))), [encoder, decoder]


def test_containers_in_a_model() -> None:
    model, (encoder, decoder) = encoder_and_decoder()
    randomize(model)
    x = draw(BATCH, OUTER, 2)
    first, last = model.layers[1], model.layers[-1]
    wanted = last(decoder(constants=encoder(first(x))[1]))
    assert wanted.shape == (BATCH, 6, 7)
    np.testing.assert_array_equal(np.asarray(model(x)), np.asarray(wanted))
    assert len(model.weights) == 2 + 3 + 3 + 2 + 2


def test_a_model_of_containers_comes_back(tmp_path: Any) -> None:
    model, _ = encoder_and_decoder()
    randomize(model)
    x = draw(BATCH, OUTER, 2)
    again = Model.from_config(json.loads(json.dumps(model.get_config())))
    again.set_weights(model.get_weights())
    np.testing.assert_array_equal(np.asarray(again(x)), np.asarray(model(x)))
    model.save(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(np.asarray(load_model(tmp_path / "model.safetensors")(x)), np.asarray(model(x)))


def test_a_container_called_twice_shares_its_weights() -> None:
    container = recurrent(2, 2)
    data = Input((None, 2))
    model = Model(data, container(container(data)[0])[1])
    assert len(model.weights) == 3
    randomize(model)
    x = draw(BATCH, OUTER, 2)
    np.testing.assert_array_equal(np.asarray(model(x)), np.asarray(container(container(x)[0])[1]))
    again = Model.from_config(json.loads(json.dumps(model.get_config())))
    again.set_weights(model.get_weights())
    np.testing.assert_array_equal(np.asarray(again(x)), np.asarray(model(x)))


def shared_inside_and_outside() -> Model:
    """One Dense before the container and inside its step; one LSTM as a layer and as the unit's layer."""
    dense, lstm = Dense(2), LSTM(2, return_sequences=True)
    data = Input((None, 2))
    x, h, c = Input((2,)), Input((2,)), Input((2,))
    out, *new = RecurrentUnit(lstm)(dense(x), states=[h, c])
    container = RecurrentContainer(sequence_inputs=x, sequence_outputs=out, state_inputs=[h, c], state_outputs=new)
    return Model(data, [container(dense(data)), lstm(dense(dense(data)))])


def test_layers_shared_inside_and_outside_of_a_step() -> None:
    model = shared_inside_and_outside()
    assert len(model.weights) == 5
    randomize(model)
    x = draw(BATCH, OUTER, 2)
    first, second = model(x)
    np.testing.assert_allclose(np.asarray(first), np.asarray(second), rtol=1e-13)
    with mr.Tape() as tape:
        first, second = model(x)
        loss = (first * second).sum()
    slopes = tape.gradient(loss, model.trainable_variables)
    for gradient, variable in zip(slopes, model.trainable_variables, strict=True):
        direction = draw(*variable.shape)
        before, values = variable.numpy(), []
        for sign in (1, -1):
            variable.assign(before + sign * 1e-6 * direction)
            values.append(sum(float((np.asarray(a) * np.asarray(b)).sum()) for a, b in [model(x)]))
        variable.assign(before)
        assert abs((values[0] - values[1]) / 2e-6 - (np.asarray(gradient) * direction).sum()) < 1e-6


def test_sharing_comes_back_from_the_configuration() -> None:
    model = shared_inside_and_outside()
    randomize(model)
    again = Model.from_config(json.loads(json.dumps(model.get_config())))
    assert len(again.weights) == 5
    again.set_weights(model.get_weights())
    x = draw(BATCH, OUTER, 2)
    for one, other in zip(again(x), model(x), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


# Configuration ------------------------------------------------------------------------------------
class LeakyCell(Layer):
    """h' = a h + (1 - a) tanh(x w): a cell of one's own, with an option."""

    def __init__(self, units: int, leak: float = 0.5, **options: Any) -> None:
        super().__init__(**options)
        self.units, self.leak, self.state_size = units, leak, units

    def build(self, input_shape: Any) -> None:
        self.kernel = self.add_weight("kernel", (input_shape[-1], self.units))

    def call(self, inputs: Any, states: Any) -> Any:
        h = self.leak * states[0] + (1 - self.leak) * mr.ops.tanh(inputs @ self.kernel)
        return h, [h]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units, "leak": self.leak}


def with_everything() -> RecurrentContainer:
    x, c, h, y = Input((2,), name="x"), Input((3,)), Input((4,)), Input((5,))
    out, new_h = RecurrentUnit(LeakyCell(4, leak=0.25))(Concatenate()([x, c, y]), states=h)
    new_y = Dense(5, activation="tanh")(Dropout(0.5)(out)) / 2
    return RecurrentContainer(
        sequence_inputs=x,
        sequence_outputs=[new_y, out],
        constant_inputs=c,
        constant_outputs=new_h,
        state_inputs=[h, y],
        state_outputs=[new_h, new_y],
        return_states=True,
        teacher=[y],
        teacher_probability=0.25,
        state_initializer=["learned", "ones"],
        go_backwards=True,
        stateful=True,
        checkpoint=2,
        name="everything",
    )


def test_configuration_and_weights_come_back() -> None:
    container = with_everything()
    randomize(container)
    config = json.loads(json.dumps(container.get_config()))
    again = RecurrentContainer.from_config(config, custom_objects={"LeakyCell": LeakyCell})
    assert json.dumps(again.get_config()) == json.dumps(container.get_config())
    assert [(w.name, w.shape) for w in again.weights] == [(w.name, w.shape) for w in container.weights]
    again.set_weights(container.get_weights())
    x, c, teacher = draw(BATCH, OUTER, 2), draw(BATCH, 3), draw(BATCH, OUTER, 5)
    for training in (False, True):
        mr.seed(3)
        wanted = container(x, constants=c, teacher={1: teacher}, training=training)
        mr.seed(3)
        found = again(x, constants=c, teacher={1: teacher}, training=training)
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    with pytest.raises(ArgumentError, match="unknown layer 'LeakyCell'"):
        RecurrentContainer.from_config(config)


@pytest.mark.parametrize("options", [{"unroll": True}, {"output_length": 3}, {}], ids=str)
def test_options_come_back(options: Any) -> None:
    s = Input((2,))
    length = {"output_length": 2} | options
    container = RecurrentContainer(state_inputs=s, state_outputs=s + 1, return_states=True, **length)
    again = RecurrentContainer.from_config(json.loads(json.dumps(container.get_config())))
    np.testing.assert_array_equal(np.asarray(again(states=np.zeros((1, 2)))), length["output_length"])
    assert again.unroll == container.unroll and again.name == container.name


def test_weights_are_those_of_the_graph_each_once() -> None:
    container = with_everything()
    names = [w.shape for w in container.weights]
    assert names == [(4,), (10, 4), (4, 5), (5,)]
    assert container.trainable_variables == container.weights
    assert container.count_params() == 4 + 40 + 20 + 5
    with pytest.raises(ArgumentError, match="(?s)RecurrentContainer 'everything'.*got: 1 arrays.*expected: 4"):
        container.set_weights([np.zeros(4)])


def test_regularizers_and_constraints_of_the_step_are_found() -> None:
    x, s = Input((2,)), Input((2,))
    y = s + Dense(2, kernel_regularizer="l2", bias_constraint="non_neg")(x)
    container = RecurrentContainer(sequence_inputs=x, state_inputs=s, state_outputs=y, constant_outputs=y)
    randomize(container)
    np.testing.assert_allclose(
        [float(loss) for loss in container.losses], 0.01 * (container.get_weights()[0] ** 2).sum()
    )
    assert [v.name for v, _ in container.constraints] == ["bias"]


# Dropout ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("options", [{}, {"unroll": True}, {"checkpoint": 2}], ids=str)
def test_a_dropout_layer_draws_at_every_step(options: Any) -> None:
    x = Input((50,))
    container = RecurrentContainer(sequence_inputs=x, sequence_outputs=Dropout(0.5)(x), **options)
    ones = np.ones((BATCH, OUTER, 50))
    np.testing.assert_array_equal(np.asarray(container(ones)), ones)
    found = {}
    for engine in ENGINES:
        mr.seed(2)
        with mr.engine(engine):
            found[engine] = np.asarray(container(ones, training=True))
    np.testing.assert_array_equal(*found.values())
    y = found["numpy"]
    assert set(np.unique(y)) == {0.0, 2.0}
    assert all((y[:, t] != y[:, t + 1]).mean() > 0.3 for t in range(OUTER - 1))
    assert (np.asarray(container(ones, training=True)) != y).mean() > 0.3


@pytest.mark.parametrize("engine", ENGINES)
def test_recurrent_dropout_is_shared_over_time_and_new_at_each_call(engine: str) -> None:
    x, h = Input((1,)), Input((50,))
    unit = RecurrentUnit(SimpleRNN(50, activation="linear", recurrent_dropout=0.5, recurrent_initializer="identity"))
    out, new_h = unit(x, states=h)
    container = RecurrentContainer(sequence_inputs=x, sequence_outputs=out, state_inputs=h, state_outputs=new_h)
    start, data = np.ones((BATCH, 50)), np.zeros((BATCH, OUTER, 1))
    with mr.engine(engine):
        np.testing.assert_array_equal(np.asarray(container(data, states=start)), 1)
        y = np.asarray(container(data, states=start, training=True))
        other = np.asarray(container(data, states=start, training=True))
    assert set(np.unique(y[:, 0])) == {0.0, 2.0}
    for t in range(OUTER):
        np.testing.assert_array_equal(y[:, t], 2.0**t * y[:, 0])
    assert (other != y).mean() > 0.3


def test_dropout_equals_that_of_the_layer() -> None:
    layer = LSTM(3, dropout=0.3, recurrent_dropout=0.4, return_sequences=True)
    x = draw(BATCH, OUTER, 2)
    layer(x)
    step_x, h, c = Input((2,)), Input((3,)), Input((3,))
    out, *new = RecurrentUnit(LSTM(3, dropout=0.3, recurrent_dropout=0.4))(step_x, states=[h, c])
    container = RecurrentContainer(sequence_inputs=step_x, sequence_outputs=out, state_inputs=[h, c], state_outputs=new)
    container.set_weights(layer.get_weights())
    mr.seed(6)
    wanted = np.asarray(layer(x, training=True))
    mr.seed(6)
    np.testing.assert_array_equal(np.asarray(container(x, training=True)), wanted)
    assert np.abs(wanted - np.asarray(layer(x))).max() > 0.01
