"""TimeDistributed against a loop over the steps: all kinds of layers, masks, nested inputs, streams, errors."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn import ops
from minirnn.errors import ArgumentError, ShapeError
from minirnn.layers import (
    GRU,
    LSTM,
    Add,
    Bidirectional,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    Input,
    Lambda,
    Layer,
    LayerNormalization,
    Masking,
    Reshape,
    SimpleRNN,
    TimeDistributed,
    registry,
)
from minirnn.models import Model, Sequential, load_model
from tests.reference.checks import Disagreement, assert_agree, max_error

B, T, S, F = 3, 4, 5, 2
RNG = np.random.default_rng(17)


def with_random_weights(layer: Any, shape: tuple[int | None, ...]) -> Any:
    layer.build_once(shape)
    rng = np.random.default_rng(18)
    layer.set_weights([rng.normal(size=w.shape) for w in layer.weights])
    return layer


def gradients(run: Any, layer: Any, x: np.ndarray) -> dict[str, np.ndarray]:
    """The output of run(x), and the gradients of a sum that weighs every element differently."""
    x = mr.Tensor(x)
    with mr.Tape() as tape:
        tape.watch(x)
        y = run(x)
        loss = ops.sum(y * np.cos(np.arange(y.size)).reshape(y.shape))
    found = tape.gradient(loss, [x, *layer.weights])
    return {"output": y.numpy(), **{f"gradient {k}": g.numpy() for k, g in enumerate(found)}}


CHILDREN = {
    "dense": lambda: Dense(3, "tanh", dtype="float64"),
    "normalization": lambda: LayerNormalization(dtype="float64"),
    "flatten": lambda: Flatten(dtype="float64"),
    "reshape": lambda: Reshape((F, S), dtype="float64"),
    "lstm": lambda: LSTM(3, dtype="float64"),
    "gru, sequences": lambda: GRU(3, return_sequences=True, dtype="float64"),
    "bidirectional": lambda: Bidirectional(SimpleRNN(3, return_sequences=True, dtype="float64")),
    "row by row": lambda: Lambda(lambda x: x - ops.mean(x, axis=1, keepdims=True), dtype="float64"),
    "over the batch": lambda: Lambda(lambda x: x - ops.mean(x, axis=0, keepdims=True), dtype="float64"),
    "rows turned around": lambda: Lambda(lambda x: ops.flip(x, 0) * x, dtype="float64"),
    "model": lambda: Sequential(
        [Input((S, F), dtype="float64"), SimpleRNN(3, dtype="float64"), Dense(2, dtype="float64")]
    ),
}
MIXES = {"over the batch", "rows turned around"}
each_child = pytest.mark.parametrize("name", CHILDREN)


@each_child
@pytest.mark.parametrize("engine", ["reference", "numpy"])
def test_equals_a_loop_over_the_steps(name: str, engine: str) -> None:
    child = with_random_weights(CHILDREN[name](), (None, S, F))
    layer = TimeDistributed(child, dtype="float64")
    x = RNG.normal(size=(B, T, S, F))
    with mr.engine(engine):
        found = gradients(layer, child, x)
        wanted = gradients(lambda x: ops.stack([child(x[:, t]) for t in range(T)], 1), child, x)
    assert_agree(found, wanted, 1e-13)
    assert list(layer._by_rows.values()) == [name not in MIXES]


@each_child
def test_no_steps_no_rows(name: str) -> None:
    child = with_random_weights(CHILDREN[name](), (None, S, F))
    layer = TimeDistributed(child, dtype="float64")
    wanted = layer(np.ones((B, T, S, F))).shape
    assert layer(np.ones((B, 0, S, F))).shape == (B, 0, *wanted[2:])


def test_planted_bugs_are_noticed() -> None:
    """Weights of its own for each step, and rows that change places."""
    x = RNG.normal(size=(B, T, S, F))
    child = with_random_weights(Dense(3, dtype="float64"), (None, S, F))
    wanted = {"output": np.stack([child(x[:, t]).numpy() for t in range(T)], 1)}
    each = [with_random_weights(Dense(3, dtype="float64"), (None, S, F)) for _ in range(T)]
    each[1].set_weights([w + 0.1 for w in each[1].get_weights()])
    unshared = np.stack([each[t](x[:, t]).numpy() for t in range(T)], 1)
    swapped = child(x.reshape(B * T, S, F)).numpy().reshape(T, B, S, 3).swapaxes(0, 1)
    assert_agree({"output": TimeDistributed(child)(x)}, wanted, 1e-13)
    for wrong in (unshared, swapped):
        with pytest.raises(Disagreement):
            assert_agree({"output": wrong}, wanted, 1e-13)


def test_rows_that_a_layer_mixes_in_training_only_are_told_apart() -> None:
    class Normalized(Layer):
        def call(self, inputs: Any, training: Any = False) -> Any:
            return inputs - ops.mean(inputs, axis=0, keepdims=True) if training else inputs

    layer = TimeDistributed(Normalized(dtype="float64"))
    x = RNG.normal(size=(B, T, F))
    assert max_error(layer(x), x) == 0
    assert max_error(layer(x, training=True), x - x.mean(axis=0)) < 1e-15


def test_a_layer_that_looks_at_values_runs_step_by_step() -> None:
    class Looks(Layer):
        def call(self, inputs: Any) -> Any:
            return inputs * (2.0 if inputs.numpy().sum() > 0 else 1.0)

    x = np.stack([np.ones((B, F)), -np.ones((B, F))], 1)
    assert max_error(TimeDistributed(Looks(dtype="float64"))(x), np.stack([2 * x[:, 0], x[:, 1]], 1)) == 0


def test_dropout_draws_for_every_step() -> None:
    layer = TimeDistributed(Dropout(0.5))
    x = np.ones((B, T, 50), "float32")
    y = layer(x, training=True).numpy()
    assert set(np.unique(y)) == {0.0, 2.0} and list(layer._by_rows.values()) == [True]
    assert len({step.tobytes() for step in y.reshape(B * T, 50)}) == B * T
    assert (layer(x).numpy() == 1).all()
    mr.seed(5)
    first = layer(x, training=True).numpy()
    mr.seed(5)
    assert (TimeDistributed(Dropout(0.5))(x, training=True).numpy() == first).all()


def test_a_stateful_layer_goes_on_from_step_to_step() -> None:
    child = with_random_weights(SimpleRNN(3, stateful=True, dtype="float64"), (None, S, F))
    plain = SimpleRNN(3, dtype="float64")
    plain.build((None, S, F))
    plain.set_weights(child.get_weights())
    x = RNG.normal(size=(B, T, S, F))
    y = TimeDistributed(child)(x).numpy()
    whole = x.reshape(B, T * S, F)
    wanted = np.stack([plain(whole[:, : (t + 1) * S]).numpy() for t in range(T)], 1)
    assert max_error(y, wanted) < 1e-13


def test_several_inputs_and_outputs() -> None:
    x, y = RNG.normal(size=(B, T, F)), RNG.normal(size=(B, T, F))
    assert max_error(TimeDistributed(Add(dtype="float64"))([x, y]), x + y) == 0

    class Both(Layer):
        def call(self, inputs: Any) -> Any:
            return {"sum": inputs["a"] + inputs["b"], "first": inputs["a"]}

    found = TimeDistributed(Both(dtype="float64"))({"a": x, "b": y})
    assert max_error(found["sum"], x + y) == 0 and max_error(found["first"], x) == 0
    states = TimeDistributed(LSTM(3, return_state=True))(np.ones((B, T, S, F), "float32"))
    assert [s.shape for s in states] == [(B, T, 3)] * 3


# masks -------------------------------------------------------------------------------------------
STEPS = np.array([[1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0]], bool)


def test_a_mask_of_steps_is_carried_on() -> None:
    x = np.where(STEPS[..., None], 1.0, 0.0) * np.ones((B, T, F))
    masked = Masking(dtype="float64")(x)
    for child in (Dense(3, dtype="float64"), Flatten(dtype="float64"), Dropout(0.5, dtype="float64")):
        assert (TimeDistributed(child)(masked).mask.numpy() == STEPS).all()
    explicit = TimeDistributed(Dense(3, dtype="float64"))(x, mask=STEPS.astype(float))
    assert (explicit.mask.numpy() == STEPS).all()


def test_a_recurrent_layer_gets_its_part_of_the_mask() -> None:
    ids = RNG.integers(1, 6, size=(B, T, S)) * (RNG.random((B, T, S)) < 0.6)
    ids[1, 2] = 0
    embedding, child = Embedding(6, 2, mask_zero=True), GRU(3)
    vectors = TimeDistributed(embedding)(ids)
    assert (vectors.mask.numpy() == (ids != 0)).all()
    y = TimeDistributed(child)(vectors)
    wanted = np.stack([child(embedding(ids[:, t])).numpy() for t in range(T)], 1)
    assert max_error(y, wanted) < 1e-6
    assert (y.mask.numpy() == (ids != 0).any(axis=2)).all()


@pytest.mark.parametrize("dirt", [np.nan, np.inf])
def test_a_masked_step_of_sequences_is_all_padding(dirt: float) -> None:
    child = with_random_weights(GRU(3, return_sequences=True, dtype="float64"), (None, S, F))
    layer, x = TimeDistributed(child), RNG.normal(size=(B, T, S, F))
    dirty = np.where(STEPS[..., None, None], x, dirt)
    found = [gradients(lambda x: layer(x, mask=STEPS), child, values) for values in (x, dirty)]
    assert_agree(found[1], found[0], 0)
    assert max_error(found[0]["output"][STEPS], layer(x).numpy()[STEPS]) < 1e-13
    assert not found[0]["output"][~STEPS].any()


def test_a_layer_of_ones_own_gets_the_mask_of_a_step() -> None:
    class Marked(Layer):
        def call(self, inputs: Any, mask: Any = None) -> Any:
            return inputs * ops.expand_dims(ops.cast(mask, "float64"), 1)

    x = RNG.normal(size=(B, T, F))
    assert max_error(TimeDistributed(Marked(dtype="float64"))(x, mask=STEPS), x * STEPS[..., None]) == 0


# in models ---------------------------------------------------------------------------------------
def test_in_a_model_that_trains_saves_and_streams(tmp_path: Any) -> None:
    model = Sequential([Input((None, F)), GRU(3, return_sequences=True), TimeDistributed(Dense(2))])
    model.compile("sgd", "mse")
    x = RNG.normal(size=(B, T, F)).astype("float32")
    model.fit(x, x, epochs=2, verbose=0)
    wanted = model.predict(x)
    model.save(tmp_path / "model.npz")
    assert max_error(load_model(tmp_path / "model.npz").predict(x), wanted) == 0
    stream = model.stream(batch_size=B)
    assert max_error(np.stack([stream.push(x[:, t]) for t in range(T)], 1), wanted) < 1e-6


def test_streams_of_images() -> None:
    image = Input((None, S, F))
    model = Model(image, GRU(3, return_sequences=True)(TimeDistributed(LSTM(4))(image)))
    x = RNG.normal(size=(B, T, S, F)).astype("float32")
    stream = model.stream(batch_size=B)
    assert max_error(np.stack([stream.push(x[:, t]) for t in range(T)], 1), model.predict(x)) < 1e-6


def test_shapes_of_symbolic_inputs() -> None:
    x = Input((None, 8, 3))
    assert TimeDistributed(LSTM(4, return_sequences=True))(x).shape == (None, None, 8, 4)
    assert TimeDistributed(Flatten())(x).shape == (None, None, 24)


def test_configuration() -> None:
    layer = TimeDistributed(Dense(3, name="d"), name="t")
    layer.build((None, T, F))
    entry = json.loads(json.dumps(registry.serialize(layer)))
    again = registry.deserialize(entry, "layer")
    assert again.get_config() == layer.get_config() and again.layer.units == 3
    assert again.layer is not layer.layer
    of_keras = {
        "name": "t",
        "trainable": True,
        "dtype": "float32",
        "layer": {"class_name": "Dense", "config": {"units": 3}},
    }
    assert TimeDistributed.from_config(of_keras)(np.ones((1, 2, 3), "float32")).shape == (1, 2, 3)


def test_errors() -> None:
    with pytest.raises(ArgumentError, match="layer"):
        TimeDistributed(lambda x: x)
    layer = TimeDistributed(Dense(3))
    with pytest.raises(ShapeError, match="3 or more axes"):
        layer(np.ones((B, T)))
    with pytest.raises(ShapeError, match="mask does not fit"):
        layer(np.ones((B, T, F)), mask=np.ones((B, T + 1), bool))
    with pytest.raises(ShapeError, match="differ in batch size"):
        TimeDistributed(Add())([np.ones((B, T, F)), np.ones((B, T + 1, F))])
    with pytest.raises(ShapeError, match="masks"):
        TimeDistributed(Add())([np.ones((B, T, F))] * 2, mask=[STEPS] * 3)
