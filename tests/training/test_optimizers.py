"""Optimizers against their formulas written again in plain NumPy, clipping, saved state, errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn.errors import ArgumentError, FormatError, ShapeError
from minirnn.layers import registry
from minirnn.training import optimizers
from minirnn.training.schedules import ExponentialDecay
from tests.reference.checks import max_error

Array = np.ndarray
SHAPES = [(3, 5), (7,), ()]
STEPS = 6


def gradients_of_a_run(seed: int = 0, dtype: str = "float64") -> list[list[Array]]:
    rng = np.random.default_rng(seed)
    return [[np.asarray(rng.standard_normal(shape), dtype) for shape in SHAPES] for _ in range(STEPS)]


def first_weights(seed: int = 1) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.standard_normal(shape)) for shape in SHAPES]


# Each formula: (weight, gradients so far) -> weight after all of them, one element at a time in effect.
def sgd(w: Array, gs: list[Array], lr: float, momentum: float = 0.0, nesterov: bool = False) -> Array:
    v = np.zeros_like(w)
    for g in gs:
        v = momentum * v - lr * g
        w = w + (momentum * v - lr * g if nesterov else v)
    return w


def rmsprop(w: Array, gs: list[Array], lr: float, rho: float, momentum: float, eps: float, centered: bool) -> Array:
    v, m, mom = np.zeros_like(w), np.zeros_like(w), np.zeros_like(w)
    for g in gs:
        v = rho * v + (1 - rho) * g**2
        m = rho * m + (1 - rho) * g
        mom = momentum * mom + lr * g / np.sqrt(v + eps - (m**2 if centered else 0))
        w = w - mom
    return w


def adam(
    w: Array, gs: list[Array], lr: float, b1: float, b2: float, eps: float, amsgrad: bool = False, decay: float = 0.0
) -> Array:
    m, v, top = np.zeros_like(w), np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(gs, start=1):
        w = w * (1 - lr * decay)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        top = np.maximum(top, v)
        root = np.sqrt(top if amsgrad else v)
        w = w - lr * np.sqrt(1 - b2**t) / (1 - b1**t) * m / (root + eps)
    return w


Maker = Callable[[], optimizers.Optimizer]
CASES: dict[str, tuple[Maker, Callable[[Array, list[Array]], Array]]] = {
    "sgd": (lambda: optimizers.SGD(0.3), lambda w, gs: sgd(w, gs, 0.3)),
    "momentum": (lambda: optimizers.SGD(0.3, 0.8), lambda w, gs: sgd(w, gs, 0.3, 0.8)),
    "nesterov": (lambda: optimizers.SGD(0.3, 0.8, nesterov=True), lambda w, gs: sgd(w, gs, 0.3, 0.8, True)),
    "rmsprop": (lambda: optimizers.RMSprop(), lambda w, gs: rmsprop(w, gs, 0.001, 0.9, 0.0, 1e-7, False)),
    "rmsprop momentum": (
        lambda: optimizers.RMSprop(0.02, rho=0.7, momentum=0.6, epsilon=1e-3),
        lambda w, gs: rmsprop(w, gs, 0.02, 0.7, 0.6, 1e-3, False),
    ),
    "rmsprop centered": (
        lambda: optimizers.RMSprop(0.02, centered=True, momentum=0.5),
        lambda w, gs: rmsprop(w, gs, 0.02, 0.9, 0.5, 1e-7, True),
    ),
    "adam": (lambda: optimizers.Adam(), lambda w, gs: adam(w, gs, 0.001, 0.9, 0.999, 1e-7)),
    "adam other": (
        lambda: optimizers.Adam(0.1, beta_1=0.6, beta_2=0.7, epsilon=0.01),
        lambda w, gs: adam(w, gs, 0.1, 0.6, 0.7, 0.01),
    ),
    "amsgrad": (
        lambda: optimizers.Adam(0.1, beta_2=0.3, amsgrad=True),
        lambda w, gs: adam(w, gs, 0.1, 0.9, 0.3, 1e-7, amsgrad=True),
    ),
    "adamw": (lambda: optimizers.AdamW(0.1), lambda w, gs: adam(w, gs, 0.1, 0.9, 0.999, 1e-7, decay=0.004)),
    "adam with decay": (
        lambda: optimizers.Adam(0.1, weight_decay=0.3),
        lambda w, gs: adam(w, gs, 0.1, 0.9, 0.999, 1e-7, decay=0.3),
    ),
}


def run(optimizer: optimizers.Optimizer, weights: list[Array], gradients: list[list[Array]]) -> list[mr.Variable]:
    variables = [mr.Variable(w, name=f"w{i}") for i, w in enumerate(weights)]
    for step in gradients:
        optimizer.apply(step, variables)
    return variables


@pytest.mark.parametrize("name", CASES)
def test_updates_equal_the_formula(name: str) -> None:
    make, formula = CASES[name]
    gradients, weights = gradients_of_a_run(), first_weights()
    kept = [[g.copy() for g in step] for step in gradients]
    variables = run(make(), weights, gradients)
    for i, variable in enumerate(variables):
        assert max_error(variable.numpy(), formula(weights[i], [step[i] for step in gradients])) < 1e-14
    assert all(np.array_equal(a, b) for x, y in zip(kept, gradients) for a, b in zip(x, y)), "gradients were changed"


@pytest.mark.parametrize("name", CASES)
def test_float32_stays_float32(name: str) -> None:
    make, formula = CASES[name]
    gradients = gradients_of_a_run(dtype="float32")
    weights = [w.astype("float32") for w in first_weights()]
    for i, variable in enumerate(run(make(), weights, gradients)):
        assert variable.dtype == np.float32
        want = formula(weights[i].astype(float), [step[i].astype(float) for step in gradients])
        assert max_error(variable.numpy(), want) < 2e-6


@pytest.mark.parametrize("name", CASES)
def test_saved_state_continues_to_the_bit(name: str) -> None:
    make, _ = CASES[name]
    gradients, weights = gradients_of_a_run(), first_weights()
    whole = run(make(), weights, gradients)
    first = make()
    halfway = run(first, weights, gradients[:3])
    saved = first.export_state(halfway)
    config = first.get_config()
    second = type(first).from_config(config)
    variables = [mr.Variable(v.numpy()) for v in halfway]
    second.import_state(saved, variables)
    for step in gradients[3:]:
        first.apply(step, halfway)  # must not disturb what was exported
        second.apply(step, variables)
    for a, b, c in zip(whole, variables, halfway):
        assert a.numpy().tobytes() == b.numpy().tobytes() == c.numpy().tobytes()
    assert second.iterations == STEPS


def test_a_tensor_may_be_the_gradient_and_none_leaves_a_variable_alone() -> None:
    a, b = mr.Variable([1.0, 2.0]), mr.Variable([3.0])
    optimizer = optimizers.SGD(0.5)
    optimizer.apply_gradients([(mr.Tensor([2.0, 4.0]), a), (None, b)])
    assert a.numpy().tolist() == [0.0, 0.0] and b.numpy().tolist() == [3.0]
    with pytest.raises(ArgumentError, match="no gradient for any"):
        optimizer.apply([None, None], [a, b])
    with pytest.raises(ShapeError):
        optimizer.apply([np.zeros(3)], [a])
    with pytest.raises(ArgumentError, match="as many"):
        optimizer.apply([np.zeros(2)], [a, b])


def test_an_update_leaves_recorded_computations_alone() -> None:
    w = mr.Variable([2.0])
    with mr.Tape() as tape:
        loss = w * w * w
    optimizers.SGD(0.5).apply([np.ones(1, "float32")], [w])
    assert tape.gradient(loss, w).numpy().tolist() == [12.0]


def test_clipping() -> None:
    gradients = [np.array([3.0, 4.0]), np.array([[0.0], [12.0]])]

    def clipped(**how: float) -> list[Array]:
        variables = [mr.Variable(np.zeros_like(g)) for g in gradients]
        optimizers.SGD(1.0, **how).apply(gradients, variables)
        return [-v.numpy() for v in variables]

    for got, want in zip(clipped(clipnorm=6.0), [[3.0, 4.0], [[0.0], [6.0]]]):
        assert max_error(got, want) < 1e-15
    for got, want in zip(clipped(global_clipnorm=6.5), [[1.5, 2.0], [[0.0], [6.0]]]):
        assert max_error(got, want) < 1e-15
    for got, want in zip(clipped(global_clipnorm=14.0), gradients):
        assert np.array_equal(got, want)
    for got, want in zip(clipped(clipvalue=3.5), [[3.0, 3.5], [[0.0], [3.5]]]):
        assert np.array_equal(got, want)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_norms_beyond_the_range_of_float32_squares(size: float) -> None:
    w = mr.Variable(np.zeros(2, "float32"))
    optimizers.SGD(1.0, clipnorm=size).apply([np.array([3 * size, 4 * size], "float32")], [w])
    assert np.allclose(-w.numpy() / size, [0.6, 0.8], rtol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"clipnorm": 1.0, "clipvalue": 1.0},
        {"clipnorm": 0.0},
        {"global_clipnorm": -1.0},
        {"momentum": 1.5},
        {"learning_rate": -0.1},
        {"learning_rate": float("nan")},
        {"learning_rate": "fast"},
        {"learning_rate": lambda: 0.1},
    ],
)
def test_options_that_make_no_sense_raise(options: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError):
        optimizers.SGD(**options)


def test_the_learning_rate_can_be_set_or_follows_a_schedule() -> None:
    optimizer = optimizers.SGD(0.5)
    optimizer.learning_rate = 0.25
    w = mr.Variable([1.0])
    optimizer.apply([np.ones(1)], [w])
    assert w.item() == 0.75 and optimizer.get_config()["learning_rate"] == 0.25
    scheduled = optimizers.SGD(ExponentialDecay(0.5, 1, 0.5))
    w = mr.Variable([1.0])
    for _ in range(3):
        scheduled.apply([np.ones(1)], [w])
    assert w.item() == 1 - 0.5 - 0.25 - 0.125
    with pytest.raises(ArgumentError, match="ExponentialDecay"):
        scheduled.learning_rate = 0.1


def test_state_that_does_not_fit_raises_and_changes_nothing() -> None:
    variables = run(optimizers.Adam(), first_weights(), gradients_of_a_run())
    optimizer = optimizers.Adam()
    run(optimizer, first_weights(), gradients_of_a_run())
    saved = optimizer.export_state(variables)
    fresh = optimizers.Adam()
    with pytest.raises(FormatError, match="not its saved state"):
        optimizers.SGD(0.1, 0.9).import_state({**saved, "mean/0": np.zeros((3, 5))}, variables)
    wrong = {"iterations": np.array(3), "mean/0": np.zeros((5, 3))}
    with pytest.raises(FormatError, match="mean/0"):
        fresh.import_state(wrong, variables)
    with pytest.raises(FormatError):
        fresh.import_state({}, variables)
    assert fresh.iterations == 0


@pytest.mark.parametrize("name", ["sgd", "SGD", "rmsprop", "RMSprop", "adam", "Adam", "adamw", "AdamW"])
def test_lookup(name: str) -> None:
    assert type(optimizers.get(name)).__name__.lower() == name.lower()


def test_lookup_of_what_is_not_there() -> None:
    with pytest.raises(ArgumentError, match="'adam'"):
        optimizers.get("adma")
    with pytest.raises(ArgumentError, match="not an optimizer"):
        optimizers.get(None)


@pytest.mark.parametrize("name", CASES)
def test_configuration_round_trip(name: str) -> None:
    optimizer = CASES[name][0]()
    copy = registry.deserialize(registry.serialize(optimizer), "optimizer")
    assert type(copy) is type(optimizer) and copy.get_config() == optimizer.get_config()
