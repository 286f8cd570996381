"""Numbers where naive code gives NaN: saturated functions, large logits, and what `where` leaves out."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn import ops
from tests.reference.checks import max_error

FAR = np.array([-1e4, -800.0, -100.0, -40.0, -1.0, 0.0, 1.0, 40.0, 100.0, 800.0, 1e4])
DTYPES = ["float32", "float64"]


def derivatives(f: Callable[..., Any], x: np.ndarray) -> list[np.ndarray]:
    """The values of an elementwise f and its first three derivatives."""
    found = [f(mr.Tensor(x))]
    for _ in range(3):
        g = f
        f = lambda x, g=g: mr.grad(lambda x: ops.sum(g(x)))(x)  # noqa: E731
        found.append(f(mr.Tensor(x)))
    return [np.asarray(v) for v in found]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["sigmoid", "softplus", "tanh", "softsign", "relu", "elu", "hard_sigmoid"])
def test_saturated_functions(name: str, dtype: str) -> None:
    for values in derivatives(getattr(ops, name), FAR.astype(dtype)):
        assert values.dtype == dtype and np.isfinite(values).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_sigmoid_and_softplus_far_out(dtype: str) -> None:
    x = FAR.astype(dtype)
    with np.errstate(over="ignore"):
        want = 1 / (1 + np.exp(-FAR))
    value, slope, *_ = derivatives(ops.sigmoid, x)
    assert max_error(value, want) <= np.finfo(dtype).eps
    assert max_error(slope, want * (1 - want)) <= np.finfo(dtype).eps
    value, slope, *_ = derivatives(ops.softplus, x)
    np.testing.assert_allclose(value, np.logaddexp(0, FAR), rtol=4 * np.finfo(dtype).eps, atol=1e-38)
    assert max_error(slope, want) <= np.finfo(dtype).eps


def cross_entropy(logits: Any, targets: Any) -> Any:
    return -ops.sum(ops.log_softmax(logits) * targets)


def binary_cross_entropy(logits: Any, targets: Any) -> Any:
    return ops.sum(ops.softplus(logits) - logits * targets)


@pytest.mark.parametrize("dtype", DTYPES)
def test_cross_entropies_of_large_logits(dtype: str) -> None:
    logits = np.array([[1e4, -1e4, 0.0], [0.0, 1e4, 1e4], [3.0, 2.0, -1.0]], dtype)
    targets = np.array([[0.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype)
    p = np.exp(logits.astype(float) - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    got = mr.grad(cross_entropy)(logits, mr.Tensor(targets))
    assert max_error(got, p - targets) <= 2 * np.finfo(dtype).eps
    np.testing.assert_array_equal(ops.softmax(logits)[:2], [[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]])
    assert np.isfinite(np.asarray(cross_entropy(mr.Tensor(logits), mr.Tensor(targets))))
    product = mr.hvp(lambda x: cross_entropy(x, mr.Tensor(targets)), (logits,), (np.ones_like(logits),))
    assert max_error(product, np.zeros((3, 3))) <= 4 * np.finfo(dtype).eps
    got = mr.grad(binary_cross_entropy)(logits, mr.Tensor(targets))
    assert np.isfinite(np.asarray(got)).all()


def test_softmax_is_the_same_after_a_shift() -> None:
    x = np.random.default_rng(0).normal(size=(2, 5))
    assert max_error(ops.softmax(x + 1e4), ops.softmax(x)) <= 1e-11
    slopes = mr.grad(lambda x: ops.sum(ops.softmax(x) * np.arange(5.0)))(x)
    assert max_error(slopes.sum(-1), np.zeros(2)) <= 1e-15


# `where` -------------------------------------------------------------------------------------------
# Functions that are infinite or undefined at 0 or below, each used only above 0.
UNSAFE: dict[str, Callable[[Any], Any]] = {
    "log": ops.log,
    "x log x": lambda x: x * ops.log(x),
    "sqrt": ops.sqrt,
    "1 / x": lambda x: 1.0 / x,
    "x ** -2": lambda x: x**-2,
    "x ** 0.5": lambda x: x**0.5,
    "x ** y": lambda x: ops.power(x, mr.Tensor([-0.5], "float64")),
    "log1p": lambda x: ops.log1p(2 * x - 1),
    "exp(1 / x)": lambda x: ops.exp(1.0 / x),
    "nested": lambda x: ops.where(x > -5.0, ops.log(x) + 1.0, x),
    "nested the other way": lambda x: ops.where(x < 5.0, ops.where(x < 4.0, ops.sqrt(x) * 2.0, x), x),
    "through views": lambda x: ops.reshape(ops.transpose(ops.log(x)[:, None] * 2.0), (-1,)),
    "through split": lambda x: ops.concatenate(ops.split(ops.log(x), [1]), 0),
    "through stack and sum": lambda x: ops.sum(ops.stack([ops.log(x), ops.sqrt(x)]), 0),
    "through broadcast": lambda x: ops.mean(ops.broadcast_to(ops.log(x), (3, 4)), 0),
    "through take": lambda x: ops.take(ops.log(x), [0, 1, 2, 3]),
    "broadcast by a product": lambda x: ops.sum(ops.log(x) * np.ones((3, 1)), 0),
    "clipped after": lambda x: ops.minimum(ops.maximum(ops.log(x), -100.0), 100.0),
}
BELOW = np.array([-1.0, 0.0, 0.5, 2.0])


@pytest.fixture
def as_numpy_warns() -> Any:
    """NumPy warns of log(0) where the user's own code computes it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(divide by zero|invalid value|overflow) encountered")
        yield


@pytest.mark.usefixtures("as_numpy_warns")
@pytest.mark.parametrize("name", UNSAFE)
def test_what_where_leaves_out_reaches_no_gradient(name: str) -> None:
    unsafe = UNSAFE[name]
    guarded = derivatives(lambda x: ops.where(x > 0, unsafe(x), 0.0), BELOW)
    alone = [derivatives(lambda x: unsafe(x[None] if x.ndim == 0 else x), np.full(4, v)) for v in (0.5, 2.0)]
    for order, values in enumerate(guarded):
        np.testing.assert_array_equal(values[:2], [0.0, 0.0])
        want = [d[order][0] for d in alone] if "stack" not in name else values[2:]
        np.testing.assert_allclose(values[2:], want, rtol=1e-12)


@pytest.mark.usefixtures("as_numpy_warns")
@pytest.mark.parametrize("name", UNSAFE)
def test_the_other_branch_and_other_transforms(name: str) -> None:
    unsafe = UNSAFE[name]

    def f(x: Any) -> Any:
        return ops.sum(ops.where(x <= 0, 0.5 * x * x, unsafe(x)))

    slope = np.asarray(mr.grad(f)(BELOW))
    np.testing.assert_array_equal(slope[:2], [-1.0, 0.0])
    assert np.isfinite(slope).all()
    bend = np.asarray(mr.hvp(f, (BELOW,), (np.ones(4),)))
    np.testing.assert_array_equal(bend[:2], [1.0, 1.0])
    assert np.isfinite(bend).all()
    assert np.isfinite(np.asarray(mr.jvp(f, (BELOW,), (np.ones(4),))[1]))
    assert np.isfinite(np.asarray(mr.jacobian(mr.grad(f))(BELOW))).all()


@pytest.mark.usefixtures("as_numpy_warns")
def test_a_condition_that_is_broadcast_or_a_number() -> None:
    x = np.array([[0.0, 1.0], [2.0, 3.0]])
    rows = np.array([[False], [True]])
    slope = mr.grad(lambda x: ops.sum(ops.where(rows, ops.log(x), 0.0)))(x)
    np.testing.assert_array_equal(slope, [[0.0, 0.0], [0.5, 1 / 3]])
    slope = mr.grad(lambda x: ops.sum(ops.where(False, ops.log(x), x)))(x)
    np.testing.assert_array_equal(slope, np.ones((2, 2)))
    slope = mr.grad(lambda x: ops.sum(ops.where(np.array([0.0, 2.0]), ops.log(x), x)))(x)
    np.testing.assert_array_equal(slope, [[1.0, 1.0], [1.0, 1 / 3]])
    # A branch that is broadcast: one element, selected in one place only, or nowhere.
    one = np.zeros((1, 1))
    slope = mr.grad(lambda o: ops.sum(ops.where(np.zeros((2, 2), bool), ops.log(o), x)))(one)
    np.testing.assert_array_equal(slope, [[0.0]])
    slope = mr.grad(lambda o: ops.sum(ops.where(np.eye(2, dtype=bool), ops.log(o), x)))(one + 0.5)
    np.testing.assert_array_equal(slope, [[4.0]])


@pytest.mark.usefixtures("as_numpy_warns")
def test_a_value_with_another_use_keeps_its_own_infinities() -> None:
    """Only what comes through the branch is selected away, not the gradient of another use."""
    x = np.array([0.0, 4.0])
    slope = np.asarray(mr.grad(lambda x: (lambda r: ops.sum(ops.where(x > 0, r, 0.0)) + ops.sum(r))(ops.sqrt(x)))(x))
    np.testing.assert_array_equal(slope, [np.inf, 0.5])
    safe = np.asarray(
        mr.grad(
            lambda x: (lambda r: ops.sum(ops.where(x > 0, r, 0.0)) + ops.sum(ops.where(x > 1, 3 * r, x)))(ops.sqrt(x))
        )(x)
    )
    np.testing.assert_array_equal(safe, [1.0, 1.0])


@pytest.mark.usefixtures("as_numpy_warns")
def test_rows_that_are_masked_altogether() -> None:
    scores = np.array([[-np.inf, -np.inf], [0.0, np.log(3.0)]])
    valid = np.array([[False], [True]])
    weights = np.array([1.0, 2.0])
    f = lambda s: ops.sum(ops.where(valid, ops.softmax(s), 0.0) * weights)  # noqa: E731
    slope = np.asarray(mr.grad(f)(scores))
    np.testing.assert_allclose(slope, [[0.0, 0.0], [-3 / 16, 3 / 16]], atol=1e-16)
    norm = lambda v: ops.sum(ops.where(valid[:, 0], ops.sqrt(ops.sum(v * v, -1)), 0.0))  # noqa: E731
    slope = np.asarray(mr.grad(norm)(np.array([[0.0, 0.0], [3.0, 4.0]])))
    np.testing.assert_allclose(slope, [[0.0, 0.0], [0.6, 0.8]])


def test_an_extremum_passes_no_infinite_cotangent_as_nan() -> None:
    x = np.array([-1.0, 4.0])
    for f in (
        lambda x: ops.maximum(x, 0.0),
        lambda x: -ops.minimum(-x, 0.0),
        ops.relu,
        lambda x: ops.clip(x, 0.0, 9.0),
    ):
        np.testing.assert_array_equal(mr.grad(lambda x, f=f: ops.sum(ops.sqrt(f(x))))(x), [0.0, 0.25])


def test_where_costs_no_nodes_where_nothing_can_be_infinite() -> None:
    """A guard is made only for the rules that multiply by a derivative."""
    x = mr.Variable(np.ones((3, 2)))

    def nodes(select: Any) -> int:
        with mr.Tape() as outer:
            with mr.Tape() as tape:
                y = ops.sum(select(ops.reshape(x @ np.ones((2, 2)), (3, 2)) + 1.0))
            tape.gradient(y, x)
        return len(outer.nodes)

    assert nodes(lambda y: ops.where(np.ones((3, 1), bool), y, 0.0)) == nodes(lambda y: y * 1.0)


@pytest.mark.usefixtures("as_numpy_warns")
@pytest.mark.parametrize("name", UNSAFE)
def test_without_guards_these_tests_fail(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minirnn.autodiff.tape.operand_guards", lambda node, guards: [None] * len(node.inputs))
    guarded = derivatives(lambda x: ops.where(x > 0, UNSAFE[name](x), 0.0), BELOW)
    assert not all(np.isfinite(values[:2]).all() for values in guarded)
