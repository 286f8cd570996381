"""Bidirectional, TimeDistributed and the ConvLSTMs against Keras 3 on JAX: results, masks and gradients.

Keras on JAX computes in float32.  Where Bidirectional returns sequences, both make zeros of masked steps,
so that what Keras's loop holds there does not matter.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from minirnn import layers
from tests.reference.checks import Disagreement, assert_agree
from tests.reference.outcomes import named, outcome, weighing

pytestmark = pytest.mark.peers

TOLERANCE = 2e-5
B, T, F, U = 3, 5, 4, 2
MASKS = {
    "none": None,
    "right": np.array([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]], bool),
    "left": np.array([[0, 0, 1, 1, 1], [0, 0, 0, 0, 1], [1, 1, 1, 1, 1]], bool),
    "middle": np.array([[1, 0, 1, 1, 0], [0, 1, 0, 0, 1], [1, 1, 0, 1, 1]], bool),
}


def random_weights(shapes: list[tuple[int, ...]]) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [(rng.normal(size=shape) * 0.5).astype("float32") for shape in shapes]


def theirs(layer: Any, x: np.ndarray, weights: list[np.ndarray], states: Any = (), mask: Any = None) -> Any:
    """The results of a Keras layer, and the gradients of a sum that weighs every element differently."""
    import jax

    layer.build(x.shape)
    others = [v.value for v in layer.non_trainable_variables]
    options = {} if mask is None else {"mask": mask}

    def loss(x: Any, states: Any, weights: Any) -> Any:
        given = {"initial_state": states} if states else {}
        found, _ = layer.stateless_call(weights, others, x, **options, **given)
        found = list(found) if isinstance(found, (list, tuple)) else [found]
        return sum((y * weighing(y.shape).astype("float32")).sum() for y in found), found

    gradients, found = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(x, states, weights)
    return named(found, [gradients[0], *gradients[1], *gradients[2]])


def ours(layer: Any, x: np.ndarray, weights: list[np.ndarray], states: Any = (), mask: Any = None) -> Any:
    """The same of minirnn's."""
    layer.build((None, *x.shape[1:]))
    layer.set_weights(weights)
    return outcome(layer, x, states, mask=mask)


def bidirectional(library: Any, kind: str, merge_mode: Any, sequences: bool) -> Any:
    inner = getattr(library, kind)(U, return_sequences=sequences, return_state=True)
    return library.Bidirectional(inner, merge_mode=merge_mode)


@pytest.mark.parametrize(
    ("kind", "merge_mode", "name"),
    [
        *(("GRU", merge_mode, "middle") for merge_mode in ("concat", "sum", "mul", "ave", None)),
        *(("LSTM", "concat", name) for name in MASKS),
    ],
)
def test_bidirectional(keras: Any, kind: str, merge_mode: Any, name: str) -> None:
    mask = MASKS[name]
    layer = bidirectional(layers, kind, merge_mode, True)
    layer.build((None, T, F))
    weights = random_weights([w.shape for w in layer.weights])
    rng = np.random.default_rng(6)
    x = rng.normal(size=(B, T, F)).astype("float32")
    states = [rng.normal(size=(B, U)).astype("float32") for _ in range(2 if kind == "GRU" else 4)]
    wanted = theirs(bidirectional(keras.layers, kind, merge_mode, True), x, weights, states, mask)
    assert_agree(ours(layer, x, weights, states, mask), wanted, TOLERANCE)
    with pytest.raises(Disagreement):
        half = len(weights) // 2
        assert_agree(ours(layer, x, [*weights[half:], *weights[:half]], states, mask), wanted, TOLERANCE)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_bidirectional_last_output(keras: Any, mask: Any) -> None:
    layer = bidirectional(layers, "LSTM", "concat", False)
    layer.build((None, T, F))
    weights = random_weights([w.shape for w in layer.weights])
    x = np.random.default_rng(6).normal(size=(B, T, F)).astype("float32")
    wanted = theirs(bidirectional(keras.layers, "LSTM", "concat", False), x, weights, (), mask)
    assert_agree(ours(layer, x, weights, (), mask), wanted, TOLERANCE)


FORMS: dict[str, dict[str, Any]] = {
    "valid": {},
    "same": {"padding": "same", "go_backwards": True},
    "strides": {"strides": 2},
    "strides, same": {"strides": 2, "padding": "same"},
    "dilation": {"dilation_rate": 2, "padding": "same"},
    "hard": {"recurrent_activation": "hard_sigmoid", "activation": "relu"},
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_conv_lstm(keras: Any, rank: int, form: dict[str, Any]) -> None:
    options = {"return_sequences": True, "return_state": True, **form}
    made = [getattr(lib, f"ConvLSTM{rank}D")(3, (3, 2, 2)[:rank], **options) for lib in (layers, keras.layers)]
    x = np.random.default_rng(7).normal(size=(2, 4, *(6, 5, 4)[:rank], 2)).astype("float32")
    made[0].build((None, *x.shape[1:]))
    weights = random_weights([w.shape for w in made[0].weights])
    wanted = theirs(made[1], x, weights)
    assert_agree(ours(made[0], x, weights), wanted, TOLERANCE)
    with pytest.raises(Disagreement):
        assert_agree(ours(made[0], x, [weights[0][::-1], *weights[1:]]), wanted, TOLERANCE)


def test_bidirectional_conv_lstm(keras: Any) -> None:
    """Without a mask, for which Keras's loop on JAX has no rule where states are images (3.15)."""
    made = [
        lib.Bidirectional(lib.ConvLSTM1D(3, 3, return_sequences=True, padding="same")) for lib in (layers, keras.layers)
    ]
    x = np.random.default_rng(8).normal(size=(B, T, 6, 2)).astype("float32")
    made[0].build((None, *x.shape[1:]))
    weights = random_weights([w.shape for w in made[0].weights])
    assert_agree(ours(made[0], x, weights), theirs(made[1], x, weights), TOLERANCE)


@pytest.mark.parametrize("child", ["Dense", "LSTM", "LayerNormalization"])
def test_time_distributed(keras: Any, child: str) -> None:
    arguments = () if child == "LayerNormalization" else (3,)
    made = [lib.TimeDistributed(getattr(lib, child)(*arguments)) for lib in (layers, keras.layers)]
    x = np.random.default_rng(9).normal(size=(B, T, 6, F)).astype("float32")
    made[0].build((None, *x.shape[1:]))
    weights = random_weights([w.shape for w in made[0].weights])
    assert_agree(ours(made[0], x, weights), theirs(made[1], x, weights), TOLERANCE)
