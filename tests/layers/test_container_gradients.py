"""The container's results and gradients against a NumPy loop differentiated by complex step, however it runs."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn.layers import Concatenate, Dense, Input, Lambda, SimpleRNN
from tests.reference import containers
from tests.reference.cells import Array
from tests.reference.checks import Disagreement, assert_agree, central_differences, complex_step_derivative, max_error
from tests.reference.containers import MASKS, RESULTS, TIME, WEIGHTS, WIDTHS, Case, random_case

ENGINES = ["reference", "numpy"]
TOLERANCES = {"float64": 1e-12, "float32": 1e-5}


@pytest.fixture(autouse=True)
def _in_float64() -> Iterator[None]:
    with mr.default_dtype("float64"):
        yield


def make_container(case: Case, **options: Any) -> mr.RecurrentContainer:
    """The container of tests.reference.containers with the case's weights."""
    x, u, constant, h, y = (Input((WIDTHS[name],)) for name in ("x", "u", "constant", "h", "y"))
    out, new_h = mr.RecurrentUnit(SimpleRNN(WIDTHS["h"]))(Concatenate()([x, u, y, constant]), states=h)
    new_y = Dense(WIDTHS["y"], activation="tanh")(out)
    container = mr.RecurrentContainer(
        sequence_inputs=[x, u],
        sequence_outputs=[new_y, out],
        constant_inputs=constant,
        constant_outputs=out,
        state_inputs=[h, y],
        state_outputs=[new_h, new_y],
        return_states=True,
        teacher=[y],
        go_backwards=case.go_backwards,
        **options,
    )
    container.set_weights(case.weights)
    return container


def by_minirnn(case: Case, engine: str = "numpy", container: Any = None, **options: Any) -> dict[str, Array]:
    """The results and gradients of the container for a case."""
    container = container or make_container(case, **options)
    dtype = container.dtype
    tensors = {name: mr.Tensor(np.asarray(a, dtype)) for name, a in case.arrays.items() if name not in WEIGHTS}
    with mr.engine(engine), mr.Tape() as tape:
        tape.watch(list(tensors.values()))
        found = container(
            sequences=[tensors["x"], tensors["u"]],
            constants=tensors["constant"],
            states=[tensors["h"], tensors["y"]],
            mask=case.mask,
            teacher={1: tensors["teacher"]},
            training=case.forces,
        )
        weights = containers.cotangents(case).values()
        loss = sum((mr.Tensor(np.asarray(w, dtype)) * value).sum() for w, value in zip(weights, found, strict=True))
    variables = dict(zip(WEIGHTS, container.trainable_variables, strict=True))
    sources = {name: variables.get(name, tensors.get(name)) for name in case.arrays if case.forces or name != "teacher"}
    # Without time steps the reference engine, a loop, connects the results to nothing.
    gradients = [
        mr.ops.zeros_like(x) if g is None and not case.arrays["x"].shape[1] else g
        for x, g in zip(sources.values(), tape.gradient(loss, list(sources.values())), strict=True)
    ]
    named = dict(zip(RESULTS, found, strict=True))
    named |= {f"gradient of {name}": g for name, g in zip(sources, gradients, strict=True)}
    assert {name: str(t.dtype) for name, t in named.items()} == dict.fromkeys(named, dtype)
    return {name: np.asarray(t) for name, t in named.items()}


@functools.cache
def case_and_truth(mask: str, go_backwards: bool, forces: bool) -> tuple[Case, dict[str, Array]]:
    case = random_case(51, mask, go_backwards=go_backwards, forces=forces)
    return case, containers.with_gradients(case)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("forces", [False, True], ids=["free", "forced"])
@pytest.mark.parametrize("go_backwards", [False, True], ids=["forward", "backwards"])
@pytest.mark.parametrize("mask", MASKS)
def test_container_equals_loop(mask: str, go_backwards: bool, forces: bool, engine: str) -> None:
    case, truth = case_and_truth(mask, go_backwards, forces)
    assert_agree(by_minirnn(case, engine), truth, 1e-12)


@pytest.mark.parametrize("options", [{"unroll": True}, *({"checkpoint": k} for k in (1, 2, 4, 6, 50))], ids=str)
@pytest.mark.parametrize("mask", ["all", "holes"])
@pytest.mark.parametrize("forces", [False, True], ids=["free", "forced"])
@pytest.mark.parametrize("go_backwards", [False, True], ids=["forward", "backwards"])
def test_unroll_and_checkpoint_change_nothing(go_backwards: bool, forces: bool, mask: str, options: Any) -> None:
    case, truth = case_and_truth(mask, go_backwards, forces)
    assert_agree(by_minirnn(case, **options), truth, 1e-12)


def test_unroll_and_checkpoint_are_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unrolled, the step is called once for each time step; checkpoint reaches scan."""
    calls: list[Any] = []

    def count(x: Any) -> Any:
        calls.append(x.shape)
        return x

    x, s = Input((2,)), Input((2,))
    y = Lambda(count)(s + x)
    groups = {"sequence_inputs": x, "state_inputs": s, "state_outputs": y, "constant_outputs": y}
    data = np.ones((3, 7, 2))
    for options, number in (({}, 1), ({"unroll": True}, 7)):
        container = mr.RecurrentContainer(**groups, **options)
        calls.clear()
        np.testing.assert_array_equal(np.asarray(container(data)), 7)
        assert len(calls) == number
    given: dict[str, Any] = {}
    monkeypatch.setattr("minirnn.layers.container.scan", lambda *a, **k: given.update(k) or mr.scan(*a, **k))
    mr.RecurrentContainer(**groups, checkpoint=3)(data)
    assert given["checkpoint"] == 3


@pytest.mark.parametrize("engine", ENGINES)
def test_float32(engine: str) -> None:
    case, truth = case_and_truth("holes", True, True)
    with mr.default_dtype("float32"):
        assert_agree(by_minirnn(case, engine), truth, TOLERANCES["float32"])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("sizes", [(1, 1), (1, 4), (4, 1)], ids=["one row, one step", "one row", "one step"])
def test_small_sizes(sizes: tuple[int, int], engine: str) -> None:
    for forces in (False, True):
        case = random_case(52, batch=sizes[0], time=sizes[1], forces=forces)
        assert_agree(by_minirnn(case, engine), containers.with_gradients(case), 1e-12)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("options", [{}, {"unroll": True}, {"checkpoint": 2}], ids=str)
@pytest.mark.parametrize(("time", "batch"), [(0, 3), (4, 0), (0, 0)])
def test_nothing_to_do(time: int, batch: int, options: Any, engine: str) -> None:
    """T = 0: outputs without steps, last outputs zeros, states initial. An empty batch gives empty results."""
    case = random_case(53, batch=batch, time=time, forces=True)
    found = by_minirnn(case, engine, **options)
    weights = containers.cotangents(case)
    assert {name: found[name].shape for name in RESULTS} == {name: weights[name].shape for name in RESULTS}
    np.testing.assert_array_equal(found["last h"], 0)
    np.testing.assert_array_equal(found["final h"], case.arrays["h"] if time == 0 else 0)
    np.testing.assert_array_equal(found["final y"], case.arrays["y"] if time == 0 else 0)
    for name in WEIGHTS:
        np.testing.assert_array_equal(found[f"gradient of {name}"], 0 * case.arrays[name])
    if time == 0:
        np.testing.assert_array_equal(found["gradient of h"], weights["final h"])
        np.testing.assert_array_equal(found["gradient of constant"], 0 * case.arrays["constant"])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("go_backwards", [False, True], ids=["forward", "backwards"])
def test_nan_in_padding_reaches_nothing(go_backwards: bool, engine: str) -> None:
    case, truth = case_and_truth("holes", go_backwards, True)
    spoilt = {name: np.array(case.arrays[name]) for name in ("x", "u", "teacher")}
    for name in ("x", "u"):
        spoilt[name][~case.mask] = np.nan
    processed = case.mask[:, ::-1] if go_backwards else case.mask
    spoilt["teacher"][~processed] = np.nan
    assert_agree(by_minirnn(case.with_arrays(**spoilt), engine), truth, 1e-12)


def test_second_order_is_the_same_on_both_engines() -> None:
    case, _ = case_and_truth("holes", False, True)
    found = {}
    for engine in ENGINES:
        container = make_container(case)
        x = mr.Tensor(case.arrays["x"])
        with mr.engine(engine), mr.Tape() as outer:
            outer.watch(x)
            with mr.Tape() as inner:
                inner.watch(x)
                results = container(
                    [x, case.arrays["u"]],
                    constants=case.arrays["constant"],
                    states=[case.arrays["h"], case.arrays["y"]],
                    mask=case.mask,
                    teacher={1: case.arrays["teacher"]},
                    training=True,
                )
                loss = sum((value * value).sum() for value in results)
            slopes = inner.gradient(loss, [x, *container.trainable_variables])
            total = sum((slope * slope).sum() for slope in slopes)
        found[engine] = [np.asarray(g) for g in outer.gradient(total, [x, *container.trainable_variables])]
    for one, other in zip(*found.values(), strict=True):
        assert np.abs(one).max() > 0.01
        assert max_error(one, other) < 1e-12


def test_complex_step_equals_finite_differences() -> None:
    """The truth itself, differentiated in two ways that share nothing."""
    case, truth = case_and_truth("holes", True, True)
    names = ["x", "recurrent_kernel", "teacher", "y"]
    weights = containers.cotangents(case)

    def loss(*arrays: Array) -> Array:
        found = containers.results(case.with_arrays(**dict(zip(names, arrays, strict=True))))
        return sum(np.sum(weights[name] * value) for name, value in found.items())

    arrays = [case.arrays[name] for name in names]
    slopes = dict(zip(names, central_differences(loss, *arrays), strict=True))
    assert_agree(slopes, {name: truth[f"gradient of {name}"] for name in names}, 1e-6)
    directions = [np.cos(np.arange(a.size)).reshape(a.shape) for a in arrays]
    along = sum(np.sum(d * truth[f"gradient of {n}"]) for n, d in zip(names, directions, strict=True))
    assert max_error(complex_step_derivative(loss, arrays, directions), along) < 1e-14


def test_planted_bugs_are_noticed() -> None:
    case, truth = case_and_truth("holes", False, True)
    right = by_minirnn(case)
    assert_agree(right, truth, 1e-12)
    crossed = [case.weights[0], case.weights[1].T, *case.weights[2:]]
    container = make_container(case)
    container.set_weights(crossed)
    late = np.roll(case.arrays["teacher"], 1, axis=1)
    wrong = {
        "transposed recurrent kernel": by_minirnn(case, container=container),
        "mask ignored": by_minirnn(case.changed(mask=None)),
        "mask off by one": by_minirnn(case.changed(mask=np.roll(case.mask, 1, axis=1))),
        "direction": by_minirnn(case.changed(go_backwards=True)),
        "teacher off by one": by_minirnn(case.with_arrays(teacher=late)),
        "teacher ignored": by_minirnn(case.changed(forces=False)) | {"gradient of teacher": 0 * late},
        "kernel cotangent dropped": right | {"gradient of kernel": 0 * right["gradient of kernel"]},
        "last output of the last step": right | {"last h": case.arrays["h"]},
    }
    for name, found in wrong.items():
        with pytest.raises(Disagreement):
            assert_agree(found, truth, 1e-5)
            pytest.fail(f"not noticed: {name}")


def test_the_cases_hold_what_they_should() -> None:
    assert MASKS["holes"] is not None and MASKS["holes"].shape == (containers.BATCH, TIME)
    assert len({*WIDTHS.values(), containers.BATCH, TIME}) == len(WIDTHS) + 2
