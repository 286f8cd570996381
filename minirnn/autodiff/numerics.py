"""What the primitives compute, on NumPy arrays of real or complex numbers.

The one place that says what an operation means for complex numbers: the analytic continuation of
the branch that the real part selects, so that a complex step through it gives a derivative.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def real(x: Any) -> Any:
    """The part that comparisons look at."""
    return x.real if isinstance(x, (np.ndarray, np.generic, complex)) and np.iscomplexobj(x) else x


def absolute(x: Any) -> Any:
    """|x|."""
    return np.where(x.real < 0, -x, x) if np.iscomplexobj(x) else np.abs(x)


def maximum(x: Any, y: Any) -> Any:
    """The larger of x and y."""
    if np.iscomplexobj(x) or np.iscomplexobj(y):
        return np.where(real(x) >= real(y), x, y)
    return np.maximum(x, y)


def minimum(x: Any, y: Any) -> Any:
    """The smaller of x and y."""
    if np.iscomplexobj(x) or np.iscomplexobj(y):
        return np.where(real(x) <= real(y), x, y)
    return np.minimum(x, y)


def clip(x: Any, low: Any, high: Any) -> Any:
    """x limited to the range from low to high."""
    return minimum(maximum(x, low), high)


def relu(x: Any) -> Any:
    """max(x, 0)."""
    return np.where(x.real > 0, x, 0) if np.iscomplexobj(x) else np.maximum(x, 0)


def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x)); an overflowing exp gives the right limit, 0."""
    if np.iscomplexobj(x):
        # exp only of numbers with a negative real part: a complex overflow would be NaN.
        flipped = np.exp(np.where(x.real > 0, -x, x))
        return np.where(x.real > 0, 1 / (1 + flipped), flipped / (1 + flipped))
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))


def softplus(x: Any) -> Any:
    """log(1 + exp(x)), where the exponential cannot overflow."""
    return relu(x) + np.log1p(np.exp(-absolute(x)))


def elu(x: Any, alpha: float) -> Any:
    """x above 0, alpha * (exp(x) - 1) below."""
    return np.where(real(x) > 0, x, alpha * np.expm1(minimum(x, 0)))


def tanh(x: Any) -> Any:
    """The hyperbolic tangent."""
    if np.iscomplexobj(x):
        # NumPy's complex tanh overflows in intermediate steps; this form does not.
        decay = np.exp(-2 * absolute(x))
        return np.where(x.real < 0, -1, 1) * (1 - decay) / (1 + decay)
    return np.tanh(x)


def maximum_over(x: Any, axis: Any, keepdims: bool) -> Any:
    """The largest element over axes; of complex numbers, the mean of those with the largest real part."""
    if not np.iscomplexobj(x):
        return np.max(x, axis=axis, keepdims=keepdims)
    largest = np.max(x.real, axis=axis, keepdims=True)
    chosen = x.real == largest
    mean = np.sum(np.where(chosen, x, 0), axis=axis, keepdims=True) / np.sum(chosen, axis=axis, keepdims=True)
    return mean if keepdims else np.squeeze(mean, axis=axis)
