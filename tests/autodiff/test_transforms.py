"""grad, vjp, jvp, hvp, jacobian and per_sample_grad, alone and inside each other."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn import ops
from minirnn.errors import ArgumentError, GradientError, ShapeError
from tests.peers import Need
from tests.reference.checks import central_differences, complex_step_derivative, max_error

RNG = np.random.default_rng(31)
W, X, V = RNG.normal(size=(3, 2)), RNG.normal(size=(4, 3)), RNG.normal(size=(3, 2))


def loss(w: Any, x: Any) -> Any:
    return (ops.tanh(x @ w) ** 3).mean() + ops.logsumexp(w)


def loss_of_arrays(w: np.ndarray, x: np.ndarray) -> Any:
    return np.mean(np.tanh(x @ w) ** 3) + np.log(np.sum(np.exp(w)))


def test_grad_and_value() -> None:
    want = central_differences(loss_of_arrays, W, X)
    value, (gw, gx) = mr.value_and_grad(loss, argnums=(0, 1))(W, X)
    assert max_error(value, loss_of_arrays(W, X)) <= 1e-15
    assert max(max_error(gw, want[0]), max_error(gx, want[1])) <= 1e-10
    assert max_error(mr.grad(loss)(W, X), gw) == 0.0
    assert max_error(mr.grad(loss, -1)(W, X), gx) == 0.0
    assert isinstance(mr.grad(loss, (1,))(W, X), tuple)


def test_arguments_may_nest_and_what_is_unused_has_zeros() -> None:
    def f(params: dict[str, Any], scale: float) -> Any:
        return (params["a"][0] * params["a"][1]).sum() * scale

    got = mr.grad(f)({"a": (W, V), "unused": [X, None], "n": 3.0}, scale=2.0)
    np.testing.assert_allclose(got["a"][0], 2 * V)
    np.testing.assert_array_equal(got["unused"][0], np.zeros_like(X))
    assert got["unused"][1] is None and got["n"].item() == 0.0 and isinstance(got["a"], tuple)
    assert got["unused"][0].dtype == np.float64


def test_variables_are_arguments_and_are_not_changed() -> None:
    w = mr.Variable(W)
    np.testing.assert_array_equal(mr.grad(lambda w: (w * w).sum())(w), 2 * W)
    assert mr.grad(lambda x: (x * w).sum())(V).numpy().tolist() == W.tolist()


def test_grad_of_a_variable_from_outside_is_on_the_surrounding_tape() -> None:
    w = mr.Variable(2.0, "float64")
    with mr.Tape() as tape:
        g = mr.grad(lambda x: w * x * x)(mr.Tensor(3.0, "float64"))
    assert g.item() == 12.0
    assert tape.gradient(g, w).item() == 6.0


def test_third_order() -> None:
    def f(x: Any) -> Any:
        return ops.sin(x) * ops.exp(0.5 * x)

    third = mr.grad(mr.grad(mr.grad(f)))
    x = np.float64(0.7)
    want = np.imag((0.5 + 1j) ** 3 * np.exp((0.5 + 1j) * x))
    assert max_error(third(x), want) <= 1e-14
    assert max_error(mr.jvp(mr.grad(mr.grad(f)), (x,), (1.0,))[1], want) <= 1e-14
    assert max_error(mr.grad(lambda x: mr.jvp(mr.grad(f), (x,), (1.0,))[1])(x), want) <= 1e-14
    assert max_error(mr.grad(lambda x: mr.hvp(f, (x,), (1.0,)))(x), want) <= 1e-14
    assert max_error(mr.jacobian(mr.jacobian(mr.jacobian(f)))(x), want) <= 1e-14
    inside_out = mr.jvp(lambda x: mr.jvp(lambda x: mr.jvp(f, (x,), (1.0,))[1], (x,), (1.0,))[1], (x,), (1.0,))
    assert max_error(inside_out[1], want) <= 1e-14


def test_perturbations_are_not_confused() -> None:
    inner = mr.grad(lambda x: x * mr.grad(lambda y: x + y)(mr.Tensor(1.0)))
    assert inner(mr.Tensor(2.0)).item() == 1.0
    outer = mr.jvp(lambda x: x * mr.jvp(lambda y: x + y, (1.0,), (1.0,))[1], (2.0,), (1.0,))[1]
    assert outer.item() == 1.0


def test_vjp() -> None:
    ct = RNG.normal(size=(4, 2))
    out, pullback = mr.vjp(lambda x, w: {"y": ops.exp(x @ w)}, X, W)
    gx, gw = pullback({"y": ct})
    y = np.exp(X @ W)
    assert max_error(out["y"], y) <= 1e-15
    assert max(max_error(gx, (ct * y) @ W.T), max_error(gw, X.T @ (ct * y))) <= 1e-14
    np.testing.assert_array_equal(pullback({"y": ct})[0], gx)
    assert pullback({"y": np.zeros((4, 2))})[1].numpy().any() == np.False_
    with pytest.raises(ShapeError, match="output_gradients"):
        pullback({"y": ct[:2]})


def test_jvp() -> None:
    direction = RNG.normal(size=X.shape)
    out, tangent = mr.jvp(lambda x, w: (ops.tanh(x @ w), x), (X, W), (direction, V))
    want = complex_step_derivative(lambda x, w: np.tanh(x @ w), [X, W], [direction, V])
    assert max_error(tangent[0], want) <= 1e-14
    np.testing.assert_array_equal(tangent[1], direction)
    assert max_error(out[0], np.tanh(X @ W)) <= 1e-15
    assert mr.jvp(lambda x: ops.ones((2,)), (1.0,), (1.0,))[1].numpy().tolist() == [0.0, 0.0]
    nested = mr.jvp(lambda p: p["a"] * p["b"], ({"a": 2.0, "b": 3.0},), ({"a": 1.0, "b": 10.0},))
    assert nested[1].item() == 23.0


def test_jvp_where_a_cotangent_happens_to_be_zero() -> None:
    """At an exact fit all cotangents are 0, and the second derivative is not."""

    def mse(w: Any) -> Any:
        return ops.mean(ops.square(X @ w - X @ W))

    assert not mr.grad(mse)(W).numpy().any()
    want = 2 * X.T @ (X @ V) / (4 * 2)
    assert max_error(mr.hvp(mse, (W,), (V,)), want) <= 1e-14
    assert max_error(mr.jvp(mr.grad(mse), (W,), (V,))[1], want) <= 1e-14


def test_hvp_and_jacobian_agree_with_each_other() -> None:
    product = mr.hvp(lambda w: loss(w, X), (W,), (V,))
    hessian = mr.jacobian(mr.grad(lambda w: loss(w, X)))(W)
    assert hessian.shape == (3, 2, 3, 2)
    assert max_error(product, np.tensordot(hessian.numpy(), V, 2)) <= 1e-14
    slope = central_differences(lambda w: np.sum(np.asarray(mr.grad(loss)(mr.Tensor(w), X)) * V), W)[0]
    assert max_error(product, slope) <= 1e-9
    both = mr.hvp(loss, (W, X), (V, np.zeros_like(X)))
    assert len(both) == 2 and max_error(both[0], product) <= 1e-15


def test_jacobian() -> None:
    def f(x: Any, w: Any) -> Any:
        return ops.exp(x @ w)

    gx, gw = mr.jacobian(f, (0, 1))(X, W)
    y = np.exp(X @ W)
    assert max_error(gx, np.einsum("bu,fu,bc->bucf", y, W, np.eye(4))) <= 1e-14
    assert max_error(gw, np.einsum("bu,bf,uv->bufv", y, X, np.eye(2))) <= 1e-14
    assert mr.jacobian(lambda x: x.sum())(X).shape == X.shape
    assert mr.jacobian(lambda x: x[:0])(X).shape == (0, 3, 4, 3)
    nested = mr.jacobian(lambda p: p["a"] * p["b"])({"a": X[0], "b": X[1]})
    np.testing.assert_array_equal(nested["a"], np.diag(X[1]))


def test_per_sample_grad() -> None:
    def one_loss(params: dict[str, Any], x: Any, y: Any) -> Any:
        assert x.shape == (1, 3) and y.shape == (1,)
        return ops.sum(ops.square(ops.sum(x * params["w"]) * params["b"] - y))

    y = RNG.normal(size=4)
    w, b = W[:, 0], np.array(0.5)
    got = mr.per_sample_grad(one_loss)({"w": w, "b": b}, X, y)
    rest = X @ w * b - y
    assert max_error(got["w"], 2 * rest[:, None] * b * X) <= 1e-14
    assert max_error(got["b"], 2 * rest * (X @ w)) <= 1e-14
    total = mr.grad(lambda p: ops.sum(ops.square(ops.sum(X * p["w"], -1) * p["b"] - y)))({"w": w, "b": b})
    assert max_error(got["w"].sum(0), total["w"]) <= 1e-14
    ids = mr.per_sample_grad(lambda table, i: ops.take(table, i, axis=0).sum())(np.zeros((3, 2)), np.array([2, 0]))
    assert ids.shape == (2, 3, 2) and ids.numpy()[0, 2].tolist() == [1.0, 1.0]


def test_per_sample_grad_of_no_samples() -> None:
    def f(w: Any, x: Any) -> Any:
        return (x @ w).sum()

    assert mr.per_sample_grad(f)(W, X[:0]).shape == (0, 3, 2)
    assert mr.per_sample_grad(f, 1)(W, X[:0]).shape == (0, 1, 3)
    assert mr.per_sample_grad(f, 1)(W, X).shape == (4, 1, 3)
    assert [g.shape for g in mr.per_sample_grad(f, (0, 1))(W, X[:0])] == [(0, 3, 2), (0, 1, 3)]


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: mr.grad(lambda x: x * x)(X), GradientError, r"\(4, 3\)"),
        (lambda: mr.grad(lambda x: (x, x))(1.0), GradientError, "tuple"),
        (lambda: mr.grad(lambda x: 3.0)(1.0), GradientError, "float"),
        (lambda: mr.grad(lambda x: x.sum())(np.arange(3)), GradientError, "int64"),
        (lambda: mr.grad(lambda x: ops.sum(x))(np.array([True])), GradientError, "bool"),
        (lambda: mr.grad(lambda x: ops.cast(x, "int64"))(1.0), GradientError, "int64"),
        (lambda: mr.grad(loss, 2)(W, X), ArgumentError, "argnums"),
        (lambda: mr.grad(loss, (0, -3))(W, X), ArgumentError, "argnums"),
        (lambda: mr.jvp(loss, (W, X), (V,)), ArgumentError, "tangents"),
        (lambda: mr.jvp(loss, (W, X), (V, [X, X])), ArgumentError, "tangents"),
        (lambda: mr.jvp(loss, (W, X), (V, X[:2])), ShapeError, r"\(2, 3\)"),
        (lambda: mr.jacobian(lambda x: (x, x))(X), GradientError, "tuple"),
        (lambda: mr.per_sample_grad(loss)(W, X, X[:2]), ShapeError, "first axis"),
        (lambda: mr.per_sample_grad(loss)(W, 1.0), ShapeError, "first axis"),
    ],
)
def test_bad_arguments(call: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()


def test_integers_given_as_python_numbers_are_floats() -> None:
    assert mr.grad(lambda x: x * x * x)(2).item() == 12.0
    assert mr.hvp(lambda x: x * x * x, (2,), (1,)).item() == 12.0


@pytest.mark.peers
def test_against_autograd(need: Need) -> None:
    autograd = need("autograd")
    anp: ModuleType = need("autograd.numpy")

    def network(np_like: Any, w: Any, x: Any) -> Any:
        h = np_like.tanh(np_like.matmul(x, w))
        return np_like.sum(np_like.exp(h) * np_like.sin(h) / (1.0 + h * h)) + np_like.sum(np_like.sqrt(w * w + 1.0))

    def theirs(w: Any, x: Any) -> Any:
        return network(anp, w, x)

    def ours(w: Any, x: Any) -> Any:
        return network(ops, w, x)

    for place in (0, 1):
        assert max_error(mr.grad(ours, place)(W, X), autograd.grad(theirs, place)(W, X)) <= 1e-12
    want = autograd.hessian_vector_product(theirs)(W, X, V)
    assert max_error(mr.hvp(lambda w: ours(w, X), (W,), (V,)), want) <= 1e-12
    wants = autograd.jacobian(lambda w: anp.tanh(anp.matmul(X, w)))(W)
    assert max_error(mr.jacobian(lambda w: ops.tanh(X @ w))(W), wants) <= 1e-12


def test_jvp_takes_tuples_and_says_so() -> None:
    for primals, tangents in ((np.ones(3), (np.ones(3),)), ((np.ones(3),), np.ones(3))):
        with pytest.raises(ArgumentError, match="expected: a tuple"):
            mr.jvp(mr.ops.tanh, primals, tangents)
