"""What a walk through a step has met, and whether another walk would meet it again.

What the walk (reach.py) knew by identity must be the very same object, which a weak reference says is still
alive; what it knew by its contents may be another object with the same ones.  Nothing of the user's is kept
alive.  Because every call looks again, the comparisons are written out as one Python function for each sight,
which costs a tenth of a microsecond for an attribute, a walk a hundred times that.
"""

from __future__ import annotations

import functools
import types
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..autodiff.tensor import Tensor, Variable


class Absent:
    """Stands for what a name does not stand for yet."""


ABSENT = Absent()


def filled(cell: types.CellType) -> Any:
    """What a cell of a function holds, also if its variable is not assigned yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return ABSENT


_NAMES = {"ABSENT": ABSENT, "filled": filled, "Variable": Variable}


@functools.lru_cache(maxsize=1024)
def reader(texts: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    """A function that reads the parts of an object, each of them as a text says it of `x`.

    >>> reader(("x.real", "x.imag"))(2j)
    (0.0, 2.0)
    """
    read: Callable[[Any], tuple[Any, ...]] = eval(f"lambda x: ({''.join(text + ', ' for text in texts)})", {**_NAMES})
    vars(read)["texts"] = texts
    return read


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


def same_attributes(x: Any, names: tuple[str, ...]) -> Callable[[Any], bool]:
    """A function that says whether an object's attributes are the very ones that `x` has now; it keeps them alive.

    >>> is_same = same_attributes(3 + 4j, ("real", "__class__"))
    >>> is_same(5 + 4j)
    False
    """
    made = {f"k{place}": getattr(x, name) for place, name in enumerate(names)}
    compared = " and ".join(f"x.{name} is k{place}" for place, name in enumerate(names))
    exec(_code(f"def same(x): return {compared}"), made)
    same: Callable[[Any], bool] = made["same"]
    return same


class Seen:
    """An object that has parts: how they are read, and by their addresses which ones it had.

    `inner` has those of the parts that were seen as having parts themselves, by their places.  At the places in
    `loose` there may be another object: one with the same contents, or one that does not matter.
    """

    __slots__ = ("inner", "is_fixed", "kind", "loose", "parts", "read")

    def __init__(self, kind: type, read: Callable[[Any], tuple[Any, ...]], is_fixed: bool) -> None:
        self.kind, self.read, self.is_fixed = id(kind), read, is_fixed
        self.parts: list[int] = []
        self.inner: list[tuple[int, Any]] = []
        self.loose: set[int] = set()

    def write(self, name: str, look: _Look) -> None:
        """The lines that compare what `name` stands for, part by part."""
        if not self.is_fixed:
            look.met.append(name)
        texts: Sequence[str] | None = getattr(self.read, "texts", None)
        look.lines.append(f"x = {name}")
        differs = [] if texts and texts[0] == "type(x)" else [f"id(type(x)) != {look.constant(self.kind)}"]
        if texts is None:
            look.lines.append(f"if {differs.pop()}: return None")
            look.lines.append(f"x = {look.constant(self.read)}(x)")
            differs = [f"len(x) != {len(self.parts)}"]
            texts = [f"x[{place}]" for place in range(len(self.parts))]
        differs += [
            look.is_other(text, address)
            for place, (text, address) in enumerate(zip(texts, self.parts, strict=True))
            if place not in self.loose
        ]
        look.lines.append(f"if {' or '.join(differs)}: return None")
        inner = [(look.name(texts[place]), seen) for place, seen in self.inner]
        for part, seen in inner:
            seen.write(part, look)


class SeenArray:
    """An array: another one of its shape and dtype is an input like it."""

    __slots__ = ("dtype", "is_number", "mask", "shape", "trainable", "word")
    is_fixed = False

    def __init__(self, x: Any, word: Any, is_number: bool, mask: Any) -> None:
        self.word, self.is_number, self.mask = word, is_number, mask
        self.shape, self.dtype, self.trainable = x.shape, x.dtype, getattr(x, "trainable", None)

    def write(self, name: str, look: _Look) -> None:
        """As `Seen.write`."""
        look.met.append(name)
        array = f"{look.constant(self.read)}({name})"
        if isinstance(self.trainable, bool) and self.mask is None:  # what `read` says, at less cost
            look.lines.append(f"x = {name}")
            dtype, shape = look.constant(self.dtype), look.constant(self.shape)
            fits = f"x.dtype is {dtype} and x.shape == {shape} and x.trainable is {self.trainable} and x.mask is None"
            array = f"x if type(x) is Variable and {fits} else {array}"
        array = look.name(array)
        if not self.is_number:
            look.arrays.append(array)
        if self.mask is not None:
            self.mask.write(look.name(f"{name}.mask"), look)

    def read(self, x: Any) -> Any:
        """What `x` is looked up by at each run; LookupError if it is not like the array that was seen."""
        if isinstance(x, (Tensor, np.ndarray, np.generic)):
            word, outer = array_word(x)
            if word == self.word and (getattr(x, "mask", None) is None) == (self.mask is None):
                return outer
        raise LookupError


class SeenAgain:
    """What the walk had met before, as number `number` of all that may be another one."""

    __slots__ = ("number",)
    is_fixed = False

    def __init__(self, number: int) -> None:
        self.number = number

    def write(self, name: str, look: _Look) -> None:
        """As `Seen.write`."""
        look.lines.append(f"if {name} is not {look.met[self.number]}: return None")


class _Look:
    """A function as it is written: its lines and constants, and the names of what it meets."""

    def __init__(self, watched: dict[int, Any]) -> None:
        self.lines: list[str] = []
        self.met: list[str] = []
        self.arrays: list[str] = []
        self._watched = watched
        self._constants: dict[str, Any] = {**_NAMES}
        self._count = 0

    def name(self, text: str) -> str:
        """A name for what the text says."""
        self._count += 1
        self.lines.append(f"x{self._count} = {text}")
        return f"x{self._count}"

    def constant(self, value: Any) -> str:
        """A name for a value that is kept."""
        self._constants[name := f"k{len(self._constants)}"] = value
        return name

    def is_other(self, text: str, address: int) -> str:
        """A text that says whether a part is another one than that at an address; it may be kept if it is lasting."""
        x = self._watched[address]
        if type(x) is weakref.ref:
            return f"id({text}) != {self.constant(address)}"
        return f"{text} is not {self.constant(x)}"

    def made(self, met: list[int]) -> Callable[[Any], list[Any] | None]:
        """The function; two things that were different when these were met must not have become one."""
        self.lines.append(f"met = ({''.join(f'id({name}), ' for name in self.met)})")
        self.lines.append(f"if met != {self.constant(tuple(met))} and len({{*met}}) != len(met): return None")
        self.lines.append(f"return [{', '.join(self.arrays)}]")
        exec(_code("\n    ".join(["def look(x0):", *self.lines])), self._constants)
        look: Callable[[Any], list[Any] | None] = self._constants["look"]
        return look


@functools.lru_cache(maxsize=256)
def _code(text: str) -> types.CodeType:
    """The compiled text, which is the same for steps that differ in numbers, say."""
    return compile(text, "<sight>", "exec")


class Sight:
    """All that one walk met, beginning with its root."""

    def __init__(self) -> None:
        self.root: Any = None
        self.met: list[int] = []
        self._alive = [True]
        self._watched: dict[int, Any] = {}
        self._look: Callable[[Any], list[Any] | None] | None = None

    def watch(self, x: Any, is_lasting: bool) -> None:
        """Let the address of `x` stand for it as long as it lives; TypeError if that can't be known.

        What is lasting, a number or a module say, is kept alive.
        """
        if id(x) not in self._watched:
            alive = self._alive
            self._watched[id(x)] = x if is_lasting else weakref.ref(x, lambda _: alive.clear())

    def arrays_of(self, step: Any) -> list[Any] | None:
        """The arrays that a walk from `step` would find, None if it might differ from the one that made this."""
        try:
            arrays = (self._look or self._written())(step)
        except Exception:  # whatever is the matter, the walk will show it
            return None
        return arrays if self._alive else None  # last: do addresses still mean what they meant?

    def _written(self) -> Callable[[Any], list[Any] | None]:
        look = _Look(self._watched)
        self.root.write("x0", look)
        self._look = look.made(self.met)
        return self._look
