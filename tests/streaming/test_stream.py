"""Models pushed step by step give what `predict` gives for the whole sequence; what push takes and returns."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minirnn as mr
from minirnn import ops
from minirnn.errors import DtypeError, MinirnnError, ShapeError
from minirnn.layers import (
    GRU,
    LSTM,
    Concatenate,
    Dense,
    Dropout,
    Embedding,
    Input,
    Lambda,
    Layer,
    LayerNormalization,
    Masking,
    SimpleRNN,
)
from minirnn.models import Model, Sequential
from tests.streaming.models import (
    MODELS,
    B,
    T,
    assert_like_predict,
    draw,
    pushed,
    randomized,
    two_layers,
)


@pytest.fixture(autouse=True)
def _in_float64() -> Iterator[None]:
    with mr.default_dtype("float64"):
        yield


@pytest.mark.parametrize("kind", MODELS)
def test_steps_give_what_the_whole_sequence_gives(kind: str) -> None:
    make, given = MODELS[kind]
    assert_like_predict(randomized(make()), given, list(range(len(given))))


@pytest.mark.parametrize("kind", ["layers", "masked values", "stacked cells", "own layers"])
def test_on_the_reference_engine(kind: str) -> None:
    make, given = MODELS[kind]
    with mr.engine("reference"):
        assert_like_predict(randomized(make()), given, [0])


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_the_same_bits_on_the_cpu_engine(kind: str) -> None:
    make, given = MODELS[kind]
    with mr.engine("cpu"):
        assert_like_predict(randomized(make()), given, list(range(len(given))), rtol=0, atol=0)


def test_in_float32_and_one_row_by_default() -> None:
    x = Input((None, 3), dtype="float32")
    model = Model(x, LSTM(4, return_sequences=True, dtype="float32")(x))
    data = draw(1, T, 3)  # float64 arrays are cast, as everywhere
    stream = model.stream()
    ys = [stream.push(data[:, t]) for t in range(T)]
    assert {y.dtype.name for y in ys} == {"float32"}
    np.testing.assert_allclose(np.stack(ys, 1), model.predict(data), rtol=1e-6)


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_random_chains(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def recurrent() -> Layer:
        kind = [SimpleRNN, GRU, LSTM][rng.integers(3)]
        return kind(int(rng.integers(1, 4)), return_sequences=True, zero_output_for_mask=bool(rng.integers(2)))

    def between() -> Layer:
        return [Dense(3, "relu"), LayerNormalization(), Masking(), Lambda(ops.sin), Dropout(0.2)][rng.integers(5)]

    layers = [(recurrent if rng.random() < 0.5 else between)() for _ in range(rng.integers(1, 5))]
    with mr.default_dtype("float64"):
        model = randomized(Sequential([Input((None, 3)), *layers, recurrent()]))
        steps, rows = int(rng.integers(1, 5)), int(rng.integers(1, 4))
        x = rng.normal(size=(rows, steps, 3)) * (rng.random((rows, steps, 1)) > 0.3)
        found = np.stack([y for (y,) in pushed(model.stream(rows), x, steps=steps)], 1)
        np.testing.assert_allclose(found, model.predict(x), rtol=1e-11, atol=1e-12)


# What push takes and gives ----------------------------------------------------------------------------
def test_outputs_belong_to_the_caller_and_inputs_are_copied() -> None:
    x = Input((None, 3))
    model = Model(x, [x * 1.0, GRU(3, return_sequences=True)(x), x])
    stream, data = model.stream(B), draw(B, 3)
    first = stream.push(data)
    kept = [y.copy() for y in first]
    data[:] = 7.0
    for y, wanted in zip(stream.push(draw(B, 3)), kept, strict=True):
        assert y.flags.owndata and y.flags.writeable and y.shape == wanted.shape
    for y, wanted in zip(first, kept, strict=True):
        np.testing.assert_array_equal(y, wanted)
        y[:] = -1.0
    stream.reset()
    np.testing.assert_array_equal(stream.push(kept[0])[1], kept[1])


def test_what_is_not_an_array_of_the_input_s_dtype_is_made_one() -> None:
    ids = Input((None,), dtype="int32")
    model = Model(ids, LSTM(3)(Embedding(5, 2)(ids)))
    wanted = model.predict([[3], [1]])
    for step in ([3, 1], np.array([3, 1], np.uint8), np.array([3.0, 1.0]), mr.Tensor(np.array([3, 1]))):
        np.testing.assert_allclose(model.stream(2).push(step), wanted, rtol=1e-12)
    with pytest.raises(DtypeError, match="fractions"):
        model.stream(2).push(np.array([3.5, 1.0]))


def test_a_step_that_fails_changes_nothing() -> None:
    ids, x = Input((None,), dtype="int32", name="ids"), Input((None, 2), name="x")
    y = Concatenate()([Embedding(5, 2)(ids), x])
    stream = Model([ids, x], LSTM(3, return_sequences=True)(y)).stream(2)
    step = np.array([3, 1]), draw(2, 2)
    stream.push(*step)
    state = stream.state
    for bad, message in [
        (step[:1], "1 arrays"),
        ((step[0], draw(2, 3)), "'x'"),
        ((step[0], draw(2, 1, 2)), r"x\[:, t\]"),
        ((step[0], draw(2)), r"x\[None\]"),
        ((step[0][:1], step[1]), "batch=2"),
        ((step[0], np.array([["a", "b"]] * 2)), "dtype"),
        ((np.array([3, 5]), step[1]), "out of range"),
    ]:
        with pytest.raises(MinirnnError, match=message):
            stream.push(*bad)
    for mask in ([True], [[True, True]], ["a", "b"]):
        with pytest.raises(ShapeError, match="mask"):
            stream.push(*step, mask=mask)
    for array, wanted in zip(stream.state[0], state[0], strict=True):
        np.testing.assert_array_equal(array, wanted)


def test_memory_does_not_grow() -> None:
    stream = two_layers().stream(B)
    data, mask = draw(B, 3), np.array([True, False, True])

    def push(count: int) -> int:
        for _ in range(count):
            stream.push(data)
            stream.push(data, mask=mask)
        return tracemalloc.get_traced_memory()[0]

    push(5)
    tracemalloc.start()
    try:
        before = push(20)
        assert push(500) - before < 2000
    finally:
        tracemalloc.stop()


def test_pushes_are_not_recorded() -> None:
    model = two_layers()
    with mr.Tape() as tape:
        stream = model.stream(B)
        y = stream.push(draw(B, 3))
    assert isinstance(y, np.ndarray)
    assert tape.gradient(mr.Tensor(y), model.trainable_variables) == [None] * len(model.trainable_variables)
