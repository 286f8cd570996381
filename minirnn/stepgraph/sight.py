"""What a walk through a step has met, and whether another walk would meet it again.

Looking again costs a few comparisons for each object, a walk (reach.py) many times that.  What the
walk knew by identity must be the very same object, which a weak reference says is still alive; what
it knew by its contents may be another object with the same ones.  Nothing of the user's is kept alive.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from ..autodiff.tensor import Tensor, Variable


def array_word(x: Any) -> tuple[Any, Any]:
    """What is known of an array, and what it is looked up by at each run: None for a number."""
    kind = type(x)
    if kind is Variable:
        return ("array", x.shape, x.dtype, x.trainable), x
    if not isinstance(x, Tensor):
        if x.ndim == 0:
            return (x.dtype.str, x.tobytes()), None  # operations take it for a number
        return ("array", x.shape, x.dtype, None), x
    variable = x if isinstance(x, Variable) else x.variable
    # Otherwise it was read before the last `assign`.
    if variable is not None and (x.value is None or x.value is variable.value):
        return ("array", x.shape, x.dtype, variable.trainable), variable
    return ("array", x.shape, x.dtype, None), x


class Seen:
    """An object that has parts: how they are read, and by their addresses which ones it had.

    `inner` has the `is_same` of those parts that have parts themselves, with their places.  At the places in `loose`
    there may be another object: one with the same contents, or one that does not matter.
    """

    __slots__ = ("inner", "is_fixed", "kind", "loose", "parts", "read")

    def __init__(self, kind: type, read: Callable[[Any], tuple[Any, ...]], is_fixed: bool) -> None:
        self.kind, self.read, self.is_fixed = id(kind), read, is_fixed
        self.parts: list[int] = []
        self.inner: list[tuple[int, Any]] = []
        self.loose: set[int] = set()

    def is_same(self, x: Any, met: list[int], arrays: list[Any]) -> bool:
        """Whether a walk from `x` would meet the same as the walk that made this; adds what it meets."""
        if id(type(x)) != self.kind:
            return False
        if not self.is_fixed:
            met.append(id(x))
        parts = self.read(x)
        found = [*map(id, parts)]
        if found != self.parts and not self._differs_loosely(found):
            return False
        for place, is_same in self.inner:
            if not is_same(parts[place], met, arrays):
                return False
        return True

    def _differs_loosely(self, found: list[int]) -> bool:
        if len(found) != len(self.parts):
            return False
        pairs = enumerate(zip(found, self.parts, strict=True))
        return all(now == before or place in self.loose for place, (now, before) in pairs)


class SeenArray:
    """An array: another one of its shape and dtype is an input like it."""

    __slots__ = ("dtype", "mask", "shape", "trainable", "word")
    is_fixed = False

    def __init__(self, x: Any, word: Any, mask: Any) -> None:
        self.word, self.mask = word, mask
        self.shape, self.dtype, self.trainable = x.shape, x.dtype, getattr(x, "trainable", None)

    def is_same(self, x: Any, met: list[int], arrays: list[Any]) -> bool:
        """As `Seen.is_same`."""
        met.append(id(x))
        if type(x) is Variable and x.mask is None and self.mask is None:  # what `array_word` says, at less cost
            arrays.append(x)
            is_alike = x.dtype is self.dtype or x.dtype == self.dtype
            return is_alike and x.shape == self.shape and x.trainable is self.trainable
        if not isinstance(x, (Tensor, np.ndarray, np.generic)):
            return False
        word, outer = array_word(x)
        if word != self.word:
            return False
        if outer is not None:
            arrays.append(outer)
        mask = x.mask if isinstance(x, Tensor) else None
        if self.mask is None or mask is None:
            return mask is None and self.mask is None
        return bool(self.mask.is_same(mask, met, arrays))


class SeenAgain:
    """What the walk had met before, as number `number` of all that may be another one."""

    __slots__ = ("number",)
    is_fixed = False

    def __init__(self, number: int) -> None:
        self.number = number

    def is_same(self, x: Any, met: list[int], arrays: list[Any]) -> bool:
        """As `Seen.is_same`."""
        return met[self.number] == id(x)


class Sight:
    """All that one walk met, beginning with its root."""

    def __init__(self) -> None:
        self.root: Any = None
        self.met: list[int] = []
        self._alive = [True]
        self._watched: dict[int, Any] = {}

    def watch(self, x: Any, is_lasting: bool) -> None:
        """Let the address of `x` stand for it as long as it lives; TypeError if that can't be known.

        What is lasting, a number or a module say, is kept alive.
        """
        if id(x) not in self._watched:
            alive = self._alive
            self._watched[id(x)] = x if is_lasting else weakref.ref(x, lambda _: alive.clear())

    def arrays_of(self, step: Any) -> list[Any] | None:
        """The arrays that a walk from `step` would find, None if it might differ from the one that made this."""
        met: list[int] = []
        arrays: list[Any] = []
        try:
            is_same = self.root.is_same(step, met, arrays)
        except Exception:  # whatever is the matter, the walk will show it
            return None
        # Two that were different may not have become one.  Last: do addresses still mean what they meant?
        if not is_same or (met != self.met and len(set(met)) != len(met)) or not self._alive:
            return None
        return arrays
