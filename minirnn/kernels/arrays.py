"""The kernels' functions on whole arrays, for what runs outside of a time loop with the same bits as inside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..autodiff.primitive import Primitive
from . import elementary, held, matmul
from .text import LARGEST_PRODUCT


def power_by_number(x: Any, exponent: float) -> Any:
    """x to the power of a number, as printed kernels compute it: small whole powers are products."""
    whole = int(exponent)
    if exponent == whole and 0 < abs(whole) <= LARGEST_PRODUCT:
        product = x
        for _ in range(abs(whole) - 1):
            product = product * x
        return product if whole > 0 else 1 / product
    if abs(exponent) == 0.5:
        return np.sqrt(x) if exponent > 0 else 1 / np.sqrt(x)
    return elementary.ARRAY_FUNCTIONS["power"](x, np.asarray(exponent, np.asarray(x).dtype))


# Maps that NumPy computes exactly, such as products, and what only moves elements need no entry.
FUNCTIONS: dict[str, Callable[..., Any]] = {
    **elementary.ARRAY_FUNCTIONS,
    "contract": matmul.contract_arrays,
    "sum": matmul.sum_over,
    "power_by_number": power_by_number,
    "hold": held.hold,
    "unhold": held.unhold,
}


def forward_of(primitive: Primitive) -> Callable[..., Any]:
    """What computes a primitive on arrays for the cpu engine."""
    return FUNCTIONS.get(primitive.name, primitive.forward)
