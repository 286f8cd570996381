"""Penalties on weights, added to the loss while training."""

from __future__ import annotations

from typing import Any

from ..autodiff import ops
from . import registry


@registry.register("L1L2", kind="regularizer", aliases=("l1_l2",))
class L1L2:
    """`l1 * sum(|w|) + l2 * sum(w**2)` of a weight.

    >>> import numpy as np
    >>> float(L1L2(l1=0.5, l2=0.25)(np.array([1.0, -2.0])))
    2.75
    """

    def __init__(self, l1: float = 0.0, l2: float = 0.0) -> None:
        self.l1, self.l2 = float(l1), float(l2)

    def __call__(self, weight: Any) -> Any:
        penalty: Any = 0.0
        if self.l1:
            penalty = penalty + self.l1 * ops.sum(ops.abs(weight))
        if self.l2:
            penalty = penalty + self.l2 * ops.sum(ops.square(weight))
        return penalty

    def get_config(self) -> dict[str, Any]:
        return {"l1": self.l1, "l2": self.l2}


@registry.register("L1", kind="regularizer")
class L1(L1L2):
    """`l1 * sum(|w|)` of a weight.

    >>> L1(0.1).get_config()
    {'l1': 0.1}
    """

    def __init__(self, l1: float = 0.01) -> None:
        super().__init__(l1=l1)

    def get_config(self) -> dict[str, Any]:
        return {"l1": self.l1}


@registry.register("L2", kind="regularizer")
class L2(L1L2):
    """`l2 * sum(w**2)` of a weight.

    >>> L2(0.1).get_config()
    {'l2': 0.1}
    """

    def __init__(self, l2: float = 0.01) -> None:
        super().__init__(l2=l2)

    def get_config(self) -> dict[str, Any]:
        return {"l2": self.l2}


def get(identifier: Any) -> Any:
    """The regularizer for a name, an object or a configuration; None stays None.

    >>> get("l2").l2
    0.01
    """
    return registry.get("regularizer", identifier)
