"""Every primitive that is registered, and the checkers themselves: they must notice planted bugs."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import BroadcastableShapes, mutually_broadcastable_shapes

import minirnn as mr
from minirnn.autodiff import elementwise
from minirnn.autodiff.primitive import PRIMITIVES, Primitive
from minirnn.autodiff.tape import Tape
from minirnn.autodiff.tensor import Tensor, apply
from minirnn.autodiff.trace import eval_shapes
from tests.autodiff import checkers
from tests.autodiff.checkers import sample
from tests.reference.checks import max_error

RECORDS = [p for p in PRIMITIVES.values() if checkers.has_sample(p)]
DIFFERENTIABLE = [p for p in RECORDS if p.vjp is not None]
LINEAR = [p for p in RECORDS if p.linear is not None]
MAPS = [p for p in RECORDS if p.form == "map" and p.domain]


def by_name(primitive: Primitive) -> str:
    return primitive.name


def test_every_record_can_be_tested() -> None:
    assert [p.name for p in PRIMITIVES.values() if not checkers.has_sample(p)] in ([], ["scan"])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("primitive", RECORDS, ids=by_name)
def test_shape_rule_is_what_numpy_does(primitive: Primitive, dtype: str) -> None:
    operands, params = sample(primitive, dtype)
    assert checkers.shape_problems(primitive, operands, params) == []
    floats = [x for x in operands if x.dtype.kind == "f"]
    if floats and "dtype" not in params:
        assert all(x.dtype.kind != "f" or x.dtype == dtype for x in checkers.outputs_of(primitive, operands, params))


@pytest.mark.parametrize("primitive", RECORDS, ids=by_name)
def test_a_trace_sees_what_eager_running_returns(primitive: Primitive) -> None:
    operands, params = sample(primitive)
    made = apply(primitive, *operands, **params)
    traced = eval_shapes(lambda *xs: apply(primitive, *xs, **params), *operands)
    for eager, shape in zip(*((made, traced) if primitive.multiple else ([made], [traced])), strict=True):
        assert (eager.shape, eager.dtype) == (shape.shape, shape.dtype)


@pytest.mark.parametrize("primitive", DIFFERENTIABLE, ids=by_name)
def test_vjp(primitive: Primitive) -> None:
    assert max(checkers.vjp_errors(primitive, *sample(primitive)).values()) <= 1.0


@pytest.mark.parametrize("primitive", DIFFERENTIABLE, ids=by_name)
def test_second_order(primitive: Primitive) -> None:
    assert max(checkers.second_order_errors(primitive, *sample(primitive)).values()) <= 1.0


@pytest.mark.parametrize("primitive", DIFFERENTIABLE, ids=by_name)
def test_float32_gradients_are_float32_and_near_those_in_float64(primitive: Primitive) -> None:
    wide, narrow = (checkers.Probe(primitive, *sample(primitive, dtype)) for dtype in ("float64", "float32"))
    want = wide.gradients([Tensor(x) for x in wide.floats])
    got = narrow.gradients([Tensor(x) for x in narrow.floats])
    for g, w, x in zip(got, want, narrow.floats, strict=True):
        assert (g.shape, g.dtype) == (x.shape, np.float32)
        assert max_error(g, w) <= 1e-5


@pytest.mark.parametrize("primitive", LINEAR, ids=by_name)
def test_what_is_called_linear_is(primitive: Primitive) -> None:
    assert checkers.linear_error(primitive, *sample(primitive)) <= 1e-14


@pytest.mark.parametrize("primitive", [p for p in DIFFERENTIABLE if p.linear is None], ids=by_name)
def test_what_is_not_called_linear_is_not(primitive: Primitive) -> None:
    if primitive.name != "where":  # linear in its branches, but they are not all of its operands
        operands, params = sample(primitive)
        with np.errstate(invalid="ignore"):
            assert checkers.linear_error(primitive, operands, params, "all") > 1e-3


@pytest.mark.parametrize("primitive", MAPS, ids=by_name)
@given(data=st.data())
@settings(max_examples=15)
def test_maps_broadcast_whatever_the_shapes(primitive: Primitive, data: st.DataObject) -> None:
    count = len(primitive.domain)
    drawn: BroadcastableShapes = data.draw(
        mutually_broadcastable_shapes(num_shapes=count, min_side=0, max_side=3, max_dims=3)
    )
    operands, params = sample(primitive, shapes=drawn.input_shapes)
    assert checkers.shape_problems(primitive, operands, params) == []
    made = apply(primitive, *operands, **params)
    assert made.shape == drawn.result_shape
    if primitive.vjp is not None:
        probe = checkers.Probe(primitive, operands, params)
        tensors = [Tensor(x) for x in probe.floats]
        for x, g in zip(tensors, probe.gradients(tensors), strict=True):
            assert (g.shape, g.dtype) == (x.shape, x.dtype)
        errors = checkers.vjp_errors(primitive, operands, params)
        # Some shape will put an operand next to a kink, over which no difference is the slope.
        assert errors.get("complex step", errors["finite differences"]) <= 1.0


@pytest.mark.parametrize("primitive", [p for p in MAPS if len(p.domain) > 1 and p.vjp is not None], ids=by_name)
def test_numbers_as_operands_are_arrays_of_no_axes(primitive: Primitive) -> None:
    operands, params = sample(primitive)
    for place in range(len(operands)):
        number = float(operands[place].flat[0])
        others = [Tensor(x) for x in operands]
        as_array = [*others[:place], Tensor(np.array(number)), *others[place + 1 :]]
        as_number = [*others[:place], number, *others[place + 1 :]]
        found = []
        for inputs in (as_array, as_number):
            with Tape() as tape:
                tape.watch(others)
                out = apply(primitive, *inputs, **params)
            found.append([out, *[g for g in tape.gradient(out, others) if g is not None]])
        for a, b in zip(*found, strict=True):
            assert a.dtype == b.dtype == np.float64
            np.testing.assert_array_equal(a, b)


# planted bugs ------------------------------------------------------------------------------------
@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a primitive with some fields exchanged, and takes it out of the register afterwards."""

    def planted(primitive: Primitive, **fields: Any) -> Primitive:
        monkeypatch.setitem(PRIMITIVES, primitive.name, primitive)
        return dataclasses.replace(primitive, **fields)

    return planted


def evaluated(ct: Any) -> Any:
    return ct() if callable(ct) else ct


def scaled(vjp: Any, factor: float) -> Any:
    def rule(*args: Any, **params: Any) -> Any:
        return tuple(None if ct is None else mr.ops.multiply(evaluated(ct), factor) for ct in vjp(*args, **params))

    return rule


@pytest.mark.parametrize("primitive", DIFFERENTIABLE, ids=by_name)
def test_a_vjp_off_by_a_thousandth_is_noticed(primitive: Primitive, plant: Any) -> None:
    wrong = plant(primitive, vjp=scaled(primitive.vjp, 1.001))
    errors = checkers.vjp_errors(wrong, *sample(primitive))
    assert min(errors.values()) > 1.0


@pytest.mark.parametrize("primitive", DIFFERENTIABLE, ids=by_name)
def test_a_dropped_cotangent_is_noticed(primitive: Primitive, plant: Any) -> None:
    operands, params = sample(primitive)
    for dropped, x in enumerate(operands):
        if x.dtype.kind == "f":

            def rule(*args: Any, dropped: int = dropped, **more: Any) -> Any:
                assert primitive.vjp is not None
                return [None if i == dropped else ct for i, ct in enumerate(primitive.vjp(*args, **more))]

            assert min(checkers.vjp_errors(plant(primitive, vjp=rule), operands, params).values()) > 1.0


@pytest.mark.parametrize(
    "primitive", [p for p in DIFFERENTIABLE if p.domain and len(p.domain) == 2 and p.name != "add"], ids=by_name
)
def test_swapped_operands_are_noticed(primitive: Primitive, plant: Any) -> None:
    def rule(*args: Any) -> Any:
        assert primitive.vjp is not None
        return tuple(reversed(primitive.vjp(*args)))

    shapes = ((3, 4), (3, 4))
    with np.errstate(all="ignore"):
        errors = checkers.vjp_errors(plant(primitive, vjp=rule), *sample(primitive, shapes=shapes))
    assert min(errors.values()) > 1.0


def test_a_detached_factor_is_noticed_in_second_order(plant: Any) -> None:
    def rule(ct: Any, out: Any, x: Any) -> Any:
        return (mr.ops.multiply(ct, mr.ops.stop_gradient(mr.ops.subtract(1.0, mr.ops.square(out)))),)

    tanh = PRIMITIVES["tanh"]
    wrong = plant(tanh, vjp=rule)
    assert max(checkers.vjp_errors(wrong, *sample(tanh)).values()) <= 1.0
    assert min(checkers.second_order_errors(wrong, *sample(tanh)).values()) > 1.0


def test_wrong_shape_rules_and_linear_flags_are_noticed(plant: Any) -> None:
    add, tanh = PRIMITIVES["add"], PRIMITIVES["tanh"]
    wrong = plant(add, shape=lambda primitive, operands, params: (operands[0].shape, np.dtype("float32")))
    assert checkers.shape_problems(wrong, *sample(add)) != []
    assert checkers.linear_error(plant(tanh, linear="all"), *sample(tanh)) > 1e-3
    assert checkers.linear_error(plant(PRIMITIVES["multiply"], linear="all"), *sample(PRIMITIVES["multiply"])) > 1e-3


# rules that are not what the sampled point shows ---------------------------------------------------
@pytest.mark.parametrize("extremum", [mr.ops.maximum, mr.ops.minimum])
def test_ties_share_a_gradient(extremum: Any) -> None:
    x, y = np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.0, 5.0])
    gx, gy = mr.grad(lambda a, b: extremum(a, b).sum(), argnums=(0, 1))(x, y)
    np.testing.assert_array_equal(gx + gy, np.ones(3))
    assert np.asarray(gx)[0] == 0.5
    g = mr.grad(lambda a: a.max())(np.array([2.0, 1.0, 2.0]))
    np.testing.assert_array_equal(g, [0.5, 0.0, 0.5])


def test_clip_with_crossed_bounds_is_the_upper_bound() -> None:
    x, low, high = np.array([-2.0, 0.0, 2.0]), np.array(1.0), np.array(-1.0)
    got = mr.grad(lambda a, b, c: mr.ops.clip(a, b, c).sum(), argnums=(0, 1, 2))(x, low.reshape(1), high.reshape(1))
    np.testing.assert_array_equal(mr.ops.clip(x, low, high), np.clip(x, low, high))
    for g, want in zip(got, ([0.0, 0.0, 0.0], [0.0], [3.0]), strict=True):
        np.testing.assert_array_equal(g, want)


def test_abs_has_no_slope_at_zero_and_relu_none_below() -> None:
    x = np.array([-1.0, 0.0, 2.0])
    np.testing.assert_array_equal(mr.grad(lambda a: abs(a).sum())(x), [-1.0, 0.0, 1.0])
    np.testing.assert_array_equal(mr.grad(lambda a: mr.ops.relu(a).sum())(x), [0.0, 0.0, 1.0])


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, -1, 0.5, 2.0, np.float64(1.5)])
def test_powers_by_numbers(exponent: float) -> None:
    x = np.array([0.5, 1.5, 2.5])
    np.testing.assert_allclose(mr.ops.power(x, exponent), np.power(x, exponent), rtol=1e-15)
    slope = mr.grad(lambda a: (a**exponent).sum())(x)
    np.testing.assert_allclose(slope, exponent * x ** (exponent - 1.0), rtol=1e-15)
    bend = mr.grad(mr.grad(lambda a: a**exponent))(0.5)
    np.testing.assert_allclose(bend, exponent * (exponent - 1) * 0.5 ** (exponent - 2.0), rtol=1e-6)


def test_power_by_a_tensor_at_a_base_of_zero() -> None:
    x, y = np.zeros(4), np.array([0.0, 1.0, 2.0, 3.0])
    gx, gy = mr.grad(lambda a, b: (a**b).sum(), argnums=(0, 1))(x, y)
    np.testing.assert_array_equal(gx, [0.0, 1.0, 0.0, 0.0])
    np.testing.assert_array_equal(gy, np.zeros(4))


def test_integer_powers_stay_integers() -> None:
    assert (mr.Tensor([2, 3]) ** 2).dtype == np.int64
    assert (mr.Tensor([2, 3]) ** -1).numpy().tolist() == [0.5, np.float32(1 / 3)]
    assert (mr.Tensor([4, 9]) ** 0.5).numpy().tolist() == [2.0, 3.0]


def test_a_lazy_cotangent_is_not_computed_for_nothing() -> None:
    calls = []

    def rule(ct: Any, out: Any, x: Any, y: Any) -> Any:
        return lambda: calls.append("x") or ct, lambda: calls.append("y") or ct

    PRIMITIVES_before = dict(PRIMITIVES)
    lazy = Primitive("lazy_add", np.add, rule)
    try:
        x = Tensor([1.0])
        with Tape() as tape:
            tape.watch(x)
            out = apply(lazy, x, Tensor([2.0]))
        tape.gradient(out, x)
        assert calls == ["x"]
    finally:
        PRIMITIVES.clear()
        PRIMITIVES.update(PRIMITIVES_before)


def test_rules_are_made_of_operations() -> None:
    x = Tensor([0.3, -0.7], dtype="float64")
    with Tape() as outer:
        outer.watch(x)
        with Tape() as inner:
            inner.watch(x)
            y = elementwise.tanh(x)
        g = inner.gradient(y, x)
    assert outer.gradient(g, x) is not None
