"""Activation functions by name: operations of `minirnn.ops`, and a few made of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..autodiff import ops
from ..errors import ArgumentError
from . import registry

Activation = Callable[..., Any]


def linear(x: Any) -> Any:
    """`x` unchanged.

    >>> linear(3.0)
    3.0
    """
    return x


def silu(x: Any) -> Any:
    """`x * sigmoid(x)` (Elfwing et al. 2017, arXiv:1702.03118).

    >>> float(silu(0.0))
    0.0
    """
    return x * ops.sigmoid(x)


def selu(x: Any) -> Any:
    """The scaled `elu` of self-normalising networks (Klambauer et al. 2017, arXiv:1706.02515).

    >>> round(float(selu(1.0)), 4)
    1.0507
    """
    return 1.0507009873554805 * ops.elu(x, alpha=1.6732632423543772)


def celu(x: Any, alpha: float = 1.0) -> Any:
    """`elu` with a smooth derivative for every alpha (Barron 2017, arXiv:1704.07483).

    >>> float(celu(2.0))
    2.0
    """
    return alpha * ops.elu(x / alpha)


def mish(x: Any) -> Any:
    """`x * tanh(softplus(x))` (Misra 2019, arXiv:1908.08681).

    >>> round(float(mish(1.0)), 4)
    0.8651
    """
    return x * ops.tanh(ops.softplus(x))


def relu6(x: Any) -> Any:
    """`x` between 0 and 6.

    >>> float(relu6(7.0))
    6.0
    """
    return ops.clip(x, 0.0, 6.0)


def hard_tanh(x: Any) -> Any:
    """`x` between -1 and 1.

    >>> float(hard_tanh(-3.0))
    -1.0
    """
    return ops.clip(x, -1.0, 1.0)


def hard_silu(x: Any) -> Any:
    """`x * hard_sigmoid(x)` (Howard et al. 2019, arXiv:1905.02244).

    >>> float(hard_silu(3.0))
    3.0
    """
    return x * ops.hard_sigmoid(x)


def log_sigmoid(x: Any) -> Any:
    """The logarithm of `sigmoid(x)`.

    >>> round(float(log_sigmoid(0.0)), 4)
    -0.6931
    """
    return -ops.softplus(-x)


def squareplus(x: Any, b: float = 4.0) -> Any:
    """`(x + sqrt(x^2 + b)) / 2` (Barron 2021, arXiv:2112.11687).

    >>> float(squareplus(0.0))
    1.0
    """
    return (x + ops.sqrt(x * x + b)) / 2.0


def tanh_shrink(x: Any) -> Any:
    """`x - tanh(x)`.

    >>> float(tanh_shrink(0.0))
    0.0
    """
    return x - ops.tanh(x)


def soft_shrink(x: Any, threshold: float = 0.5) -> Any:
    """`x` nearer to 0 by `threshold`, 0 within it.

    >>> float(soft_shrink(-2.0)), float(soft_shrink(0.25))
    (-1.5, 0.0)
    """
    return ops.relu(x - threshold) - ops.relu(-x - threshold)


def hard_shrink(x: Any, threshold: float = 0.5) -> Any:
    """`x`, 0 within `threshold` of 0.

    >>> float(hard_shrink(-2.0)), float(hard_shrink(0.25))
    (-2.0, 0.0)
    """
    return ops.where(ops.abs(x) > threshold, x, ops.zeros_like(x))


def sparse_sigmoid(x: Any) -> Any:
    """`(x + 1) / 2` between 0 and 1.

    >>> float(sparse_sigmoid(0.5))
    0.75
    """
    return ops.clip((x + 1.0) / 2.0, 0.0, 1.0)


def sparse_plus(x: Any) -> Any:
    """0 up to -1, `(x + 1)^2 / 4` up to 1, then `x`.

    >>> float(sparse_plus(0.0)), float(sparse_plus(2.0))
    (0.25, 2.0)
    """
    return ops.relu(x) + ops.square(ops.relu(1.0 - ops.abs(x))) / 4.0


tanh, sigmoid, relu, elu = ops.tanh, ops.sigmoid, ops.relu, ops.elu
softplus, softsign, softmax, log_softmax = ops.softplus, ops.softsign, ops.softmax, ops.log_softmax
hard_sigmoid, hard_sigmoid_keras2 = ops.hard_sigmoid, ops.hard_sigmoid_keras2
leaky_relu, exponential = ops.leaky_relu, ops.exp

_BY_NAME: dict[str, Activation] = {
    "linear": linear, "tanh": tanh, "sigmoid": sigmoid, "relu": relu, "elu": elu, "selu": selu, "silu": silu,
    "softplus": softplus, "softsign": softsign, "softmax": softmax, "log_softmax": log_softmax,
    "hard_sigmoid": hard_sigmoid, "hard_sigmoid_keras2": hard_sigmoid_keras2,
    "leaky_relu": leaky_relu, "exponential": exponential,
    "celu": celu, "mish": mish, "relu6": relu6, "hard_tanh": hard_tanh, "hard_silu": hard_silu,
    "log_sigmoid": log_sigmoid, "squareplus": squareplus, "tanh_shrink": tanh_shrink, "soft_shrink": soft_shrink,
    "hard_shrink": hard_shrink, "sparse_plus": sparse_plus, "sparse_sigmoid": sparse_sigmoid,
}  # fmt: skip
_ALIASES = {"silu": ("swish",), "linear": ("identity",), "hard_silu": ("hard_swish",)}
_ELSEWHERE = frozenset({"gelu", "glu", "sparsemax", "threshold"})  # of Keras, which is asked for by these names

for _name, _function in _BY_NAME.items():
    for _kind in ("activation", "function"):  # a Lambda's function may be one of them
        registry.register(_name, kind=_kind, aliases=_ALIASES.get(_name, ()))(_function)


def get(identifier: Any) -> Activation:
    """The activation for a name, a function or a configuration; None is `linear`.

    Raises ArgumentError for an unknown name.

    >>> get(None) is linear, get("tanh") is tanh
    (True, True)
    """
    try:
        return linear if identifier is None else registry.get("activation", identifier)
    except ArgumentError:
        if not isinstance(identifier, str) or identifier not in _ELSEWHERE:
            raise
        known = ", ".join(sorted(_BY_NAME))
        fix = "a function of x, made of minirnn.ops"
        raise ArgumentError(
            f"there is no activation {identifier!r} here", expected=f"one of {known}", fix=fix
        ) from None


def serialize(activation: Activation) -> Any:
    """The name of a known activation; a configuration for one of the user's.

    >>> serialize(tanh), serialize(exponential)
    ('tanh', 'exponential')
    """
    name = registry.name_of(activation)
    return name if name is not None else registry.serialize(activation)
