"""RNN, SimpleRNN, GRU, LSTM over time: flags, masks, states, dropout, gradients, errors."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn.autodiff import trees
from minirnn.errors import ArgumentError, DtypeError, ShapeError, StateError
from minirnn.layers import (
    GRU,
    LSTM,
    RNN,
    Dropout,
    Embedding,
    GRUCell,
    Input,
    LSTMCell,
    SimpleRNN,
    SimpleRNNCell,
    registry,
)
from minirnn.layers.base import training_scope
from minirnn.layers.functional import FunctionGraph
from minirnn.stepgraph.split import split
from minirnn.stepgraph.trace import trace_step
from tests.reference.checks import central_differences, max_error

RNG = np.random.default_rng(13)
B, T, F, U = 3, 5, 2, 4
LAYERS = {"simple": SimpleRNN, "gru": GRU, "lstm": LSTM}
each_layer = pytest.mark.parametrize("kind", LAYERS)
each_engine = pytest.mark.parametrize("engine", ["reference", "numpy"])


def made(kind: str, **options: Any) -> Any:
    """A float64 layer with random weights, no two alike."""
    layer = LAYERS[kind](U, dtype="float64", **options)
    layer.build((None, T, F))
    layer.set_weights([RNG.normal(size=v.shape) for v in layer.weights])
    return layer


def like(layer: Any, **changes: Any) -> Any:
    """The same layer with other flags and the same weights."""
    other = type(layer).from_config({**layer.get_config(), **changes})
    other.build((None, T, F))
    other.set_weights(layer.get_weights())
    return other


def stepwise(
    layer: Any, x: np.ndarray, mask: np.ndarray, states: list[np.ndarray]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """The definition: row by row and step by step, masked steps left out, the output held."""
    outputs = np.zeros((*x.shape[:2], U))
    final = [np.array(s) for s in states]
    for row in range(len(x)):
        current: list[Any] = [s[row : row + 1] for s in states]
        held = np.zeros(U)
        for t in range(x.shape[1]):
            if mask[row, t]:
                y, current = layer.cell(x[row : row + 1, t], current)
                held = y.numpy()[0]
            outputs[row, t] = held
        for place, value in zip(final, current, strict=True):
            place[row] = np.asarray(value)[0]
    return outputs, final


MASK = np.array([[0, 1, 1, 0, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]], bool)


@each_layer
@each_engine
@pytest.mark.parametrize("masked", [False, True])
def test_outputs_and_states_follow_the_definition(kind: str, engine: str, masked: bool) -> None:
    layer = made(kind, return_sequences=True, return_state=True)
    x = RNG.normal(size=(B, T, F))
    states = [RNG.normal(size=(B, U)) for _ in range(2 if kind == "lstm" else 1)]
    mask = MASK if masked else np.ones((B, T), bool)
    outputs, final = stepwise(layer, x, mask, states)
    with mr.engine(engine):
        found = layer(x, initial_state=states, mask=mask if masked else None)
        last = like(layer, return_sequences=False)(x, initial_state=states, mask=mask if masked else None)
    for got, want in zip(found, [outputs, *final], strict=True):
        assert max_error(got, want) < 1e-13
    for got, want in zip(last, [outputs[:, -1], *final], strict=True):
        assert max_error(got, want) < 1e-13


@each_layer
def test_go_backwards_is_processing_order(kind: str) -> None:
    layer = made(kind, return_sequences=True, return_state=True)
    x = RNG.normal(size=(B, T, F))
    for mask in (None, MASK):
        flipped = None if mask is None else mask[:, ::-1]
        forward = layer(x[:, ::-1], mask=flipped)
        backward = like(layer, go_backwards=True)(x, mask=mask)
        for got, want in zip(backward, forward, strict=True):
            assert max_error(got, want) < 1e-14
        if mask is not None:
            np.testing.assert_array_equal(backward[0].mask.numpy(), flipped)
        last = like(layer, go_backwards=True, return_sequences=False, return_state=False)(x, mask=mask)
        assert max_error(last, forward[0].numpy()[:, -1]) < 1e-14


def test_zero_output_for_mask() -> None:
    layer = made("gru", return_sequences=True)
    x = RNG.normal(size=(B, T, F))
    held = layer(x, mask=MASK).numpy()
    zeroed = like(layer, zero_output_for_mask=True)(x, mask=MASK).numpy()
    np.testing.assert_array_equal(zeroed, np.where(MASK[..., None], held, 0))
    # As documented, the last output is not touched by it.
    options = {"return_sequences": False, "zero_output_for_mask": True}
    np.testing.assert_array_equal(like(layer, **options)(x, mask=MASK).numpy(), held[:, -1])
    reverse = like(layer, zero_output_for_mask=True, go_backwards=True)(x, mask=MASK).numpy()
    assert not reverse[~MASK[:, ::-1]].any()


@each_layer
def test_what_stands_in_padding_reaches_nothing(kind: str) -> None:
    layer = made(kind, return_sequences=True, return_state=True)
    clean = RNG.normal(size=(B, T, F))
    dirty = np.where(MASK[..., None], clean, np.nan)
    results = []
    for x in (clean, dirty):
        primal = mr.Tensor(x)
        with mr.Tape() as tape:
            tape.watch(primal)
            found = layer(primal, mask=MASK)
            loss = sum(mr.ops.sum(y * y) for y in found)
        gradients = tape.gradient(loss, [primal, *layer.weights])
        assert not gradients[0].numpy()[~MASK].any()
        results.append([np.asarray(a) for a in (*found, *gradients)])
    for got, want in zip(*results, strict=True):
        np.testing.assert_array_equal(got, want)


def test_masks_are_carried_by_tensors() -> None:
    ids = np.array([[1, 2, 0], [3, 0, 0]])
    embedding = Embedding(5, F, mask_zero=True, dtype="float64")
    x = embedding(ids)
    layer = made("lstm", return_sequences=True)
    np.testing.assert_array_equal(layer(x).numpy(), layer(x.numpy(), mask=ids != 0).numpy())
    np.testing.assert_array_equal(layer(x).mask.numpy(), ids != 0)
    assert like(layer, return_sequences=False)(x).mask is None
    y, *states = like(layer, return_state=True)(x)
    assert y.mask is not None and all(s.mask is None for s in states)


def test_kinds_of_masks_and_lengths() -> None:
    layer = made("simple", return_sequences=True)
    x = RNG.normal(size=(B, T, F))
    mask = np.arange(T) < np.array([[2], [0], [5]])
    wanted = layer(x, mask=mask).numpy()
    for same in (mask.astype(float), mask.astype(int), mask[..., None]):
        np.testing.assert_array_equal(layer(x, mask=same).numpy(), wanted)
    for lengths in (np.array([2, 0, 5]), [2, 0, 5]):
        y = layer(x, lengths=lengths)
        np.testing.assert_array_equal(y.numpy(), wanted)
        np.testing.assert_array_equal(y.mask.numpy(), mask)
    both = layer(x, lengths=[2, 0, 5], mask=MASK)
    np.testing.assert_array_equal(both.numpy(), layer(x, mask=mask & MASK).numpy())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"mask": np.ones((B, T + 1))}, ShapeError, r"batch=3, time=6"),
        ({"mask": np.ones((T, B))}, ShapeError, "mask does not fit"),
        ({"lengths": [1, 2]}, ShapeError, "one integer for each of the 3 rows"),
        ({"lengths": [1.0, 2.0, 3.0]}, ShapeError, "one integer"),
        ({"lengths": [1, 2, T + 1]}, ArgumentError, "0 to 5 steps"),
        ({"lengths": [1, 2, -1]}, ArgumentError, "0 to 5 steps"),
        ({"initial_state": [np.zeros((B, U))]}, StateError, "has 2 states but was passed 1 initial states"),
        ({"initial_state": [np.zeros((B, U))] * 3}, StateError, "has 2 states but was passed 3"),
        ({"initial_state": np.zeros((B, U))}, StateError, "was passed 1"),
        ({"initial_state": [np.zeros((1, U))] * 2}, ShapeError, "another batch size"),
        ({"initial_state": [np.zeros((B, U + 1))] * 2}, ShapeError, "not compatible with the cell's state_size"),
        ({"initial_state": [mr.Tensor(np.zeros((B, U), "float32"))] * 2}, DtypeError, "float64"),
    ],
)
def test_errors_of_calls(options: dict[str, Any], error: type[Exception], message: str) -> None:
    layer = made("lstm", name="encoder", stateful=True)
    x = RNG.normal(size=(B, T, F))
    layer(x)
    before = [s.numpy() for s in layer.states]
    with pytest.raises(error, match=f"(?s)LSTM 'encoder'.*{message}"):
        layer(x, **options)
    for was, now in zip(before, layer.states, strict=True):
        np.testing.assert_array_equal(was, now.numpy())


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((B, T), "expected ndim=3, found ndim=2"),
        ((B, T, F, 1), "expected ndim=3, found ndim=4"),
        ((B, T, 9), r"input has 9 features on its last axis \(shape \(batch=3, time=5, 9\)\) but .* built for 2"),
    ],
)
def test_errors_of_input_shapes(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        made("gru")(np.zeros(shape))
    if len(shape) != 3:
        with pytest.raises(ShapeError, match=message):
            GRU(3)(np.zeros(shape))


@each_layer
@each_engine
def test_no_steps_one_step_no_rows(kind: str, engine: str) -> None:
    layer = made(kind, return_sequences=True, return_state=True)
    last = like(layer, return_sequences=False)
    states = [RNG.normal(size=(B, U)) for _ in range(2 if kind == "lstm" else 1)]
    with mr.engine(engine):
        y, *final = layer(np.zeros((B, 0, F)), initial_state=states)
        assert y.shape == (B, 0, U)
        for got, want in zip(final, states, strict=True):
            np.testing.assert_array_equal(got, want)
        assert not last(np.zeros((B, 0, F)), initial_state=states)[0].numpy().any()
        x = RNG.normal(size=(B, 1, F))
        np.testing.assert_array_equal(layer(x)[0].numpy()[:, 0], last(x)[0].numpy())
        y, *final = layer(np.zeros((0, T, F)))
        assert y.shape == (0, T, U) and final[0].shape == (0, U)
        assert layer(np.zeros((0, T, F)), mask=np.zeros((0, T), bool))[0].shape == (0, T, U)


@each_layer
@pytest.mark.parametrize("options", [{"checkpoint": 2}, {"return_sequences": False}])
def test_gradients(kind: str, options: dict[str, Any]) -> None:
    layer = made(kind, **{"return_state": True, "return_sequences": True, **options})
    x = RNG.normal(size=(B, 3, F))
    states = [RNG.normal(size=(B, U)) for _ in range(2 if kind == "lstm" else 1)]
    mask = MASK[:, :3]
    cts = [RNG.normal(size=y.shape) for y in layer(x)]
    weights = layer.get_weights()

    def loss(x: Any, *rest: Any) -> Any:
        layer.set_weights(rest[len(states) :])
        found = layer(x, initial_state=list(rest[: len(states)]), mask=mask)
        return sum(np.sum(ct * np.asarray(y)) for ct, y in zip(cts, found, strict=True))

    wanted = central_differences(loss, x, *states, *weights)
    layer.set_weights(weights)
    primals = [mr.Tensor(a) for a in (x, *states)]
    with mr.Tape() as tape:
        tape.watch(primals)
        found = layer(primals[0], initial_state=primals[1:], mask=mask)
        value = sum(mr.ops.sum(mr.Tensor(ct) * y) for ct, y in zip(cts, found, strict=True))
    for got, want in zip(tape.gradient(value, [*primals, *layer.weights]), wanted, strict=True):
        assert max_error(got, want) < 1e-7


@each_layer
def test_unrolled_checkpointed_and_time_major_say_the_same(kind: str) -> None:
    layer = made(kind, return_sequences=True, return_state=True)
    x = RNG.normal(size=(B, T, F))
    wanted = layer(x, mask=MASK)
    for options in ({"unroll": True}, {"checkpoint": 2}):
        for got, want in zip(like(layer, **options)(x, mask=MASK), wanted, strict=True):
            assert max_error(got, want) < 1e-14
    with mr.engine("reference"):
        for got, want in zip(like(layer, unroll=True)(x), layer(x), strict=True):
            np.testing.assert_array_equal(got, want)
    y, *states = like(layer, time_major=True)(x.swapaxes(0, 1), mask=MASK.T)
    np.testing.assert_array_equal(y.numpy().swapaxes(0, 1), wanted[0].numpy())
    np.testing.assert_array_equal(y.mask.numpy(), MASK.T)
    np.testing.assert_array_equal(states[0].numpy(), wanted[1].numpy())


def test_input_projections_leave_the_loop() -> None:
    for layer, products in (
        (made("simple"), 1),
        (made("gru"), 1),
        (made("gru", reset_after=False), 2),
        (made("lstm"), 1),
    ):
        states = trees.flatten(layer.get_initial_state(B))
        face = layer._face
        traced, _ = trace_step(lambda s, x: face(x, s)[::-1], states, trees.flatten(mr.Tensor(np.ones((T, B, F)))))  # noqa: B023
        parts = split(traced.graph)
        names = [[node.primitive.name for node in part].count("contract") for part in (parts.before, parts.loop)]
        assert names == [1, products]


def test_symbolic_masks_lengths_and_states() -> None:
    layer = made("gru", return_sequences=True)
    x, mask = Input((None, F), dtype="float64"), Input((None,), dtype="bool")
    lengths, h = Input((), dtype="int32"), Input((U,), dtype="float64")
    graph = FunctionGraph([x, mask, lengths, h], [layer(x, mask=mask, lengths=lengths, initial_state=h)])
    again = FunctionGraph.from_config(json.loads(json.dumps(graph.get_config())))
    again.layers[0].set_weights(layer.get_weights())
    arrays = [RNG.normal(size=(B, T, F)), MASK, np.array([4, 1, 2]), RNG.normal(size=(B, U))]
    wanted = layer(arrays[0], mask=MASK, lengths=arrays[2], initial_state=arrays[3])
    for one in (graph, again):
        (found,) = one.run([mr.Tensor(a) for a in arrays])
        np.testing.assert_array_equal(found.numpy(), wanted.numpy())
        np.testing.assert_array_equal(found.mask.numpy(), wanted.mask.numpy())


def test_unrolling_needs_a_length() -> None:
    with pytest.raises(ShapeError, match="Cannot unroll a RNN if the time dimension is undefined"):
        GRU(3, unroll=True)(Input((None, F)))
    assert GRU(3, unroll=True)(Input((T, F))).shape == (None, 3)


# dropout -----------------------------------------------------------------------------------------
@each_engine
@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_dropout_is_one_mask_a_call(kind: str, engine: str) -> None:
    layer = made(kind, dropout=0.5, return_sequences=True)
    kernel, recurrent, bias = layer.get_weights()
    layer.set_weights([kernel, 0 * recurrent, bias])
    x = np.broadcast_to(RNG.normal(size=(40, 1, F)), (40, T, F))
    calm = like(layer, dropout=0.0)
    with mr.engine(engine):
        y = layer(x, training=True).numpy()
        again = layer(x, training=True).numpy()
    # Without recurrence and with inputs that stay the same, the masked input shows in the first step.
    patterns = [calm(x * np.array([a, b])).numpy() for a in (0, 2) for b in (0, 2)]
    rows = [{k for k, p in enumerate(patterns) if np.allclose(p[row], y[row])} for row in range(40)]
    assert all(len(row) >= 1 for row in rows) and len(set().union(*rows)) == 4
    assert not np.array_equal(y, again)


@each_engine
def test_recurrent_dropout_is_one_mask_a_call(engine: str) -> None:
    layer = RNN(SimpleRNNCell(1, activation="linear", recurrent_dropout=0.5, dtype="float64"), return_sequences=True)
    layer.build((None, None, 1))
    layer.set_weights([np.ones((1, 1)), np.ones((1, 1)), np.zeros(1)])
    with mr.engine(engine):
        y = layer(np.ones((60, 4, 1)), training=True).numpy()[..., 0]
    kinds = {tuple(row) for row in y.tolist()}
    assert kinds == {(1.0, 1.0, 1.0, 1.0), (1.0, 3.0, 7.0, 15.0)}


def test_seeds_repeat_dropout_on_every_engine() -> None:
    layer = made("lstm", dropout=0.3, recurrent_dropout=0.4, return_sequences=True)
    x = RNG.normal(size=(B, T, F))
    found = []
    for options in ({}, {"unroll": True}, {"checkpoint": 2}):
        mr.seed(9)
        found.append(like(layer, **options)(x, training=True).numpy())
    for got in found[1:]:
        assert max_error(got, found[0]) < 1e-13
    assert not np.array_equal(found[0], layer(x).numpy())


# configuration -----------------------------------------------------------------------------------
@each_layer
def test_configurations_come_back(kind: str) -> None:
    layer = LAYERS[kind](
        3, activation="relu", use_bias=False, return_sequences=True, stateful=True, go_backwards=True,
        recurrent_dropout=0.2, kernel_regularizer="l1", name="r", dtype="float64", checkpoint=4,
    )  # fmt: skip
    again = registry.deserialize(json.loads(json.dumps(registry.serialize(layer))), "layer")
    assert type(again) is type(layer)
    assert again.get_config() == layer.get_config()
    assert again.units == 3 and again.cell.activation is layer.cell.activation


def test_configurations_of_rnn() -> None:
    layer = RNN([LSTMCell(3), GRUCell(2, reset_after=False)], return_state=True, name="stack", dtype="float64")
    again = registry.deserialize(json.loads(json.dumps(registry.serialize(layer))), "layer")
    assert again.get_config() == layer.get_config()
    x = RNG.normal(size=(B, T, F))
    y = RNN([LSTMCell(3, dtype="float64"), GRUCell(2, dtype="float64")], return_state=True)(x)
    assert [y[0].shape, [s.shape for s in y[1]], [s.shape for s in y[2]]] == [(B, 2), [(B, 3), (B, 3)], [(B, 2)]]


def test_float64_of_a_cell_is_that_of_its_layer() -> None:
    assert RNN(GRUCell(2, dtype="float64"))(np.ones((1, 2, 3))).dtype == np.float64


def test_a_step_is_traced_anew_for_training() -> None:
    drop = Dropout(0.5)
    runs = []
    for training in (False, True, False):
        with training_scope(training):
            last, _ = mr.scan(lambda h, x: (h + drop(x), None), np.zeros((3, 4), "f4"), np.ones((2, 3, 4), "f4"))
        runs.append(last.numpy())
    assert (runs[0] == 2).all() and (runs[2] == 2).all() and not (runs[1] == 2).all()
