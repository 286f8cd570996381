"""LSTM, GRU (reset after) and SimpleRNN against torch.nn: results and autograd's gradients, in float64."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from tests.peers import Need
from tests.reference import mutants, subjects
from tests.reference.cells import KINDS, Array, Case, gradient_names, random_case, weight_names
from tests.reference.checks import assert_agree

pytestmark = pytest.mark.peers

MODULES = {"simple_rnn": "RNN", "gru_reset_after": "GRU", "lstm": "LSTM"}
# Where each gate of PyTorch stands in Keras's order: i f g o for LSTM as in Keras, but r z n for GRU.
GATES = {"simple_rnn": [0], "gru_reset_after": [1, 0, 2], "lstm": [0, 1, 2, 3]}
RIGHT_PADDED = np.arange(7) < np.array([[4], [7], [1]])
TOLERANCE = 1e-12


@pytest.fixture(scope="module")
def torch(need: Need) -> Any:
    return need("torch")


def reorder_gates(kind: str, array: Array) -> Array:
    """Keras's gate order to PyTorch's or back: both orders in GATES are their own inverse."""
    gates = np.split(array, KINDS[kind].gates, axis=-1)
    return np.concatenate([gates[k] for k in GATES[kind]], axis=-1)


def run_torch(torch: Any, case: Case) -> dict[str, Array]:
    """The results and gradients of a torch.nn module, zeros in the padding."""
    named = dict(zip(weight_names(case.options), case.weights, strict=True))
    projection = named.pop("projection_kernel", None)
    kernel, recurrent_kernel, bias = (reorder_gates(case.kind, w) for w in named.values())
    input_bias, state_bias = bias if bias.ndim == 2 else (bias, np.zeros_like(bias))
    units, features = recurrent_kernel.shape[1] // KINDS[case.kind].gates, case.x.shape[2]
    projected = {} if projection is None else {"proj_size": projection.shape[1]}
    module = getattr(torch.nn, MODULES[case.kind])(features, units, batch_first=True, dtype=torch.float64, **projected)
    with torch.no_grad():
        for name, value in [
            ("weight_ih_l0", kernel.T),
            ("weight_hh_l0", recurrent_kernel.T),
            ("bias_ih_l0", input_bias),
            ("bias_hh_l0", state_bias),
            *([] if projection is None else [("weight_hr_l0", projection.T)]),
        ]:
            getattr(module, name).copy_(torch.tensor(np.ascontiguousarray(value)))
    x = torch.tensor(case.x, requires_grad=True)
    states = [torch.tensor(s, requires_grad=True) for s in case.initial_states]
    state = tuple(s[None] for s in states) if case.kind == "lstm" else states[0][None]
    sequence = x.flip(1) if case.go_backwards else x
    if case.mask is not None:
        sequence = torch.nn.utils.rnn.pack_padded_sequence(
            sequence, torch.tensor(case.mask.sum(axis=1)), batch_first=True, enforce_sorted=False
        )
    outputs, state = module(sequence, state)
    if case.mask is not None:
        outputs, _ = torch.nn.utils.rnn.pad_packed_sequence(outputs, batch_first=True, total_length=case.x.shape[1])
    results = [outputs, *(s[0] for s in (state if case.kind == "lstm" else [state]))]
    loss = sum((torch.tensor(ct) * value).sum() for ct, value in zip(case.cotangents, results, strict=True))
    loss.backward()

    # A bias of one row stands for the sum of PyTorch's two, and so has the gradient of either.
    biases = [module.bias_ih_l0.grad.numpy(), module.bias_hh_l0.grad.numpy()]
    weight_gradients = [
        module.weight_ih_l0.grad.numpy().T,
        module.weight_hh_l0.grad.numpy().T,
        np.stack(biases) if bias.ndim == 2 else biases[0],
    ]
    weight_gradients = [reorder_gates(case.kind, g) for g in weight_gradients]
    if projection is not None:
        weight_gradients.insert(2, module.weight_hr_l0.grad.numpy().T)
    gradients = [x.grad.numpy(), *weight_gradients, *(s.grad.numpy() for s in states)]
    return {
        "outputs": outputs.detach().numpy(),
        **{f"state {k}": s.detach().numpy() for k, s in enumerate(results[1:])},
        **dict(zip(gradient_names(case), gradients, strict=True)),
    }


def check(torch: Any, case: Case, *compared: mutants.Subject) -> None:
    """Compare everything; padding counts neither in the outputs nor in the loss, as PyTorch leaves zeros there."""
    valid = np.ones(case.x.shape[:2] + (1,), bool) if case.mask is None else case.mask[..., None]
    case = case.changed(cotangents=(case.cotangents[0] * valid, *case.cotangents[1:]))
    want = run_torch(torch, case)
    for subject in compared:
        found = subject(case)
        assert_agree(found | {"outputs": np.where(valid, found["outputs"], 0)}, want, TOLERANCE)


@pytest.mark.parametrize("go_backwards", [False, True], ids=["forward", "backwards"])
@pytest.mark.parametrize("kind", MODULES)
def test_layer_equals_torch(torch: Any, kind: str, go_backwards: bool) -> None:
    case = random_case(kind, seed=21, go_backwards=go_backwards)
    check(torch, case, subjects.formulas_with_gradients, subjects.layer)


@pytest.mark.parametrize("kind", MODULES)
def test_masked_layer_equals_packed_sequence(torch: Any, kind: str) -> None:
    case = random_case(kind, seed=22, mask=RIGHT_PADDED)
    check(torch, case, subjects.formulas_with_gradients, subjects.layer)


@pytest.mark.parametrize("mask", [None, RIGHT_PADDED], ids=["all", "right"])
def test_projected_lstm_equals_torch(torch: Any, mask: Array | None) -> None:
    case = random_case("lstm", seed=24, mask=mask, options={"proj_size": 2})
    check(torch, case, subjects.formulas_with_gradients, subjects.layer)
    bugs = mutants.of_options(case.options) | mutants.BACKWARD
    assert mutants.unnoticed(partial(check, torch, case), subjects.layer, bugs) == []


@pytest.mark.parametrize("kind", MODULES)
def test_planted_bugs_are_noticed(torch: Any, kind: str) -> None:
    case = random_case(kind, seed=23, mask=RIGHT_PADDED[:, :5], time=5, features=2, units=3)
    bugs = mutants.forward(kind) | mutants.MASK | mutants.BACKWARD
    missed = mutants.unnoticed(partial(check, torch, case), subjects.layer, bugs)
    assert missed == []
