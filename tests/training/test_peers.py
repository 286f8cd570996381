"""Optimizers, losses, metrics, schedules and whole runs against Keras 3 and PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn.layers import LSTM, Dense, Embedding, Input
from minirnn.models import Model, Sequential
from tests.peers import Need
from tests.reference.checks import max_error

pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # Keras's variables
]

Array = np.ndarray
B, T, K = 6, 5, 4


@pytest.fixture(scope="module")
def torch(need: Need) -> Any:
    return need("torch")


@pytest.fixture(scope="module")
def keras(need: Need) -> Any:
    need("jax")
    return need("keras")


class Quadratic:
    """A random convex quadratic of two variables of different shapes: its gradients are what optimizers get."""

    def __init__(self, dtype: str) -> None:
        rng = np.random.default_rng(3)
        a = rng.standard_normal((10, 10))
        self.matrix, self.target = (a @ a.T / 10).astype(dtype), rng.standard_normal(10).astype(dtype)
        self.start = [rng.standard_normal((2, 3)).astype(dtype), rng.standard_normal(4).astype(dtype)]

    def gradients(self, weights: list[Array]) -> list[Array]:
        flat = np.concatenate([w.ravel() for w in weights])
        slope = self.matrix @ (flat - self.target)
        return [slope[:6].reshape(2, 3), slope[6:]]

    def descend(self, optimizer: mr.optimizers.Optimizer, steps: int = 30) -> list[Array]:
        variables = [mr.Variable(w) for w in self.start]
        for _ in range(steps):
            optimizer.apply(self.gradients([v.numpy() for v in variables]), variables)
        return [v.numpy() for v in variables]


TORCH: dict[str, tuple[mr.optimizers.Optimizer, Callable[[Any, Any], Any]]] = {
    "sgd": (mr.optimizers.SGD(0.1), lambda t, p: t.optim.SGD(p, 0.1)),
    "momentum": (mr.optimizers.SGD(0.1, 0.8), lambda t, p: t.optim.SGD(p, 0.1, momentum=0.8)),
    "nesterov": (mr.optimizers.SGD(0.1, 0.8, True), lambda t, p: t.optim.SGD(p, 0.1, momentum=0.8, nesterov=True)),
    # The two put epsilon in different places, so that only without one are they the same.
    "rmsprop": (
        mr.optimizers.RMSprop(0.01, momentum=0.5, epsilon=0.0),
        lambda t, p: t.optim.RMSprop(p, 0.01, alpha=0.9, eps=0.0, momentum=0.5),
    ),
    "rmsprop centered": (
        mr.optimizers.RMSprop(0.01, centered=True, epsilon=0.0),
        lambda t, p: t.optim.RMSprop(p, 0.01, alpha=0.9, eps=0.0, centered=True),
    ),
    "adam": (mr.optimizers.Adam(0.05, epsilon=0.0), lambda t, p: t.optim.Adam(p, 0.05, eps=0.0)),
    "amsgrad": (
        mr.optimizers.Adam(0.05, beta_2=0.5, epsilon=0.0, amsgrad=True),
        lambda t, p: t.optim.Adam(p, 0.05, betas=(0.9, 0.5), eps=0.0, amsgrad=True),
    ),
    "adamw": (
        mr.optimizers.AdamW(0.05, weight_decay=0.1, epsilon=0.0),
        lambda t, p: t.optim.AdamW(p, 0.05, weight_decay=0.1, eps=0.0),
    ),
}


@pytest.mark.parametrize("name", TORCH)
def test_optimizers_equal_torch(torch: Any, name: str) -> None:
    quadratic = Quadratic("float64")
    ours, make = TORCH[name]
    parameters = [torch.tensor(w, requires_grad=True) for w in quadratic.start]
    theirs = make(torch, parameters)
    # PyTorch corrects amsgrad's maximum for the start at zero after, Keras before taking it: one step is the same.
    steps = 1 if name == "amsgrad" else 30
    for _ in range(steps):
        for p, g in zip(parameters, quadratic.gradients([p.detach().numpy() for p in parameters])):
            p.grad = torch.tensor(g)
        theirs.step()
    for a, b in zip(quadratic.descend(ours, steps), parameters):
        assert max_error(a, b.detach().numpy()) < 1e-12


def test_global_clipping_equals_torch(torch: Any) -> None:
    quadratic = Quadratic("float64")
    parameters = [torch.tensor(w, requires_grad=True) for w in quadratic.start]
    for p, g in zip(parameters, quadratic.gradients(quadratic.start)):
        p.grad = torch.tensor(g)
    torch.nn.utils.clip_grad_norm_(parameters, 0.5)
    got = quadratic.descend(mr.optimizers.SGD(1.0, global_clipnorm=0.5), steps=1)
    for new, old, p in zip(got, quadratic.start, parameters):
        assert max_error(old - new, p.grad.numpy()) < 1e-5  # torch adds 1e-6 to the norm


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SGD", {}),
        ("SGD", {"learning_rate": 0.1, "momentum": 0.8}),
        ("SGD", {"learning_rate": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 0.2}),
        ("RMSprop", {}),
        ("RMSprop", {"learning_rate": 0.02, "momentum": 0.5, "rho": 0.7, "epsilon": 1e-3}),
        ("RMSprop", {"centered": True}),
        ("Adam", {}),
        ("Adam", {"learning_rate": 0.1, "beta_1": 0.7, "beta_2": 0.5, "epsilon": 1e-2, "amsgrad": True}),
        ("AdamW", {}),
        ("AdamW", {"learning_rate": 0.1, "weight_decay": 0.3}),
        ("Adam", {"clipnorm": 0.3}),
        ("SGD", {"clipvalue": 0.2, "learning_rate": 0.1}),
        ("SGD", {"global_clipnorm": 0.4, "learning_rate": 0.1}),
    ],
)
def test_optimizers_equal_keras(keras: Any, name: str, options: dict[str, Any]) -> None:
    quadratic = Quadratic("float32")
    theirs = getattr(keras.optimizers, name)(**options)
    variables = [keras.Variable(w) for w in quadratic.start]
    for _ in range(30):
        gradients = quadratic.gradients([np.asarray(v) for v in variables])
        theirs.apply([keras.ops.convert_to_tensor(g) for g in gradients], variables)
    for a, b in zip(quadratic.descend(getattr(mr.optimizers, name)(**options)), variables):
        assert max_error(a, np.asarray(b)) < 2e-5


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ExponentialDecay", {"initial_learning_rate": 0.1, "decay_steps": 7, "decay_rate": 0.6}),
        ("ExponentialDecay", {"initial_learning_rate": 0.1, "decay_steps": 7, "decay_rate": 0.6, "staircase": True}),
        ("InverseTimeDecay", {"initial_learning_rate": 0.1, "decay_steps": 7, "decay_rate": 0.6, "staircase": True}),
        ("PiecewiseConstantDecay", {"boundaries": [3, 11], "values": [0.3, 0.2, 0.1]}),
        ("PolynomialDecay", {"initial_learning_rate": 0.1, "decay_steps": 7, "power": 1.7}),
        ("PolynomialDecay", {"initial_learning_rate": 0.1, "decay_steps": 7, "cycle": True}),
        ("CosineDecay", {"initial_learning_rate": 0.1, "decay_steps": 7, "alpha": 0.3}),
        (
            "CosineDecay",
            {"initial_learning_rate": 0.1, "decay_steps": 9, "warmup_target": 0.4, "warmup_steps": 5, "alpha": 0.1},
        ),
    ],
)
def test_schedules_equal_keras(keras: Any, name: str, options: dict[str, Any]) -> None:
    ours = getattr(mr.schedules, name)(**options)
    theirs = getattr(keras.optimizers.schedules, name)(**options)
    for step in range(25):
        assert ours(step) == pytest.approx(float(theirs(step)), rel=1e-5, abs=1e-7), step


def arrays(kind: str) -> tuple[Array, Array, Array, Array]:
    rng = np.random.default_rng(8)
    y: Array = {
        "real": rng.standard_normal((B, T, K)),
        "bits": rng.integers(0, 2, (B, T, K)),
        "one-hot": np.eye(K)[rng.integers(0, K, (B, T))],
        "label": rng.integers(0, K, (B, T)),
    }[kind].astype("float32" if kind != "label" else "int32")
    p = rng.uniform(0.05, 0.95, (B, T, K)).astype("float32")
    return y, p, rng.uniform(0.5, 2, (B, T)).astype("float32"), rng.uniform(size=(B, T)) < 0.6


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum", None])
@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("MeanSquaredError", "real", {}),
        ("MeanAbsoluteError", "real", {}),
        ("Huber", "real", {"delta": 0.6}),
        ("BinaryCrossentropy", "bits", {}),
        ("BinaryCrossentropy", "bits", {"from_logits": True, "label_smoothing": 0.1}),
        ("CategoricalCrossentropy", "one-hot", {}),
        ("CategoricalCrossentropy", "one-hot", {"from_logits": True, "label_smoothing": 0.1}),
        ("SparseCategoricalCrossentropy", "label", {}),
        ("SparseCategoricalCrossentropy", "label", {"from_logits": True}),
    ],
)
def test_losses_equal_keras(
    keras: Any, name: str, kind: str, options: dict[str, Any], reduction: Any, weighted: bool, masked: bool
) -> None:
    y, p, weight, mask = arrays(kind)
    theirs = getattr(keras.losses, name)(reduction=reduction, **options)
    prediction = keras.ops.convert_to_tensor(p)
    values = np.asarray(theirs(y, prediction, weight if weighted else None))
    if masked:  # Keras scales a mask before it reduces; what that comes to is said here for each reduction
        unmasked = np.asarray(getattr(keras.losses, name)(reduction=None, **options)(y, prediction))
        kept = np.where(mask, unmasked * (weight if weighted else 1), 0)
        values = {None: kept, "sum": kept.sum(), "sum_over_batch_size": kept.sum() / mask.sum()}[reduction]
    ours = getattr(mr.losses, name)(reduction=reduction, **options)
    assert max_error(ours(y, p, weight if weighted else None, mask if masked else None).numpy(), values) < 2e-6


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("MeanSquaredError", "real", {}),
        ("RootMeanSquaredError", "real", {}),
        ("MeanAbsoluteError", "real", {}),
        ("BinaryAccuracy", "bits", {"threshold": 0.4}),
        ("CategoricalAccuracy", "one-hot", {}),
        ("SparseCategoricalAccuracy", "label", {}),
        ("TopKCategoricalAccuracy", "one-hot", {"k": 2}),
        ("SparseTopKCategoricalAccuracy", "label", {"k": 3}),
        ("BinaryCrossentropy", "bits", {}),
        ("CategoricalCrossentropy", "one-hot", {"from_logits": True}),
        ("SparseCategoricalCrossentropy", "label", {}),
    ],
)
def test_metrics_equal_keras(keras: Any, name: str, kind: str, options: dict[str, Any], weighted: bool) -> None:
    y, p, weight, _ = arrays(kind)
    ours, theirs = getattr(mr.metrics, name)(**options), getattr(keras.metrics, name)(**options)
    for rows in (slice(0, 2), slice(2, None)):
        for metric in (ours, theirs):
            if weighted and name != "RootMeanSquaredError":  # there Keras takes no weights by step
                metric.update_state(y[rows], p[rows], weight[rows])
            else:
                metric.update_state(y[rows], p[rows])
    assert ours.result() == pytest.approx(float(theirs.result()), rel=1e-5)


def same_runs(keras: Any, ours: Any, theirs: Any, x: Any, y: Any, options: dict[str, Any], **fit: Any) -> None:
    theirs.set_weights(ours.get_weights())
    histories = []
    for model, library in ((ours, mr), (theirs, keras)):
        optimizer = library.optimizers.Adam(0.01)
        model.compile(optimizer=optimizer, **options)
        histories.append(model.fit(x, y, batch_size=4, epochs=3, shuffle=False, verbose=0, **fit).history)
    assert set(histories[0]) == set(histories[1])
    for name, values in histories[1].items():
        assert max_error(histories[0][name], values) < 2e-5, name
    for a, b in zip(ours.get_weights(), theirs.get_weights()):
        assert max_error(a, b) < 2e-5


def test_a_whole_run_equals_keras(keras: Any) -> None:
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((11, T, 3)).astype("float32"), rng.integers(0, K, (11, T))
    ours = Sequential([Input((None, 3)), LSTM(4, return_sequences=True), Dense(K, "softmax")])
    theirs = keras.Sequential(
        [
            keras.Input((None, 3)),
            keras.layers.LSTM(4, return_sequences=True),
            keras.layers.Dense(K, "softmax"),
        ]
    )
    options = {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]}
    same_runs(keras, ours, theirs, x, y, options, validation_split=0.25)
    got, want = ours.evaluate(x, y, batch_size=4, verbose=0), theirs.evaluate(x, y, batch_size=4, verbose=0)
    assert max_error(got, want) < 2e-5


def test_a_run_with_two_outputs_equals_keras(keras: Any) -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((11, 3)).astype("float32")
    y = [rng.standard_normal((11, 2)).astype("float32"), rng.integers(0, 2, (11, 1)).astype("float32")]

    def build(input_, model: Any, dense: Any) -> Any:  # type: ignore[no-untyped-def]
        a = input_((3,))
        h = dense(4, activation="tanh")(a)
        return model(a, [dense(2, name="p")(h), dense(1, activation="sigmoid", name="q")(h)])

    ours, theirs = build(Input, Model, Dense), build(keras.Input, keras.Model, keras.layers.Dense)
    options = {
        "loss": {"p": "mse", "q": "binary_crossentropy"},
        "loss_weights": {"p": 0.5, "q": 2.0},
        "metrics": {"p": ["mae"], "q": ["accuracy"]},
    }
    same_runs(keras, ours, theirs, x, y, options, sample_weight=rng.uniform(0.5, 2, 11).astype("float32"))


def test_a_masked_run_in_whole_batches_equals_keras(keras: Any) -> None:
    rng = np.random.default_rng(2)
    lengths = np.array([5, 3, 2, 2, 4, 1, 5, 2])  # each batch of four has 12 valid steps, as Keras counts batches alike
    steps = np.arange(T) < lengths[:, None]
    ids = np.where(steps, rng.integers(1, 6, (8, T)), 0).astype("int32")
    y = rng.standard_normal((8, T, 2)).astype("float32")
    ours = Sequential(
        [
            Input((None,), dtype="int64"),
            Embedding(6, 3, mask_zero=True),
            LSTM(4, return_sequences=True),
            Dense(2),
        ]
    )
    theirs = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            keras.layers.Embedding(6, 3, mask_zero=True),
            keras.layers.LSTM(4, return_sequences=True),
            keras.layers.Dense(2),
        ]
    )
    same_runs(keras, ours, theirs, ids, y, {"loss": "mse"})
    # While it trains on JAX, Keras loses the mask before the metrics see it; not so when it evaluates.
    for model in (ours, theirs):
        model.compile("sgd", "mse", metrics=["mae"])
    got, want = ours.evaluate(ids, y, batch_size=4, verbose=0), theirs.evaluate(ids, y, batch_size=4, verbose=0)
    assert max_error(got, want) < 2e-5
