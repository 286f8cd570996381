"""`scan`: a step run over time, the one loop that everything else is built on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from . import config
from .autodiff import elementwise, ops, random, structure, trees
from .autodiff.holding import hold
from .autodiff.tensor import Tensor, as_tensor, is_recording
from .errors import ArgumentError, ShapeError, TraceError
from .loop import COMPILED, printed_loop, run_graph
from .stepgraph.adjoint import gradient_graph, is_float
from .stepgraph.graph import StepGraph, prune
from .stepgraph.trace import Traced, check_result, current_settings, trace_step, trace_whole_step, trail_of


def scan(
    step: Callable[[Any, Any], tuple[Any, Any]],
    init: Any,
    xs: Any,
    length: int | None = None,
    reverse: bool = False,
    mask: Any = None,
    engine: str | None = None,
    checkpoint: int | None = None,
    reset: Any = None,
) -> tuple[Any, Any]:
    """Run `step(carry, x) -> (carry, y)` over the first axis of xs; returns (carry, ys).

    init, xs and y may be nested tuples, lists and dicts.  xs: (T, B, ...), or None with `length`;
    ys: (T, B, ...), each y at the index of its x also with `reverse`, which goes from T - 1 to 0.
    mask: bool (T, B); where it is False the carry is held, y repeats the previous one (zeros before
    the first), and x is not looked at.  checkpoint=k keeps every k-th carry for the gradient and
    computes the rest again.  reset: bool (T, B); where it is True a row begins the step with `init`,
    as if nothing had come before it.  engine: see `minirnn.engine`.  What the step closes over is
    differentiated too.  All engines but "reference" run the step's Python only once, on shapes, and
    remember what it did: random numbers come from `minirnn.random`, not NumPy.  Without mask it is
    this loop:

        carry, ys = init, []
        for t in range(T):
            carry, y = step(carry, xs[t])
            ys.append(y)
        return carry, stack(ys)

    Raises ShapeError and DtypeError if the step changes the carry's shape or dtype, or the lengths
    of xs differ, and TraceError if the step looks at values.

    >>> import numpy as np
    >>> total, running = scan(lambda s, x: (s + x, s + x), np.zeros(1), np.array([[1.0], [2.0], [4.0]]))
    >>> running.numpy().ravel().tolist()
    [1.0, 3.0, 7.0]
    """
    if not callable(step):
        raise ArgumentError("scan: step", got=repr(step), expected="a function (carry, x) -> (carry, y)")
    if checkpoint is not None and not _is_count(checkpoint, 1):
        raise ArgumentError("scan: checkpoint", got=repr(checkpoint), expected="a number of steps, 1 or more")
    if engine is not None:
        with config.engine_here(engine):
            return scan(step, init, xs, length, reverse, mask, None, checkpoint, reset)
    engine = config.current_engine()
    if engine != "reference" and checkpoint is mask is reset is None:
        carry, sequences, steps = _inputs(init, xs, length, borrows=not is_recording())
        final, ys, y_form = _traced(step, carry, sequences, steps, engine, reverse)
        return trees.unflatten(carry[1], final), trees.unflatten(y_form, ys)
    carry, sequences, steps = _inputs(init, xs, length)
    valid, begins = (
        None if given is None else _flags(what, given, carry[0], sequences[0], steps)
        for what, given in (("mask", mask), ("reset", reset))
    )
    if begins is not None:
        # A row that begins anew in a masked step may as well do so in its next valid one.
        at = begins if valid is None else ops.logical_and(valid, ops.logical_not(preceded(valid, reverse, begins)))
        step = _beginning_anew(step, carry[0])
        sequences = trees.flatten((at, trees.unflatten(sequences[1], sequences[0])))
    if valid is not None:
        step, sequences = _Masked(step), trees.flatten((valid, trees.unflatten(sequences[1], sequences[0])))
    if engine == "reference":
        final, ys, y_form = _reference(step, carry, sequences, steps, reverse)
    elif checkpoint is not None and checkpoint < steps:
        final, ys, y_form = _checkpointed(step, carry, sequences, steps, engine, reverse, int(checkpoint))
    else:
        final, ys, y_form = _traced(step, carry, sequences, steps, engine, reverse)
    if valid is not None:
        ys = [hold(y, valid, reverse, begins) for y in ys]
        if begins is not None and steps:
            seen = _seen(valid, reverse, begins)[0 if reverse else -1]
            final = [elementwise.select(_along(seen, a), a, b) for a, b in zip(final, carry[0], strict=True)]
    return trees.unflatten(carry[1], final), trees.unflatten(y_form, ys)


def scan_values(
    step: Callable[[Any, Any], tuple[Any, Any]],
    init: Any,
    xs: Any,
    names: Sequence[str] | None = None,
    length: int | None = None,
) -> dict[str, Tensor]:
    """The values to which the step's source gives a name, over all time steps: {name: (T, B, ...)}.

    Takes what `scan` takes; a name that is assigned more than once stands for the last value.
    names: those wanted, all by default.  Raises ArgumentError if one of them is not there.

    >>> import numpy as np
    >>> def step(h, x):
    ...     gate = ops.sigmoid(x)
    ...     new = gate * h + x
    ...     return new, None
    >>> values = scan_values(step, np.zeros(1), np.array([[0.0], [2.0]]), names=["gate", "new"])
    >>> values["new"].numpy().ravel().tolist()
    [0.0, 2.0]
    """
    carry, sequences, steps = _inputs(init, xs, length)
    traced, reachable = trace_whole_step(step, carry, sequences)
    found = traced.graph.named_values()
    unknown = [name for name in names or () if name not in found]
    if unknown:
        raise ArgumentError("scan_values: the step has no value of this name", got=unknown, expected=sorted(found))
    wanted = {name: found[name] for name in (found if names is None else names)}
    graph = prune(replace(traced.graph, ys=tuple(wanted.values()), cache={}))
    inputs, closed = _run_inputs(traced, sequences[0], reachable, steps, None)
    outputs = run_graph(graph, [*carry[0], *inputs, *closed], steps, False, config.current_engine())
    return dict(zip(wanted, outputs[len(carry[0]) :], strict=True))


def step_graph(step: Callable[[Any, Any], tuple[Any, Any]], init: Any, xs: Any, pass_: str = "forward") -> StepGraph:
    """The step as recorded on shapes; `str()` prints it one node a line, with the source line of each.

    Takes what `scan` takes.  pass_="backward" gives the step of the gradient, which reads the
    residuals and runs over time in the other direction.  Raises as `scan` does.

    >>> import numpy as np
    >>> print(step_graph(lambda h, x: (h * x, None), np.zeros((2, 3)), np.zeros((5, 2, 3))))
    carry: h: f64(2, 3)
    x: x: f64(2, 3)
    closed: nothing
      v2 = multiply(h, x) ...
    carry -> v2
    y -> nothing
    sum -> nothing
    """
    if pass_ not in ("forward", "backward"):
        raise ArgumentError("step_graph: pass_", got=repr(pass_), expected='"forward" or "backward"')
    carry, sequences, _ = _inputs(init, xs, None if trees.flatten(xs)[0] else 1)
    graph = trace_step(step, carry, sequences)[0].graph
    return graph if pass_ == "forward" else gradient_graph(graph)


def scan_source(
    step: Callable[[Any, Any], tuple[Any, Any]], init: Any, xs: Any, pass_: str = "forward", engine: str = "cpu"
) -> str:
    """The loop that a compiled engine runs for the step: plain Python, with the step's own names and lines.

    Takes what `step_graph` takes, and raises as it does; ArgumentError for an engine without a compiler.
    engine="cuda" gives the kernels of the schedule in force (`mr.config.schedule`) and how they are launched;
    it needs neither a GPU nor numba-cuda.

    >>> import numpy as np
    >>> text = scan_source(lambda h, x: (h * x, None), np.zeros((2, 3)), np.zeros((5, 2, 3)))
    >>> [line.split("#")[0].strip() for line in text.splitlines() if "h * x" in line]
    ['v2 = h * x']
    """
    if engine not in COMPILED:
        raise ArgumentError("scan_source: engine", got=repr(engine), expected=" or ".join(f'"{e}"' for e in COMPILED))
    return printed_loop(step_graph(step, init, xs, pass_), engine)


Leaves = tuple[list[Any], Any]
Results = tuple[Sequence[Tensor], Sequence[Tensor], Any]  # carry, ys, form of y


def _inputs(init: Any, xs: Any, length: int | None, borrows: bool = False) -> tuple[Leaves, Leaves, int]:
    """The leaves as Tensors; if it `borrows`, arrays stay as they are."""
    carry_leaves, carry_form = trees.flatten(init)
    x_leaves, x_form = trees.flatten(xs)
    sequences = [_entered(x, borrows) for x in x_leaves]
    carry = [x if type(x) in _FLOATS else _entered(x, borrows) for x in carry_leaves]
    if not _FLOATS.isdisjoint(map(type, carry)):
        floats = [x.dtype for x in [*sequences, *carry] if type(x) not in _FLOATS and x.ndim and x.dtype.kind == "f"]
        # A number adapts to the arrays that it will meet.
        carry = [as_tensor(x, floats[0] if floats else None) if type(x) in _FLOATS else x for x in carry]
    lengths = {t.shape[0] if t.shape else None for t in sequences}
    if None in lengths:
        raise ShapeError("scan: xs without a time axis", got="shape ()", expected="(T, B, ...)")
    if len(lengths) > 1:
        raise ShapeError("scan: the xs have different lengths", got=sorted(lengths, key=str), expected="one length T")
    if not lengths and length is None:
        raise ArgumentError("scan: without xs, length is needed", got="xs=None and length=None", expected="length=T")
    steps = lengths.pop() if lengths else length
    if length is not None and not (_is_count(length, 0) and steps == length):
        expected = f"{steps}, the length of xs" if x_leaves else "a number of steps, 0 or more"
        raise ArgumentError("scan: length", got=repr(length), expected=expected)
    assert steps is not None
    return (carry, carry_form), (sequences, x_form), int(steps)


_FLOATS = {float, np.float16, np.float32, np.float64, np.longdouble}


def _entered(x: Any, borrows: bool) -> Any:
    kind = type(x)
    is_plain = kind is Tensor or (borrows and kind is np.ndarray and x.ndim and x.dtype.kind in "fciub")
    return x if is_plain else as_tensor(x)


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and int(value) >= least


def _flags(what: str, given: Any, carry: list[Tensor], xs: list[Tensor], steps: int) -> Tensor:
    """A mask or a reset as booleans (T, B); ShapeError unless it fits the carry and the xs."""
    flags = as_tensor(given)
    flags = flags if flags.dtype.kind == "b" else ops.not_equal(flags, 0)
    if flags.ndim == 3 and flags.shape[2] == 1:
        flags = ops.reshape(flags, flags.shape[:2])
    for name, leaf, axes in [*(("x", x, x.shape[1:]) for x in xs), *(("carry", c, c.shape) for c in carry)]:
        if not axes:
            expected = "(T, B, ...)" if name == "x" else "(B, ...)"
            raise ShapeError(f"scan: with a {what} every {name} has a batch axis", got=leaf.shape, expected=expected)
        if flags.shape != (steps, axes[0]):
            raise ShapeError(f"scan: the {what} does not fit the {name}", got=flags.shape, expected=(steps, axes[0]))
    if flags.ndim != 2 or flags.shape[0] != steps:
        raise ShapeError(f"scan: {what}", got=flags.shape, expected=f"(T={steps}, B)")
    return flags


def _beginning_anew(step: Callable[[Any, Any], Any], init: list[Tensor]) -> Callable[[Any, Any], Any]:
    """The step, with `init` in the place of the carry in the rows that begin anew; its x is (which rows, x)."""

    def begin_anew(carry: Any, begins_and_x: Any) -> Any:
        begins, x = begins_and_x
        leaves, form = trees.flatten(carry)
        leaves = [elementwise.select(_along(begins, a), b, a) for a, b in zip(leaves, init, strict=True)]
        return step(trees.unflatten(form, leaves), x)

    return begin_anew


def preceded(valid: Tensor, reverse: bool, begins: Tensor | None = None) -> Tensor:
    """Per (t, b) whether a valid step has come before, since the row began anew the last time."""
    seen = _seen(valid, reverse, begins)
    none = ops.zeros((min(1, valid.shape[0]), valid.shape[1]), bool)
    before = ops.concatenate([seen[1:], none] if reverse else [none, seen[:-1]])
    return before if begins is None else ops.logical_and(before, ops.logical_not(begins))


def _seen(valid: Tensor, reverse: bool, begins: Tensor | None) -> Tensor:
    return hold(ops.full(valid.shape, True, bool), valid, reverse, begins)


class _Masked:
    """A step that holds the carry in masked rows and shows the wrapped step zeros there.

    Zeros in place of x and of the carry keep what stands in a masked row out of every result, and
    the selections' own vjp keeps it out of every cotangent.
    """

    def __init__(self, step: Callable[[Any, Any], Any]) -> None:
        self.step = step

    def __call__(self, carry: Any, valid_and_x: Any) -> tuple[Any, Any]:
        valid, x = valid_and_x

        def only_valid(value: Tensor) -> Tensor:
            return elementwise.select(_along(valid, value), value, _zero(value))

        old, form = trees.flatten(carry)
        result = self.step(trees.map(only_valid, carry), trees.map(only_valid, x))
        new, y = check_result(result, form, old)
        y = trees.map(as_tensor, y)
        for leaf in trees.flatten(y)[0]:
            if leaf.shape[:1] != valid.shape:
                expected = f"(B={valid.shape[0]}, ...)"
                raise ShapeError("scan: with a mask every y has a batch axis", got=leaf.shape, expected=expected)
        held = [elementwise.select(_along(valid, b), a, b) for a, b in zip(new, old, strict=True)]
        return trees.unflatten(form, held), y


def _zero(value: Tensor) -> Any:
    return 0.0 if is_float(value) else False if value.dtype.kind == "b" else 0


def _along(valid: Tensor, value: Tensor) -> Tensor:
    """The mask of a step with axes of size 1 for the features of `value`."""
    return structure.reshape(valid, valid.shape + (1,) * (value.ndim - 1))


# the reference engine ----------------------------------------------------------------------------
def _reference(step: Any, carry: Leaves, xs: Leaves, steps: int, reverse: bool) -> Results:
    """The loop of the docstring, eager on the tape: any Python is allowed in the step."""
    if steps == 0:
        return _no_steps(step, carry, xs)
    leaves, form = carry
    collected: list[list[Tensor]] = []
    key, outer = None, random.current_source()
    for t in reversed(range(steps)) if reverse else range(steps):
        source = _LazyKey(key, t, outer)
        with random.drawing_from(source):
            result = step(trees.unflatten(form, leaves), trees.unflatten(xs[1], [x[t] for x in xs[0]]))
        key = source.key
        leaves, y = check_result(result, form, leaves)
        y_leaves, y_form = trees.flatten(y)
        collected.append([as_tensor(leaf) for leaf in y_leaves])
    if reverse:
        collected.reverse()
    return leaves, [ops.stack(column) for column in zip(*collected, strict=True)], y_form


class _LazyKey(random.Source):
    """Draws of one step; the call's key is made when the first number is drawn, as a traced scan does."""

    def __init__(self, key: Any, step: int, outer: random.Source | None) -> None:
        super().__init__(key, step)
        self.outer = outer

    def next_draw(self) -> int:
        if self.key is None:
            with random.drawing_from(self.outer):
                self.key = random.next_key()
        return super().next_draw()


def _no_steps(step: Any, carry: Leaves, xs: Leaves) -> Results:
    """The result of a scan over no time: the initial carry, and ys of length 0."""
    try:
        return _traced(step, carry, xs, 0, "numpy", False)
    except TraceError:  # the step looks at values: it is shown zeros
        zeros = [ops.zeros(x.shape[1:], x.dtype) for x in xs[0]]
        with np.errstate(all="ignore"), random.drawing_from(random.Source(np.zeros(2, np.int64), 0)):
            result = step(trees.unflatten(carry[1], carry[0]), trees.unflatten(xs[1], zeros))
            _, y = check_result(result, carry[1], carry[0])
        leaves, y_form = trees.flatten(y)
        return carry[0], [ops.zeros((0, *t.shape), t.dtype) for t in map(as_tensor, leaves)], y_form


# the traced engines ------------------------------------------------------------------------------
Clock = tuple[Any, Tensor]  # the random numbers' key, and the index of each step


def _traced(
    step: Any,
    carry: Leaves,
    xs: Leaves,
    steps: int,
    engine: str,
    reverse: bool,
    keep: str = "residuals",
    clock: Clock | None = None,
) -> Results:
    """Run the step graph of `step`, as one node."""
    traced, reachable = trace_step(step, carry, xs, type(step) is _Masked)
    graph = traced.graph if keep == "residuals" else _keeping(traced.graph, keep)
    inputs, closed = _run_inputs(traced, xs[0], reachable, steps, clock)
    outputs = run_graph(graph, [*carry[0], *inputs, *closed], steps, reverse, engine)
    count = len(carry[0])
    return outputs[:count], outputs[count : count + len(graph.ys)], traced.y_form


class Rerun:
    """A scan of a step, to be run again for arrays of the same shapes; its ys may be (B, T, ...).

    What was checked the first time is not checked again; whether the step is still the same is.
    """

    def __init__(
        self, step: Callable[[Any, Any], Any], init: Any, xs: Any, length: int, reverse: bool, batch_first: bool
    ) -> None:
        self.step, self.steps, self.reverse, self.batch_first = step, length, reverse, batch_first
        self.settings, self.engine = current_settings(), config.current_engine()
        trail = trail_of(step, trees.flatten(init), trees.flatten(xs))
        found = trail.follow(step) if trail else None
        self.found = None if trail is None or found is None else (found[0], trail.sight)

    def __call__(self, carry: list[Any], sequences: list[Any], step: Any = None) -> Results | None:
        """The leaves of what `scan` returns, and the form of ys; None if `scan` itself has to be called.

        step: one that differs in the arrays that it closes over.
        """
        if self.found is None or current_settings() != self.settings:
            return None
        traced, sight = self.found
        reachable = sight.arrays_of(self.step if step is None else step)
        if reachable is None:
            return None
        inputs, closed = _run_inputs(traced, sequences, reachable, self.steps, None)
        graph, count = traced.graph, len(carry)
        outputs = run_graph(graph, [*carry, *inputs, *closed], self.steps, self.reverse, self.engine, self.batch_first)
        return outputs[:count], outputs[count : count + len(graph.ys)], traced.y_form


def _run_inputs(
    traced: Traced, sequences: list[Tensor], reachable: list[Any], steps: int, clock: Clock | None
) -> tuple[list[Tensor], list[Any]]:
    """The xs and the closed-over values of a run; key and step index are among them if the step draws."""
    if not traced.draws:
        return sequences, traced.closed(reachable, None)
    key, times = clock or _new_clock(steps)
    return [*sequences, times], traced.closed(reachable, key)


def _new_clock(steps: int) -> Clock:
    return random.next_key(), ops.arange(steps)


def _keeping(graph: StepGraph, keep: str) -> StepGraph:
    key = ("keeping", keep)
    if key not in graph.cache:
        graph.cache[key] = replace(graph, keep=keep, cache={})
    return graph.cache[key]


def _checkpointed(step: Any, carry: Leaves, xs: Leaves, steps: int, engine: str, reverse: bool, size: int) -> Results:
    """A scan over segments of `size` steps, each a scan of its own that the backward runs again.

    What is left over runs as one more scan, first or last in the order of time.
    """
    segments, rest = divmod(steps, size)
    whole = segments * size
    traced, _ = trace_step(step, carry, xs, type(step) is _Masked)
    # A step that draws random numbers is told which step of the whole it is.
    key, times = _new_clock(steps) if traced.draws else (None, ops.zeros((steps,), "int64"))
    sequences = [*xs[0], times]

    def run(leaves: Sequence[Tensor], cut: list[Tensor], n: int) -> Results:
        return _traced(step, (list(leaves), carry[1]), (cut[:-1], xs[1]), n, engine, reverse, clock=(key, cut[-1]))

    def segment(inner_carry: Any, inner_xs: Any) -> Any:
        leaves, ys, _ = run(inner_carry, inner_xs, size)
        return leaves, ys

    def run_segments(leaves: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        cut = [structure.reshape(x[:whole], (segments, size, *x.shape[1:])) for x in sequences]
        first, pieces = trees.flatten(leaves), trees.flatten(cut)
        final, ys, _ = _traced(segment, first, pieces, segments, engine, reverse, keep="carry")
        return final, [structure.reshape(y, (whole, *y.shape[2:])) for y in ys]

    def run_rest(leaves: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        return run(leaves, [x[whole:] for x in sequences], rest)[:2]

    if not rest:
        return *run_segments(carry[0]), traced.y_form
    first, second = (run_rest, run_segments) if reverse else (run_segments, run_rest)
    leaves, first_ys = first(carry[0])
    leaves, second_ys = second(leaves)
    pieces = zip(second_ys, first_ys, strict=True) if reverse else zip(first_ys, second_ys, strict=True)
    return leaves, [ops.concatenate(list(pair)) for pair in pieces], traced.y_form
