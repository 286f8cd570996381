"""A RecurrentContainer with output feedback against the same network in JAX, float64, both orders.

One step: an LSTM reads the input, a constant and the previous prediction; a Dense layer predicts; the
prediction is fed back.  Outputs: all predictions, the last hidden output, and all final states.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn.layers import LSTM, Concatenate, Dense, Input
from tests.peers import Need
from tests.reference.cells import Array
from tests.reference.checks import Disagreement, assert_agree

pytestmark = pytest.mark.peers

BATCH, TIME, FEATURES, CONSTANTS, UNITS, PREDICTIONS = 3, 6, 4, 2, 5, 7
WIDTH = FEATURES + PREDICTIONS + CONSTANTS
SHAPES = {
    "kernel": (WIDTH, 4 * UNITS),
    "recurrent_kernel": (UNITS, 4 * UNITS),
    "bias": (4 * UNITS,),
    "dense_kernel": (UNITS, PREDICTIONS),
    "dense_bias": (PREDICTIONS,),
    "x": (BATCH, TIME, FEATURES),
    "constant": (BATCH, CONSTANTS),
    "h": (BATCH, UNITS),
    "c": (BATCH, UNITS),
    "prediction": (BATCH, PREDICTIONS),
}
WEIGHTS = ["kernel", "recurrent_kernel", "bias", "dense_kernel", "dense_bias"]
RESULTS = {
    "sequence": (BATCH, TIME, PREDICTIONS),
    "last": (BATCH, UNITS),
    "final h": (BATCH, UNITS),
    "final c": (BATCH, UNITS),
    "final prediction": (BATCH, PREDICTIONS),
}
MASK = np.array([[1, 1, 0, 1, 0, 0], [0, 1, 1, 1, 1, 1], [0, 0, 1, 0, 1, 0]], bool)
TOLERANCE = 1e-12

Named = dict[str, Any]
Truth = Callable[[bool, bool], Named]


def draw(seed: int, shapes: dict[str, tuple[int, ...]]) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape) * 0.6 for name, shape in shapes.items()}


PARAMETERS, DIRECTIONS, COTANGENTS = draw(71, SHAPES), draw(72, SHAPES), draw(73, RESULTS)


def summarise(results: list[Any]) -> Any:
    """A loss that every result enters, squared so that its second derivative is not zero."""
    return sum((ct * value * value).sum() for ct, value in zip(COTANGENTS.values(), results, strict=True))


@pytest.fixture(scope="module")
def truth(need: Need) -> Truth:
    """What JAX finds, by `go_backwards` and whether masked."""
    jax = need("jax")
    jnp, sigmoid = jax.numpy, jax.nn.sigmoid

    def run(go_backwards: bool, mask: Array, p: Named) -> list[Any]:
        def step(carry: Any, x_and_valid: Any) -> Any:
            (h, c, prediction, *_), (x, valid) = carry, x_and_valid
            z = jnp.concatenate([x, prediction, p["constant"]], axis=1) @ p["kernel"]
            z = z + h @ p["recurrent_kernel"] + p["bias"]
            i, f, candidate, o = jnp.split(z, 4, axis=1)
            new_c = sigmoid(f) * c + sigmoid(i) * jnp.tanh(candidate)
            new_h = sigmoid(o) * jnp.tanh(new_c)
            new_prediction = jnp.tanh(new_h @ p["dense_kernel"] + p["dense_bias"])
            new = (new_h, new_c, new_prediction, new_h, new_prediction)
            held = tuple(jnp.where(valid, n, old) for n, old in zip(new, carry, strict=True))
            return held, held[-1]

        start = (p["h"], p["c"], p["prediction"], jnp.zeros((BATCH, UNITS)), jnp.zeros((BATCH, PREDICTIONS)))
        order = slice(None, None, -1 if go_backwards else 1)
        xs = (p["x"].swapaxes(0, 1)[order], mask.T[order, :, None])
        (h, c, prediction, last, _), sequence = jax.lax.scan(step, start, xs)
        return [sequence.swapaxes(0, 1), last, h, c, prediction]

    @functools.cache
    def find(go_backwards: bool, masked: bool) -> Named:
        mask = MASK if masked else np.ones((BATCH, TIME), bool)

        def loss(p: Named) -> Any:
            results = run(go_backwards, mask, p)
            return summarise(results), results

        with_gradient = jax.value_and_grad(loss, has_aux=True)
        with jax.enable_x64(True):
            both_orders = jax.jit(lambda p, d: jax.jvp(with_gradient, (p,), (d,)))
            ((_, results), gradient), (_, product) = both_orders(PARAMETERS, DIRECTIONS)
        return named(results, [gradient[name] for name in SHAPES], [product[name] for name in SHAPES])

    return find


def named(results: Any, gradients: Any, products: Any) -> Named:
    found = dict(zip(RESULTS, results, strict=True))
    found |= {f"gradient of {name}": value for name, value in zip(SHAPES, gradients, strict=True)}
    found |= {f"Hessian product of {name}": value for name, value in zip(SHAPES, products, strict=True)}
    return {name: None if value is None else np.asarray(value) for name, value in found.items()}


def make_container(go_backwards: bool, crossed: bool = False) -> mr.RecurrentContainer:
    """The container with the weights of PARAMETERS; `crossed` plants a bug: h and c come back swapped."""
    x, constant, prediction = (Input((size,), dtype="float64") for size in (FEATURES, CONSTANTS, PREDICTIONS))
    h, c = Input((UNITS,), dtype="float64"), Input((UNITS,), dtype="float64")
    read = Concatenate(dtype="float64")([x, prediction, constant])
    output, new_h, new_c = mr.RecurrentUnit(LSTM(UNITS, dtype="float64"))(read, states=[h, c])
    new_prediction = Dense(PREDICTIONS, activation="tanh", dtype="float64")(output)
    container = mr.RecurrentContainer(
        sequence_inputs=x,
        constant_inputs=constant,
        sequence_outputs=new_prediction,
        constant_outputs=output,
        state_inputs=[h, c, prediction],
        state_outputs=[new_c, new_h, new_prediction] if crossed else [new_h, new_c, new_prediction],
        return_states=True,
        go_backwards=go_backwards,
    )
    container.set_weights([PARAMETERS[name] for name in WEIGHTS])
    return container


def by_minirnn(container: mr.RecurrentContainer, mask: Array | None) -> Named:
    inputs = [mr.Tensor(PARAMETERS[name]) for name in SHAPES if name not in WEIGHTS]
    sources = [*container.trainable_variables, *inputs]
    with mr.Tape() as outer:
        outer.watch(inputs)
        with mr.Tape() as inner:
            inner.watch(inputs)
            x, constant, *states = inputs
            results = container(sequences=x, constants=constant, states=states, mask=mask)
            loss = summarise(results)
        gradients = inner.gradient(loss, sources)
        pairs = zip(gradients, DIRECTIONS.values(), strict=True)
        slope = sum((gradient * direction).sum() for gradient, direction in pairs)
    return named(results, gradients, outer.gradient(slope, sources))


@pytest.mark.parametrize("engine", ["reference", "numpy"])
@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize("go_backwards", [False, True], ids=["forward", "backwards"])
def test_container_equals_jax(truth: Truth, go_backwards: bool, masked: bool, engine: str) -> None:
    with mr.engine(engine):
        found = by_minirnn(make_container(go_backwards), MASK if masked else None)
    assert_agree(found, truth(go_backwards, masked), TOLERANCE)


def test_planted_bugs_are_noticed(truth: Truth) -> None:
    wrong = {
        "states crossed": by_minirnn(make_container(False, crossed=True), MASK),
        "mask ignored": by_minirnn(make_container(False), None),
        "direction": by_minirnn(make_container(True), MASK),
    }
    right = by_minirnn(make_container(False), MASK)
    assert_agree(right, truth(False, True), TOLERANCE)
    wrong["kernel cotangent dropped"] = right | {"gradient of kernel": 0 * right["gradient of kernel"]}
    for name, found in wrong.items():
        with pytest.raises(Disagreement, match="gradient of kernel"):
            assert_agree(found, truth(False, True), TOLERANCE)
            pytest.fail(f"not noticed: {name}")
