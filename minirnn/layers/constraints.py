"""Where a weight may go: applied to its new value after every optimizer step."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import registry

# A norm of exactly zero has no direction; this keeps the quotient finite (the value of Keras).
_EPSILON = 1e-7


def _norms(weight: np.ndarray, axis: Any) -> np.ndarray:
    return np.sqrt(np.sum(np.square(weight), axis=tuple(axis) if isinstance(axis, list) else axis, keepdims=True))


@registry.register("MaxNorm", kind="constraint")
class MaxNorm:
    """Scales vectors along `axis` down to at most `max_value` long (Srivastava et al. 2014).

    >>> import numpy as np
    >>> MaxNorm(1.0)(np.array([[3.0], [4.0]])).round(4).tolist()
    [[0.6], [0.8]]
    """

    def __init__(self, max_value: float = 2.0, axis: Any = 0) -> None:
        self.max_value, self.axis = max_value, axis

    def __call__(self, weight: Any) -> np.ndarray:
        weight = np.asarray(weight)
        norms = _norms(weight, self.axis)
        return (weight * (np.clip(norms, 0, self.max_value) / (_EPSILON + norms))).astype(weight.dtype)

    def get_config(self) -> dict[str, Any]:
        return {"max_value": self.max_value, "axis": self.axis}


@registry.register("NonNeg", kind="constraint")
class NonNeg:
    """Replaces negative elements by zero.

    >>> import numpy as np
    >>> NonNeg()(np.array([-1.0, 2.0])).tolist()
    [0.0, 2.0]
    """

    def __call__(self, weight: Any) -> np.ndarray:
        weight = np.asarray(weight)
        return np.where(weight >= 0, weight, np.zeros((), weight.dtype))

    def get_config(self) -> dict[str, Any]:
        return {}


@registry.register("UnitNorm", kind="constraint")
class UnitNorm:
    """Scales vectors along `axis` to length one.

    >>> import numpy as np
    >>> UnitNorm()(np.array([[3.0], [4.0]])).round(4).tolist()
    [[0.6], [0.8]]
    """

    def __init__(self, axis: Any = 0) -> None:
        self.axis = axis

    def __call__(self, weight: Any) -> np.ndarray:
        weight = np.asarray(weight)
        return (weight / (_EPSILON + _norms(weight, self.axis))).astype(weight.dtype)

    def get_config(self) -> dict[str, Any]:
        return {"axis": self.axis}


@registry.register("MinMaxNorm", kind="constraint")
class MinMaxNorm:
    """Moves the length of vectors along `axis` towards [`min_value`, `max_value`] by the share `rate`.

    >>> import numpy as np
    >>> MinMaxNorm(10.0, 20.0)(np.array([[3.0], [4.0]])).round(3).tolist()
    [[6.0], [8.0]]
    """

    def __init__(self, min_value: float = 0.0, max_value: float = 1.0, rate: float = 1.0, axis: Any = 0) -> None:
        self.min_value, self.max_value, self.rate, self.axis = min_value, max_value, rate, axis

    def __call__(self, weight: Any) -> np.ndarray:
        weight = np.asarray(weight)
        norms = _norms(weight, self.axis)
        desired = self.rate * np.clip(norms, self.min_value, self.max_value) + (1 - self.rate) * norms
        return (weight * (desired / (_EPSILON + norms))).astype(weight.dtype)

    def get_config(self) -> dict[str, Any]:
        return {"min_value": self.min_value, "max_value": self.max_value, "rate": self.rate, "axis": self.axis}


def get(identifier: Any) -> Any:
    """The constraint for a name, an object or a configuration; None stays None.

    >>> get("non_neg").get_config()
    {}
    """
    return registry.get("constraint", identifier)
