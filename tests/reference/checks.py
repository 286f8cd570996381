"""How far two arrays are apart, and derivatives taken without differentiating.

An error here is the largest difference over an array, divided by max(1, its largest magnitude).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

Array = np.ndarray
COMPLEX_STEP = 1e-30


def max_error(got: object, want: object) -> float:
    """max|got - want| / max(1, max|want|); infinite if shapes differ or one has NaN or an infinity alone."""
    got, want = np.asarray(got), np.asarray(want)
    if got.shape != want.shape:
        return np.inf
    if want.size == 0:
        return 0.0
    wide = np.result_type(got, want, np.float64)
    got, want = got.astype(wide), want.astype(wide)
    same = (got == want) | (np.isnan(got) & np.isnan(want))
    if not np.all(np.isfinite(got[~same]) & np.isfinite(want[~same])):
        return np.inf
    finite = np.isfinite(want)
    scale = max(1.0, float(np.max(np.abs(want[finite]), initial=0.0)))
    return float(np.max(np.abs(got[~same] - want[~same]), initial=0.0)) / scale


def errors_by_name(got: Mapping[str, object], want: Mapping[str, object]) -> dict[str, float]:
    """The error of every named array; infinite for a name that only one side has, or for a missing array."""
    return {
        name: max_error(got[name], want[name]) if got.get(name) is not None and name in want else np.inf
        for name in [*want, *(name for name in got if name not in want)]
    }


class Disagreement(AssertionError):
    """Two results differ by more than the tolerance."""


def assert_agree(got: Mapping[str, object], want: Mapping[str, object], tolerance: float) -> None:
    """Raise Disagreement with the names and errors of all arrays that differ by more than the tolerance."""
    wrong = {name: error for name, error in errors_by_name(got, want).items() if not error <= tolerance}
    if wrong:
        errors = ", ".join(f"{name} {error:.2e}" for name, error in wrong.items())
        raise Disagreement(f"errors above {tolerance:g}: {errors}")


def complex_step_derivative(f: Callable[..., object], arrays: list[Array], directions: list[Array]) -> Array:
    """The derivative of f along the directions, exact to rounding; f must be analytic and take complex arrays."""
    moved = [np.asarray(a) + 1j * COMPLEX_STEP * np.asarray(d) for a, d in zip(arrays, directions, strict=True)]
    return np.imag(np.asarray(f(*moved))) / COMPLEX_STEP


def complex_step_gradients(f: Callable[..., object], *arrays: Array) -> list[Array]:
    """The gradients of a scalar, analytic f for every array, exact to rounding."""
    moved = [np.array(a, dtype=np.complex128) for a in arrays]
    return [_elementwise(m, COMPLEX_STEP * 1j, lambda: np.imag(f(*moved)) / COMPLEX_STEP) for m in moved]


def central_differences(f: Callable[..., object], *arrays: Array, step: float = 1e-3) -> list[Array]:
    """The gradients of a scalar f for every array by five-point differences, for where f is not analytic.

    The error is of the order of step**4, and of 1e-16 / step from rounding.
    """
    moved = [np.array(a, dtype=np.float64) for a in arrays]

    def slope(array: Array, distance: float) -> Array:
        above = _elementwise(array, distance, lambda: float(f(*moved)))  # type: ignore[arg-type]
        below = _elementwise(array, -distance, lambda: float(f(*moved)))  # type: ignore[arg-type]
        return (above - below) / (2 * distance)

    return [(4 * slope(array, step) - slope(array, 2 * step)) / 3 for array in moved]


def _elementwise(array: Array, change: complex, measure: Callable[[], float]) -> Array:
    """`measure()` with each element of the array changed in turn (and put back)."""
    found = np.empty(array.shape, dtype=np.float64)
    for index in np.ndindex(array.shape):
        before = array[index]
        array[index] = before + change
        found[index] = measure()
        array[index] = before
    return found
