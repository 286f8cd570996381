"""A user's cell that is made of layers, an LSTM with LayerNormalization inside (Ba et al. 2016), on all engines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn import ops
from minirnn.layers import RNN, Bidirectional, Dense, Layer, LayerNormalization
from tests.reference.cells import sigmoid
from tests.reference.checks import Disagreement, assert_agree, complex_step_gradients
from tests.reference.outcomes import named, outcome, total

B, T, F, U, EPSILON = 3, 4, 2, 5, 1e-3
MASK = np.array([[0, 1, 1, 0], [1, 0, 1, 1], [1, 1, 0, 0]], bool)


class NormalizedLSTMCell(Layer):
    """Gates from two normalised products, and a normalised c under the output's tanh."""

    def __init__(self, units: int, **options: Any) -> None:
        super().__init__(**options)
        self.state_size = [units, units]
        own = {"dtype": self.dtype}
        self.of_x, self.of_h = (Dense(4 * units, use_bias=False, **own) for _ in range(2))
        self.x_norm, self.h_norm, self.c_norm = (LayerNormalization(epsilon=EPSILON, **own) for _ in range(3))

    def build(self, input_shape: Any) -> None:
        units = self.state_size[0]
        for layer, size in (
            (self.of_x, input_shape[-1]), (self.of_h, units),
            (self.x_norm, 4 * units), (self.h_norm, 4 * units), (self.c_norm, units),
        ):  # fmt: skip
            layer.build((None, size))

    def call(self, inputs: Any, states: Any) -> Any:
        h, c = states
        z = self.x_norm(self.of_x(inputs)) + self.h_norm(self.of_h(h))
        i, f, candidate, o = ops.split(z, 4, axis=-1)
        c = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(candidate)
        h = ops.sigmoid(o) * ops.tanh(self.c_norm(c))
        return h, [h, c]


def norm(x: Any, gamma: Any, beta: Any) -> Any:
    centered = x - x.mean(axis=-1, keepdims=True)
    return gamma * centered / np.sqrt((centered * centered).mean(axis=-1, keepdims=True) + EPSILON) + beta


def plain_loop(mask: Any, x: Any, h: Any, c: Any, weights: Any) -> list[Any]:
    of_x, of_h, x_gamma, x_beta, h_gamma, h_beta, c_gamma, c_beta = weights
    outputs, output = [], np.zeros_like(h)
    for t in range(x.shape[1]):
        z = norm(x[:, t] @ of_x, x_gamma, x_beta) + norm(h @ of_h, h_gamma, h_beta)
        i, f, candidate, o = np.split(z, 4, axis=-1)
        new_c = sigmoid(f) * c + sigmoid(i) * np.tanh(candidate)
        new_h = sigmoid(o) * np.tanh(norm(new_c, c_gamma, c_beta))
        valid = np.ones((len(x), 1), bool) if mask is None else mask[:, t, None]
        h, c, output = np.where(valid, new_h, h), np.where(valid, new_c, c), np.where(valid, new_h, output)
        outputs.append(output)
    return [np.stack(outputs, 1), h, c]


@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "masked"])
@pytest.mark.parametrize(
    "engines", [("reference", "numpy"), pytest.param(("cpu",), marks=pytest.mark.slow)], ids=["python", "cpu"]
)
def test_equals_a_plain_loop(engines: tuple[str, ...], mask: Any) -> None:
    layer = RNN(NormalizedLSTMCell(U, dtype="float64"), return_sequences=True, return_state=True)
    layer.build((None, T, F))
    rng = np.random.default_rng(3)
    layer.set_weights([rng.normal(size=w.shape) for w in layer.weights])
    assert len(layer.weights) == 8
    given = [rng.normal(size=(B, T, F)), rng.normal(size=(B, U)), rng.normal(size=(B, U))]

    def run(x: Any, h: Any, c: Any, *weights: Any) -> list[Any]:
        return plain_loop(mask, x, h, c, weights)

    weights = layer.get_weights()
    arrays = (*given, *weights)
    wanted = named(run(*arrays), complex_step_gradients(lambda *moved: total(run(*moved)), *arrays))
    for engine in engines:
        with mr.engine(engine):
            assert_agree(outcome(layer, given[0], given[1:], mask=mask), wanted, 1e-11)
    layer.set_weights([*weights[:2], *weights[4:6], *weights[2:4], *weights[6:]])  # x_norm and h_norm exchanged
    with mr.engine(engines[-1]), pytest.raises(Disagreement):
        assert_agree(outcome(layer, given[0], given[1:], mask=mask), wanted, 1e-11)


def test_both_ways() -> None:
    layer = Bidirectional(RNN(NormalizedLSTMCell(U), return_sequences=True))
    assert layer(np.ones((B, T, F), "float32")).shape == (B, T, 2 * U) and len(layer.weights) == 16
