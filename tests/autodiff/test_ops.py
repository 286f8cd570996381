"""`mr.ops` against NumPy: values, shapes and dtypes, and gradients of what is made of several primitives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn import ops
from minirnn.errors import ShapeError
from tests.reference.checks import central_differences, max_error

RNG = np.random.default_rng(23)
X = RNG.normal(size=(3, 4))
Y = RNG.uniform(0.3, 2.0, size=(3, 4))
CUBE = RNG.normal(size=(2, 3, 4))


def softmax(x: np.ndarray, axis: Any = -1) -> np.ndarray:
    return np.exp(x) / np.exp(x).sum(axis=axis, keepdims=True)


# name: (operation, NumPy's way, arguments of which all floating arrays are differentiated)
CASES: dict[str, tuple[Callable[..., Any], Callable[..., Any], list[np.ndarray]]] = {
    "square": (ops.square, np.square, [X]),
    "leaky_relu": (lambda x: ops.leaky_relu(x, 0.1), lambda x: np.where(x > 0, x, 0.1 * x), [X]),
    "elu": (lambda x: ops.elu(x, 1.3), lambda x: np.where(x > 0, x, 1.3 * np.expm1(x)), [X]),
    "hard_sigmoid": (ops.hard_sigmoid, lambda x: np.clip(x / 6 + 0.5, 0, 1), [3 * X]),
    "hard_sigmoid_keras2": (ops.hard_sigmoid_keras2, lambda x: np.clip(0.2 * x + 0.5, 0, 1), [3 * X]),
    "clip": (lambda x: ops.clip(x, -0.5, 0.5), lambda x: np.clip(x, -0.5, 0.5), [X]),
    "clip below": (lambda x: ops.clip(x, -0.5), lambda x: np.maximum(x, -0.5), [X]),
    "clip above": (lambda x: ops.clip(x, None, 0.5), lambda x: np.minimum(x, 0.5), [X]),
    "reshape": (lambda x: ops.reshape(x, (2, -1)), lambda x: x.reshape(2, -1), [X]),
    "reshape to one axis": (lambda x: ops.reshape(x, -1), lambda x: x.reshape(-1), [X]),
    "transpose": (ops.transpose, np.transpose, [CUBE]),
    "transpose axes": (lambda x: ops.transpose(x, (1, -1, 0)), lambda x: np.transpose(x, (1, 2, 0)), [CUBE]),
    "swapaxes": (lambda x: ops.swapaxes(x, 0, -1), lambda x: np.swapaxes(x, 0, -1), [CUBE]),
    "broadcast_to": (lambda x: ops.broadcast_to(x, (2, 3, 4)), lambda x: np.broadcast_to(x, (2, 3, 4)), [X]),
    "expand_dims": (lambda x: ops.expand_dims(x, (0, -1)), lambda x: np.expand_dims(x, (0, -1)), [X]),
    "squeeze": (lambda x: ops.squeeze(x[None, :, None], (0, 2)), lambda x: x, [X]),
    "squeeze all": (lambda x: ops.squeeze(x[:1, :, None]), lambda x: x[0], [X]),
    "concatenate": (lambda x, y: ops.concatenate([x, y], -1), lambda x, y: np.concatenate([x, y], -1), [X, Y[:, :2]]),
    "stack": (lambda x, y: ops.stack([x, y], axis=1), lambda x, y: np.stack([x, y], axis=1), [X, Y]),
    "stack last": (lambda x, y: ops.stack([x, y], axis=-1), lambda x, y: np.stack([x, y], axis=-1), [X, Y]),
    "split": (lambda x: ops.split(x, 2, axis=-1)[1], lambda x: np.split(x, 2, axis=-1)[1], [X]),
    "split at": (lambda x: ops.split(x, [1, -1], axis=1)[1], lambda x: np.split(x, [1, -1], axis=1)[1], [X]),
    "flip": (ops.flip, np.flip, [CUBE]),
    "flip axes": (lambda x: ops.flip(x, (0, -1)), lambda x: np.flip(x, (0, -1)), [CUBE]),
    "pad": (lambda x: ops.pad(x, ((1, 0), (2, 3))), lambda x: np.pad(x, ((1, 0), (2, 3))), [X]),
    "pad by one number": (lambda x: ops.pad(x, 2), lambda x: np.pad(x, 2), [X]),
    "take": (lambda x: ops.take(x, [[2, 0], [2, 2]], axis=0), lambda x: np.take(x, [[2, 0], [2, 2]], axis=0), [X]),
    "take axis": (lambda x: ops.take(x, [2, 0, 2], axis=1), lambda x: np.take(x, [2, 0, 2], axis=1), [CUBE]),
    "take many from the last": (
        lambda x: ops.take(x, [[3, 0, 3], [1, 1, 2]], axis=-1),
        lambda x: np.take(x, [[3, 0, 3], [1, 1, 2]], axis=-1),
        [CUBE],
    ),
    "take from all": (lambda x: ops.take(x, [7, 0], axis=None), lambda x: np.take(x, [7, 0]), [X]),
    "sum": (ops.sum, np.sum, [CUBE]),
    "sum axes": (lambda x: ops.sum(x, (0, -1)), lambda x: np.sum(x, (0, -1)), [CUBE]),
    "sum keepdims": (lambda x: ops.sum(x, 1, keepdims=True), lambda x: np.sum(x, 1, keepdims=True), [CUBE]),
    "mean": (lambda x: ops.mean(x, -1), lambda x: np.mean(x, -1), [CUBE]),
    "var": (lambda x: ops.var(x, (0, 2)), lambda x: np.var(x, (0, 2)), [CUBE]),
    "max": (lambda x: ops.max(x, (0, 2)), lambda x: np.max(x, (0, 2)), [CUBE]),
    "min": (lambda x: ops.min(x, -1, keepdims=True), lambda x: np.min(x, -1, keepdims=True), [CUBE]),
    "logsumexp": (ops.logsumexp, lambda x: np.log(np.sum(np.exp(x))), [CUBE]),
    "logsumexp axes": (lambda x: ops.logsumexp(x, (0, 2)), lambda x: np.log(np.sum(np.exp(x), (0, 2))), [CUBE]),
    "softmax": (ops.softmax, softmax, [CUBE]),
    "softmax axis": (lambda x: ops.softmax(x, axis=1), lambda x: softmax(x, 1), [CUBE]),
    "log_softmax": (lambda x: ops.log_softmax(x, axis=0), lambda x: np.log(softmax(x, 0)), [CUBE]),
    "where": (lambda x, y: ops.where(X > 0, x, y), lambda x, y: np.where(X > 0, x, y), [X, Y]),
    "where broadcast": (lambda x: ops.where(X[:, :1] > 0, x, 0.0), lambda x: np.where(X[:, :1] > 0, x, 0), [CUBE]),
    "contract": (
        lambda x, y: ops.contract("bti, tj -> bij", x, y),
        lambda x, y: np.einsum("bti,tj->bij", x, y),
        [CUBE, X],
    ),
}


def weighted(out: Any, weights: np.ndarray) -> Any:
    return ops.sum(ops.multiply(out, weights))


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name: str) -> None:
    operation, by_numpy, arrays = CASES[name]
    want = by_numpy(*arrays)
    got = operation(*[mr.Tensor(a) for a in arrays])
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    assert max_error(got, want) <= 1e-14
    assert max_error(operation(*arrays), want) <= 1e-14
    narrow = operation(*[mr.Tensor(a, "float32") for a in arrays])
    assert narrow.dtype == np.float32 and max_error(narrow, want) <= 1e-5
    weights = np.random.default_rng(1).normal(size=want.shape)
    slopes = mr.grad(lambda *xs: weighted(operation(*xs), weights), argnums=range(len(arrays)))(*arrays)
    wants = central_differences(lambda *xs: np.sum(by_numpy(*xs) * weights), *arrays)
    assert all(max_error(g, w) <= 1e-9 for g, w in zip(slopes, wants, strict=True))


UNARY = "negative abs sign sqrt exp expm1 log log1p sin cos tanh logical_not isfinite".split()
BINARY = (
    "add subtract multiply divide power maximum minimum greater greater_equal less less_equal equal not_equal "
    "logical_and logical_or"
).split()


@pytest.mark.parametrize("name", UNARY)
def test_elementwise_of_one(name: str) -> None:
    want = getattr(np, name)(Y)
    for x in (Y, mr.Tensor(Y)):
        got = getattr(ops, name)(x)
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("name", BINARY)
def test_elementwise_of_two(name: str) -> None:
    other = np.where(X > 0, Y, X)[1] ** 2
    want = getattr(np, name)(Y, other)
    for a, b in ((Y, other), (mr.Tensor(Y), other), (Y, mr.Tensor(other))):
        got = getattr(ops, name)(a, b)
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)


def test_activations() -> None:
    x = np.linspace(-3, 3, 13)
    np.testing.assert_allclose(ops.sigmoid(x), 1 / (1 + np.exp(-x)), rtol=1e-15)
    np.testing.assert_allclose(ops.softplus(x), np.log1p(np.exp(x)), rtol=1e-15)
    np.testing.assert_array_equal(ops.relu(x), np.maximum(x, 0))
    np.testing.assert_array_equal(ops.softsign(x), x / (1 + abs(x)))


def test_any_all_argmax() -> None:
    b = CUBE > 0.3
    for axis in (None, 0, (0, 2), -1):
        np.testing.assert_array_equal(ops.any(b, axis), np.any(b, axis))
        np.testing.assert_array_equal(ops.all(b, axis, keepdims=True), np.all(b, axis, keepdims=True))
    np.testing.assert_array_equal(ops.argmax(CUBE, -1), np.argmax(CUBE, -1))
    np.testing.assert_array_equal(ops.argmax(CUBE, 1), np.argmax(CUBE, 1))
    assert ops.argmax(CUBE, None).item() == np.argmax(CUBE)
    assert ops.argmax(X).dtype == np.int64


def test_bitwise_operators_are_for_bools() -> None:
    a, b = X > 0, Y > 1
    np.testing.assert_array_equal(mr.Tensor(a) & b, a & b)
    np.testing.assert_array_equal(a & mr.Tensor(b), a & b)
    np.testing.assert_array_equal(a | mr.Tensor(b), a | b)
    np.testing.assert_array_equal(True & mr.Tensor(b), b)
    np.testing.assert_array_equal(~mr.Tensor(a), ~a)
    with pytest.raises(TypeError, match="& is for bools"):
        mr.Tensor([1, 2]) & 1


@pytest.mark.parametrize("dtype", ["int8", "int64", "uint8", "bool"])
def test_reductions_of_integers(dtype: str) -> None:
    x = np.array([[0, 3, 1], [1, 0, 1]]).astype(dtype)
    np.testing.assert_array_equal(ops.sum(x, 0), np.sum(x, 0, dtype="int64"))
    assert ops.sum(x).dtype == np.int64
    for name in ("max", "min"):
        got, want = getattr(ops, name)(x, 1), getattr(np, name)(x, 1)
        np.testing.assert_array_equal(got, want)
        assert got.dtype == want.dtype
    assert ops.mean(x).dtype == np.float32
    np.testing.assert_allclose(ops.mean(x), np.mean(x), rtol=1e-6)


def test_made_from_nothing() -> None:
    for got, want in [
        (ops.zeros((2, 3), "float64"), np.zeros((2, 3))),
        (ops.ones(4, "int64"), np.ones(4, int)),
        (ops.full((2,), 1.5), np.full(2, 1.5, "float32")),
        (ops.arange(4), np.arange(4)),
        (ops.zeros_like(X), np.zeros_like(X)),
        (ops.ones_like(np.arange(3)), np.ones(3, int)),
        (ops.one_hot([[0, 2], [1, 5]], 3), np.eye(6, dtype="float32")[[[0, 2], [1, 5]], :3]),
    ]:
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)


def test_logsumexp_of_infinities() -> None:
    inf = np.inf
    x = np.array([[-inf, -inf], [-inf, 1.0], [inf, 0.0], [1000.0, 1000.0]])
    want = [-inf, 1.0, inf, 1000 + np.log(2)]
    np.testing.assert_array_equal(ops.logsumexp(x, -1), want)
    np.testing.assert_array_equal(ops.logsumexp(x, -1, keepdims=True), np.reshape(want, (4, 1)))
    slopes = mr.grad(lambda x: ops.logsumexp(x, -1).sum())(x[[0, 1, 3]])
    np.testing.assert_array_equal(slopes, [[0.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    np.testing.assert_array_equal(ops.softmax(x[1]), [0.0, 1.0])
    np.testing.assert_array_equal(ops.log_softmax(x[1]), [-inf, 0.0])


INDICES = [
    0, -1, slice(None), slice(1, None), slice(None, None, -1), slice(2, 0, -1), slice(5, 9), slice(0, 0), Ellipsis,
    None,
    (0, 1), (0, slice(None), -1), (Ellipsis, 1), (slice(None), None, 0), (1, Ellipsis, None),
    (slice(None), slice(None, None, 2)),
    (slice(-1, None), Ellipsis, slice(3, None, -2)), (), np.int64(1), np.array(1), (np.int64(-1), 2),
]  # fmt: skip


@pytest.mark.parametrize("index", INDICES, ids=repr)
def test_getitem(index: Any) -> None:
    want = CUBE[index]
    got = mr.Tensor(CUBE)[index]
    assert got.shape == want.shape
    np.testing.assert_array_equal(got, want)
    weights = np.random.default_rng(2).normal(size=want.shape)
    slope = mr.grad(lambda x: weighted(x[index], weights))(CUBE)
    wanted = np.zeros_like(CUBE)
    wanted[index] = weights
    np.testing.assert_array_equal(slope, wanted)


@pytest.mark.parametrize("index", [[1, 0, 1], np.array([[1], [0]]), mr.Tensor([1, 1]), np.zeros((0,), int)], ids=repr)
def test_getitem_by_integers(index: Any) -> None:
    np.testing.assert_array_equal(mr.Tensor(CUBE)[index], CUBE[np.asarray(index)])
    slope = mr.grad(lambda x: (x[index] * 2.0).sum())(CUBE)
    wanted = np.zeros_like(CUBE)
    np.add.at(wanted, np.asarray(index), 2.0)
    np.testing.assert_array_equal(slope, wanted)


MATMULS = [
    ((3,), (3,)), ((3,), (3, 4)), ((2, 3), (3,)), ((2, 3), (3, 4)), ((5, 2, 3), (3,)), ((5, 2, 3), (3, 4)),
    ((3,), (5, 3, 4)), ((2, 3), (5, 3, 4)), ((5, 2, 3), (5, 3, 4)), ((1, 2, 3), (5, 3, 4)), ((6, 1, 2, 3), (5, 3, 4)),
    ((6, 5, 2, 3), (3,)), ((6, 5, 2, 3), (3, 4)), ((0, 3), (3, 4)), ((2, 0), (0, 4)), ((5, 2, 0), (5, 0, 4)),
    ((2, 3), (3, 0)),
    ((0, 2, 3), (3, 4)), ((0, 2, 3), (1, 3, 4)),
]  # fmt: skip


@pytest.mark.parametrize(("a", "b"), MATMULS)
def test_matmul_of_any_shapes(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=a), rng.normal(size=b)
    want = np.matmul(x, y)
    got = ops.matmul(x, y)
    assert got.shape == want.shape
    assert max_error(got, want) <= 1e-14
    weights = rng.normal(size=want.shape)
    slopes = mr.grad(lambda x, y: weighted(x @ y, weights), argnums=(0, 1))(x, y)
    wants = central_differences(lambda x, y: np.sum(np.matmul(x, y) * weights), x, y)
    assert all(max_error(g, w) <= 1e-9 for g, w in zip(slopes, wants, strict=True))


@pytest.mark.parametrize(("a", "b"), [((2, 3), (4, 3)), ((3,), (4,)), ((), (3,)), ((5, 2, 3), (4, 3, 2)), ((2, 3), ())])
def test_matmul_of_shapes_that_do_not_fit(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="matmul"):
        ops.matmul(np.zeros(a), np.zeros(b))


def convolved(x: np.ndarray, kernel: np.ndarray, strides: Any, padding: str, dilation: Any) -> np.ndarray:
    """Convolution as its definition has it: for each position the sum over the kernel."""
    size, rank = kernel.shape[:-2], kernel.ndim - 2
    out_sizes, before = [], []
    for n, k, s, d in zip(x.shape[1:-1], size, strides, dilation, strict=True):
        reach = d * (k - 1) + 1
        if padding == "same":
            p = -(-n // s)
            before.append(max((p - 1) * s + reach - n, 0) // 2)
        else:
            p = (n - reach) // s + 1
            before.append(0)
        out_sizes.append(p)
    out = np.zeros((x.shape[0], *out_sizes, kernel.shape[-1]))
    for place in np.ndindex(*out_sizes):
        for offset in np.ndindex(*size):
            at = [p * s + o * d - b for p, s, o, d, b in zip(place, strides, offset, dilation, before, strict=True)]
            if all(0 <= i < n for i, n in zip(at, x.shape[1 : 1 + rank], strict=True)):
                out[(slice(None), *place)] += x[(slice(None), *at)] @ kernel[offset]
    return out


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(
    ("sizes", "kernel_size", "strides", "dilation"),
    [
        ((7,), (3,), (1,), (1,)),
        ((8,), (3,), (2,), (1,)),
        ((9,), (2,), (1,), (3,)),
        ((5, 6), (2, 3), (1, 1), (1, 1)),
        ((6, 7), (3, 2), (2, 3), (2, 1)),
        ((4, 3, 5), (2, 3, 2), (1, 1, 2), (1, 1, 1)),
        ((4, 5, 3), (3, 1, 2), (2, 1, 1), (1, 2, 2)),
    ],
)
def test_convolution(sizes: Any, kernel_size: Any, strides: Any, dilation: Any, padding: str) -> None:
    rng = np.random.default_rng(6)
    x, kernel = rng.normal(size=(2, *sizes, 3)), rng.normal(size=(*kernel_size, 3, 4))
    want = convolved(x, kernel, strides, padding, dilation)
    assert max_error(ops.conv(x, kernel, strides, padding, dilation), want) <= 1e-14
    weights = rng.normal(size=want.shape)
    gx, gk = mr.grad(lambda x, k: weighted(ops.conv(x, k, strides, padding, dilation), weights), (0, 1))(x, kernel)
    # Linear in each: the gradients are exact on the arguments themselves, and right on random directions.
    dx, dk = rng.normal(size=x.shape), rng.normal(size=kernel.shape)
    assert max_error(np.sum(gx * dx), np.sum(weights * convolved(dx, kernel, strides, padding, dilation))) <= 1e-12
    assert max_error(np.sum(gk * dk), np.sum(weights * convolved(x, dk, strides, padding, dilation))) <= 1e-12


def test_convolution_takes_one_number_for_all_axes_and_no_rows() -> None:
    x, kernel = np.zeros((0, 6, 7, 3)), np.ones((2, 2, 3, 4))
    assert ops.conv(x, kernel, 2, "same").shape == (0, 3, 4, 4)
    assert mr.grad(lambda k: ops.conv(x, k, 2, dilation=2).sum())(kernel).numpy().any() == np.False_


def test_empty_arrays() -> None:
    x = np.zeros((0, 3))
    assert ops.sum(x, 0).numpy().tolist() == [0.0, 0.0, 0.0]
    assert ops.softmax(x).shape == ops.log_softmax(x).shape == (0, 3)
    assert ops.max(x, 1).shape == (0,)
    assert ops.reshape(x, (-1, 3)).shape == (0, 3)
    assert [p.shape for p in ops.split(x, 3, axis=1)] == [(0, 1)] * 3
    assert ops.flip(x).shape == (0, 3)
    assert ops.take(np.ones((3, 0)), [2, 1], axis=0).shape == (2, 0)
    assert mr.grad(lambda t: ops.take(t, [2, 1], axis=0).sum())(np.ones((3, 0))).shape == (3, 0)
    assert np.isnan(ops.mean(x).item())
    for reduction in (ops.max, ops.min, ops.logsumexp):
        with pytest.raises(ShapeError, match="empty"):
            reduction(x, 0)
