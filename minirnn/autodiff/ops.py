"""`mr.ops`: the operations under NumPy's names and signatures.

Each is a primitive or a few of them.  All work on Tensors and arrays, inside a traced step, and on
symbolic Inputs, where they make nodes of the functional graph.  What only moves elements stands in
shaping.py.
"""

from __future__ import annotations

from builtins import any as any_of
from builtins import max as largest_of
from typing import Any

import numpy as np

from .. import config
from ..errors import ArgumentError, DtypeError, ShapeError
from . import contraction, elementwise
from .dispatch import expose, is_integer, one_axis, operand, public, several_axes
from .primitive import broadcast_shapes
from .shaping import (
    arange,
    broadcast_to,
    concatenate,
    expand_dims,
    flip,
    full,
    getitem,
    one_hot,
    ones,
    ones_like,
    pad,
    reshape,
    split,
    squeeze,
    stack,
    swapaxes,
    take,
    transpose,
    zeros,
    zeros_like,
)
from .tensor import FLOATING, resolve

__all__ = [
    "abs",
    "add",
    "all",
    "any",
    "arange",
    "argmax",
    "broadcast_to",
    "cast",
    "clip",
    "concatenate",
    "contract",
    "conv",
    "cos",
    "divide",
    "elu",
    "equal",
    "exp",
    "expand_dims",
    "expm1",
    "flip",
    "full",
    "getitem",
    "greater",
    "greater_equal",
    "hard_sigmoid",
    "hard_sigmoid_keras2",
    "isfinite",
    "leaky_relu",
    "less",
    "less_equal",
    "log",
    "log1p",
    "log_softmax",
    "logical_and",
    "logical_not",
    "logical_or",
    "logsumexp",
    "matmul",
    "max",
    "maximum",
    "mean",
    "min",
    "minimum",
    "multiply",
    "negative",
    "not_equal",
    "one_hot",
    "ones",
    "ones_like",
    "pad",
    "power",
    "relu",
    "reshape",
    "sigmoid",
    "sign",
    "sin",
    "softmax",
    "softplus",
    "softsign",
    "split",
    "sqrt",
    "square",
    "squeeze",
    "stack",
    "stop_gradient",
    "subtract",
    "sum",
    "swapaxes",
    "take",
    "tanh",
    "transpose",
    "var",
    "where",
    "zeros",
    "zeros_like",
]


def _unary(name: str, function: elementwise.Operation, doc: str) -> elementwise.Operation:
    def operation(x: Any) -> Any:
        return function(x)

    operation.__name__, operation.__qualname__, operation.__doc__ = name, name, doc
    return expose(operation, function)


def _binary(name: str, function: elementwise.Operation, doc: str) -> elementwise.Operation:
    def operation(x: Any, y: Any) -> Any:
        return function(x, y)

    operation.__name__, operation.__qualname__, operation.__doc__ = name, name, doc
    return expose(operation, function)


add = _binary("add", elementwise.add, "x + y.")
subtract = _binary("subtract", elementwise.subtract, "x - y.")
multiply = _binary("multiply", elementwise.multiply, "x * y.")
divide = _binary("divide", elementwise.divide, "x / y.")
maximum = _binary("maximum", elementwise.maximum, "The larger of x and y; a tie shares the gradient.")
minimum = _binary("minimum", elementwise.minimum, "The smaller of x and y; a tie shares the gradient.")
greater = _binary("greater", elementwise.greater, "x > y.")
greater_equal = _binary("greater_equal", elementwise.greater_equal, "x >= y.")
less = _binary("less", elementwise.less, "x < y.")
less_equal = _binary("less_equal", elementwise.less_equal, "x <= y.")
equal = _binary("equal", elementwise.equal, "x == y.")
not_equal = _binary("not_equal", elementwise.not_equal, "x != y.")
logical_and = _binary("logical_and", elementwise.logical_and, "Both x and y.")
logical_or = _binary("logical_or", elementwise.logical_or, "x or y or both.")
logical_not = _unary("logical_not", elementwise.logical_not, "Not x.")
negative = _unary("negative", elementwise.negative, "-x.")
abs = _unary("abs", elementwise.absolute, "The absolute value.")
sign = _unary("sign", elementwise.sign, "-1, 0 or 1; its gradient is zero.")
sqrt = _unary("sqrt", elementwise.sqrt, "The square root.")
exp = _unary("exp", elementwise.exp, "e to the power x.")
expm1 = _unary("expm1", elementwise.expm1, "exp(x) - 1, precise near 0.")
log = _unary("log", elementwise.log, "The natural logarithm.")
log1p = _unary("log1p", elementwise.log1p, "log(1 + x), precise near 0.")
sin = _unary("sin", elementwise.sin, "The sine.")
cos = _unary("cos", elementwise.cos, "The cosine.")
tanh = _unary("tanh", elementwise.tanh, "The hyperbolic tangent.")
sigmoid = _unary("sigmoid", elementwise.sigmoid, "1 / (1 + exp(-x)), safe for any x.")
softplus = _unary("softplus", elementwise.softplus, "log(1 + exp(x)), safe for any x.")
relu = _unary("relu", elementwise.relu, "max(x, 0).")
softsign = _unary("softsign", elementwise.softsign, "x / (1 + |x|).")
isfinite = _unary("isfinite", elementwise.is_finite, "Neither NaN nor infinite.")
stop_gradient = _unary("stop_gradient", elementwise.stop_gradient, "x, through which no gradient goes.")


@public
def power(x: Any, y: Any) -> Any:
    """x to the power y."""
    y = resolve(y)
    if not isinstance(y, (int, float)):
        return elementwise.power(x, y)
    x = operand(x)
    if x.dtype.kind not in FLOATING and (isinstance(y, float) or y < 0):
        x = elementwise.cast(x, config.current_dtype())
    return elementwise.power_by_number(x, y)


def _of_bools(name: str, function: elementwise.Operation, *operands: Any) -> Any:
    """NumPy's bitwise operation, where it is a logical one."""
    operands = tuple([operand(x) for x in operands])
    if any_of(x.dtype.kind != "b" for x in operands):
        raise DtypeError(f"{name} is for bools", got=", ".join(str(x.dtype) for x in operands), expected="bool")
    return function(*operands)


@public
def bitwise_and(x: Any, y: Any) -> Any:
    """x & y, of bools."""
    return _of_bools("&", elementwise.logical_and, x, y)


@public
def bitwise_or(x: Any, y: Any) -> Any:
    """x | y, of bools."""
    return _of_bools("|", elementwise.logical_or, x, y)


@public
def bitwise_not(x: Any) -> Any:
    """~x, of bools."""
    return _of_bools("~", elementwise.logical_not, x)


@public
def square(x: Any) -> Any:
    """x * x."""
    return power(x, 2)


@public
def elu(x: Any, alpha: float = 1.0) -> Any:
    """x above 0, alpha * (exp(x) - 1) below."""
    return elementwise.elu(x, alpha)


@public
def leaky_relu(x: Any, negative_slope: float = 0.2) -> Any:
    """x above 0, negative_slope * x below."""
    return where(greater(x, 0), x, multiply(x, negative_slope))


@public
def hard_sigmoid(x: Any) -> Any:
    """clip(x / 6 + 1/2, 0, 1), as Keras 3 defines it."""
    return clip(add(multiply(x, 1.0 / 6.0), 0.5), 0.0, 1.0)


@public
def hard_sigmoid_keras2(x: Any) -> Any:
    """clip(x / 5 + 1/2, 0, 1), as Keras 2 and ONNX define it."""
    return clip(add(multiply(x, 0.2), 0.5), 0.0, 1.0)


@public
def clip(x: Any, low: Any = None, high: Any = None) -> Any:
    """x limited to the range from low to high; None leaves a side open."""
    if low is None:
        return operand(x) if high is None else minimum(x, high)
    return maximum(x, low) if high is None else elementwise.clip(x, low, high)


@public
def where(condition: Any, x: Any, y: Any) -> Any:
    """x where the condition holds, else y; nothing of the other one, NaN included, reaches a gradient."""
    return elementwise.where(condition, x, y)


@public
def cast(x: Any, dtype: Any) -> Any:
    """x with another dtype."""
    return elementwise.cast(operand(x), dtype)


# sums and products -------------------------------------------------------------------------------
@public
def sum(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """The sum over an axis, some, or all."""
    x = operand(x)
    axes = several_axes(axis, x.ndim, "sum")
    return contraction.sum_over(x, axes, keepdims) if axes or x.dtype.kind not in FLOATING else x


@public
def mean(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """The mean over an axis, some, or all; NaN over none."""
    x = operand(x)
    axes = several_axes(axis, x.ndim, "mean")
    x = x if x.dtype.kind in FLOATING else cast(x, config.current_dtype())
    count = int(np.prod([x.shape[a] for a in axes]))
    return multiply(sum(x, axes, keepdims), 1.0 / count if count else float("nan"))


@public
def var(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """The mean squared distance from the mean."""
    x = operand(x)
    axes = several_axes(axis, x.ndim, "var")
    return mean(square(subtract(x, mean(x, axes, keepdims=True))), axes, keepdims)


@public
def max(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """The largest element over an axis, some, or all; ties share the gradient."""
    x = operand(x)
    axes = several_axes(axis, x.ndim, "max")
    return contraction.max_over(x, axes, keepdims) if axes else x


@public
def min(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """The smallest element over an axis, some, or all; ties share the gradient."""
    x = operand(x)
    axes = several_axes(axis, x.ndim, "min")
    if x.dtype.kind in "bu":  # which have no negative
        return cast(min(cast(x, "int64"), axes, keepdims), x.dtype)
    return negative(max(negative(x), axes, keepdims))


@public
def any(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """Whether any element over an axis is true (not 0)."""
    x = operand(x)
    return greater(sum(cast(not_equal(x, 0), "int64"), several_axes(axis, x.ndim, "any"), keepdims), 0)


@public
def all(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """Whether every element over an axis is true (not 0)."""
    x = operand(x)
    return equal(sum(cast(equal(x, 0), "int64"), several_axes(axis, x.ndim, "all"), keepdims), 0)


@public
def argmax(x: Any, axis: int | None = None) -> Any:
    """The index of the first largest element along an axis (of the flattened x for None); without gradient."""
    x = operand(x)
    if axis is None:
        x, axis = reshape(x, (x.size,)), 0
    return contraction.argmax(x, one_axis(axis, x.ndim, "argmax"))


@public
def logsumexp(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """log(sum(exp(x))), without overflow; minus infinity where all of x is."""
    x = operand(x)
    axes = several_axes(axis, x.ndim, "logsumexp")
    largest = stop_gradient(max(x, axes, keepdims=True))
    total = sum(exp(subtract(x, where(isfinite(largest), largest, 0.0))), axes, keepdims=True)
    out = add(log(where(greater(total, 0), total, 1.0)), largest)
    return out if keepdims else squeeze(out, axes)


@public
def softmax(x: Any, axis: int = -1) -> Any:
    """exp(x) divided by its sum along an axis, without overflow."""
    x = operand(x)
    axes = several_axes(axis, x.ndim, "softmax")
    numerator = exp(subtract(x, stop_gradient(max(x, axes, keepdims=True))))
    return divide(numerator, sum(numerator, axes, keepdims=True))


@public
def log_softmax(x: Any, axis: int = -1) -> Any:
    """log(softmax(x)), precise where softmax is near 0."""
    x = operand(x)
    axes = several_axes(axis, x.ndim, "log_softmax")
    shifted = subtract(x, stop_gradient(max(x, axes, keepdims=True)))
    return subtract(shifted, log(sum(exp(shifted), axes, keepdims=True)))


@public
def contract(spec: str, a: Any, b: Any) -> Any:
    """Einstein's sum of products of two arrays, as in `contract("bf,fu->bu", x, kernel)`.

    Each letter stands once in at least two of the three places.  Raises ArgumentError otherwise, and
    ShapeError if a letter has two sizes.

    >>> contract("ij,jk->ik", np.eye(2), np.array([[1.0], [2.0]])).numpy().tolist()
    [[1.0], [2.0]]
    """
    a, b, spec = operand(a), operand(b), spec.replace(" ", "")
    contraction.contracted_shape(spec, a.shape, b.shape)
    return contraction.contract(spec, a, b)


@public
def matmul(x: Any, y: Any) -> Any:
    """The matrix product, batched over leading axes as in NumPy."""
    x, y = operand(x), operand(y)
    if x.ndim == 0 or y.ndim == 0 or x.shape[-1] != y.shape[-2:][0]:
        raise ShapeError(
            "matmul: the inner sizes differ",
            got=f"{x.shape} and {y.shape}",
            expected="x's last size equal to y's last but one (or only one)",
        )
    letters = "bcdeghijklmnopqrstvwxyz"
    if y.ndim <= 2:
        a, b = letters[: x.ndim - 1] + "f", "fu"[: y.ndim]
        return contraction.contract(f"{a},{b}->{a[:-1]}{b[1:]}", x, y)
    if x.ndim == 1:
        return squeeze(matmul(expand_dims(x, 0), y), -2)
    batch = broadcast_shapes("matmul", [x.shape[:-2], y.shape[:-2]])
    x, y = broadcast_to(x, batch + x.shape[-2:]), broadcast_to(y, batch + y.shape[-2:])
    head = letters[: len(batch)]
    return contraction.contract(f"{head}af,{head}fu->{head}au", x, y)


def _per_axis(value: Any, rank: int, what: str) -> tuple[int, ...]:
    values = (int(value),) * rank if is_integer(value) else tuple(int(v) for v in value)
    if len(values) != rank or any_of(v < 1 for v in values):
        raise ArgumentError(f"conv: {what}", got=value, expected=f"a positive integer, or {rank} of them")
    return values


@public
def conv(x: Any, kernel: Any, strides: Any = 1, padding: str = "valid", dilation: Any = 1) -> Any:
    """Convolution (cross-correlation) over 1 to 3 axes.

    x: (B, *S, C); kernel: (*K, C, F); result (B, *P, F).  padding: "valid" or "same".
    """
    x, kernel = operand(x), operand(kernel)
    rank = kernel.ndim - 2
    if rank not in (1, 2, 3) or x.ndim != rank + 2:
        raise ShapeError("conv: ranks", got=f"x {x.shape}, kernel {kernel.shape}", expected="(B, *S, C) and (*K, C, F)")
    if x.shape[-1] != kernel.shape[-2]:
        raise ShapeError("conv: channels", got=f"{x.shape[-1]} in x", expected=f"{kernel.shape[-2]} as in the kernel")
    size, step = kernel.shape[:rank], _per_axis(strides, rank, "strides")
    rate = _per_axis(dilation, rank, "dilation")
    if padding == "same":
        widths = tuple(_same_padding(n, k, s, d) for n, k, s, d in zip(x.shape[1:-1], size, step, rate, strict=True))
    elif padding == "valid":
        widths = ((0, 0),) * rank
    else:
        raise ArgumentError("conv: padding", got=repr(padding), expected='"valid" or "same"')
    patches = contraction.windows(x, size, step, rate, widths)
    places, offsets = "pqr"[:rank], "ijk"[:rank]
    return contraction.contract(f"b{places}{offsets}c,{offsets}cf->b{places}f", patches, kernel)


def _same_padding(n: int, size: int, stride: int, dilation: int) -> tuple[int, int]:
    total = largest_of((-(-n // stride) - 1) * stride + dilation * (size - 1) + 1 - n, 0)
    return total // 2, total - total // 2
