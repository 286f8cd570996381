"""The functions of the device library as plain Python of one number, for Numba's simulator.

Bounds are checked: an element that an array does not have is an IndexError, also one before its first.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import formulas
from ..twins import absolute, as_bool, as_float32, as_float64, as_int32, as_int64, maximum, minimum, select, sqrt

__all__ = [
    "absolute", "added", "as_bool", "as_float32", "as_float64", "as_int32", "as_int64", "chain", "element", "fma",
    "hold", "logical_not", "maximum", "minimum", "multiplied", "negative", "of_formula", "put", "put_square", "select",
    "sqrt", "square_of_zeros",
]  # fmt: skip


def element(array: Any, offset: int) -> Any:
    """One element of an array."""
    return array[_inside(array, offset)]


def put(array: Any, offset: int, value: Any) -> None:
    """Set one element of an array."""
    array[_inside(array, offset)] = value


def _inside(array: Any, offset: int) -> int:
    if not 0 <= offset < array.size:
        raise IndexError(f"a kernel reaches for element {offset} of an array that has {array.size}")
    return int(offset)


def fma(x: Any, y: Any, z: Any) -> Any:
    """x * y + z, rounded once."""
    return formulas.fma(*(np.asarray(v)[()] for v in (x, y, z)))


def negative(x: Any) -> Any:
    """The number with the other sign."""
    return -x


def logical_not(x: Any) -> Any:
    """Whether a condition does not hold."""
    return np.logical_not(x)


def of_formula(formula: formulas.Formula, dtype: str) -> Any:
    """A formula on numbers of a dtype."""

    def of_numbers(*arguments: Any) -> Any:
        with np.errstate(all="ignore"):
            return formula(*(np.asarray(v, dtype)[()] for v in arguments))

    return of_numbers


def hold(array: Any, at: int, step: int, count: int, most: int) -> tuple[Any, ...]:
    """`most` values of which the first `count` are elements, `step` apart; the others are zero."""
    return tuple(element(array, at + k * step) if k < count else array.dtype.type(0) for k in range(most))


def chain(weights: tuple[Any, ...], first: int, count: int, a: Any, at: int, step: int) -> Any:
    """The chain of fma over `count` weights from the one numbered `first` on."""
    total = a.dtype.type(0)
    for k in range(count):
        total = fma(element(a, at + k * step), weights[first + k], total)
    return total


def square_of_zeros(array: Any) -> tuple[Any, ...]:
    """Sixteen zeros of an array's dtype."""
    return (array.dtype.type(0),) * 16


def multiplied(square: tuple[Any, ...], array: Any, left: int, right: int) -> tuple[Any, ...]:
    """A square plus the products of four neighbours with four others."""
    rows, columns = ([element(array, at + k) for k in range(4)] for at in (left, right))
    return tuple(fma(rows[k // 4], columns[k % 4], one) for k, one in enumerate(square))


def added(x: tuple[Any, ...], y: tuple[Any, ...]) -> tuple[Any, ...]:
    """The sum of two squares."""
    return tuple(a + b for a, b in zip(x, y, strict=True))


def put_square(out: Any, at: int, row: int, rows: int, columns: int, square: tuple[Any, ...]) -> None:
    """Put the first rows and columns of a square into an array."""
    for k, one in enumerate(square):
        if k // 4 < rows and k % 4 < columns:
            put(out, at + k // 4 * row + k % 4, one)
