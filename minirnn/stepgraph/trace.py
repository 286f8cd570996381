"""From a Python step to its step graph, and the memory of steps that were traced before.

A step is known by its code, by the numbers, texts and functions that it can reach (its closure,
the globals that it names, attributes of the objects among them), and by the shapes of its inputs.
The Tensors and arrays that it can reach are inputs: another one of the same shape in the same place
needs no new trace.
"""

from __future__ import annotations

import types
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import config
from ..autodiff import random, trees
from ..autodiff.tensor import Number, Tensor, Variable, identity
from ..autodiff.trace import Trace
from ..errors import DtypeError, ShapeError, TraceError
from .graph import StepGraph, prune
from .provenance import argument_names

_CACHE_SIZE = 256
_MAX_VISITS = 20_000
_cache: OrderedDict[Any, Traced] = OrderedDict()


@dataclass(eq=False)
class Traced:
    """A traced step: its graph, the form of its y, and where its closed-over values come from.

    `sources` has for each of graph.closed the place among the step's reachable arrays, or the value
    itself where it is not reachable; "key" stands for the random numbers' key.
    """

    graph: StepGraph
    y_form: Any
    sources: list[Any]
    draws: bool
    pins: list[Any]

    def closed(self, reachable: list[Any], key: Any) -> list[Any]:
        """The closed-over values of a run: `key` is the random numbers' key if the step draws any."""
        return [reachable[s] if isinstance(s, int) else key if isinstance(s, str) else s for s in self.sources]


class _StepSource(random.Source):
    """Random draws inside a traced step: key and step index are inputs that exist once needed."""

    def __init__(self, trace: Trace) -> None:
        super().__init__(None, None)
        self.trace = trace

    def next_draw(self) -> int:
        if self.key is None:
            self.key = self.trace.input((2,), "int64", "random_key")
            self.step = self.trace.input((), "int64", "t")
        return super().next_draw()


def trace_step(
    step: Callable[..., Any],
    carry: tuple[list[Tensor], Any],
    xs: tuple[list[Tensor], Any],
    masked: bool = False,
) -> tuple[Traced, list[Any]]:
    """The traced step for a carry and one step's x (leaves, form), and what `Traced.closed` needs for this run."""
    walk = _Walk()
    key: Any = None
    if walk.visit(step) is not None:
        described = [(t.shape, t.dtype.str) for t in carry[0] + xs[0]]
        settings = (config.current_dtype(), config.current_engine(), masked)
        key = (tuple(walk.words), tuple(described), repr(carry[1]), repr(xs[1]), settings)
        traced = _cache.get(key)
        if traced is not None:
            _cache.move_to_end(key)
            return traced, walk.arrays
    traced, is_reusable = _trace(step, carry, xs, masked, walk)
    if key is not None and is_reusable:
        _cache[key] = traced
        if len(_cache) > _CACHE_SIZE:
            _cache.popitem(last=False)
    return traced, walk.arrays


def _trace(step: Any, carry: Any, xs: Any, masked: bool, walk: _Walk) -> tuple[Traced, bool]:
    (carry_leaves, carry_form), (x_leaves, x_form) = carry, xs
    carry_names = argument_names(step, 0, len(carry_leaves))
    x_names = argument_names(step, 1, len(x_leaves))
    with Trace() as trace, random.drawing_from(_StepSource(trace)) as source:
        carry_in = [trace.input(t.shape, t.dtype, n) for t, n in zip(carry_leaves, carry_names, strict=True)]
        x_in = [trace.input(t.shape, t.dtype, n) for t, n in zip(x_leaves, x_names, strict=True)]
        result = step(trees.unflatten(carry_form, carry_in), trees.unflatten(x_form, x_in))
        new_carry, y = check_result(result, carry_form, carry_leaves)
        carry_out = [trace.operand(t) for t in new_carry]
        y_leaves, y_form = trees.flatten(y)
        y_out = [trace.operand(t if isinstance(t, Tensor) else Tensor(t)) for t in y_leaves]
    places = {id(a): i for i, a in enumerate(walk.arrays)}
    sources: list[Any] = [places.get(id(outer), outer) for outer, _ in trace.closed]
    is_reusable = all(isinstance(s, int) for s in sources)
    closed = [inner for _, inner in trace.closed]
    draws = source.key is not None
    if draws:
        closed.append(source.key)
        sources.append("key")
        x_in.append(source.step)
    graph = prune(
        StepGraph(
            tuple(carry_in),
            tuple(x_in),
            tuple(closed),
            tuple(trace.nodes),
            tuple(carry_out),
            tuple(y_out),
            guard=x_in[0] if masked else None,
        )
    )
    return Traced(graph, y_form, sources, draws, walk.pins), is_reusable


def check_result(result: Any, carry_form: Any, carry: list[Tensor]) -> tuple[list[Tensor], Any]:
    """The leaves of the new carry and the y that a step returned; errors in the step's terms."""
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        raise TraceError("scan: the step must return (carry, y)", got=type(result).__name__, expected="a pair")
    new_carry, y = result
    leaves, form = trees.flatten(new_carry)
    if not trees.same_form(form, carry_form):
        raise ShapeError(
            "scan: the step returned a carry of another structure",
            got=trees.describe(form),
            expected=f"{trees.describe(carry_form)}, as init",
        )
    checked = []
    for place, (new, old) in enumerate(zip(leaves, carry, strict=True)):
        new = new if isinstance(new, Tensor) else Tensor(np.asarray(new, old.dtype if isinstance(new, Number) else None))
        where = f"leaf {place} of the carry" if len(carry) > 1 else "the carry"
        if new.shape != old.shape:
            raise ShapeError(
                f"scan: {where} changes its shape from step to step",
                got=f"{new.shape} from the step",
                expected=f"{old.shape}, as in init",
                fix="give init the shape that the step returns",
            )
        if new.dtype != old.dtype:
            raise DtypeError(
                f"scan: {where} changes its dtype from step to step",
                got=f"{new.dtype} from the step",
                expected=f"{old.dtype}, as in init",
                fix=f'cast init, or the new carry with mr.ops.cast(..., "{old.dtype}")',
            )
        checked.append(new)
    return checked, y


_PLAIN = (type(None), bool, int, float, complex, str, bytes, np.dtype)
_BY_IDENTITY = (types.ModuleType, type, types.BuiltinFunctionType, types.MethodDescriptorType, np.ufunc)


class _Walk:
    """What a step can reach, as a list of comparable words, and the arrays among it."""

    def __init__(self) -> None:
        self.words: list[Any] = []
        self.arrays: list[Any] = []
        self.pins: list[Any] = []  # keeps alive what is known by its address
        self._seen: dict[int, int] = {}

    def visit(self, x: Any) -> bool | None:
        """Add what `x` says; None if it reaches too much to be remembered."""
        if len(self._seen) > _MAX_VISITS:
            return None
        if isinstance(x, _PLAIN):
            self.words.append((type(x), x))
            return True
        if isinstance(x, np.generic) or (isinstance(x, np.ndarray) and x.ndim == 0):
            self.words.append((x.dtype.str, x.item()))
            return True
        if isinstance(x, _BY_IDENTITY):
            return self._pin(x)
        if id(x) in self._seen:
            self.words.append(("again", self._seen[id(x)]))
            return True
        self._seen[id(x)] = len(self._seen)
        if isinstance(x, (Tensor, np.ndarray)):
            return self._array(x)
        self.pins.append(x)
        if isinstance(x, types.FunctionType):
            return self._function(x)
        if isinstance(x, types.MethodType):
            return self._all([x.__self__, x.__func__])
        if isinstance(x, (tuple, list)):
            self.words.append((type(x), len(x)))
            return self._all(x)
        if isinstance(x, dict):
            self.words.append((dict, len(x)))
            return self._all([part for pair in x.items() for part in pair])
        if isinstance(x, (set, frozenset)):
            return self._all(sorted(x, key=repr))
        return self._object(x)

    def _all(self, parts: Any) -> bool | None:
        return None if any(self.visit(part) is None for part in parts) else True

    def _pin(self, x: Any) -> bool:
        self.pins.append(x)
        self.words.append(id(x))
        return True

    def _array(self, x: Any) -> bool:
        outer = identity(x) if isinstance(x, Tensor) else x
        self.words.append(("array", len(self.arrays), x.shape, x.dtype.str, isinstance(outer, Variable)))
        self.arrays.append(outer)
        return True

    def _function(self, f: types.FunctionType) -> bool | None:
        self._pin(f.__code__)
        if (f.__module__ or "").startswith(("minirnn.autodiff", "minirnn.scan", "numpy")):
            return self._pin(f)
        contents = [cell.cell_contents for cell in f.__closure__ or () if _is_filled(cell)]
        used = [f.__globals__[name] for name in _names(f.__code__) if name in f.__globals__]
        return self._all([*contents, f.__defaults__, f.__kwdefaults__, *used])

    def _object(self, x: Any) -> bool | None:
        kind = type(x)
        self._pin(kind)
        if hasattr(x, "__trace_state__"):  # the object itself says what a step can see of it
            self._pin(x)
            return self.visit(x.__trace_state__())
        state = [getattr(x, slot) for base in kind.__mro__ for slot in getattr(base, "__slots__", ()) if hasattr(x, slot)]
        methods = []
        if not kind.__module__.startswith(("minirnn.", "numpy", "builtins")):
            methods = [m for base in kind.__mro__ for m in vars(base).values() if isinstance(m, types.FunctionType)]
        return self._all([vars(x) if hasattr(x, "__dict__") else None, *state, *methods])


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:  # a variable that is not assigned yet
        return False


def _names(code: types.CodeType) -> list[str]:
    """The global names that a function and the functions inside it may read."""
    found = list(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found.extend(_names(constant))
    return found
