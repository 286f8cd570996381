"""Activations by name against their formulas, and their gradients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import minirnn as mr
from minirnn.errors import ArgumentError
from minirnn.layers import activations

X = np.array([-7.3, -3.1, -1.6, -0.7, -0.3, 0.2, 0.6, 0.9, 1.7, 3.2, 6.8])
FORMULAS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "celu": lambda x: np.where(x > 0, x, np.exp(np.minimum(x, 0)) - 1),
    "mish": lambda x: x * np.tanh(np.log(1 + np.exp(x))),
    "relu6": lambda x: np.minimum(np.maximum(x, 0), 6),
    "hard_tanh": lambda x: np.minimum(np.maximum(x, -1), 1),
    "hard_silu": lambda x: x * np.minimum(np.maximum(x + 3, 0), 6) / 6,
    "hard_swish": lambda x: x * np.minimum(np.maximum(x + 3, 0), 6) / 6,
    "log_sigmoid": lambda x: -np.log(1 + np.exp(-x)),
    "squareplus": lambda x: (x + np.sqrt(x**2 + 4)) / 2,
    "tanh_shrink": lambda x: x - np.tanh(x),
    "soft_shrink": lambda x: np.where(x > 0.5, x - 0.5, np.where(x < -0.5, x + 0.5, 0)),
    "hard_shrink": lambda x: np.where(np.abs(x) > 0.5, x, 0),
    "sparse_plus": lambda x: np.where(x <= -1, 0, np.where(x < 1, (x + 1) ** 2 / 4, x)),
    "sparse_sigmoid": lambda x: np.where(x <= -1, 0, np.where(x < 1, (x + 1) / 2, 1)),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_formulas_and_gradients(name: str) -> None:
    function, formula = activations.get(name), FORMULAS[name]
    np.testing.assert_allclose(function(mr.Tensor(X)), formula(X), atol=1e-13)
    assert function(mr.Tensor(X.astype("float32"))).dtype == np.float32
    x = mr.Tensor(X)
    with mr.Tape() as tape:
        tape.watch(x)
        total = mr.ops.sum(function(x))
    slope = (formula(X + 1e-6) - formula(X - 1e-6)) / 2e-6
    np.testing.assert_allclose(tape.gradient(total, [x])[0], slope, atol=1e-8)
    assert activations.get(activations.serialize(function)) is function


def test_celu_of_another_alpha() -> None:
    wanted = np.where(X > 0, X, 2 * (np.exp(np.minimum(X, 0) / 2) - 1))
    np.testing.assert_allclose(activations.celu(mr.Tensor(X), alpha=2.0), wanted, atol=1e-13)


def test_names_that_only_keras_knows() -> None:
    with pytest.raises(ArgumentError, match="(?s)no activation 'gelu'.*celu.*hard_tanh.*tanh_shrink"):
        activations.get("gelu")
