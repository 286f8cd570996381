"""Operators, NumPy's functions, symbolic Inputs; dtypes; and errors in the user's terms."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn import ops
from minirnn.autodiff import trace
from minirnn.autodiff.operators import PUBLIC, Operators
from minirnn.errors import ArgumentError, DtypeError, MinirnnError, ShapeError

X = np.array([[0.5, 2.0, 1.5], [3.0, 0.25, 1.0]])
IDS = np.array([[2, 0], [1, 1]])


def is_on_the_tape(f: Any) -> bool:
    x = mr.Tensor(X)
    with mr.Tape() as tape:
        tape.watch(x)
        out = f(x)
    return isinstance(out, mr.Tensor) and tape.gradient(out, x) is not None


OPERATORS = [
    lambda x: x + 2.0, lambda x: 2.0 + x, lambda x: x - 2, lambda x: 2 - x, lambda x: x * 2.0, lambda x: 2.0 * x,
    lambda x: x / 2,
    lambda x: 2.0 / x, lambda x: x**2, lambda x: 2.0**x, lambda x: x**x, lambda x: -x, lambda x: +x, lambda x: abs(x),
    lambda x: x @ X.T, lambda x: X.T @ x, lambda x: X + x, lambda x: X - x, lambda x: X * x, lambda x: X / x,
    lambda x: X**x,
    lambda x: x + X.tolist()[0][0], lambda x: np.float64(2) * x, lambda x: np.float32(2) * x,
    lambda x: x * np.array(2.0),
    lambda x: x.T, lambda x: x.sum(0), lambda x: x.mean(), lambda x: x.max(-1), lambda x: x.min(0, keepdims=True),
    lambda x: x.reshape(3, 2), lambda x: x.reshape((3, -1)), lambda x: x.transpose(1, 0), lambda x: x.transpose(),
    lambda x: x.transpose((1, 0)), lambda x: x.astype("float32"), lambda x: x[0], lambda x: x[:, None, 1:],
]  # fmt: skip


@pytest.mark.parametrize("f", OPERATORS)
def test_operators_and_methods(f: Any) -> None:
    want = f(X)
    got = f(mr.Tensor(X))
    assert isinstance(got, mr.Tensor) and (got.shape, got.dtype) == (want.shape, want.dtype)
    np.testing.assert_allclose(got, want, rtol=1e-15)
    assert is_on_the_tape(f)


@pytest.mark.parametrize(
    "f", [lambda x: x < 1, lambda x: x <= 1.0, lambda x: x > X, lambda x: X >= x, lambda x: x == 1, lambda x: x != X]
)
def test_comparisons(f: Any) -> None:
    got = f(mr.Tensor(X))
    assert got.dtype == bool
    np.testing.assert_array_equal(got, f(X))


NUMPY = [
    lambda x: np.add(x, 1.0), lambda x: np.multiply(X, x), lambda x: np.exp(x), lambda x: np.true_divide(x, 2.0),
    lambda x: np.absolute(x),
    lambda x: np.power(x, 2), lambda x: np.matmul(x, X.T), lambda x: np.maximum(x, 1.0), lambda x: np.sqrt(x),
    lambda x: np.square(x),
    lambda x: np.sum(x), lambda x: np.mean(x, axis=-1, keepdims=True), lambda x: np.max(x, 0), lambda x: np.min(x),
    lambda x: np.var(x, 1),
    lambda x: np.concatenate([x, X]), lambda x: np.concatenate([X, x], axis=1), lambda x: np.stack([x, x], axis=1),
    lambda x: np.reshape(x, (3, 2)), lambda x: np.transpose(x), lambda x: np.swapaxes(x, 0, 1),
    lambda x: np.expand_dims(x, 0),
    lambda x: np.squeeze(x[None]), lambda x: np.broadcast_to(x, (2, 2, 3)), lambda x: np.flip(x, 0),
    lambda x: np.pad(x, 1),
    lambda x: np.split(x, 3, axis=1)[1], lambda x: np.where(X > 1, x, 0.0), lambda x: np.where(X > 1, X, x),
    lambda x: np.clip(x, 0.5, 2.0),
    lambda x: np.take(x, IDS), lambda x: np.take(x, [1, 0], 0), lambda x: np.take(x, IDS, axis=1),
]  # fmt: skip


@pytest.mark.parametrize("f", NUMPY)
def test_numpy_functions_run_the_primitive(f: Any) -> None:
    want = f(X)
    got = f(mr.Tensor(X))
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    np.testing.assert_allclose(got, want, rtol=1e-15)
    assert is_on_the_tape(f)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: np.argmax(x), lambda x: np.argmax(x, axis=0), lambda x: np.argmax(x, 1),
        lambda x: np.any(x > 1, axis=0),
        lambda x: np.all(x > 0), lambda x: np.isfinite(x), lambda x: np.sign(x), lambda x: np.logical_not(x > 1),
        lambda x: np.invert(x > 1), lambda x: np.logical_and(x > 1, X < 2), lambda x: np.zeros_like(x),
        lambda x: np.ones_like(x),
    ],
)  # fmt: skip
def test_numpy_functions_without_derivative(f: Any) -> None:
    want = f(X)
    got = f(mr.Tensor(X))
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("f", [np.shape, np.ndim, np.size, lambda x: np.allclose(x, X), lambda x: np.array_equal(X, x)])
def test_numpy_functions_that_only_look(f: Any) -> None:
    assert f(mr.Tensor(X)) == f(X)


REFUSED = [
    lambda x: np.arctan(x), lambda x: np.cumsum(x), lambda x: np.sort(x), lambda x: np.copy(x),
    lambda x: np.linalg.norm(x),
    lambda x: np.dot(x, X.T), lambda x: np.einsum("ij->i", x), lambda x: np.add.reduce(x),
    lambda x: np.add.outer(x, x),
    lambda x: np.add(x, 1.0, where=X > 1), lambda x: np.add(X, x, out=X.copy()), lambda x: np.float_power(x, 2),
    lambda x: np.remainder(x, 2), lambda x: np.prod(x), lambda x: np.median(x), lambda x: np.bitwise_and(x, x),
    lambda x: np.vstack([x, x]),
]  # fmt: skip


@pytest.mark.parametrize("f", REFUSED)
def test_other_numpy_functions_are_refused(f: Any) -> None:
    with pytest.raises(TypeError):
        f(mr.Tensor(X))


def test_adding_a_tensor_into_an_array_is_refused() -> None:
    a = X.copy()
    with pytest.raises(TypeError):
        a += mr.Tensor(X)
    np.testing.assert_array_equal(a, X)


def test_arguments_go_by_the_names_that_the_signature_shows() -> None:
    x = mr.Tensor(X)
    np.testing.assert_array_equal(ops.tanh(x=x), ops.tanh(x))
    np.testing.assert_array_equal(ops.subtract(y=x, x=1.0), 1.0 - X)
    assert str(inspect.signature(ops.add)) == "(x: 'Any', y: 'Any') -> 'Any'"
    # NumPy takes one argument more than it needs as the array to write to.
    for wrong in (lambda: ops.tanh(x, y=x), lambda: ops.exp(x, x), lambda: ops.add(x), lambda: ops.add(x, x, x)):
        with pytest.raises(TypeError, match="argument"):
            wrong()
    np.testing.assert_array_equal(x, X)


# dtypes ----------------------------------------------------------------------------------------------
SINGLE, DOUBLE = mr.Tensor(X, "float32", name="narrow"), mr.Tensor(X, name="wide")


@pytest.mark.parametrize(
    "f",
    [
        lambda a, b: a + b, lambda a, b: a @ b.T, lambda a, b: ops.maximum(a, b), lambda a, b: ops.where(a > 1, a, b),
        lambda a, b: ops.concatenate([a, b]), lambda a, b: ops.stack([a, b]), lambda a, b: a > b, lambda a, b: a**b,
        lambda a, b: ops.clip(a, b, 2.0), lambda a, b: ops.contract("ij,ij->i", a, b), lambda a, b: a + np.asarray(b),
    ],
)  # fmt: skip
def test_float32_never_meets_float64(f: Any) -> None:
    for a, b in ((SINGLE, DOUBLE), (DOUBLE, SINGLE)):
        with pytest.raises(DtypeError, match="float32 meets float64"):
            f(a, b)
    with pytest.raises(DtypeError, match=r"narrow of float32, wide of float64"):
        SINGLE * DOUBLE


@pytest.mark.parametrize("x", [SINGLE, DOUBLE], ids=["float32", "float64"])
def test_numbers_integers_and_bools_adapt(x: mr.Tensor) -> None:
    others = [
        2,
        2.5,
        True,
        np.float64(2),
        np.float32(2),
        np.array(2.5),
        np.int64(3),
        np.arange(3),
        mr.Tensor([1, 2, 3]),
        X > 1,
    ]
    for other in others:
        for got in (x * other, other * x, ops.maximum(x, other), ops.where(X > 1, x, other), x**other, other - x):
            assert got.dtype == x.dtype, other


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_integers_become_the_default_float_where_they_must(dtype: str) -> None:
    with mr.default_dtype(dtype):
        k = mr.Tensor([1, 2, 3])
        for got in (
            ops.exp(k),
            k / 2,
            k * 0.5,
            2.0**k,
            k**0.5,
            k**-1,
            ops.mean(k),
            ops.softmax(k),
            ops.where(k > 1, k, 0.5),
        ):
            assert got.dtype == dtype
        for numbers in (
            ops.exp(2),
            ops.sqrt(2.0),
            ops.where(True, 1.0, 2.0),
            ops.add(1, 0.5),
            ops.zeros(2),
            mr.Tensor([1.0]),
        ):
            assert numbers.dtype == dtype
    for got in (k + 1, k * k, -k, k**2, abs(k), ops.maximum(k, 2), ops.clip(k, 1, 2), k.sum(), ops.where(k > 1, k, 0)):
        assert got.dtype == np.int64
    assert (ops.add(1, 2).dtype, ops.negative(2).dtype, (mr.Tensor([True]) + 1).dtype) == (np.int64,) * 3


def test_gradients_have_the_dtype_of_their_source() -> None:
    for dtype in ("float32", "float64"):
        x = mr.Tensor(X, dtype)
        for f in (
            lambda x: x * 2 + 1.5,
            lambda x: ops.softmax(x) ** 2,
            lambda x: x @ x.T,
            lambda x: ops.maximum(x, 1).mean(),
        ):
            assert mr.grad(lambda x, f=f: ops.sum(f(x)))(x).dtype == dtype
        other = "float32" if dtype == "float64" else "float64"
        assert mr.grad(lambda x, other=other: ops.sum(ops.cast(x, other) ** 2))(x).dtype == dtype


# symbolic Inputs -------------------------------------------------------------------------------------
class Symbol(Operators):
    """Something that makes graph nodes of operations, as symbolic Inputs do."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, list[str]]] = []

    def __functional_op__(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        self.calls.append((name, len(args), sorted(kwargs)))
        return "a node"


def test_symbolic_inputs_are_found_wherever_they_stand() -> None:
    s, t = Symbol(), mr.Tensor(X)
    results = [
        s + 1, 1 + s, t * s, X @ s, ops.tanh(s), ops.where(t > 1, t, s), ops.concatenate([t, s], axis=-1),
        ops.sum(x=s, axis=0), ops.stack(xs=(t, s)), s[0], s.T, s.reshape(2, 3), ops.contract("ij,jk->ik", t, s),
        ops.clip(s, 0, 1), s == 1, s.mean(axis=1),
    ]  # fmt: skip
    assert all(result == "a node" for result in results)
    names = (
        "add add multiply matmul tanh where concatenate sum stack getitem transpose reshape contract clip equal mean"
    )
    assert [name for name, *_ in s.calls] == names.split()
    assert s.calls[6][1:] == (1, ["axis"])


def test_public_operations() -> None:
    missing = set(ops.__all__) - {"arange", "zeros", "ones", "full"} - set(PUBLIC)
    assert not missing
    for name in ops.__all__:
        assert getattr(ops, name).__name__ == name and getattr(ops, name).__doc__
        assert name in ("arange", "zeros", "ones", "full") or getattr(ops, name) is PUBLIC[name]


# errors ----------------------------------------------------------------------------------------------
BAD: list[tuple[Any, type[Exception], str]] = [
    (lambda x: x + ops.ones((2,), "float64"), ShapeError, r"add: shapes do not broadcast\n  got: \(2, 3\) and \(2,\)"),
    (lambda x: ops.reshape(x, (4, -1)), ShapeError, r"reshape.*\n  got: \(2, 3\) to \(4, -1\)"),
    (lambda x: ops.reshape(x, (2, 2)), ShapeError, "reshape: another number of elements"),
    (lambda x: ops.reshape(x, (-1, -1)), ShapeError, "more than one size is -1"),
    (lambda x: ops.reshape(x, (-2, -3)), ShapeError, "reshape"),
    (lambda x: ops.transpose(x, (0, 0)), ShapeError, "transpose"),
    (lambda x: ops.transpose(x, (0,)), ShapeError, "transpose"),
    (lambda x: ops.sum(x, 2), ShapeError, "sum: axis out of range\n  got: 2\n  expected: an integer from -2 to 1"),
    (lambda x: ops.sum(x, (0, -2)), ShapeError, "sum: an axis stands twice"),
    (lambda x: ops.softmax(x, 5), ShapeError, "softmax: axis out of range"),
    (lambda x: ops.log_softmax(x, 5), ShapeError, "log_softmax: axis out of range"),
    (lambda x: ops.logsumexp(x, 5), ShapeError, "logsumexp: axis out of range"),
    (lambda x: ops.softmax(ops.sum(x)), ShapeError, "not a scalar"),
    (lambda x: ops.mean(x, 0.5), TypeError, "float"),
    (lambda x: ops.max(x, "rows"), ShapeError, "max: axis out of range"),
    (lambda x: ops.min(x, 2), ShapeError, "min: axis out of range"),
    (lambda x: ops.any(x, 2), ShapeError, "any: axis out of range"),
    (lambda x: ops.all(x, 2), ShapeError, "all: axis out of range"),
    (lambda x: ops.var(x, 2), ShapeError, "var: axis out of range"),
    (lambda x: ops.argmax(x, 2), ShapeError, "argmax"),
    (lambda x: ops.squeeze(x, 0), ShapeError, "squeeze"),
    (lambda x: ops.expand_dims(x, (0, 0)), ShapeError, "expand_dims"),
    (lambda x: ops.expand_dims(x, 4), ShapeError, "expand_dims"),
    (lambda x: ops.broadcast_to(x, (2, 2)), ShapeError, "broadcast_to"),
    (lambda x: ops.broadcast_to(x, (3,)), ShapeError, "broadcast_to"),
    (lambda x: ops.concatenate([]), ArgumentError, "no arrays"),
    (lambda x: ops.stack([]), ArgumentError, "no arrays"),
    (lambda x: ops.concatenate([x, x[0]]), ShapeError, "concatenate: shapes differ"),
    (lambda x: ops.concatenate([x, x[:, :2]], 0), ShapeError, "concatenate: shapes differ"),
    (lambda x: ops.concatenate([ops.sum(x), 1.0]), ShapeError, "concatenate"),
    (lambda x: ops.stack([x, x[0]]), ShapeError, "stack: shapes differ"),
    (lambda x: ops.stack([x, x], 4), ShapeError, "stack: axis out of range"),
    (lambda x: ops.split(x, 2, axis=1), ShapeError, "3 elements\n  expected: 2 equal parts"),
    (lambda x: ops.split(x, 0), ShapeError, "split"),
    (lambda x: ops.split(x, [2, 1], axis=1), ShapeError, "split: the indices go back"),
    (lambda x: ops.split(x, 2, axis=2), ShapeError, "split: axis out of range"),
    (lambda x: ops.flip(x, 3), ShapeError, "flip"),
    (lambda x: ops.pad(x, ((1, 0),) * 3), ShapeError, "pad"),
    (lambda x: ops.pad(x, -1), ShapeError, "pad"),
    (lambda x: x[2], ShapeError, "index 2 is outside of axis 0"),
    (lambda x: x[0, -4], ShapeError, "index -4 is outside of axis 1"),
    (lambda x: x[0, 0, 0], ShapeError, "too many indices"),
    (lambda x: x[..., ...], ShapeError, r"more than one \.\.\."),
    (lambda x: x[X > 1], ArgumentError, "mask"),
    (lambda x: x[x > 1], ArgumentError, "mask"),
    (lambda x: x[0.5], ArgumentError, "0.5"),
    (lambda x: x[True], ArgumentError, "True"),
    (lambda x: x["name"], ArgumentError, "name"),
    (lambda x: x[:, [0, 1]], ArgumentError, "take"),
    (lambda x: x[[0, 5]], ShapeError, r"take: an index is out of range\n  got: 5\n  expected: 0 \.\. 1"),
    (lambda x: ops.take(x, [-1]), ShapeError, "out of range\n  got: -1"),
    (lambda x: ops.take(x, [0.5]), ArgumentError, "float32"),
    (lambda x: ops.take(x, [True, False]), ArgumentError, "bool"),
    (lambda x: ops.take(ops.sum(x), [0], axis=0), ShapeError, "take"),
    (lambda x: ops.contract("ij,jk->ik", x, x), ShapeError, "the sizes of 'j' differ"),
    (lambda x: ops.contract("ij,jk->ik", x, x[0]), ShapeError, "rank"),
    (lambda x: ops.contract("ij,jk", x, x), ArgumentError, "not understood"),
    (lambda x: ops.contract("ij,kl->ik", x, x), ArgumentError, "letter '[jl]'"),
    (lambda x: ops.contract("ii,ij->ij", x, x), ArgumentError, "letter 'i'"),
    (lambda x: ops.conv(x, x), ShapeError, "conv: ranks"),
    (lambda x: ops.conv(x[None], np.ones((2, 2, 4))), ShapeError, "conv: channels"),
    (lambda x: ops.conv(x[None], np.ones((4, 3, 1))), ShapeError, "larger than the padded input"),
    (lambda x: ops.conv(x[None], np.ones((1, 3, 1)), padding="full"), ArgumentError, "full"),
    (lambda x: ops.conv(x[None], np.ones((1, 3, 1)), strides=0), ArgumentError, "strides"),
    (lambda x: ops.conv(x[None], np.ones((1, 3, 1)), dilation=(1, 1)), ArgumentError, "dilation"),
    (lambda x: ops.zeros((2, -1)), ShapeError, "negative"),
    (lambda x: (x > 1) - (x > 1), DtypeError, "subtract"),
    (lambda x: -(x > 1), DtypeError, "negative"),
    (lambda x: mr.Tensor([2]) ** mr.Tensor([-1]), ArgumentError, "power"),
    (lambda x: ops.add(x, None), ArgumentError, "NoneType"),
    (lambda x: x + "text", ArgumentError, "str"),
    (lambda x: ops.tanh({}), ArgumentError, "dict"),
    (lambda x: ops.add(x, ["a"]), DtypeError, "<U1"),
    (lambda x: iter(ops.sum(x)), ShapeError, "len"),
]


@pytest.mark.parametrize("number", range(len(BAD)))
def test_errors_in_the_users_terms(number: int) -> None:
    call, error, match = BAD[number]
    with pytest.raises(error, match=match) as caught:
        call(mr.Tensor(X))
    if error is not TypeError:
        assert isinstance(caught.value, MinirnnError)


def test_the_same_errors_in_a_traced_step() -> None:
    from minirnn.autodiff.trace import eval_shapes

    by_values = {"out of range", "power", "subtract", "negative", "len"}
    for call, error, match in BAD:
        if not any(word in match for word in by_values) or "axis" in match:
            with pytest.raises(error, match=match):
                eval_shapes(call, mr.Tensor(X))


def test_shapes_are_known_while_a_step_is_traced() -> None:
    seen = trace.eval_shapes(lambda x: x * (np.ndim(x) + np.size(x) + np.shape(x)[0]), mr.Tensor(np.ones((2, 3))))
    assert seen.shape == (2, 3)


@pytest.mark.parametrize(
    "f",
    [
        lambda t: np.sum(t, dtype="float32"),
        lambda t: np.argmax(t, keepdims=True),
        lambda t: np.reshape(t, (3, 2), order="F"),
        lambda t: np.var(t, ddof=1),
    ],
)
def test_arguments_that_only_numpy_knows_are_named(f: Any) -> None:
    with pytest.raises(DtypeError, match="expected: mr.ops"):
        f(mr.Tensor(X))


def test_take_and_argmax_flatten_unless_told_an_axis_as_in_numpy() -> None:
    assert ops.take(X, [4, 0]).numpy().tolist() == np.take(X, [4, 0]).tolist()
    assert int(ops.argmax(X)) == int(np.argmax(X))
