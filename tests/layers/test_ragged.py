"""Ragged: what it holds, and that layers, models and containers read it as a padded array with its lengths."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minirnn as mr
from minirnn import Ragged, RecurrentContainer
from minirnn.errors import ArgumentError, DtypeError, ShapeError
from minirnn.layers import GRU, LSTM, Bidirectional, Dense, Embedding, Flatten, Input, Masking
from minirnn.models import Model, Sequential

RNG = np.random.default_rng(5)
LENGTHS = [4, 0, 2, 6, 1]
ROWS = [RNG.normal(size=(n, 3)) for n in LENGTHS]
BATCH = Ragged(ROWS)


def test_what_it_holds() -> None:
    assert BATCH.shape == (5, 6, 3) and BATCH.ndim == 3 and BATCH.dtype == np.dtype("float64") and len(BATCH) == 5
    assert BATCH.lengths.tolist() == LENGTHS
    assert BATCH.mask.tolist() == [[t < n for t in range(6)] for n in LENGTHS]
    padded = BATCH.padded(-7.0, length=8)
    assert padded.shape == (5, 8, 3) and (padded[0, 4:] == -7).all() and (padded[0, :4] == ROWS[0]).all()
    assert all(a is b for a, b in zip(BATCH, ROWS)) and BATCH[-1] is ROWS[-1]
    assert "5 sequences of 0 to 6 steps" in repr(BATCH)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=5), st.integers(0, 2**16))
def test_from_padded_takes_off_what_padded_adds(lengths: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    batch = Ragged([rng.normal(size=(n, 2)) for n in lengths])
    back = Ragged.from_padded(batch.padded(np.nan), lengths)
    assert back.shape == batch.shape and all(np.array_equal(a, b) for a, b in zip(back, batch, strict=True))


@pytest.mark.parametrize(
    "index", [slice(1, 4), [3, 0, 0], np.array([2]), [True, False, False, True, False], slice(0, 0), []]
)
def test_rows_are_taken_as_from_an_array(index: Any) -> None:
    numbers = np.arange(5)[index if isinstance(index, slice) else np.array(index, None if len(index) else int)]
    taken = BATCH[index]
    assert isinstance(taken, Ragged) and taken.lengths.tolist() == [LENGTHS[i] for i in numbers]
    assert taken.shape[0] == len(numbers) and taken.shape[2:] == (3,) and taken.padded().shape == taken.shape


def test_empty_rows_take_their_kind_from_the_others() -> None:
    numbers = Ragged([[], [1, 2], []])
    assert numbers.dtype == np.dtype(int) and numbers.padded(-1).tolist() == [[-1, -1], [1, 2], [-1, -1]]
    assert Ragged([np.zeros((0, 3)), np.zeros((0, 3))]).padded().shape == (2, 0, 3)


@pytest.mark.parametrize(
    "make, error, text",
    [
        (lambda: Ragged([]), ArgumentError, "at least one sequence"),
        (lambda: Ragged([np.zeros((2, 3)), np.zeros((1, 4))]), ShapeError, r"row 1.*\n.*\(1, 4\).*\n.*\(time, 3\)"),
        (lambda: Ragged([np.zeros(2), np.zeros(1, "float32")]), DtypeError, "row 1.*\n.*float32"),
        (lambda: Ragged([np.zeros(2), 3.0]), ShapeError, "row 1 has no time axis"),
        (lambda: Ragged([[[1.0], [2.0, 3.0]]]), ShapeError, "row 0 is no regular array"),
        (lambda: Ragged([["a"]]), DtypeError, "row 0 must hold numbers"),
        (lambda: Ragged([mr.Tensor([1.0])]), ArgumentError, "row 0 is a Tensor"),
        (lambda: Ragged.from_padded(np.zeros((2, 3)), [1]), ShapeError, "lengths"),
        (lambda: Ragged.from_padded(np.zeros((2, 3)), [1, 4]), ShapeError, "0 to its number of steps"),
        (lambda: Ragged.from_padded(np.zeros((2, 3)), [1.0, 2.0]), ShapeError, "integer"),
        (lambda: BATCH.padded(length=5), ShapeError, "6 or more"),
        (lambda: BATCH[0.5], ArgumentError, "row numbers"),
        (lambda: np.asarray(BATCH), ArgumentError, r"\.padded\(\)"),
        (lambda: mr.ops.tanh(BATCH), ArgumentError, "Ragged"),
        (lambda: LSTM(2)(BATCH, mask=BATCH.mask), ArgumentError, "LSTM.*\n.*mask= beside it"),
        (lambda: LSTM(2)(BATCH, lengths=BATCH.lengths), ArgumentError, "LSTM.*\n.*lengths= beside it"),
        (lambda: LSTM(2, unroll=True)(BATCH), ArgumentError, "LSTM.*unrolled"),
        (lambda: LSTM(2)(Ragged([[1.0], [2.0, 3.0]])), ShapeError, "expected ndim=3, found ndim=2"),
    ],
)
def test_errors(make: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make()


@pytest.mark.parametrize("time_major", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_recurrent_layer_reads_it_as_a_padded_array_with_lengths(time_major: bool, dtype: str) -> None:
    layer = LSTM(4, return_sequences=True, return_state=True, time_major=time_major, dtype=dtype)
    padded = BATCH.padded().swapaxes(0, 1) if time_major else BATCH.padded()
    want, found = layer(padded, lengths=BATCH.lengths), layer(BATCH)
    assert all(np.array_equal(a, b) for a, b in zip(found, want, strict=True)) and found[0].dtype == np.dtype(dtype)
    np.testing.assert_array_equal(found[0].mask, BATCH.mask.T if time_major else BATCH.mask)
    np.testing.assert_array_equal(layer([BATCH, *found[1:]])[1], layer([padded, *found[1:]], lengths=BATCH.lengths)[1])


def test_other_layers_read_it_too() -> None:
    both = Bidirectional(GRU(2, return_sequences=True))
    np.testing.assert_array_equal(both(BATCH), both(BATCH.padded(), mask=BATCH.mask))
    np.testing.assert_array_equal(Dense(2)(BATCH).mask, BATCH.mask)
    ids = Ragged([[3, 0, 1], [2]])
    np.testing.assert_array_equal(Embedding(5, 2)(ids).mask, ids.mask)
    np.testing.assert_array_equal(Embedding(5, 2, mask_zero=True)(ids).mask, [[1, 0, 1], [1, 0, 0]])
    np.testing.assert_array_equal(Masking(mask_value=9.0)(BATCH).mask, BATCH.mask)
    assert Flatten()(BATCH).mask is None


def test_a_model_reads_it_in_the_dtype_of_its_input() -> None:
    x, ids = Input((None, 3), dtype="float64"), Input((6,), dtype="int32", name="ids")
    y = LSTM(4, return_sequences=True, dtype="float64")(x)
    seen = GRU(2, dtype="float64")(Embedding(9, 3, dtype="float64")(ids))
    model = Model([x, ids], [Dense(2, dtype="float64")(y), seen])
    numbers = Ragged([np.arange(n) for n in (1, 2, 0, 3, 1)])
    found = model([BATCH, numbers])
    np.testing.assert_array_equal(found[0].mask, BATCH.mask)
    assert found[1].dtype == np.dtype("float64")  # the ids, of at most 3 steps, fill the 6 that their Input asks for
    want = model([with_mask(BATCH), with_mask(numbers, 6)])
    assert all(np.array_equal(a, b) for a, b in zip(found, want, strict=True))
    halves = Sequential([Input((None, 3), dtype="float32"), LSTM(2)])
    assert halves(BATCH).dtype == np.dtype("float32")
    with pytest.raises(ArgumentError, match="mask= beside it"):
        halves(BATCH, mask=BATCH.mask)


def with_mask(batch: Ragged, length: int | None = None) -> mr.Tensor:
    tensor = mr.Tensor(batch.padded(length=length))
    mask = np.zeros(tensor.shape[:2], bool)
    mask[:, : batch.shape[1]] = batch.mask
    tensor.mask = mr.Tensor(mask)
    return tensor


def running(**options: Any) -> RecurrentContainer:
    x, u, total = Input((3,), dtype="float64"), Input((2,), dtype="float64"), Input((3,), dtype="float64")
    new = total + x * mr.ops.sum(u, axis=1, keepdims=True)
    return RecurrentContainer([x, u], new, state_inputs=total, state_outputs=new, return_states=True, **options)


def test_a_container_reads_it_in_any_of_its_sequences() -> None:
    u = RNG.normal(size=(5, 6, 2))
    for container in (running(), running(go_backwards=True), running(checkpoint=2)):
        want = container([BATCH.padded(), u], lengths=BATCH.lengths)
        for second in (u, Ragged.from_padded(u, LENGTHS)):
            found = container([BATCH, second])
            assert all(np.array_equal(a, b) for a, b in zip(found, want, strict=True))
            assert found[0].mask is not None
    with pytest.raises(ShapeError, match="different lengths"):
        running()([BATCH, Ragged.from_padded(u, [4, 0, 3, 6, 1])])
    with pytest.raises(ArgumentError, match="mask= beside it"):
        running()([BATCH, u], mask=BATCH.mask)
    with pytest.raises(ArgumentError, match="unrolled"):
        running(unroll=True)([BATCH, u])
