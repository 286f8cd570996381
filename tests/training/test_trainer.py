"""compile, fit, evaluate and predict on real models, against the same arithmetic in NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn.errors import ArgumentError, ShapeError, StateError
from minirnn.layers import LSTM, Concatenate, Dense, Dropout, Embedding, Input, Masking, SimpleRNN
from minirnn.models import Model, Sequential
from tests.reference.checks import max_error

Array = np.ndarray
RNG = np.random.default_rng(11)
X = RNG.standard_normal((10, 3))
Y = RNG.standard_normal((10, 2))


def linear_model(**options: Any) -> Sequential:
    return Sequential([Input((3,), dtype="float64"), Dense(2, dtype="float64", name="out", **options)])


def two_outputs() -> Model:
    a, b = Input((3,), name="a", dtype="float64"), Input((4,), name="b", dtype="float64")
    joined = Concatenate(dtype="float64")([Dense(5, dtype="float64")(a), b])
    return Model([a, b], [Dense(2, name="p", dtype="float64")(joined), Dense(1, name="q", dtype="float64")(a)])


B_IN, Q_OUT = RNG.standard_normal((10, 4)), RNG.standard_normal((10, 1))


def test_fit_makes_the_updates_that_arithmetic_makes() -> None:
    model = linear_model()
    kernel, bias = model.get_weights()
    model.compile(mr.optimizers.SGD(0.1), "mse", metrics=["mae"])
    history = model.fit(X, Y, batch_size=4, epochs=3, shuffle=False, verbose=0)
    losses, errors = [], []
    for _ in range(3):
        total = absolute = 0.0
        for start in (0, 4, 8):
            x, y = X[start : start + 4], Y[start : start + 4]
            error = x @ kernel + bias - y
            total += (error**2).sum()
            absolute += np.abs(error).sum()
            kernel, bias = kernel - 0.1 * x.T @ error / len(x), bias - 0.1 * error.sum(0) / len(x)
        losses.append(total / 20)
        errors.append(absolute / 20)
    assert max_error(model.get_weights()[0], kernel) < 1e-12 and max_error(model.get_weights()[1], bias) < 1e-12
    assert max_error(history.history["loss"], losses) < 1e-12 and max_error(history.history["mae"], errors) < 1e-12
    assert history.epoch == [0, 1, 2] and model.history is history and model.trained_epochs == 3


def test_shuffling_is_that_of_the_seed() -> None:
    seen: list[Any] = []

    class Spy(mr.layers.Layer):
        def call(self, inputs: Any) -> Any:
            if not inputs.is_abstract:
                seen.append(np.asarray(inputs)[:, 0].astype(int).tolist())
            return inputs

    model = Sequential([Input((1,)), Spy(), Dense(1)])
    model.compile("sgd", "mse")
    numbers = np.arange(7.0)[:, None]
    model.fit(numbers, numbers, batch_size=4, epochs=2, seed=1, verbose=0)
    orders = [[*seen[0], *seen[1]], [*seen[2], *seen[3]]]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(7)) and orders[0] != orders[1]
    seen.clear()
    model.fit(numbers, numbers, batch_size=4, epochs=2, seed=2, verbose=0)
    assert [*seen[0], *seen[1]] != orders[0]
    seen.clear()
    model.fit(numbers, numbers, batch_size=4, epochs=1, shuffle=False, verbose=0)
    assert seen == [[0, 1, 2, 3], [4, 5, 6]]


def test_regularizers_add_to_the_loss_and_constraints_follow_the_update() -> None:
    model = linear_model(kernel_regularizer="l2", kernel_constraint="non_neg", use_bias=False)
    (kernel,) = model.get_weights()
    model.compile(mr.optimizers.SGD(0.5), "mse")
    loss = model.train_on_batch(X, Y)
    error = X @ kernel - Y
    assert max_error(loss, (error**2).mean() + 0.01 * (kernel**2).sum()) < 1e-12
    want = kernel - 0.5 * (X.T @ error / 10 + 0.02 * kernel)
    assert max_error(model.get_weights()[0], np.maximum(want, 0)) < 1e-12 and (want < 0).any()


def test_layers_that_do_not_train_stay() -> None:
    model = Sequential([Input((3,)), Dense(4, trainable=False), Dense(2)])
    before = model.get_weights()
    model.compile("sgd", "mse")
    model.fit(X, Y, verbose=0)
    changed = [not np.array_equal(a, b) for a, b in zip(before, model.get_weights())]
    assert changed == [False, False, True, True]


def test_names_of_one_output() -> None:
    model = linear_model()
    model.compile("sgd", "mse", metrics=["mae", mr.metrics.MeanSquaredError(name="squares"), "RootMeanSquaredError"])
    history = model.fit(X, Y, validation_data=(X, Y), verbose=0)
    names = ["loss", "mae", "squares", "RootMeanSquaredError"]
    assert list(history.history) == [*names, *[f"val_{name}" for name in names]]
    results = model.evaluate(X, Y, verbose=0, return_dict=True)
    assert list(results) == names and model.evaluate(X, Y, verbose=0) == list(results.values())
    assert results["squares"] == pytest.approx(results["loss"])
    assert results["RootMeanSquaredError"] == pytest.approx(np.sqrt(results["loss"]))
    model.compile("sgd", "mse")
    assert isinstance(model.evaluate(X, Y, verbose=0), float)


def test_several_inputs_and_outputs() -> None:
    model = two_outputs()
    model.compile("sgd", {"p": "mse", "q": "mae"}, {"q": ["mse"]}, loss_weights={"p": 2.0, "q": 0.25})
    results = model.evaluate([X, B_IN], [Y, Q_OUT], batch_size=4, verbose=0, return_dict=True)
    p, q = model.predict({"a": X, "b": B_IN}, batch_size=3)
    assert list(results) == ["loss", "p_loss", "q_loss", "q_mse"]
    assert max_error(results["p_loss"], ((p - Y) ** 2).mean()) < 1e-12
    assert max_error(results["q_loss"], np.abs(q - Q_OUT).mean()) < 1e-12
    assert max_error(results["loss"], 2 * results["p_loss"] + 0.25 * results["q_loss"]) < 1e-12
    assert max_error(results["q_mse"], ((q - Q_OUT) ** 2).mean()) < 1e-12
    history = model.fit({"b": B_IN, "a": X}, {"q": Q_OUT, "p": Y}, epochs=2, validation_split=0.2, verbose=0)
    assert list(history.history)[:4] == list(results) and history.history["loss"][1] < history.history["loss"][0]


def test_an_output_without_a_loss_needs_no_targets() -> None:
    model = two_outputs()
    model.compile("sgd", {"q": "mse"})
    results = model.evaluate([X, B_IN], {"q": Q_OUT}, verbose=0, return_dict=True)
    assert list(results) == ["loss", "q_loss"] and results["loss"] == results["q_loss"]
    model.fit([X, B_IN], [None, Q_OUT], verbose=0)
    with pytest.raises(ArgumentError, match="no targets y for the output 'q'"):
        model.fit([X, B_IN], {"p": Y}, verbose=0)


def test_lists_align_with_outputs() -> None:
    model = two_outputs()
    model.compile("sgd", ["mse", "mae"], [["mae"], None], loss_weights=[1, 3])
    assert list(model.evaluate([X, B_IN], [Y, Q_OUT], verbose=0, return_dict=True)) == [
        "loss",
        "p_loss",
        "q_loss",
        "p_mae",
    ]
    model.compile("sgd", "mse")
    assert len(model.evaluate([X, B_IN], [Y, Q_OUT], verbose=0)) == 3


@pytest.mark.parametrize(
    "options",
    [
        {"loss": ["mse"]},
        {"loss": {"p": "mse", "r": "mse"}},
        {"loss": "mse", "metrics": ["mae"]},
        {"loss": "mse", "metrics": {"r": "mae"}},
        {"loss": "mse", "loss_weights": [1.0]},
        {"loss": "mse", "metrics": [["mae", "mae"], None]},
        {"loss": "square"},
        {"loss": "mse", "metrics": [["squares"], None]},
        {"loss": mr.losses.MeanSquaredError("none")},
        {"loss": "mse", "optimizer": "gradient"},
    ],
)
def test_what_does_not_fit_the_outputs_raises_in_compile(options: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError):
        two_outputs().compile(**{"optimizer": "sgd", **options})


def test_weights_of_samples_count_in_the_loss_and_in_weighted_metrics_only() -> None:
    model = linear_model()
    weight = RNG.uniform(size=10)
    model.compile("sgd", "mse", metrics=["mae"], weighted_metrics=["mse"])
    results = model.evaluate(X, Y, batch_size=4, sample_weight=weight, verbose=0, return_dict=True)
    values = ((model.predict(X) - Y) ** 2).mean(-1)
    assert max_error(results["loss"], (values * weight).mean()) < 1e-12
    assert max_error(results["mse"], (values * weight).sum() / weight.sum()) < 1e-12
    assert max_error(results["mae"], np.abs(model.predict(X) - Y).mean()) < 1e-12


def test_validation_split_is_the_last_part_whatever_the_shuffling() -> None:
    model = linear_model()
    model.compile(mr.optimizers.SGD(0.0), "mse")
    history = model.fit(X, Y, validation_split=0.3, verbose=0).history
    values = ((model.predict(X) - Y) ** 2).mean(-1)
    assert max_error(history["loss"], [values[:7].mean()]) < 1e-12
    assert max_error(history["val_loss"], [values[7:].mean()]) < 1e-12


# Masks -------------------------------------------------------------------------------------------
LENGTHS = [5, 2, 4, 1, 3, 5]
STEPS = np.arange(5) < np.array(LENGTHS)[:, None]


def masked_model() -> Sequential:
    return Sequential(
        [
            Input((None, 3), dtype="float64"),
            Masking(-1.0, dtype="float64"),
            LSTM(4, return_sequences=True, dtype="float64"),
            Dense(2, dtype="float64"),
        ]
    )


def padded_data() -> tuple[Array, Array]:
    x, y = RNG.standard_normal((6, 5, 3)), RNG.standard_normal((6, 5, 2))
    x[~STEPS] = -1.0
    return x, y


def test_padded_steps_never_count_however_the_batches_are_cut() -> None:
    model, (x, y) = masked_model(), padded_data()
    model.compile("sgd", "mse", metrics=["mae"])
    error = (model.predict(x) - y)[STEPS]
    want = [(error**2).mean(), np.abs(error).mean()]
    for batch_size in (1, 4, 6):
        assert max_error(model.evaluate(x, y, batch_size=batch_size, verbose=0), want) < 1e-12


def test_nan_in_padded_targets_reaches_neither_loss_nor_weights() -> None:
    x, y = padded_data()
    spoiled = np.where(STEPS[..., None], y, np.nan)
    results = []
    for targets in (y, spoiled):
        mr.seed(3)
        model = masked_model()
        model.compile("adam", "mse", metrics=["mae"])
        history = model.fit(x, targets, batch_size=4, epochs=2, verbose=0)
        results.append((history.history, [w.tobytes() for w in model.get_weights()]))
    assert results[0] == results[1]


def test_training_on_padded_rows_equals_training_on_each_alone() -> None:
    x, y = padded_data()
    model = masked_model()
    before = model.get_weights()
    model.compile(mr.optimizers.SGD(1.0), "mse")
    model.train_on_batch(x, y)
    together = [a - b for a, b in zip(before, model.get_weights())]
    alone = [np.zeros_like(w) for w in before]
    for row, length in enumerate(LENGTHS):
        model.set_weights(before)
        model.train_on_batch(x[row : row + 1, :length], y[row : row + 1, :length])
        for total, a, b in zip(alone, before, model.get_weights()):
            total += (a - b) * length / sum(LENGTHS)
    for a, b in zip(together, alone):
        assert max_error(a, b) < 1e-12


def test_a_batch_without_a_valid_step_changes_nothing() -> None:
    model = masked_model()
    before = model.get_weights()
    model.compile("sgd", "mse")
    assert model.train_on_batch(np.full((2, 5, 3), -1.0), np.zeros((2, 5, 2))) == 0
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights()))


def test_masks_of_an_embedding_with_integer_labels() -> None:
    ids = np.where(STEPS, RNG.integers(1, 6, (6, 5)), 0)
    labels = np.where(STEPS, RNG.integers(0, 3, (6, 5)), -1)
    model = Sequential(
        [
            Input((None,), dtype="int64"),
            Embedding(6, 4, mask_zero=True),
            SimpleRNN(5, return_sequences=True),
            Dense(3, "softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    loss, accuracy = model.evaluate(ids, labels, batch_size=4, verbose=0)
    p = model.predict(ids)
    assert max_error(accuracy, (p.argmax(-1) == labels)[STEPS].mean()) < 1e-6
    assert max_error(loss, -np.log(p[STEPS][np.arange(STEPS.sum()), labels[STEPS]]).mean()) < 1e-6
    history = model.fit(ids, labels, epochs=3, verbose=0).history
    assert history["loss"][2] < history["loss"][0]


# Other ways in and out ---------------------------------------------------------------------------
def test_train_and_test_on_batch_report_their_own_batch() -> None:
    model = linear_model()
    model.compile("sgd", "mse", metrics=["mae"])
    first = model.train_on_batch(X, Y)
    second = model.train_on_batch(X, Y)
    assert second[0] < first[0]
    assert model.test_on_batch(X, Y) == model.test_on_batch(X, Y)
    assert list(model.test_on_batch(X, Y, return_dict=True)) == ["loss", "mae"]


def test_predict_in_batches_equals_one_call() -> None:
    model = two_outputs()
    whole = [np.asarray(t) for t in model([X, B_IN])]
    for predicted in (model.predict([X, B_IN], batch_size=3), model.predict_on_batch([X, B_IN])):
        assert max_error(predicted[0], whole[0]) < 1e-12 and max_error(predicted[1], whole[1]) < 1e-12
    predicted[0][:] = 0.0  # fresh arrays that the caller owns


def test_predict_without_samples_has_the_right_shape() -> None:
    p, q = two_outputs().predict([X[:0], B_IN[:0]])
    assert p.shape == (0, 2) and q.shape == (0, 1)


def test_a_sequential_that_meets_its_input_in_fit() -> None:
    model = Sequential([SimpleRNN(4, return_sequences=True), Dropout(0.5), Dense(2)])
    model.compile("sgd", "mse")
    x, y = RNG.standard_normal((6, 5, 3)), RNG.standard_normal((6, 5, 2))
    model.fit(x, y, batch_size=4, verbose=0)
    assert model.predict(x[:, :3]).shape == (6, 3, 2)


def test_a_model_defined_by_its_call() -> None:
    class Twice(Model):
        def __init__(self) -> None:
            super().__init__(name="twice")
            self.dense = Dense(2)

        def call(self, inputs: Any, training: bool = False) -> Any:
            return [self.dense(inputs), self.dense(inputs) * 2.0]

    model = Twice()
    model.compile("sgd", ["mse", "mae"])
    history = model.fit(X, [Y, Y], verbose=0)
    assert list(history.history) == ["loss", "output_0_loss", "output_1_loss"]
    assert [a.shape for a in model.predict(X, batch_size=4)] == [(10, 2), (10, 2)]


def test_dropout_acts_in_fit_only() -> None:
    model = Sequential([Input((3,)), Dropout(0.5)])
    assert np.array_equal(model.predict(X), X.astype("float32"))
    model.compile("sgd", "mse")
    assert model.evaluate(X, X.astype("float32"), verbose=0) == 0


def test_stateful_layers_go_on_from_batch_to_batch() -> None:
    model = Sequential(
        [
            Input(batch_shape=(2, None, 3), dtype="float64"),
            LSTM(4, return_sequences=True, stateful=True, dtype="float64"),
        ]
    )
    x = RNG.standard_normal((2, 6, 3))
    whole = model.predict(x)
    model.reset_states()
    # Two batches of two rows: the second one continues the rows of the first.
    halves = model.predict(np.concatenate([x[:, :3], x[:, 3:]]), batch_size=2)
    assert max_error(np.concatenate([halves[:2], halves[2:]], axis=1), whole) < 1e-12


# Callbacks and progress --------------------------------------------------------------------------
def test_callbacks_are_called_in_order() -> None:
    seen: list[str] = []

    class Witness(mr.callbacks.Callback):
        def close(self) -> None:
            seen.append("close")

    for hook in mr.callbacks.HOOKS:
        setattr(Witness, hook, lambda self, *args, hook=hook: seen.append(hook.removeprefix("on_")))
    model = linear_model()
    model.compile("sgd", "mse")
    model.fit(X, Y, batch_size=8, validation_data=(X[:3], Y[:3]), callbacks=Witness(), verbose=0)
    batch = ["train_batch_begin", "train_batch_end"]
    test = ["test_begin", "test_batch_begin", "test_batch_end", "test_end"]
    assert seen == ["train_begin", "epoch_begin", *batch, *batch, *test, "epoch_end", "train_end", "close"]
    seen.clear()
    model.evaluate(X, Y, callbacks=[Witness()], verbose=0)
    assert seen == [*test, "close"]


def test_a_callback_stops_training() -> None:
    model = linear_model()
    model.compile("sgd", "mse")

    def stop(*args: Any) -> None:
        model.stop_training = True

    for hook, batches in (("on_epoch_end", 3), ("on_train_batch_end", 1)):
        assert model.optimizer is not None
        before = model.optimizer.iterations
        history = model.fit(
            X, Y, batch_size=4, epochs=9, verbose=0, callbacks=[mr.callbacks.LambdaCallback(**{hook: stop})]
        )
        assert history.epoch == [0] and model.optimizer.iterations == before + batches


def test_early_stopping_and_plateaus_know_which_way_is_better(tmp_path: Path) -> None:
    model = Sequential([Input((3,)), Dense(2, "softmax")])
    model.compile(mr.optimizers.SGD(0.0), "scce", metrics=["accuracy"])
    labels = RNG.integers(0, 2, 10)
    history = model.fit(
        X,
        labels,
        epochs=9,
        validation_split=0.3,
        verbose=0,
        callbacks=[
            mr.callbacks.EarlyStopping("val_accuracy", patience=2),
            mr.callbacks.ReduceLROnPlateau("accuracy", patience=1),
            mr.callbacks.CSVLogger(tmp_path / "log.csv"),
        ],
    )
    assert history.epoch == [0, 1, 2]
    assert (tmp_path / "log.csv").read_text().splitlines()[0] == (
        "epoch,loss,accuracy,val_loss,val_accuracy,learning_rate"
    )


def test_progress_in_a_file_is_a_line_an_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    model = linear_model()
    model.compile("sgd", "mse")
    for verbose, lines in ((0, 0), (1, 2), (2, 2), ("auto", 2)):
        model.fit(X, Y, epochs=2, verbose=verbose)
        assert len(capsys.readouterr().out.splitlines()) == lines
    model.evaluate(X, Y, verbose=1)
    model.predict(X, verbose=1)
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("Evaluate - 1/1") and out[1].startswith("Predict - 1/1") and len(out) == 2


# Misuse ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda m: linear_model().fit(X, Y), ArgumentError, "not compiled"),
        (lambda m: linear_model().evaluate(X, Y), ArgumentError, "not compiled"),
        (lambda m: m.fit(X, Y[:9]), ShapeError, "x: 10, y: 9"),
        (lambda m: m.fit(X[:0], Y[:0]), ArgumentError, "no samples"),
        (lambda m: m.evaluate(X[:0], Y[:0]), ArgumentError, "no samples"),
        (lambda m: m.fit(X), ArgumentError, "no targets"),
        (lambda m: m.fit(X, Y, batch_size=0), ArgumentError, "batch_size"),
        (lambda m: m.fit(X, Y, epochs=-1), ArgumentError, "epochs"),
        (lambda m: m.fit(X, Y, epochs=1.5), ArgumentError, "epochs"),
        (lambda m: m.fit(X, Y, verbose=3), ArgumentError, "verbose"),
        (lambda m: m.fit(X, Y, seed=-1), ArgumentError, "seed"),
        (lambda m: m.fit(X, Y, callbacks=[print]), ArgumentError, "callbacks"),
        (lambda m: m.fit(X, Y, validation_data=X), ArgumentError, "validation_data"),
        (lambda m: m.fit(X, Y, validation_data=(X, Y[:3])), ShapeError, "x: 10, y: 3"),
        (lambda m: m.fit(X, Y[:, :1].repeat(3, 1)), ShapeError, "different shapes"),
        (lambda m: m.fit(X[:, :2], Y), ShapeError, "input"),
        (lambda m: m.predict([X, X]), ArgumentError, "one array for each"),
        (lambda m: m.fit(X, Y, tbptt=3), ArgumentError, "tbptt.*no input has a time axis"),
    ],
)
def test_misuse_raises_before_anything_changes(call: Any, error: type[Exception], text: str) -> None:
    model = linear_model()
    model.compile("sgd", "mse")
    before = model.get_weights()
    with pytest.raises(error, match=text):
        call(model)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights()))
    assert model.optimizer is not None and model.optimizer.iterations == 0


def test_a_model_without_any_loss_cannot_be_trained() -> None:
    model = linear_model()
    model.compile("sgd", metrics=["mae"])
    with pytest.raises(ArgumentError, match="no loss"):
        model.fit(X, Y, verbose=0)
    assert model.evaluate(X, Y, verbose=0, return_dict=True)["mae"] > 0


def test_a_stateful_batch_of_another_size_is_refused_and_leaves_all_as_it_was() -> None:
    model = Sequential([Input((None, 3)), LSTM(4, stateful=True), Dense(2)])
    model.compile("sgd", "mse")
    x = RNG.standard_normal((5, 2, 3))
    before = model.get_weights()
    for call in (
        lambda: model.fit(x, Y[:5], batch_size=3, shuffle=False, verbose=0),
        lambda: model.evaluate(x, Y[:5], batch_size=3, verbose=0),
        lambda: model.predict(x, batch_size=3),
    ):
        with pytest.raises(StateError, match="LSTM.*batch size.*\n.*one of them of 2"):
            call()
    with pytest.raises(StateError, match="4 and 3 samples in batches of 4, one of them of 3"):
        model.fit(x[:4], Y[:4], validation_data=(x[:3], Y[:3]), batch_size=4, verbose=0)
    layer: Any = model.layers[0]
    assert layer.states is None and all(np.array_equal(a, b) for a, b in zip(before, model.get_weights()))
    model.predict(x[:3])
    with pytest.raises(StateError, match="batch size.*\n.*4 samples.*\n.*batches of 3"):
        model.predict(x[:4])
    model.reset_states()
    assert model.predict(x[:4]).shape == (4, 2)


def test_a_batch_has_the_size_that_the_input_says() -> None:
    model = Sequential([Input(batch_shape=(3, None, 2)), LSTM(4, stateful=True), Dense(2)])
    x = RNG.standard_normal((6, 5, 2))
    assert model.predict(x).shape == (6, 2)
    with pytest.raises(StateError, match="batches of 3"):
        model.predict(x[:4])
