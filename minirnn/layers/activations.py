"""Activation functions by name: operations of `minirnn.ops`, and a few made of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..autodiff import ops
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


tanh, sigmoid, relu, elu = ops.tanh, ops.sigmoid, ops.relu, ops.elu
softplus, softsign, softmax, log_softmax = ops.softplus, ops.softsign, ops.softmax, ops.log_softmax
hard_sigmoid, hard_sigmoid_keras2 = ops.hard_sigmoid, ops.hard_sigmoid_keras2
leaky_relu, exponential = ops.leaky_relu, ops.exp

_BY_NAME: dict[str, Activation] = {
    "linear": linear, "tanh": tanh, "sigmoid": sigmoid, "relu": relu, "elu": elu, "selu": selu, "silu": silu,
    "softplus": softplus, "softsign": softsign, "softmax": softmax, "log_softmax": log_softmax,
    "hard_sigmoid": hard_sigmoid, "hard_sigmoid_keras2": hard_sigmoid_keras2,
    "leaky_relu": leaky_relu, "exponential": exponential,
}  # fmt: skip
_ALIASES = {"silu": ("swish",), "linear": ("identity",)}

for _name, _function in _BY_NAME.items():
    for _kind in ("activation", "function"):  # a Lambda's function may be one of them
        registry.register(_name, kind=_kind, aliases=_ALIASES.get(_name, ()))(_function)


def get(identifier: Any) -> Activation:
    """The activation for a name, a function or a configuration; None is `linear`.

    Raises ArgumentError for an unknown name.

    >>> get(None) is linear, get("tanh") is tanh
    (True, True)
    """
    return linear if identifier is None else registry.get("activation", identifier)


def serialize(activation: Activation) -> Any:
    """The name of a known activation; a configuration for one of the user's.

    >>> serialize(tanh), serialize(exponential)
    ('tanh', 'exponential')
    """
    name = registry.name_of(activation)
    return name if name is not None else registry.serialize(activation)
