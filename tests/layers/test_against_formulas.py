"""SimpleRNN, GRU and LSTM against their formulas: results and gradients, masks, directions, both engines."""

from __future__ import annotations

from collections import OrderedDict
from functools import cache, partial
from typing import Any

import numpy as np
import pytest

from minirnn.autodiff.primitive import PRIMITIVES
from tests.reference import mutants, subjects
from tests.reference.cells import KINDS, Array, Case, gradients, random_case
from tests.reference.checks import Disagreement, assert_agree, central_differences, complex_step_derivative, max_error

MASKS = {
    "all": None,
    "right": np.arange(7) < np.array([[4], [7], [1]]),
    "left": np.arange(7) >= np.array([[3], [0], [6]]),
    "holes": np.array([[0, 1, 0, 0, 1, 1, 0], [1, 0, 1, 1, 0, 0, 1], [0, 0, 0, 0, 0, 0, 0]], bool),
}
ENGINES = ["reference", "numpy"]
TOLERANCES = {"float64": 1e-12, "float32": 1e-5}


@cache
def case_and_truth(kind: str, mask: str, go_backwards: bool) -> tuple[Case, dict[str, Array]]:
    case = random_case(kind, seed=41, mask=MASKS[mask], go_backwards=go_backwards)
    return case, subjects.formulas_with_gradients(case)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("go_backwards", [False, True], ids=["forward", "backwards"])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("kind", KINDS)
def test_layer_equals_formulas(kind: str, mask: str, go_backwards: bool, dtype: str, engine: str) -> None:
    case, truth = case_and_truth(kind, mask, go_backwards)
    assert_agree(subjects.layer(case, dtype, engine), truth, TOLERANCES[dtype])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (1, 5, 3, 2), (4, 1, 2, 3)], ids=["ones", "one row", "one step"])
def test_small_sizes(kind: str, sizes: tuple[int, int, int, int], engine: str) -> None:
    batch, time, features, units = sizes
    case = random_case(kind, seed=42, batch=batch, time=time, features=features, units=units)
    assert_agree(subjects.layer(case, "float64", engine), subjects.formulas_with_gradients(case), 1e-12)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("mask", ["right", "left", "holes"])
@pytest.mark.parametrize("kind", KINDS)
def test_nan_in_masked_steps_reaches_nothing(kind: str, mask: str, engine: str) -> None:
    case, truth = case_and_truth(kind, mask, False)
    spoilt = case.changed(x=np.where(MASKS[mask][..., None], case.x, np.nan))
    assert_agree(subjects.layer(spoilt, "float64", engine), truth, 1e-12)


def test_formulas_give_known_numbers() -> None:
    """One step by hand, so that the formulas do not only agree with code that was checked by them."""
    half = np.full((1, 1), 0.5)

    def one_step(kind: str, *weights: object, states: int = 1) -> float:
        case = random_case(kind, 0, batch=1, time=1, features=1, units=1)
        arrays = tuple(np.array(w, float) for w in weights)
        case = case.changed(x=np.ones((1, 1, 1)), weights=arrays, initial_states=(half,) * states)
        return float(subjects.formulas(case)["outputs"].item())

    def logistic(z: float) -> float:
        return 1 / (1 + np.exp(-z))

    # tanh(1 * 2 + 0.5 * (-3) + 0.25)
    assert one_step("simple_rnn", [[2]], [[-3]], [0.25]) == pytest.approx(np.tanh(0.75), abs=1e-15)
    # i, f, c, o in this order: c = f * 0.5 + i * candidate
    c = logistic(2.0) * 0.5 + logistic(1.0) * np.tanh(3.0)
    lstm = one_step("lstm", [[1, 2, 3, 4]], [[0, 0, 0, 0]], [0, 0, 0, 0], states=2)
    assert lstm == pytest.approx(logistic(4.0) * np.tanh(c), abs=1e-15)
    # z, r, h in this order; z keeps the old state
    z, r = logistic(1.0), logistic(-1.0)
    after = one_step("gru_reset_after", [[1, -1, 2]], [[0, 0, 4]], [[0, 0, 0], [0, 0, 3]])
    assert after == pytest.approx(z * 0.5 + (1 - z) * np.tanh(2 + r * (0.5 * 4 + 3)), abs=1e-15)
    before = one_step("gru_reset_before", [[1, -1, 2]], [[0, 0, 4]], [0, 0, 3])
    assert before == pytest.approx(z * 0.5 + (1 - z) * np.tanh(2 + r * 0.5 * 4 + 3), abs=1e-15)


def test_formulas_hold_outputs_and_states_where_masked() -> None:
    case = random_case("lstm", seed=43, batch=2, time=4, mask=np.array([[0, 1, 0, 1], [1, 1, 0, 0]], bool))
    found = subjects.formulas(case)
    outputs, alone = found["outputs"], subjects.formulas(case.changed(x=case.x[:, 1:2], mask=case.mask[:, 1:2]))
    assert np.all(outputs[0, 0] == 0)
    np.testing.assert_allclose(outputs[0, 1], alone["outputs"][0, 0], rtol=1e-15)
    np.testing.assert_array_equal(outputs[0, 2], outputs[0, 1])
    np.testing.assert_array_equal(outputs[1, 3], outputs[1, 1])
    np.testing.assert_array_equal(found["state 0"], outputs[:, -1])


@pytest.mark.parametrize("kind", KINDS)
def test_complex_step_equals_finite_differences(kind: str) -> None:
    """Two ways to differentiate the formulas that share nothing."""
    case = random_case(kind, seed=44, batch=2, time=3, features=2, units=3)
    arrays = [case.x, *case.weights, *case.initial_states]
    n_weights = len(case.weights)

    def loss(x: Array, *rest: Array) -> Array:
        found = subjects.formulas(case.changed(x=x, weights=rest[:n_weights], initial_states=rest[n_weights:]))
        return sum(np.sum(ct * value) for ct, value in zip(case.cotangents, found.values(), strict=True))

    exact = gradients(case)
    differences = dict(zip(exact, central_differences(loss, *arrays), strict=True))
    assert_agree(differences, exact, 1e-6)
    rng = np.random.default_rng(45)
    directions = [rng.normal(size=a.shape) for a in arrays]
    along = sum(np.sum(d * g) for d, g in zip(directions, exact.values(), strict=True))
    assert max_error(complex_step_derivative(loss, arrays, directions), along) < 1e-14
    with pytest.raises(AssertionError, match="gradient of kernel"):
        assert_agree(differences, exact | {"gradient of kernel": exact["gradient of kernel"] * 1.001}, 1e-6)


@pytest.mark.parametrize("go_backwards", [False, True], ids=["forward", "backwards"])
@pytest.mark.parametrize("kind", KINDS)
def test_planted_bugs_are_noticed(kind: str, go_backwards: bool) -> None:
    case, truth = case_and_truth(kind, "holes", go_backwards)

    def check(subject: mutants.Subject, dtype: str) -> None:
        assert_agree(subject(case), truth, TOLERANCES[dtype])

    bugs = mutants.forward(kind) | mutants.MASK | mutants.BACKWARD
    for dtype in TOLERANCES:
        subject = partial(subjects.layer, dtype=dtype)
        assert mutants.unnoticed(partial(check, dtype=dtype), subject, bugs) == []


def scaled(cotangent: Any, factor: float) -> Any:
    if cotangent is None:
        return None
    return (lambda: scaled(cotangent(), factor)) if callable(cotangent) else cotangent * factor


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("name", "operand", "factor"),
    [
        ("tanh", 0, 1.001),
        ("sigmoid", 0, 1.001),
        ("multiply", 1, 1.001),
        ("contract", 1, 1.001),
        ("contract", 1, 0.0),
        ("contract", 0, 0.999),
    ],
)
def test_planted_vjp_is_noticed(
    monkeypatch: pytest.MonkeyPatch, name: str, operand: int, factor: float, engine: str
) -> None:
    """A rule of minirnn itself is spoilt: one cotangent off by 0.1 %, or dropped."""
    case, truth = case_and_truth("lstm", "right", False)
    primitive = PRIMITIVES[name]
    right = primitive.vjp

    def wrong(*args: Any, **params: Any) -> Any:
        cotangents = list(right(*args, **params))
        cotangents[operand] = scaled(cotangents[operand], factor)
        return cotangents

    # Steps that were traced with the right rules stay out of this, and those of the wrong ones go.
    monkeypatch.setattr("minirnn.stepgraph.trace._cache", OrderedDict())
    object.__setattr__(primitive, "vjp", wrong)
    try:
        found = subjects.layer(case, "float64", engine)
    finally:
        object.__setattr__(primitive, "vjp", right)
    results = [key for key in truth if not key.startswith("gradient")]
    assert_agree({key: found[key] for key in results}, {key: truth[key] for key in results}, 1e-12)
    with pytest.raises(Disagreement, match="gradient of"):
        assert_agree(found, truth, TOLERANCES["float32"])
    monkeypatch.setattr("minirnn.stepgraph.trace._cache", OrderedDict())
    assert_agree(subjects.layer(case, "float64", engine), truth, 1e-12)


def test_reset_forms_of_the_gru_are_told_apart() -> None:
    """Given the same weights and no recurrent bias, the two forms differ, and so do their gradients."""
    case, truth = case_and_truth("gru_reset_before", "all", False)
    kernel, recurrent_kernel, bias = case.weights
    other = case.changed(kind="gru_reset_after", weights=(kernel, recurrent_kernel, np.stack([bias, 0 * bias])))
    found = subjects.layer(other)
    found["gradient of bias"] = found["gradient of bias"][0]
    with pytest.raises(AssertionError, match="outputs .* gradient of recurrent_kernel"):
        assert_agree(found, truth, 1e-5)


def test_a_check_that_compares_nothing_fails() -> None:
    case, truth = case_and_truth("lstm", "all", False)
    for wrong in [{}, truth | {"more": truth["outputs"]}, truth | {"outputs": truth["outputs"][:, :-1]}]:
        with pytest.raises(AssertionError, match="errors above"):
            assert_agree(wrong, truth, 1e-5)
    spoilt = truth["outputs"].copy()
    spoilt[0, 0, 0] = np.nan
    with pytest.raises(AssertionError, match="outputs inf"):
        assert_agree(truth | {"outputs": spoilt}, truth, 1e-5)
