"""LSTM, GRU (both reset forms) and SimpleRNN against Keras 3 on JAX: results, masks and gradients.

Keras on JAX computes in float32 whatever dtype says.  Its masked output is the first state held, not
the previous output; for these cells the two differ only in steps before a row's first valid one, and
only if the initial state is not zero.  So the masked cases here start valid or start from zeros.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.reference import mutants, subjects
from tests.reference.cells import KINDS, Array, Case, gradient_names, random_case
from tests.reference.checks import assert_agree

pytestmark = pytest.mark.peers

TOLERANCE = 1e-5
RIGHT_PADDED = np.arange(7) < np.array([[4], [7], [1]])
HOLES = np.array([[1, 0, 1, 1, 0, 0, 1], [1, 1, 0, 0, 1, 0, 1], [1, 1, 1, 1, 1, 1, 1]], bool)
LEFT_PADDED_AND_EMPTY = np.array([[0, 0, 1, 1, 0, 1, 0], [0, 0, 0, 0, 0, 0, 0], [0, 1, 1, 1, 1, 1, 1]], bool)


def run_keras(keras: Any, case: Case) -> dict[str, Array]:
    """The results and gradients of a Keras layer."""
    import jax

    makers = {
        "simple_rnn": (keras.layers.SimpleRNN, {}),
        "gru_reset_after": (keras.layers.GRU, {"reset_after": True}),
        "gru_reset_before": (keras.layers.GRU, {"reset_after": False}),
        "lstm": (keras.layers.LSTM, {}),
    }
    make, options = makers[case.kind]
    layer = make(
        case.initial_states[0].shape[1],
        return_sequences=True,
        return_state=True,
        go_backwards=case.go_backwards,
        **options,
    )
    layer.build(case.x.shape)
    variables = [np.asarray(w, np.float32) for w in case.weights]
    states = [np.asarray(s, np.float32) for s in case.initial_states]

    others = [v.value for v in layer.non_trainable_variables]

    def loss(x: Any, weights: Any, initial: Any) -> Any:
        found, _ = layer.stateless_call(weights, others, x, initial_state=initial, mask=case.mask)
        return sum((ct * value).sum() for ct, value in zip(cotangents, found, strict=True)), found

    cotangents = [np.asarray(ct, np.float32) for ct in case.cotangents]
    x = np.asarray(case.x, np.float32)
    (x_ct, weight_cts, state_cts), found = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(x, variables, states)
    outputs, *final_states = found
    named = {"outputs": outputs, **{f"state {k}": s for k, s in enumerate(final_states)}}
    named |= dict(zip(gradient_names(case), [x_ct, *weight_cts, *state_cts], strict=True))
    return {name: np.asarray(array) for name, array in named.items()}


def check(keras: Any, case: Case, *compared: mutants.Subject) -> None:
    want = run_keras(keras, case)
    for subject in compared:
        assert_agree(subject(case), want, TOLERANCE)


def masked_case(kind: str, mask: Array, go_backwards: bool) -> Case:
    """A case where rows that start masked start from zeros, and their outputs count only from the first valid step."""
    case = random_case(kind, seed=32, mask=mask, go_backwards=go_backwards)
    in_processing_order = mask[:, ::-1] if go_backwards else mask
    starts_valid = in_processing_order[:, :1]
    has_started = np.logical_or.accumulate(in_processing_order, axis=1)[..., None]
    return case.changed(
        initial_states=tuple(state * starts_valid for state in case.initial_states),
        cotangents=(case.cotangents[0] * has_started, *case.cotangents[1:]),
    )


@pytest.mark.parametrize("go_backwards", [False, True], ids=["forward", "backwards"])
@pytest.mark.parametrize("kind", KINDS)
def test_layer_equals_keras(keras: Any, kind: str, go_backwards: bool) -> None:
    case = random_case(kind, seed=31, go_backwards=go_backwards)
    check(keras, case, subjects.formulas_with_gradients, subjects.layer_float32)


@pytest.mark.parametrize("go_backwards", [False, True], ids=["forward", "backwards"])
@pytest.mark.parametrize("mask", [RIGHT_PADDED, HOLES, LEFT_PADDED_AND_EMPTY], ids=["right", "holes", "left"])
@pytest.mark.parametrize("kind", KINDS)
def test_masked_layer_equals_keras(keras: Any, kind: str, mask: Array, go_backwards: bool) -> None:
    case = masked_case(kind, mask, go_backwards)
    check(keras, case, subjects.formulas_with_gradients, subjects.layer_float32)


@pytest.mark.parametrize("kind", KINDS)
def test_planted_bugs_are_noticed(keras: Any, kind: str) -> None:
    case = masked_case(kind, HOLES, go_backwards=False)
    want = run_keras(keras, case)

    def compare(subject: mutants.Subject) -> None:
        assert_agree(subject(case), want, TOLERANCE)

    bugs = mutants.forward(kind) | mutants.MASK | mutants.BACKWARD
    assert mutants.unnoticed(compare, subjects.layer_float32, bugs) == []
