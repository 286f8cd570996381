"""Sequences of different lengths in fit, evaluate and predict, against runs on one sequence at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn import Ragged
from minirnn.errors import ShapeError
from minirnn.layers import GRU, LSTM, Concatenate, Dense, Embedding, Input, Lambda, Masking
from minirnn.models import Model, Sequential
from minirnn.training.data import Samples
from tests.reference.checks import max_error

RNG = np.random.default_rng(2)
LENGTHS = [3, 5, 1, 0, 4, 2, 6]
X = Ragged([RNG.normal(size=(n, 3)) for n in LENGTHS])
Y = Ragged([RNG.normal(size=(n, 2)) for n in LENGTHS])
ONE_EACH = RNG.normal(size=(len(LENGTHS), 2))


def model(every_step: bool = True, **layer: Any) -> Sequential:
    mr.seed(4)
    made = Sequential(
        [
            Input((None, 3), dtype="float64"),
            LSTM(4, return_sequences=every_step, dtype="float64", **layer),
            Dense(2, dtype="float64"),
        ]
    )
    made.compile(mr.optimizers.SGD(0.3), "mse", metrics=["mae"])
    return made


def row_by_row(made: Any, x: Any = X) -> list[np.ndarray]:
    """The predictions for each sequence by itself, without padding and mask."""
    return [made.predict(row[None])[0] if len(row) else np.zeros((0, 2)) for row in x]


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_predict_gives_each_sequence_what_it_gives_it_alone(batch_size: int) -> None:
    made = model()
    found = made.predict(X, batch_size=batch_size)
    assert isinstance(found, Ragged) and found.lengths.tolist() == LENGTHS
    for one, other in zip(found, row_by_row(made), strict=True):
        assert max_error(one, other) < 1e-14
    last = model(every_step=False).predict(X, batch_size=batch_size)
    assert isinstance(last, np.ndarray) and max_error(last[1], row_by_row(model())[1][-1]) < 1e-14


@pytest.mark.parametrize("weighted", [None, "rows", "steps"])
def test_evaluate_and_fit_count_every_step_of_a_sequence_once(weighted: str | None) -> None:
    """The loss is the mean over all valid steps, wherever a batch ends; so is the update that follows from it."""
    made = model()
    weights: Any = {
        None: [np.ones(n) for n in LENGTHS],
        "rows": [np.full(n, w) for n, w in zip(LENGTHS, RNG.random(7), strict=True)],
        "steps": [RNG.random(n) for n in LENGTHS],
    }[weighted]
    given = {None: None, "rows": np.array([w[0] if len(w) else 0.0 for w in weights]), "steps": Ragged(weights)}[
        weighted
    ]
    found, absolute = row_by_row(made), 0.0
    total = sum(float(((p - y) ** 2).mean(-1) @ w) for p, y, w in zip(found, Y, weights, strict=True)) / sum(LENGTHS)
    absolute = sum(float(np.abs(p - y).mean(-1).sum()) for p, y in zip(found, Y, strict=True)) / sum(LENGTHS)
    for size in (2, 32):
        assert (
            max_error(made.evaluate(X, Y, sample_weight=given, batch_size=size, verbose=0), [total, absolute]) < 1e-13
        )
    padded = model()
    padded.compile(mr.optimizers.SGD(0.3), "mse", metrics=["mae"])
    steps = X.padded().shape[1]
    mask = np.arange(steps) < X.lengths[:, None]
    step_weights = Ragged(weights).padded() * mask
    made.train_on_batch(X, Y, sample_weight=given)
    with mr.Tape() as tape:
        y = padded.layers[1](padded.layers[0](X.padded(), mask=mask))
        error = ((y - Y.padded()) ** 2 * step_weights[..., None]).sum() * (1.0 / (2 * sum(LENGTHS)))
    for variable, gradient in zip(
        padded.trainable_variables, tape.gradient(error, padded.trainable_variables), strict=True
    ):
        variable.assign(variable.numpy() - 0.3 * gradient.numpy())
    assert max(max_error(a, b) for a, b in zip(made.get_weights(), padded.get_weights(), strict=True)) < 1e-14


def test_batches_are_padded_to_their_own_longest_row_and_shuffled_by_rows() -> None:
    shapes: list[Any] = []

    def spy(x: Any, mask: Any) -> Any:
        if not x.is_abstract:
            shapes.append((x.shape, mask.numpy().sum(1).tolist()))
        return mask

    made = Sequential([Input((None, 3)), Lambda(lambda x: x, mask=spy), LSTM(2), Dense(2)])
    made.compile("sgd", "mse")
    made.fit(X, ONE_EACH, batch_size=3, shuffle=False, verbose=0, validation_split=0.3)
    trained, validated = shapes[:2], shapes[2:]
    assert trained == [((3, 5, 3), [3, 5, 1]), ((1, 0, 3), [0])] and validated == [((3, 6, 3), [4, 2, 6])]
    shapes.clear()
    made.fit(X, ONE_EACH, batch_size=3, seed=1, verbose=0)
    seen = [n for _, lengths in shapes for n in lengths]
    assert sorted(seen) == sorted(LENGTHS) and seen != LENGTHS
    assert all(shape[1] == max(lengths) for shape, lengths in shapes)


def test_several_inputs_and_outputs_by_name() -> None:
    words, extra = Input((None,), dtype="int32", name="words"), Input((None, 3), name="extra")
    joined = Concatenate()([Embedding(9, 2, mask_zero=True)(words), extra])
    every, last = GRU(4, return_sequences=True, return_state=True)(joined)
    made = Model([words, extra], [Dense(2, name="every")(every), Dense(1, name="last")(last)])
    made.compile("adam", {"every": "mse", "last": "mae"}, metrics={"every": ["mae"]})
    ids = Ragged([RNG.integers(1, 9, n) for n in LENGTHS])
    x = {"words": ids, "extra": X}
    history = made.fit(x, {"every": Y, "last": ONE_EACH[:, :1]}, batch_size=3, epochs=2, verbose=0).history
    assert all(np.isfinite(values).all() for values in history.values()) and "every_mae" in history
    every_step, at_end = made.predict(x, batch_size=2)
    assert isinstance(every_step, Ragged) and every_step.lengths.tolist() == LENGTHS and at_end.shape == (7, 1)
    on_batch = made.predict_on_batch(x)
    assert isinstance(on_batch[0], Ragged)
    assert max(max_error(a, b) for a, b in zip(on_batch[0], every_step, strict=True)) < 1e-6


def test_a_graph_that_drops_the_mask_still_gives_one_row_for_each() -> None:
    x = Input((None, 3), dtype="float64")
    made = Model(x, LSTM(2, return_sequences=True, dtype="float64")(x) * 2.0)
    found = made.predict(X, batch_size=2)
    assert isinstance(found, Ragged) and found.lengths.tolist() == LENGTHS
    made.compile("sgd", "mse")
    want = sum(float(((p - y) ** 2).sum()) for p, y in zip(found, Y, strict=True)) / (2 * sum(LENGTHS))
    assert max_error(made.evaluate(X, Y, verbose=0), want) < 1e-13


def test_of_several_ragged_inputs_the_output_has_the_lengths_of_the_one_it_follows() -> None:
    short, long = Input((None, 3), name="short"), Input((None, 2), name="long")
    first = [X, Ragged([np.ones((n + 2, 2)) for n in LENGTHS])]
    outputs = [LSTM(2, return_sequences=True)(short), LSTM(2, return_sequences=True)(long)]
    a, b = Model([short, long], outputs).predict(first, batch_size=3)
    assert a.lengths.tolist() == LENGTHS and b.lengths.tolist() == [n + 2 for n in LENGTHS]


def test_masking_inside_the_model_takes_steps_away_but_not_the_rows_lengths() -> None:
    x = Ragged([np.array(row) for row in X])
    x[1][2], x[6][:2] = 0.0, 0.0
    made = Sequential([Input((None, 3)), Masking(), LSTM(4, return_sequences=True), Dense(2)])
    assert made.predict(x).lengths.tolist() == LENGTHS
    made.compile("sgd", "mse")
    before = made.evaluate(x, Y, verbose=0)
    spoilt = Ragged([np.array(row) for row in Y])
    spoilt[1][2], spoilt[6][:2] = np.nan, np.inf
    assert made.evaluate(x, spoilt, verbose=0) == before


@pytest.mark.parametrize(
    "y, text",
    [
        (Ragged([row[:-1] if len(row) == 5 else row for row in Y]), r"row 1 of the batch has fewer(.|\n)*step 4"),
        (Ragged([*Y][:6] + [np.zeros((9, 2))]), "row 6 of the batch has more steps than the predictions"),
        (Y[:5], "different numbers of samples"),
    ],
)
def test_targets_of_other_lengths_are_refused(y: Ragged, text: str) -> None:
    made = model()
    before = made.get_weights()
    with pytest.raises(ShapeError, match=text):
        made.fit(X, y, shuffle=False, verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(before, made.get_weights(), strict=True))


def test_padded_targets_beside_ragged_inputs_must_be_as_long_as_the_batch() -> None:
    made = model()
    assert made.evaluate(X, Y.padded(), verbose=0) == made.evaluate(X, Y, verbose=0)
    with pytest.raises(ShapeError, match=r"padded to its own longest row(.|\n)*from_padded\(y, x.lengths\)"):
        made.evaluate(X, Y.padded(), batch_size=2, verbose=0)


def test_targets_at_each_step_do_not_fit_one_prediction_a_sequence() -> None:
    with pytest.raises(ShapeError, match="return_sequences=True"):
        model(every_step=False).fit(X, Y, verbose=0)


def test_an_irregular_list_is_told_of_ragged() -> None:
    with pytest.raises(ShapeError, match="mr.Ragged"):
        Samples.of([[1.0], [2.0, 3.0]], None, None, ["x"], [])
    with pytest.raises(mr.errors.ArgumentError, match=r"mr.Ragged\(x\)"):
        Samples.of([np.zeros((2, 3)), np.zeros((1, 3))], None, None, ["x"], [])


def test_a_nan_is_found_at_its_step_of_its_row() -> None:
    x = Ragged([np.array(row) for row in X])
    x[4][2, 1] = np.nan
    with pytest.raises(
        mr.errors.NonFiniteError, match="the input 'input_layer.*' is not finite.*\n.*time step 2, in row 4"
    ):
        model().fit(x, Y, shuffle=False, verbose=0)
