"""fit(tbptt=k) against windows written out by hand: calls with explicit states, one update each."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn import Ragged, RecurrentContainer
from minirnn.errors import ArgumentError, NonFiniteError, ShapeError
from minirnn.layers import GRU, LSTM, RNN, Bidirectional, Dense, Dropout, Embedding, Input, Masking, SimpleRNN
from minirnn.models import Model, Sequential
from tests.reference.checks import complex_step_gradients, max_error

Array = np.ndarray
RNG = np.random.default_rng(8)
B, T = 4, 7
X, Y = RNG.normal(size=(B, T, 3)), RNG.normal(size=(B, T, 2))
RATE = 0.3


def compiled(model: Any, **options: Any) -> Any:
    model.compile(mr.optimizers.SGD(RATE), "mse", metrics=["mae"], **options)
    return model


def two_layers(stateful: bool = False, batch: int | None = None) -> Sequential:
    mr.seed(6)
    options: Any = {"return_sequences": True, "stateful": stateful, "dtype": "float64"}
    begin = Input(batch_shape=(batch, None, 3), dtype="float64")
    return compiled(Sequential([begin, LSTM(5, **options), GRU(4, **options), Dense(2, dtype="float64")]))


def stepwise_sum() -> Sequential:
    """A container beside a layer, with a learned initial state."""
    mr.seed(6)
    x, total = Input((4,), dtype="float64"), Input((4,), dtype="float64")
    new = mr.ops.tanh(Dense(4, dtype="float64")(x) + total)
    container = RecurrentContainer(x, new, state_inputs=total, state_outputs=new, state_initializer="learned")
    layer = SimpleRNN(4, return_sequences=True, dtype="float64")
    return compiled(Sequential([Input((None, 3), dtype="float64"), layer, container, Dense(2, dtype="float64")]))


def masked() -> Sequential:
    mr.seed(6)
    layers = [Masking(9.0, dtype="float64"), LSTM(5, return_sequences=True, dtype="float64"), Dense(2, dtype="float64")]
    return compiled(Sequential([Input((None, 3), dtype="float64"), *layers]))


def same_weights(a: Any, b: Any) -> bool:
    return all(np.array_equal(p, q) for p, q in zip(a.get_weights(), b.get_weights(), strict=True))


MODELS: dict[str, Callable[[], Any]] = {"two layers": two_layers, "container": stepwise_sum, "masked": masked}
HOLES = np.where(RNG.random((B, T, 1)) < 0.3, 9.0, X)


@pytest.mark.parametrize("k", [T, T + 5])
@pytest.mark.parametrize("name", MODELS)
def test_one_window_is_plain_fit_to_the_bit(name: str, k: int) -> None:
    plain, cut = MODELS[name](), MODELS[name]()
    for model, options in ((plain, {}), (cut, {"tbptt": k})):
        model.fit(HOLES, Y, batch_size=3, epochs=2, seed=1, verbose=0, **options)
    assert same_weights(plain, cut) and plain.history.history == cut.history.history
    assert not any(getattr(layer, "stateful", False) for layer in cut.all_layers())


def test_random_numbers_are_those_of_plain_fit() -> None:
    def make() -> Any:
        mr.seed(6)
        layers = [GRU(4, return_sequences=True, dropout=0.3, recurrent_dropout=0.2), Dropout(0.4), Dense(2)]
        return compiled(Sequential([Input((None, 3)), *layers]))

    plain, cut = make(), make()
    plain.fit(X, Y, batch_size=3, seed=1, verbose=0)
    cut.fit(X, Y, batch_size=3, seed=1, verbose=0, tbptt=T)
    assert same_weights(plain, cut)


def by_hand(model: Any, k: int, states: list[Any] | None = None) -> tuple[list[Any], list[float]]:
    """The windows with explicit states that are plain arrays: one gradient and one update each."""
    lstm, gru, head = model.layers
    lstm.return_state = gru.return_state = True
    losses = []
    for start in range(0, T, k):
        part = slice(start, start + k)
        with mr.Tape() as tape:
            y, *first = lstm(X[:, part], **({} if states is None else {"initial_state": states[0]}))
            y, *second = gru(y, **({} if states is None else {"initial_state": states[1]}))
            loss = ((head(y) - Y[:, part]) ** 2).mean()
        for variable, gradient in zip(
            model.trainable_variables, tape.gradient(loss, model.trainable_variables), strict=True
        ):
            variable.assign(variable.numpy() - RATE * gradient.numpy())
        states = [[mr.Tensor(s.numpy()) for s in group] for group in (first, second)]
        losses.append(loss.item())
    lstm.return_state = gru.return_state = False
    return states or [], losses


@pytest.mark.parametrize("k", [1, 3, 4])
def test_each_window_makes_one_update_from_detached_states(k: int) -> None:
    model, hand = two_layers(), two_layers()
    loss = model.train_on_batch(X, Y, tbptt=k)[0]
    _, losses = by_hand(hand, k)
    assert max(max_error(a, b) for a, b in zip(model.get_weights(), hand.get_weights(), strict=True)) < 1e-13
    sizes = [min(k, T - start) for start in range(0, T, k)]
    assert max_error(loss, np.average(losses, weights=sizes)) < 1e-13
    assert model.optimizer.iterations == len(sizes)


def test_the_gradient_of_a_window_is_that_of_the_window_alone() -> None:
    """Against complex step on a loop in NumPy: the second window's update, the states of the first one fixed."""
    model = compiled(
        Sequential([Input((None, 3), dtype="float64"), SimpleRNN(2, return_sequences=True, dtype="float64")])
    )
    before = [RNG.normal(size=w.shape) for w in model.get_weights()]
    model.set_weights(before)

    def run(h: Array, x: Array, weights: Any) -> tuple[Array, Array]:
        ys = []
        for t in range(x.shape[1]):
            h = np.tanh(x[:, t] @ weights[0] + h @ weights[1] + weights[2])
            ys.append(h)
        return h, np.stack(ys, 1)

    h = np.zeros((B, 2))
    for part in (slice(0, 4), slice(4, 7)):
        gradients = complex_step_gradients(
            lambda *w, h=h, part=part: np.mean((run(h, X[:, part], w)[1] - Y[:, part]) ** 2), *before
        )
        h = run(h, X[:, part], before)[0]
        before = [w - RATE * g for w, g in zip(before, gradients, strict=True)]
    model.train_on_batch(X, Y, tbptt=4)
    assert max(max_error(a, b) for a, b in zip(model.get_weights(), before, strict=True)) < 1e-13


def test_states_begin_anew_with_each_batch_unless_the_model_is_stateful() -> None:
    model, hand = two_layers(), two_layers()
    model.fit(X, Y, batch_size=B, epochs=2, shuffle=False, verbose=0, tbptt=3)
    for _ in range(2):
        by_hand(hand, 3)
    assert max(max_error(a, b) for a, b in zip(model.get_weights(), hand.get_weights(), strict=True)) < 1e-13
    keeping, hand = two_layers(stateful=True), two_layers()
    keeping.fit(X, Y, batch_size=B, epochs=2, shuffle=False, verbose=0, tbptt=3)
    states, _ = by_hand(hand, 3)
    states, _ = by_hand(hand, 3, states)
    assert max(max_error(a, b) for a, b in zip(keeping.get_weights(), hand.get_weights(), strict=True)) < 1e-13
    for layer, held in zip(keeping.layers[:2], states, strict=True):
        assert all(max_error(a, b) < 1e-13 for a, b in zip(layer.states, held, strict=True))


def test_what_a_layer_is_called_with_is_for_the_first_window_only() -> None:
    def make() -> Any:
        mr.seed(2)
        x, code = Input((None, 3), dtype="float64", name="x"), Input((4,), dtype="float64", name="code")
        begin = Dense(5, activation="tanh", dtype="float64")(code)
        y = GRU(5, return_sequences=True, dtype="float64")(x, initial_state=begin)
        return compiled(Model([x, code], Dense(2, dtype="float64")(y)))

    code = RNG.normal(size=(B, 4))
    model, hand = make(), make()
    model.train_on_batch({"x": X, "code": code}, Y, tbptt=4)
    dense, gru, head = (hand.get_layer(index=i) for i in (2, 3, 4))
    gru.return_state = True
    state: Any = None
    for part in (slice(0, 4), slice(4, 7)):
        with mr.Tape() as tape:
            y, after = gru(X[:, part], initial_state=dense(code) if state is None else state)
            loss = ((head(y) - Y[:, part]) ** 2).mean()
        gradients = tape.gradient(loss, hand.trainable_variables)
        for variable, gradient in zip(hand.trainable_variables, gradients, strict=True):
            variable.assign(variable.numpy() - RATE * (0 if gradient is None else gradient.numpy()))
        state = mr.Tensor(after.numpy())
    assert max(max_error(a, b) for a, b in zip(model.get_weights(), hand.get_weights(), strict=True)) < 1e-13


def test_rows_that_have_ended_hold_and_count_no_more() -> None:
    """Ragged rows in windows, against the same rows padded with what Masking leaves out."""
    lengths = [7, 2, 0, 4]
    x, y = Ragged.from_padded(X, lengths), Ragged.from_padded(Y, lengths)
    weights = Ragged([RNG.random(n) for n in lengths])
    padded = np.where(x.mask[..., None], X, 9.0)
    ragged, dense = masked(), masked()
    for _ in range(2):
        one = ragged.train_on_batch(x, y, sample_weight=weights, tbptt=3)
        other = dense.train_on_batch(padded, Y, sample_weight=weights.padded(), tbptt=3)
        assert max_error(one, other) < 1e-13
    assert max(max_error(a, b) for a, b in zip(ragged.get_weights(), dense.get_weights(), strict=True)) < 1e-13


def test_embedded_words_and_models_in_models() -> None:
    inner = Sequential([Input((None, 4)), LSTM(3, return_sequences=True)])
    made = compiled(Sequential([Input((None,), dtype="int32"), Embedding(9, 4, mask_zero=True), inner, Dense(2)]))
    made.fit(RNG.integers(0, 9, (B, T)), Y, batch_size=2, verbose=0, tbptt=3)
    assert made.optimizer.iterations == 6 and inner.layers[0].states is None


def test_memory_does_not_grow_with_the_sequence() -> None:
    def peak(time: int, **options: Any) -> int:
        model = compiled(Sequential([Input((None, 3)), LSTM(32, return_sequences=True), Dense(2)]))
        x, y = np.ones((8, time, 3), "float32"), np.ones((8, time, 2), "float32")
        model.train_on_batch(x[:, :20], y[:, :20], **options)
        tracemalloc.start()
        model.train_on_batch(x, y, **options)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(320, tbptt=20) < 1.2 * peak(40, tbptt=20) and peak(320) > 4 * peak(40)


def test_a_failure_leaves_the_weights_of_the_window_before_it() -> None:
    spoilt = X.copy()
    spoilt[1, 5] = np.nan
    model, hand = two_layers(stateful=True), two_layers(stateful=True)
    with pytest.raises(NonFiniteError, match="not finite"):
        model.train_on_batch(spoilt, Y, tbptt=4)
    hand.train_on_batch(X[:, :4], Y[:, :4])
    assert same_weights(model, hand)
    assert all(np.array_equal(a, b) for a, b in zip(model.layers[0].states, hand.layers[0].states, strict=True))


def model_of(*layers: Any, shape: Any = (None, 3)) -> Any:
    return compiled(Sequential([Input(shape), *layers]))


def mean_over_time() -> Any:
    x = Input((None, 3))
    return compiled(Model(x, LSTM(2, return_sequences=True)(x) - mr.ops.mean(x[:, :, :2], axis=1, keepdims=True)))


@pytest.mark.parametrize(
    "make, y, error, text",
    [
        (lambda: model_of(Bidirectional(LSTM(1, return_sequences=True))), Y, ArgumentError, "tbptt.*Bidirectional"),
        (
            lambda: model_of(LSTM(2, return_sequences=True, go_backwards=True)),
            Y,
            ArgumentError,
            "tbptt.*LSTM(.|\n)*go_back",
        ),
        (mean_over_time, Y, ArgumentError, "tbptt.*ops_mean"),
        (lambda: model_of(LSTM(2)), Y[:, 0], ArgumentError, "output at every step(.|\n)*return_sequences=True"),
        (
            lambda: model_of(LSTM(2, return_sequences=True), shape=(T, 3)),
            Y,
            ShapeError,
            r"length is fixed(.|\n)*Input\(\(None",
        ),
        (lambda: model_of(LSTM(2, return_sequences=True)), Y[:, :5], ShapeError, r"targets.*\n.*\n.*time=7"),
    ],
)
def test_models_that_cannot_be_cut_are_refused_by_name(make: Any, y: Array, error: type[Exception], text: str) -> None:
    model = make()
    before = model.get_weights()
    with pytest.raises(error, match=text):
        model.fit(X, y, verbose=0, tbptt=3)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


@pytest.mark.parametrize("k", [0, -1, 2.0, True, "all"])
def test_the_number_of_steps_is_checked(k: Any) -> None:
    with pytest.raises(ArgumentError, match="tbptt.*\n.*\n.*at least 1"):
        two_layers().fit(X, Y, verbose=0, tbptt=k)


def test_a_model_without_a_graph_is_refused() -> None:
    class Own(Model):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = RNN(mr.layers.GRUCell(2), return_sequences=True)

        def call(self, inputs: Any) -> Any:
            return self.rnn(inputs)

    with pytest.raises(ArgumentError, match="tbptt needs a functional graph"):
        compiled(Own()).fit(X, Y, verbose=0, tbptt=3)
