"""The operators and methods of anything that stands for an array: Tensors and symbolic Inputs.

Each looks its operation up in PUBLIC, which `ops.py` fills: so there is one definition of `+`, and
this file imports nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

PUBLIC: dict[str, Callable[..., Any]] = {}


class Operators:
    """Mixin with Python's operators and NumPy's common methods, all of them calls of `mr.ops`."""

    __slots__ = ()
    # Makes NumPy arrays leave `array + tensor` to the tensor.
    __array_priority__ = 1000

    def __add__(self, other: Any) -> Any:
        return PUBLIC["add"](self, other)

    def __radd__(self, other: Any) -> Any:
        return PUBLIC["add"](other, self)

    def __sub__(self, other: Any) -> Any:
        return PUBLIC["subtract"](self, other)

    def __rsub__(self, other: Any) -> Any:
        return PUBLIC["subtract"](other, self)

    def __mul__(self, other: Any) -> Any:
        return PUBLIC["multiply"](self, other)

    def __rmul__(self, other: Any) -> Any:
        return PUBLIC["multiply"](other, self)

    def __truediv__(self, other: Any) -> Any:
        return PUBLIC["divide"](self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return PUBLIC["divide"](other, self)

    def __pow__(self, other: Any) -> Any:
        return PUBLIC["power"](self, other)

    def __rpow__(self, other: Any) -> Any:
        return PUBLIC["power"](other, self)

    def __matmul__(self, other: Any) -> Any:
        return PUBLIC["matmul"](self, other)

    def __rmatmul__(self, other: Any) -> Any:
        return PUBLIC["matmul"](other, self)

    def __neg__(self) -> Any:
        return PUBLIC["negative"](self)

    def __pos__(self) -> Any:
        return self

    def __abs__(self) -> Any:
        return PUBLIC["abs"](self)

    def __lt__(self, other: Any) -> Any:
        return PUBLIC["less"](self, other)

    def __le__(self, other: Any) -> Any:
        return PUBLIC["less_equal"](self, other)

    def __gt__(self, other: Any) -> Any:
        return PUBLIC["greater"](self, other)

    def __ge__(self, other: Any) -> Any:
        return PUBLIC["greater_equal"](self, other)

    def __eq__(self, other: object) -> Any:
        return PUBLIC["equal"](self, other)

    def __ne__(self, other: object) -> Any:
        return PUBLIC["not_equal"](self, other)

    def __hash__(self) -> int:
        return id(self)

    def __and__(self, other: Any) -> Any:
        return PUBLIC["bitwise_and"](self, other)

    def __rand__(self, other: Any) -> Any:
        return PUBLIC["bitwise_and"](other, self)

    def __or__(self, other: Any) -> Any:
        return PUBLIC["bitwise_or"](self, other)

    def __ror__(self, other: Any) -> Any:
        return PUBLIC["bitwise_or"](other, self)

    def __invert__(self) -> Any:
        return PUBLIC["bitwise_not"](self)

    def __getitem__(self, index: Any) -> Any:
        return PUBLIC["getitem"](self, index)

    @property
    def T(self) -> Any:
        """The transpose (all axes reversed)."""
        return PUBLIC["transpose"](self)

    def sum(self, axis: Any = None, keepdims: bool = False) -> Any:
        """The sum over `axis` (all axes by default)."""
        return PUBLIC["sum"](self, axis, keepdims)

    def mean(self, axis: Any = None, keepdims: bool = False) -> Any:
        """The mean over `axis` (all axes by default)."""
        return PUBLIC["mean"](self, axis, keepdims)

    def max(self, axis: Any = None, keepdims: bool = False) -> Any:
        """The largest element over `axis` (all axes by default)."""
        return PUBLIC["max"](self, axis, keepdims)

    def min(self, axis: Any = None, keepdims: bool = False) -> Any:
        """The smallest element over `axis` (all axes by default)."""
        return PUBLIC["min"](self, axis, keepdims)

    def reshape(self, *shape: Any) -> Any:
        """The same elements in another shape; one size may be -1."""
        return PUBLIC["reshape"](self, shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape)

    def transpose(self, *axes: Any) -> Any:
        """The axes in another order (reversed by default)."""
        order = axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else (axes or None)
        return PUBLIC["transpose"](self, order)

    def astype(self, dtype: Any) -> Any:
        """The elements cast to `dtype`."""
        return PUBLIC["cast"](self, dtype)
