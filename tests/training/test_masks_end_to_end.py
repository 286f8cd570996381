"""Masks from where they are made to where they count: through layers, models, losses, metrics and gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn.layers import (
    GRU,
    LSTM,
    Activation,
    Add,
    Concatenate,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    Input,
    Lambda,
    LayerNormalization,
    Masking,
    Multiply,
    Reshape,
    SimpleRNN,
)
from minirnn.models import Model, Sequential

RNG = np.random.default_rng(12)
B, T, F, K = 4, 6, 3, 5
LENGTHS = np.array([6, 2, 0, 4])
RIGHT = np.arange(T) < LENGTHS[:, None]
PATTERNS = {
    "right": RIGHT,
    "left": RIGHT[:, ::-1],
    "holes": RNG.random((B, T)) < 0.5,
    "all": np.ones((B, T), bool),
    "none": np.zeros((B, T), bool),
}
X, WEIGHT = RNG.normal(size=(B, T, F)), RNG.random((B, T))
CLASSES = RNG.integers(0, K, (B, T))
TARGETS: dict[str, Any] = {
    "mse": RNG.normal(size=(B, T, K)),
    "mae": RNG.normal(size=(B, T, K)),
    "huber": RNG.normal(size=(B, T, K)),
    "bce": RNG.integers(0, 2, (B, T, K)).astype(float),
    "cce": np.eye(K)[CLASSES],
    "scce": CLASSES.astype(float),
}
METRICS = {
    "mse": ["mse", "rmse", "mae"],
    "mae": ["mae"],
    "huber": ["mae"],
    "bce": ["bce", "binary_accuracy"],
    "cce": ["cce", "categorical_accuracy", "top_k_categorical_accuracy"],
    "scce": ["scce", "sparse_categorical_accuracy", "sparse_top_k_categorical_accuracy", "accuracy"],
}


def spoilt(array: Any, mask: Any, dirt: float) -> Any:
    return np.where(mask.reshape(mask.shape + (1,) * (array.ndim - 2)), array, dirt)


# what each layer does with a mask ----------------------------------------------------------------
CARRIES = {
    "Dense": Dense(2),
    "Activation": Activation("tanh"),
    "Dropout": Dropout(0.5),
    "LayerNormalization": LayerNormalization(),
    "Masking": Masking(mask_value=99.0),
    "sequences": SimpleRNN(2, return_sequences=True),
    "Lambda with a mask": Lambda(lambda x: x * 2, mask=lambda x, mask: mask),
    "Sequential": Sequential([Dense(2), GRU(3, return_sequences=True)]),
}
DROPS = {
    "Flatten": Flatten(),
    "Reshape": Reshape((F, T)),
    "Lambda": Lambda(lambda x: x * 2),
    "last output": LSTM(2),
}


def masked_input(mask: Any) -> mr.Tensor:
    x = mr.Tensor(X.astype("float32"))
    x.mask = mr.Tensor(mask)
    return x


@pytest.mark.parametrize("name", [*CARRIES, *DROPS])
def test_layers_carry_a_mask_or_drop_it(name: str) -> None:
    found = {**CARRIES, **DROPS}[name](masked_input(RIGHT)).mask
    assert found is None if name in DROPS else np.array_equal(found, RIGHT)


def test_joined_inputs_count_where_all_of_them_do() -> None:
    holes = PATTERNS["holes"]
    for join in (Add(), Multiply(), Concatenate()):
        np.testing.assert_array_equal(join([masked_input(RIGHT), masked_input(holes)]).mask, RIGHT & holes)
        np.testing.assert_array_equal(join([masked_input(RIGHT), X.astype("float32")]).mask, RIGHT)
    in_time = Concatenate(axis=1)([masked_input(RIGHT), X.astype("float32")]).mask
    np.testing.assert_array_equal(in_time, np.concatenate([RIGHT, np.ones((B, T), bool)], axis=1))


def test_a_model_in_a_model_reads_the_mask_and_gives_one() -> None:
    a, b = Input((None, F)), Input((None, F))
    inner = Model([a, b], [GRU(2, return_sequences=True)(Add()([a, b])), LSTM(3)(a)])
    x = Input((None, F))
    outer = Model(x, inner([Masking()(x), x]))
    data = spoilt(X, RIGHT, 0.0)
    every, last = outer(data)
    assert np.array_equal(every.mask, RIGHT) and last.mask is None
    direct = inner([masked_input(RIGHT), data])
    np.testing.assert_array_equal(last, direct[1])


def test_each_mask_goes_on_with_its_own_sequence() -> None:
    ids = np.where(RIGHT, RNG.integers(1, 9, (B, T)), 0)
    words, more = Input((None,), dtype="int32"), Input((None, F))
    joined = Concatenate()([Embedding(9, 2, mask_zero=True)(words), Masking()(more)])
    seen = Model([words, more], joined)([ids, spoilt(X, PATTERNS["left"], 0.0)])
    np.testing.assert_array_equal(seen.mask, RIGHT & PATTERNS["left"])


# what stands in padded steps ---------------------------------------------------------------------
def tagger(loss: str) -> Model:
    """Masked by what its second input says; the head makes probabilities where the loss wants them."""
    mr.seed(5)
    x, valid = Input((None, F), dtype="float64"), Input((None,), dtype="bool")
    y = LSTM(4, return_sequences=True, dtype="float64")(x, mask=valid)
    y = LayerNormalization(dtype="float64")(Dense(4, activation="tanh", dtype="float64")(y))
    y = GRU(4, return_sequences=True, dtype="float64")(y)
    head = {"bce": "sigmoid", "cce": "softmax", "scce": "softmax"}.get(loss)
    made = Model([x, valid], Dense(K, activation=head, dtype="float64")(y))
    made.compile(
        mr.optimizers.Adam(0.05), loss, metrics=METRICS[loss], weighted_metrics=[_copy(m) for m in METRICS[loss]]
    )
    return made


def _copy(name: str) -> Any:
    made = mr.metrics.get(name, mr.losses.get("scce"))
    made.name = f"weighted_{name}"
    return made


@pytest.mark.parametrize("pattern", ["right", "left", "holes"])
@pytest.mark.parametrize("loss", TARGETS)
def test_nan_and_infinities_in_padded_steps_reach_nothing(loss: str, pattern: str) -> None:
    """Inputs, targets and sample weights: the whole run of fit has the same bits."""
    mask, target = PATTERNS[pattern], TARGETS[loss]
    results = []
    for x, y, weight in (
        (X, target, WEIGHT),
        (spoilt(X, mask, np.nan), spoilt(target, mask, np.inf), spoilt(WEIGHT, mask, np.nan)),
        (spoilt(X, mask, -np.inf), spoilt(target, mask, np.nan), spoilt(WEIGHT, mask, -np.inf)),
    ):
        made = tagger(loss)
        history = made.fit([x, mask], y, sample_weight=weight, batch_size=3, epochs=2, seed=1, verbose=0).history
        scores = made.evaluate([x, mask], y, verbose=0, return_dict=True)
        predictions = made.predict([x, mask])
        results.append((history, scores, predictions.tobytes(), [w.tobytes() for w in made.get_weights()]))
    assert results[0] == results[1] == results[2]
    assert np.isfinite([v for values in results[0][0].values() for v in values]).all()


@pytest.mark.parametrize("option", ["mask", "lengths"])
def test_gradients_are_the_same_whatever_is_padded(option: str) -> None:
    """Of all weights and of the inputs, which get none at padded steps; also of a gradient's gradient."""
    layer = LSTM(4, return_sequences=True, return_state=True, dtype="float64")
    head = Dense(2, dtype="float64")
    given: Any = {"mask": RIGHT} if option == "mask" else {"lengths": LENGTHS}
    found = []
    for dirt in (0.0, np.nan, np.inf):
        x = mr.Tensor(spoilt(X, RIGHT, dirt))
        with mr.Tape() as outer:
            outer.watch(x)
            with mr.Tape() as tape:
                tape.watch(x)
                y, *states = layer(x, **given)
                loss = mr.ops.mean(head(y) ** 2) + sum(mr.ops.sum(s * s) for s in states)
            gradients = tape.gradient(loss, [x, *layer.trainable_variables, *head.trainable_variables])
            norm = sum(mr.ops.sum(g * g) for g in gradients[1:])
        second = outer.gradient(norm, [x, *layer.trainable_variables])
        found.append([np.asarray(g) for g in (y, *states, *gradients, *second)])
        assert not found[-1][3][~RIGHT].any() and found[-1][3][RIGHT].all()
        assert all(np.isfinite(g).all() for g in found[-1])
    assert all(np.array_equal(a, b) and np.array_equal(a, c) for a, b, c in zip(*found, strict=True))


@pytest.mark.parametrize("pattern", ["all", "none"])
def test_everything_masked_and_nothing_masked(pattern: str) -> None:
    made = tagger("mse")
    before = made.get_weights()
    loss = made.train_on_batch([X, PATTERNS[pattern]], TARGETS["mse"])[0]
    changed = any(not np.array_equal(a, b) for a, b in zip(before, made.get_weights(), strict=True))
    assert (loss > 0) == changed == (pattern == "all")
