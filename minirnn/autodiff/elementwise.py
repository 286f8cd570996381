"""The primitives that work element by element, and their vjp rules.

A rule gets the cotangent, the output and the inputs.  It writes `ct * (factor)` with the factor
apart, because a factor that needs no cotangent can be computed for all time steps at once.
Broadcasting is undone by the tape.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from . import numerics
from .operators import PUBLIC
from .primitive import MIXED, SUMMED, Primitive, map_rows
from .tensor import FLOATING, Tensor, apply

Operation = Callable[..., Any]
ANY = ((-2.0, 2.0),)
POSITIVE = ((0.2, 3.0),)


def _unary(name: str, forward: Any, vjp: Any, domain: Any = ANY, **more: Any) -> Operation:
    return functools.partial(apply, Primitive(name, forward, vjp, domain=domain, **{"float_only": True, **more}))


def _binary(name: str, forward: Any, vjp: Any, domain: Any = ANY * 2, **more: Any) -> Operation:
    return functools.partial(apply, Primitive(name, forward, vjp, domain=domain, **more))


add: Operation = _binary("add", np.add, lambda ct, out, x, y: (ct, ct), linear="all")
subtract: Operation = _binary("subtract", np.subtract, lambda ct, out, x, y: (ct, lambda: negative(ct)), linear="all")
multiply: Operation = _binary(
    "multiply", np.multiply, lambda ct, out, x, y: (lambda: multiply(ct, y), lambda: multiply(ct, x)), linear="each"
)
divide: Operation = _binary(
    "divide",
    np.divide,
    lambda ct, out, x, y: (lambda: divide(ct, y), lambda: multiply(ct, divide(negative(out), y))),
    domain=(ANY[0], POSITIVE[0]),
    float_only=True,
)
negative: Operation = _unary(
    "negative", np.negative, lambda ct, out, x: (negative(ct),), linear="all", float_only=False
)


def _power_vjp(ct: Any, out: Any, x: Any, y: Any) -> Any:
    # A number by itself would take the default dtype below.
    x, y = (v if isinstance(v, Tensor) else PUBLIC["full"]((), v, out.dtype) for v in (x, y))

    def base() -> Any:
        # x ** (y - 1) is infinite at x = 0, y = 0, where the derivative is 0.
        is_zero = equal(y, 0)
        return multiply(ct, where(is_zero, 0.0, multiply(y, power(x, subtract(where(is_zero, 1.0, y), 1)))))

    def exponent() -> Any:
        positive = greater(x, 0)
        return multiply(ct, where(positive, multiply(out, log(where(positive, x, 1.0))), 0.0))

    return base, exponent


def _power_by_number_vjp(ct: Any, out: Any, x: Any, exponent: float) -> Any:
    return (lambda: multiply(ct, multiply(exponent, power_by_number(x, exponent - 1)) if exponent else 0.0),)


power: Operation = _binary("power", np.power, _power_vjp, domain=(POSITIVE[0], ANY[0]))
_power_by_number = Primitive(
    "power_by_number",
    lambda x, exponent: x**exponent,
    _power_by_number_vjp,
    samples=lambda rng: ([rng.uniform(0.2, 3.0, (3, 4))], {"exponent": -2.5}),
)


def power_by_number(x: Any, exponent: float) -> Any:
    """x to the power of a Python number, which for 2 is a product and needs no logarithm."""
    return x if exponent == 1 else apply(_power_by_number, x, exponent=exponent)


def _extremum_vjp(wins: Operation, ct: Any, x: Any, y: Any) -> Any:
    # A tie is shared evenly.  Selecting, not multiplying by 0, keeps an infinite cotangent from becoming NaN.
    half = where(equal(x, y), multiply(ct, 0.5), 0.0)
    return lambda: where(wins(x, y), ct, half), lambda: where(wins(y, x), ct, half)


maximum: Operation = _binary("maximum", numerics.maximum, lambda ct, out, x, y: _extremum_vjp(greater, ct, x, y))
minimum: Operation = _binary("minimum", numerics.minimum, lambda ct, out, x, y: _extremum_vjp(less, ct, x, y))
absolute: Operation = _unary(
    "abs", numerics.absolute, lambda ct, out, x: (lambda: multiply(ct, sign(x)),), float_only=False
)
sign: Operation = _unary("sign", lambda x: np.sign(numerics.real(x)), None, float_only=False, analytic=False)
sqrt: Operation = _unary("sqrt", np.sqrt, lambda ct, out, x: (lambda: multiply(ct, divide(0.5, out)),), POSITIVE)
exp: Operation = _unary("exp", np.exp, lambda ct, out, x: (multiply(ct, out),))
expm1: Operation = _unary("expm1", np.expm1, lambda ct, out, x: (multiply(ct, add(out, 1.0)),))
log: Operation = _unary("log", np.log, lambda ct, out, x: (divide(ct, x),), POSITIVE)
log1p: Operation = _unary("log1p", np.log1p, lambda ct, out, x: (divide(ct, add(x, 1.0)),), POSITIVE)
sin: Operation = _unary("sin", np.sin, lambda ct, out, x: (lambda: multiply(ct, cos(x)),))
cos: Operation = _unary("cos", np.cos, lambda ct, out, x: (lambda: multiply(ct, negative(sin(x))),))
tanh: Operation = _unary("tanh", numerics.tanh, lambda ct, out, x: (multiply(ct, subtract(1.0, multiply(out, out))),))
sigmoid: Operation = _unary(
    "sigmoid", numerics.sigmoid, lambda ct, out, x: (multiply(ct, multiply(out, subtract(1.0, out))),)
)
softplus: Operation = _unary("softplus", numerics.softplus, lambda ct, out, x: (lambda: multiply(ct, sigmoid(x)),))
relu: Operation = _unary(
    "relu", numerics.relu, lambda ct, out, x: (lambda: where(greater(x, 0), ct, 0.0),), float_only=False
)
softsign: Operation = _unary(
    "softsign",
    lambda x: x / (1 + numerics.absolute(x)),
    lambda ct, out, x: (lambda: divide(ct, power_by_number(add(absolute(x), 1.0), 2)),),
)
_elu = Primitive(
    "elu",
    numerics.elu,
    lambda ct, out, x, alpha: (lambda: multiply(ct, where(greater(x, 0), 1.0, add(out, alpha))),),
    float_only=True,
    samples=lambda rng: ([rng.uniform(-2, 2, (3, 4))], {"alpha": 0.7}),
)


def elu(x: Any, alpha: float = 1.0) -> Any:
    """x above 0, alpha * (exp(x) - 1) below."""
    return apply(_elu, x, alpha=float(alpha))


clip: Operation = _binary(
    "clip",
    numerics.clip,
    lambda ct, out, x, low, high: (
        lambda: where(logical_and(greater_equal(x, low), less_equal(x, high)), ct, 0.0),
        lambda: where(logical_and(less(x, low), less_equal(low, high)), ct, 0.0),
        lambda: where(greater(maximum(x, low), high), ct, 0.0),
    ),
    domain=((-2.0, 2.0), (-1.5, -0.5), (0.5, 1.5)),
)


def _comparison(name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
    def compare(x: Any, y: Any) -> Any:
        return forward(numerics.real(x), numerics.real(y))

    return _binary(name, compare, None, result_dtype=bool, analytic=False)


greater: Operation = _comparison("greater", np.greater)
greater_equal: Operation = _comparison("greater_equal", np.greater_equal)
less: Operation = _comparison("less", np.less)
less_equal: Operation = _comparison("less_equal", np.less_equal)
equal: Operation = _comparison("equal", np.equal)
not_equal: Operation = _comparison("not_equal", np.not_equal)

logical_and: Operation = _binary("logical_and", np.logical_and, None, unified=None, result_dtype=bool, analytic=False)
logical_or: Operation = _binary("logical_or", np.logical_or, None, unified=None, result_dtype=bool, analytic=False)
logical_not: Operation = _unary(
    "logical_not", np.logical_not, None, float_only=False, result_dtype=bool, analytic=False
)
is_finite: Operation = _unary("isfinite", np.isfinite, None, float_only=False, result_dtype=bool, analytic=False)


def _where_vjp(ct: Any, out: Any, condition: Any, x: Any, y: Any, safe: bool) -> Any:
    choose = where if safe else select
    return None, lambda: choose(condition, ct, 0.0), lambda: choose(condition, 0.0, ct)


_where = Primitive(
    "where",
    lambda condition, x, y, safe: np.where(condition, x, y),
    _where_vjp,
    unified=1,
    samples=lambda rng: ([rng.random((3, 4)) > 0.5, rng.normal(size=(3, 4)), rng.normal(size=4)], {"safe": True}),
)


def where(condition: Any, x: Any, y: Any) -> Any:
    """`x` where the condition holds, else `y`; what is not selected reaches no gradient, NaN included."""
    return apply(_where, condition, x, y, safe=True)


def select(condition: Any, x: Any, y: Any) -> Any:
    """`where` for selections that need no guard behind them, because the caller keeps both sides finite."""
    return apply(_where, condition, x, y, safe=False)


def _cast(x: Any, dtype: Any) -> Any:
    if np.iscomplexobj(x) and dtype.kind == "f":
        return x  # a complex step goes on through casts between floats
    return np.asarray(x).astype(dtype)


def _cast_rows(classes: list[str], operands: Any, node: Any) -> str:
    """Casting a sum to integers is not the sum of what was cast."""
    to_float = node.params["dtype"].kind in FLOATING
    return MIXED if classes[0] == SUMMED and not to_float else map_rows(classes, operands, node)


_cast_to = Primitive(
    "cast",
    _cast,
    lambda ct, out, x, dtype: (lambda: cast(ct, x.dtype) if dtype.kind in FLOATING else None,),
    shape=lambda primitive, operands, params: (operands[0].shape, params["dtype"]),
    rows=_cast_rows,
    unified=None,
    linear="all",
    samples=lambda rng: ([rng.normal(size=(3, 4))], {"dtype": np.dtype("float64")}),
)


def cast(x: Any, dtype: Any) -> Any:
    """x with another dtype; x itself if it has that one."""
    dtype = np.dtype(dtype)
    return x if isinstance(x, Tensor) and x.dtype == dtype else apply(_cast_to, x, dtype=dtype)


stop_gradient: Operation = _unary("stop_gradient", lambda x: x, None, float_only=False, analytic=False)
alias: Operation = _unary("alias", lambda x: x, lambda ct, out, x: (ct,), float_only=False, linear="all")
