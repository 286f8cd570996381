"""What a step can reach: the numbers, texts and code that decide its trace, and the arrays it closes over.

Two steps whose words are equal are traced to the same graph.  Numbers and texts are known by their
value, so that changing a captured number gives another trace; code, classes and modules are known
by their identity; arrays by shape and dtype, because they are inputs of the graph.  What hides its
state from Python cannot be known, and a step that reaches it is traced anew each time.

A walk also leaves a Sight of what it met (sight.py), so that the next walk can be left out as long as
all of it is still there.
"""

from __future__ import annotations

import collections
import contextvars
import functools
import itertools
import logging
import sys
import threading
import types
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from keyword import iskeyword
from typing import Any, NamedTuple

import numpy as np

from ..autodiff.primitive import Primitive
from ..autodiff.tensor import Tensor
from .sight import ABSENT, Absent, Seen, SeenAgain, SeenArray, Sight, array_word, filled, reader


class Identity:
    """Stands for one object in a key without keeping it alive; equal only to itself while that lives."""

    __slots__ = ("_address", "_get")

    def __init__(self, x: Any) -> None:
        self._address = id(x)
        try:
            self._get: Callable[[], Any] = weakref.ref(x)
        except TypeError:  # what cannot be referred to weakly is small and lives long
            self._get = lambda: x

    def __hash__(self) -> int:
        return self._address

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Identity) or self._address != other._address:
            return False
        mine = self._get()
        return mine is not None and mine is other._get()


class Unknowable(Exception):
    """The step reaches something whose state cannot be known, or too much."""


_MAX_VISITS = 20_000
_MAX_SEEN = 2_000  # looking again at more than that is not worth its memory
_absent = itertools.repeat(ABSENT)
_OURS = ("minirnn", "numpy")
_BY_VALUE = {type(None), bool, int, str, bytes, range, type(Ellipsis), type(NotImplemented), Absent}
_ATOMS = {*_BY_VALUE, float, complex}
_BY_IDENTITY = (
    types.ModuleType,
    types.CodeType,
    np.ufunc,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.MethodWrapperType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
    types.ClassMethodDescriptorType,
    types.GenericAlias,
    Primitive,
    logging.Logger,
    type(threading.Lock()),
    type(threading.RLock()),
    weakref.WeakKeyDictionary,
)
# These live long, and keep nothing alive that does not.
_LASTING = (*_BY_IDENTITY, types.BuiltinFunctionType, np.dtype, contextvars.ContextVar)
# What a class holds besides what its methods can see.
_CLASS_NOISE = {
    "__module__", "__qualname__", "__name__", "__doc__", "__dict__", "__weakref__", "__slots__", "__annotations__",
    "__abstractmethods__", "_abc_impl", "__parameters__", "__orig_bases__", "__match_args__", "__dataclass_fields__",
    "__dataclass_params__", "__static_attributes__", "__firstlineno__", "__annotate__", "__type_params__",
}  # fmt: skip


class Reading(NamedTuple):
    """How the parts of an object are read, and what is said of the object besides them."""

    word: Any
    read: Callable[[Any], tuple[Any, ...]]
    is_fixed: bool = False  # whether it is known by its identity as well
    ignored: Collection[int] = ()  # the places of parts that do not matter
    labels: Sequence[str | None] | None = None  # what the step calls each part
    special: Mapping[int, Reading] = {}  # for parts that are read in a way of their own


class Reach:
    """What `step` can reach: `words` that say what decides its trace (None if unknowable), and the `arrays`.

    `sight` tells whether another walk would find the same; it is None where that takes the walk itself.
    """

    def __init__(self, step: Callable[..., Any]) -> None:
        self.arrays: list[Any] = []
        self.labels: list[str] = []  # what the step calls each array
        self.words: tuple[Any, ...] | None = None
        self.sight: Sight | None = None
        self._label = ""
        self._words: list[Any] = []
        self._numbers: dict[int, int] = {}
        self._kept: list[Any] = []  # so that no address is given away during the walk
        self._sight: Sight | None = Sight()
        self._places: dict[int, int] = {}  # in `_sight.met`, of what is met there
        try:
            root = self._visit(step)
        except (Unknowable, RecursionError):
            return
        self.words = tuple(self._words)
        if self._sight is not None and root is not None:
            self._sight.root, self.sight = root, self._sight

    def _visit(self, x: Any) -> Any:
        """Say what `x` is and visit its parts; returns how it was seen, None for what has no parts."""
        kind = type(x)
        words = self._words
        if kind in _BY_VALUE:
            words.append(kind)
            words.append(x)
            return None
        if kind is float or kind is complex:
            words.append(kind)
            words.append(repr(x))  # which tells -0.0 from 0.0 and is equal for NaN
            return None
        before = self._numbers.get(id(x))
        if before is not None:
            words.append(("again", before))
            place = self._places.get(id(x))
            return None if place is None else SeenAgain(place)
        if len(self._numbers) > _MAX_VISITS:
            raise Unknowable
        self._numbers[id(x)] = len(self._numbers)
        self._kept.append(x)
        if isinstance(x, (Tensor, np.ndarray, np.generic)):
            return self._array(x)
        if isinstance(x, np.dtype):
            words.append(repr(x))
            return None
        if _is_leaf(x):
            words.append(Identity(x))
            return None
        return self._read(x, _reading(x))

    def _array(self, x: Any) -> SeenArray:
        if x.dtype.hasobject:
            raise Unknowable
        word, outer = array_word(x)
        self._words.append(word)
        if outer is not None:
            self.arrays.append(outer)
            self.labels.append(self._label)
        self._remember_place(x)
        mask = x.mask if isinstance(x, Tensor) else None
        return SeenArray(x, word, outer is None, None if mask is None else self._visit(mask))

    def _read(self, x: Any, reading: Reading) -> Seen:
        word, read, is_fixed, ignored, labels, special = reading
        if not is_fixed:
            self._remember_place(x)
        parts = read(x)
        self._words.append((word, len(parts)))
        seen = Seen(type(x), read, is_fixed)
        seen.parts = [*map(id, parts)]
        for place, part in enumerate(parts):
            if place in ignored:
                seen.loose.add(place)
                continue
            if labels is not None and labels[place]:
                self._label = labels[place] or ""
            own = special.get(place)
            child = self._visit(part) if own is None else self._read(part, own)
            if child is not None:
                seen.inner.append((place, child))
            if child is None or child.is_fixed:
                self._watch(part)
            else:
                seen.loose.add(place)
        return seen

    def _remember_place(self, x: Any) -> None:
        if self._sight is not None:
            self._places[id(x)] = len(self._sight.met)
            self._sight.met.append(id(x))
            if len(self._sight.met) > _MAX_SEEN:
                self._sight = None

    def _watch(self, x: Any) -> None:
        """Let the address of `x` stand for it in the sight."""
        if self._sight is None:
            return
        try:
            self._sight.watch(x, is_lasting=type(x) in _ATOMS or isinstance(x, _LASTING) or _is_leaf(x))
        except TypeError:
            self._sight = None


def _is_leaf(x: Any) -> bool:
    """Whether an object is known by its identity alone."""
    if type(x) is types.FunctionType:
        module = x.__module__
        return _is_known(module) and getattr(sys.modules.get(module), x.__name__, None) is x
    if isinstance(x, type):
        return _is_known(x.__module__)
    return isinstance(x, _BY_IDENTITY)


# How objects are read ----------------------------------------------------------------------------
def _reading(x: Any) -> Reading:
    kind = type(x)
    if kind is dict:
        names = [key if type(key) is str else None for key in x]
        return Reading(dict, lambda x: (*x, *x.values()), labels=[None] * len(x) + names)
    if kind is tuple or kind is list:
        return Reading(kind, tuple)
    if kind is types.FunctionType:
        return _function_reading(x)
    if isinstance(x, type):
        noise = {len(vars(x)) + i for i, name in enumerate(vars(x)) if name in _CLASS_NOISE}
        return Reading(Identity(x), lambda x: (*vars(x), *vars(x).values(), *x.__bases__), True, noise)
    if _contents(x) is not None:
        return Reading(None, lambda x: (type(x), *(_contents(x) or ()), vars(x) if hasattr(x, "__dict__") else None))
    if kind is contextvars.ContextVar:
        return Reading(Identity(x), lambda x: (x.get(None),), True)
    if hasattr(kind, "__trace_state__"):  # the object says itself what a step can see of it
        return Reading(Identity(x), lambda x: (type(x), x.__trace_state__()), True)
    has_slots = bool(_slots(x))
    if _hides_state(kind) or not (has_slots or hasattr(x, "__dict__")):
        raise Unknowable
    if has_slots:
        return Reading(None, lambda x: (type(x), *_slots(x), vars(x) if hasattr(x, "__dict__") else None))
    if _is_known(kind.__module__):
        return _own_reading(x)
    return Reading(None, _of_object, labels=[None] * (1 + len(vars(x))) + [*vars(x)])


def _own_reading(x: Any) -> Reading:
    """An object of minirnn's own, which may say which attributes no call reads; others must not come or go."""
    untraced = getattr(type(x), "__untraced__", ())
    names = [name for name in vars(x) if name not in untraced]
    is_written_so = lambda name: name.isascii() and name.isidentifier() and not iskeyword(name)  # noqa: E731
    texts = [f"x.{name}" if is_written_so(name) else f"getattr(x, {name!r})" for name in names]
    return Reading(None, reader(("type(x)", "len(x.__dict__)", *texts)), labels=[None, None, *names])


def _of_object(x: Any) -> tuple[Any, ...]:
    return (type(x), *x.__dict__, *x.__dict__.values())


def _function_reading(f: types.FunctionType) -> Reading:
    """A function by its code and what it closes over; one of the user's also by the globals that it names."""
    names = () if _is_known(f.__module__) else _names(f.__code__)
    labels = [None] * 4 + [*f.__code__.co_freevars, *names]
    modules = _modules_among(f.__globals__, names, frozenset())
    special = {len(labels) - len(names) + i: reading for i, reading in modules.items()}
    is_filled = all(filled(cell) is not ABSENT for cell in f.__closure__ or ())
    cell = "x.__closure__[{}].cell_contents" if is_filled else "filled(x.__closure__[{}])"
    texts = ["x.__code__", "x.__defaults__", "x.__kwdefaults__", "(x.__dict__ or None)"]
    texts += [cell.format(place) for place in range(len(f.__code__.co_freevars))]
    texts += [f"x.__globals__.get({name!r}, ABSENT)" for name in names]
    return Reading(Identity(f.__code__), reader(tuple(texts)), False, (), labels, special)


def _modules_among(namespace: Any, names: tuple[str, ...], above: frozenset[int]) -> dict[int, Reading]:
    """How to read the user's modules among the values of names: by what the function names of their contents."""
    found = {}
    for place, value in enumerate(map(namespace.get, names)):
        if isinstance(value, types.ModuleType) and not _is_known(value.__name__) and id(value) not in above:
            inner = _modules_among(vars(value), names, above | {id(value)})
            found[place] = Reading(Identity(value), functools.partial(_of_module, names), True, (), names, inner)
    return found


def _of_module(names: tuple[str, ...], module: types.ModuleType) -> tuple[Any, ...]:
    return tuple(map(vars(module).get, names, _absent))


def _contents(x: Any) -> list[Any] | None:
    """What a container or a wrapper holds; None for anything else."""
    if isinstance(x, (tuple, list, collections.deque)):
        return list(x)
    if isinstance(x, (dict, types.MappingProxyType)):
        return [part for pair in x.items() for part in pair]
    if isinstance(x, (set, frozenset)):
        return sorted(x, key=repr)
    if isinstance(x, (int, float, complex, str, bytes)):  # of a class of the user's own, an enumeration say
        return [repr(x)]
    if isinstance(x, functools.partial):
        return [x.func, x.args, x.keywords]
    if isinstance(x, types.MethodType):
        return [x.__self__, x.__func__]
    if isinstance(x, types.BuiltinFunctionType):
        return [sys.intern(x.__name__), x.__self__]
    if isinstance(x, (staticmethod, classmethod)):
        return [x.__func__]
    if isinstance(x, property):
        return [x.fget]
    if isinstance(x, slice):
        return [x.start, x.stop, x.step]
    if isinstance(x, weakref.ref):
        return [x()]
    return None


@functools.lru_cache(maxsize=1024)
def _is_known(module: str | None) -> bool:
    """Whether a module is minirnn's, NumPy's or Python's own, whose code does not change."""
    root = (module or "").partition(".")[0]
    return root in _OURS or root in sys.stdlib_module_names


@functools.lru_cache(maxsize=1024)
def _names(code: types.CodeType) -> tuple[str, ...]:
    """The names, of globals and of attributes, that a function and the functions inside it read."""
    found = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found.update(_names(constant))
    return tuple(sorted(found))


def _slots(x: Any) -> list[Any]:
    found = []
    for base in type(x).__mro__:
        names = base.__dict__.get("__slots__")
        if not names:
            continue
        for name in (names,) if isinstance(names, str) else names:
            private = name.startswith("__") and not name.endswith("__")
            name = f"_{base.__name__.lstrip('_')}{name}" if private else name
            if name not in ("__dict__", "__weakref__") and hasattr(x, name):
                found.append(getattr(x, name))
    return found


def _hides_state(kind: type) -> bool:
    """Whether instances hold something that is not among their attributes: a class written in C is among its bases."""
    return any(
        isinstance(vars(base).get("__new__"), types.BuiltinFunctionType) for base in kind.__mro__ if base is not object
    )
