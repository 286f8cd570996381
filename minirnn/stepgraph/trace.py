"""From a Python step to its step graph, and the memory of steps that were traced before.

A step is known by what it can reach (reach.py) and by the shapes of its inputs.  The Tensors and
arrays that it can reach are inputs: another one of the same shape in the same place needs no new
trace.  Two memories: `_cache` has the traces by the words of a whole walk, `_trails` has what the
last walk from a step met, which is quicker to look at again than to walk.
"""

from __future__ import annotations

import threading
import types
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .. import config
from ..autodiff import random, trees
from ..autodiff.tensor import Number, Tensor, Variable
from ..autodiff.trace import Trace
from ..errors import DtypeError, ShapeError, TraceError
from .graph import StepGraph, prune
from .passes import active_passes
from .provenance import argument_names, name_outputs
from .reach import Reach
from .sight import Sight

_CACHE_SIZE = 256
_TRAILS_SIZE = 1024
_cache: OrderedDict[_Words, Traced] = OrderedDict()
_trails: OrderedDict[Any, Trail] = OrderedDict()
_lock = threading.Lock()
# What a sight may find another one of in a variable that a step closes over.
_EXCHANGEABLE = {
    type(None), bool, int, float, complex, str, tuple, list, dict, types.FunctionType, Tensor, Variable, np.ndarray,
}  # fmt: skip

# What else decides a trace.  Rooms above add what their layers read while they are called.
SETTINGS: list[Callable[[], Any]] = [config.current_dtype, config.current_engine, active_passes]


class _Words:
    """What a trace is found by, with a hash that is computed once."""

    __slots__ = ("_hash", "_words")

    def __init__(self, words: tuple[Any, ...]) -> None:
        self._words, self._hash = words, hash(words)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Words) and self._words == other._words


@dataclass(eq=False)
class Traced:
    """A traced step: its graph, the form of its y, and where its closed-over values come from.

    `sources` has for each of graph.closed the place among the step's reachable arrays, or the value
    itself if the step made it; "key" stands for the random numbers' key.
    """

    graph: StepGraph
    y_form: Any
    sources: list[Any]
    draws: bool

    def __post_init__(self) -> None:
        are_given = all(isinstance(s, int) for s in self.sources)
        self._pick = trees.picker(self.sources) if are_given else None

    def closed(self, reachable: list[Any], key: Any) -> list[Any]:
        """The closed-over values of a run: `key` is the random numbers' key if the step draws any."""
        if self._pick is not None:
            return [*self._pick(reachable)]
        return [reachable[s] if isinstance(s, int) else key if isinstance(s, str) else s for s in self.sources]


class Trail(NamedTuple):
    """Where a walk led: to the trace as long as `sight` is the same."""

    sight: Sight
    words: _Words

    def follow(self, step: Callable[..., Any]) -> tuple[Traced, list[Any]] | None:
        """What `trace_step` returns, None if it might be something new."""
        arrays = self.sight.arrays_of(step)
        traced = None if arrays is None else _known(self.words)
        return None if traced is None or arrays is None else (traced, arrays)


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
    step: Any,
    carry: tuple[list[Tensor], Any],
    xs: tuple[list[Any], Any],
    masked: bool = False,
) -> tuple[Traced, list[Any]]:
    """The traced step for carry and xs (leaves, form), and what `Traced.closed` needs for this run."""
    around = _around(carry, xs, masked)
    walked = step.step if masked else step
    address = (_address(walked), around)
    trail = _trails.get(address)
    found = None if trail is None else trail.follow(walked)
    if found is not None:
        return found
    reach = Reach(walked)
    if reach.words is None:
        return _trace(step, carry, xs, masked, reach)[0], reach.arrays
    words = _Words((reach.words, around))
    traced = _known(words)
    if traced is None:
        traced, is_reusable = _trace(step, carry, xs, masked, reach)
        if not is_reusable:
            return traced, reach.arrays
        _put(_cache, words, traced, _CACHE_SIZE)
    if reach.sight is not None:
        _put(_trails, address, Trail(reach.sight, words), _TRAILS_SIZE)
    return traced, reach.arrays


def trail_of(step: Callable[..., Any], carry: tuple[list[Any], Any], xs: tuple[list[Any], Any]) -> Trail | None:
    """The trail that `trace_step` left where it was called with these; it holds under the settings of now."""
    return _trails.get((_address(step), _around(carry, xs, False)))


def _around(carry: tuple[list[Any], Any], xs: tuple[list[Any], Any], masked: bool) -> tuple[Any, ...]:
    """What decides a trace besides the step."""
    carry_shapes = tuple([(t.shape, t.dtype) for t in carry[0]])
    x_shapes = tuple([(t.shape[1:], t.dtype) for t in xs[0]])
    return carry_shapes, x_shapes, carry[1], xs[1], masked, current_settings()


def current_settings() -> tuple[Any, ...]:
    """The settings that a trace depends on."""
    return tuple([setting() for setting in SETTINGS])


def _address(step: Any) -> Any:
    """Where the trail of a step is looked for: by the step's code, and by the objects that it closes over."""
    if type(step) is not types.FunctionType:
        return (id(step.__func__), id(step.__self__)) if type(step) is types.MethodType else id(step)
    try:
        contents = [cell.cell_contents for cell in step.__closure__ or ()]
    except ValueError:  # a variable that is not assigned yet
        contents = []
    return (id(step.__code__), *[id(x) for x in contents if type(x) not in _EXCHANGEABLE])


def _known(words: _Words) -> Traced | None:
    with _lock:
        traced = _cache.get(words)
        if traced is not None:
            _cache.move_to_end(words)
        return traced


def _put(memory: OrderedDict[Any, Any], key: Any, value: Any, size: int) -> None:
    with _lock:
        memory[key] = value
        memory.move_to_end(key)
        if len(memory) > size:
            memory.popitem(last=False)


def trace_whole_step(
    step: Callable[..., Any], carry: tuple[list[Tensor], Any], xs: tuple[list[Tensor], Any]
) -> tuple[Traced, list[Any]]:
    """As `trace_step`, always anew and with the nodes that no output needs."""
    reach = Reach(step)
    return _trace(step, carry, xs, False, reach, keep_all=True)[0], reach.arrays


def _trace(step: Any, carry: Any, xs: Any, masked: bool, reach: Reach, keep_all: bool = False) -> tuple[Traced, bool]:
    (carry_leaves, carry_form), (x_leaves, x_form) = carry, xs
    user_step = step.step if masked else step
    carry_names = argument_names(user_step, 0, carry_form)
    x_names = argument_names(user_step, 1, x_form[-1][1] if masked else x_form)
    x_names = ["mask", *x_names] if masked else x_names
    with Trace() as trace, random.drawing_from(_StepSource(trace)) as source:
        carry_in = [trace.input(t.shape, t.dtype, n) for t, n in zip(carry_leaves, carry_names, strict=True)]
        x_in = [trace.input(t.shape[1:], t.dtype, n) for t, n in zip(x_leaves, x_names, strict=True)]
        result = step(trees.unflatten(carry_form, carry_in), trees.unflatten(x_form, x_in))
        new_carry, y = check_result(result, carry_form, carry_leaves)
        carry_out = [trace.operand(t) for t in new_carry]
        y_leaves, y_form = trees.flatten(y)
        y_out = [trace.operand(t) for t in y_leaves]
    name_outputs(trace.nodes)
    places = {id(a): i for i, a in enumerate(reach.arrays)}
    literals = {id(t) for t in trace.literals}
    sources: list[Any] = []
    for outer, inner in trace.closed:
        place = places.get(id(outer))
        sources.append(outer if place is None else place)
        inner.name = inner.name or (None if place is None else reach.labels[place])
        inner.variable = None  # which this run has closed over; another may bring another one
    is_reusable = all(id(outer) in places or id(outer) in literals for outer, _ in trace.closed)
    closed = [inner for _, inner in trace.closed]
    draws = source.key is not None
    if draws:
        closed.append(source.key)
        sources.append("key")
        x_in.append(source.step)
    graph = StepGraph(
        tuple(carry_in),
        tuple(x_in),
        tuple(closed),
        tuple(trace.nodes),
        tuple(carry_out),
        tuple(y_out),
        guard=x_in[0] if masked else None,
        passes=active_passes(),
    )
    return Traced(graph if keep_all else prune(graph), y_form, sources, draws), is_reusable


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
        if not isinstance(new, Tensor):
            new = Tensor(np.asarray(new, old.dtype if isinstance(new, Number) else None))
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
