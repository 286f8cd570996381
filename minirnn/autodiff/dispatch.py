"""How an operation becomes public, and what the public operations do with their arguments first."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from ..errors import ShapeError
from .operators import PUBLIC
from .tensor import Number, Tensor, Variable, number_as_tensor, resolve

F = TypeVar("F", bound=Callable[..., Any])
# Arguments of these types are no symbolic Inputs, nor do they hold any.
_PLAIN = frozenset({Tensor, Variable, np.ndarray, bool, int, float, str, type(None)})


def public(function: F) -> F:
    """Make an operation known to operators, NumPy's dispatch and symbolic Inputs."""
    return expose(function, function)


def expose(like: F, function: Callable[..., Any]) -> F:
    """`like` as a public operation; `function` does the same, faster, but looks at neither keywords nor count."""
    name, count = like.__name__, like.__code__.co_argcount

    @functools.wraps(like)
    def dispatch(*args: Any, **kwargs: Any) -> Any:
        if kwargs or not _PLAIN.issuperset(map(type, args)):
            for x in (*args, *kwargs.values()):
                for item in x if isinstance(x, (list, tuple)) else (x,):
                    symbolic = getattr(item, "__functional_op__", None)
                    if symbolic is not None:
                        return symbolic(name, args, kwargs)
        return function(*args) if len(args) == count and not kwargs else like(*args, **kwargs)

    PUBLIC[name] = dispatch
    return dispatch  # type: ignore[return-value]


def operand(x: Any) -> Any:
    """An operand with shape and dtype: numbers become Tensors, floats of the default dtype."""
    x = resolve(x)
    return number_as_tensor(x, isinstance(x, float)) if isinstance(x, Number) else x


def is_integer(x: Any) -> bool:
    """Whether `x` is one integer, of Python or NumPy."""
    return isinstance(x, (int, np.integer))


def one_axis(axis: Any, rank: int, what: str) -> int:
    """An axis counted from the front; ShapeError if there is none of that number."""
    if not is_integer(axis) or not -rank <= axis < rank:
        expected = f"an integer from {-rank} to {rank - 1}" if rank else "an array with axes, not a scalar"
        raise ShapeError(f"{what}: axis out of range", got=axis, expected=expected)
    return int(axis) % rank


def several_axes(axis: Any, rank: int, what: str) -> tuple[int, ...]:
    """Axes counted from the front, in order: one, some, or all for None."""
    if axis is None:
        return tuple(range(rank))
    axes = sorted(one_axis(a, rank, what) for a in ((axis,) if is_integer(axis) else axis))
    if len(set(axes)) != len(axes):
        raise ShapeError(f"{what}: an axis stands twice", got=axis, expected="each axis once")
    return tuple(axes)


def sizes_of(shape: Any) -> tuple[int, ...]:
    """A shape as a tuple of integers; one integer stands for one axis."""
    return (int(shape),) if is_integer(shape) else tuple(int(n) for n in shape)
