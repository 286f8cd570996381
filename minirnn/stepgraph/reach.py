"""What a step can reach: the numbers, texts and code that decide its trace, and the arrays it closes over.

Two steps whose words are equal are traced to the same graph.  Numbers and texts are known by their
value, so that changing a captured number gives another trace; code, classes and modules are known
by their identity; arrays by shape and dtype, because they are inputs of the graph.  What hides its
state from Python cannot be known, and a step that reaches it is traced anew each time.
"""

from __future__ import annotations

import collections
import contextvars
import functools
import logging
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ..autodiff.primitive import Primitive
from ..autodiff.tensor import Tensor, Variable, identity


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
_OURS = ("minirnn", "numpy")
_BY_VALUE = {type(None), bool, int, str, bytes, range, type(Ellipsis), type(NotImplemented), Identity}
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
# What a class holds besides what its methods can see.
_CLASS_NOISE = {
    "__module__", "__qualname__", "__name__", "__doc__", "__dict__", "__weakref__", "__slots__", "__annotations__",
    "__abstractmethods__", "_abc_impl", "__parameters__", "__orig_bases__", "__match_args__", "__dataclass_fields__",
    "__dataclass_params__", "__static_attributes__", "__firstlineno__", "__annotate__", "__type_params__",
}  # fmt: skip


class Reach:
    """What `step` can reach: `words` that say what decides its trace (None if unknowable), and the `arrays`."""

    def __init__(self, step: Callable[..., Any]) -> None:
        self.arrays: list[Any] = []
        self.labels: list[str] = []  # what the step calls each array
        self._label = ""
        self._words: list[Any] = []
        self._seen: dict[int, int] = {}
        self._classes: set[int] = set()
        self._kept: list[Any] = []  # so that no address is given away during the walk
        self.words: tuple[Any, ...] | None = None
        try:
            self._visit(step)
            self.words = tuple(self._words)
        except (Unknowable, RecursionError):
            pass

    def _visit(self, x: Any) -> None:
        kind = type(x)
        words = self._words
        if kind in _BY_VALUE:
            words.append(kind)
            words.append(x)
            return
        if kind is float or kind is complex:
            words.append(kind)
            words.append(repr(x))  # which tells -0.0 from 0.0 and is equal for NaN
            return
        before = self._seen.get(id(x))
        if before is not None:
            words.append(("again", before))
            return
        if len(self._seen) > _MAX_VISITS:
            raise Unknowable
        self._seen[id(x)] = len(self._seen)
        self._kept.append(x)
        if kind is dict:
            words.append(dict)
            words.append(len(x))
            for key, value in x.items():
                self._visit(key)
                self._label = key if type(key) is str else self._label
                self._visit(value)
        elif kind is tuple or kind is list:
            words.append(kind)
            words.append(len(x))
            self._all(x)
        elif isinstance(x, (Tensor, np.ndarray, np.generic)):
            self._array(x)
        elif kind is types.FunctionType:
            self._function(x)
        elif isinstance(x, type):
            self._class(x)
        elif isinstance(x, _BY_IDENTITY):
            words.append(Identity(x))
        else:
            self._other(x)

    def _all(self, parts: Iterable[Any]) -> None:
        for part in parts:
            self._visit(part)

    def _array(self, x: Any) -> None:
        if x.dtype.hasobject:
            raise Unknowable
        if not isinstance(x, Tensor) and x.ndim == 0:
            self._words.append((x.dtype.str, x.tobytes()))  # operations take it for a number
            return
        outer = x
        if isinstance(x, Tensor):
            variable = identity(x)
            # Otherwise it was read before the last `assign`.
            outer = variable if x.value is None or x.value is variable.value else x
        trainable = outer.trainable if isinstance(outer, Variable) else None
        self._words.append(("array", x.shape, x.dtype.str, trainable))
        self.arrays.append(outer)
        self.labels.append(self._label)
        if getattr(x, "mask", None) is not None and isinstance(x, Tensor):
            self._visit(x.mask)

    def _function(self, f: types.FunctionType) -> None:
        known = _is_known(f.__module__)
        if known and getattr(sys.modules.get(f.__module__), f.__name__, None) is f:
            self._words.append(Identity(f))
            return
        self._words.append(Identity(f.__code__))
        for name, content in zip(f.__code__.co_freevars, _filled(f.__closure__ or ()), strict=True):
            self._label = name
            self._visit(content)
        for more in (f.__defaults__, f.__kwdefaults__, f.__dict__):
            if more:
                self._visit(more)
        if not known:
            self._named(f.__globals__, _names(f.__code__), set())

    def _named(self, namespace: dict[str, Any], names: frozenset[str], modules: set[int]) -> None:
        """The globals that a function names, and what it names of the modules among them."""
        for name in sorted(names & namespace.keys()):
            value = namespace[name]
            self._words.append(name)
            self._label = name
            self._visit(value)
            if isinstance(value, types.ModuleType) and not _is_known(value.__name__) and id(value) not in modules:
                self._named(vars(value), names, modules | {id(value)})

    def _class(self, kind: type) -> None:
        self._words.append(Identity(kind))
        if not _is_known(kind.__module__) and id(kind) not in self._classes:
            self._classes.add(id(kind))
            for name, value in vars(kind).items():
                if name not in _CLASS_NOISE:
                    self._words.append(name)
                    self._visit(value)
            self._all(kind.__bases__)

    def _other(self, x: Any) -> None:
        """Containers, wrappers of functions, and objects by their attributes."""
        self._class(type(x))
        contents = _contents(x)
        if contents is not None:
            self._words.append(len(contents))
            self._all(contents)
            if hasattr(x, "__dict__"):
                self._visit(vars(x))
        elif isinstance(x, (slice, np.dtype)):
            self._words.append(repr(x))
        elif hasattr(type(x), "__trace_state__"):  # the object says itself what a step can see of it
            self._words.append(Identity(x))
            self._visit(x.__trace_state__())
        else:
            slots = _slots(x)
            if _hides_state(type(x)) or not (slots or hasattr(x, "__dict__")):
                raise Unknowable
            self._all(slots)
            if hasattr(x, "__dict__"):
                self._visit(vars(x))


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
        return [x.__name__, x.__self__]
    if isinstance(x, (staticmethod, classmethod)):
        return [x.__func__]
    if isinstance(x, property):
        return [x.fget]
    if isinstance(x, weakref.ref):
        return [x()]
    if isinstance(x, contextvars.ContextVar):
        return [Identity(x), x.get(None)]
    return None


@functools.lru_cache(maxsize=1024)
def _is_known(module: str | None) -> bool:
    """Whether a module is minirnn's, NumPy's or Python's own, whose code does not change."""
    root = (module or "").partition(".")[0]
    return root in _OURS or root in sys.stdlib_module_names


def _filled(cells: Iterable[types.CellType]) -> list[Any]:
    contents = []
    for cell in cells:
        try:
            contents.append(cell.cell_contents)
        except ValueError:  # a variable that is not assigned yet
            contents.append(None)
    return contents


@functools.lru_cache(maxsize=1024)
def _names(code: types.CodeType) -> frozenset[str]:
    """The names, of globals and of attributes, that a function and the functions inside it read."""
    found = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= _names(constant)
    return frozenset(found)


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
