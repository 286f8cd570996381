"""`scan`: a step run over time, the one loop that everything else is built on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from . import config
from .autodiff import elementwise, ops, random, structure, trees
from .autodiff.primitive import MIXED, SHARED, Primitive
from .autodiff.tensor import Tensor, abstract, apply, as_tensor, is_recorded
from .errors import ArgumentError, ShapeError
from .stepgraph import interpret
from .stepgraph.adjoint import adjoint, is_float, linearize
from .stepgraph.graph import StepGraph
from .stepgraph.trace import check_result, trace_step


def scan(
    step: Callable[[Any, Any], tuple[Any, Any]],
    init: Any,
    xs: Any,
    length: int | None = None,
    reverse: bool = False,
    mask: Any = None,
    engine: str | None = None,
    checkpoint: int | None = None,
) -> tuple[Any, Any]:
    """Run `step(carry, x) -> (carry, y)` over the first axis of xs; returns (carry, ys).

    init, xs and y may be nested tuples, lists and dicts.  xs: (T, B, ...), or None with `length`;
    ys: (T, B, ...), each y at the index of its x also with `reverse`, which goes from T - 1 to 0.
    mask: bool (T, B); where it is False the carry is held, y repeats the previous one (zeros before
    the first), and x is not looked at.  checkpoint=k keeps every k-th carry for the gradient and
    computes the rest again.  engine: see `minirnn.engine`.  What the step closes over is
    differentiated too.  Without mask it is this loop:

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
    carry, sequences, steps = _inputs(init, xs, length)
    valid = None if mask is None else _mask(mask, carry[0] + sequences[0], steps, bool(sequences[0]))
    if checkpoint is not None and (not isinstance(checkpoint, (int, np.integer)) or checkpoint < 1):
        raise ArgumentError("scan: checkpoint", got=checkpoint, expected="a number of steps, 1 or more")
    run = _Masked(step) if valid is not None else step
    if valid is not None:
        sequences = trees.flatten((valid, trees.unflatten(sequences[1], sequences[0])))
    if config.current_engine(engine) == "reference":
        final, ys, y_form = _reference(run, carry, sequences, steps, reverse)
    elif checkpoint is not None and checkpoint < steps:
        final, ys, y_form = _checkpointed(run, carry, sequences, steps, reverse, int(checkpoint), valid is not None)
    else:
        final, ys, y_form = _traced(run, carry, sequences, steps, reverse, valid is not None)
    if valid is not None:
        ys = [hold(y, valid, reverse) for y in ys]
    return trees.unflatten(carry[1], final), trees.unflatten(y_form, ys)


Leaves = tuple[list[Tensor], Any]


def _inputs(init: Any, xs: Any, length: int | None) -> tuple[Leaves, Leaves, int]:
    carry_leaves, carry_form = trees.flatten(init)
    x_leaves, x_form = trees.flatten(xs)
    carry = [as_tensor(leaf) for leaf in carry_leaves]
    sequences = [as_tensor(leaf) for leaf in x_leaves]
    lengths = {t.shape[0] if t.shape else None for t in sequences}
    if None in lengths:
        raise ShapeError("scan: xs without a time axis", got="shape ()", expected="(T, B, ...)")
    if len(lengths) > 1:
        raise ShapeError("scan: the xs have different lengths", got=sorted(lengths, key=str), expected="one length T")
    if not lengths and length is None:
        raise ArgumentError("scan: without xs, length is needed", got="xs=None and length=None", expected="length=T")
    steps = lengths.pop() if lengths else length
    if length is not None and (steps != length or not isinstance(length, (int, np.integer)) or length < 0):
        raise ArgumentError("scan: length", got=length, expected=f"{steps}, the length of xs" if x_leaves else ">= 0")
    assert steps is not None
    return (carry, carry_form), (sequences, x_form), int(steps)


def _mask(mask: Any, leaves: list[Tensor], steps: int, has_xs: bool) -> Tensor:
    valid = as_tensor(mask)
    valid = valid if valid.dtype.kind == "b" else ops.not_equal(valid, 0)
    if valid.ndim == 3 and valid.shape[2] == 1:
        valid = ops.reshape(valid, valid.shape[:2])
    batch = leaves[0].shape[0] if leaves[0].shape else None
    if has_xs:
        batch = leaves[-1].shape[1] if leaves[-1].ndim > 1 else None
    if valid.shape != (steps, batch):
        raise ShapeError("scan: mask", got=valid.shape, expected=f"(T={steps}, B={batch})")
    return valid


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
            _check_rows(valid, leaf, "y")
        held = [elementwise.select(_along(valid, b), a, b) for a, b in zip(new, old, strict=True)]
        return trees.unflatten(form, held), y


def _zero(value: Tensor) -> Any:
    return 0.0 if is_float(value) else False if value.dtype.kind == "b" else 0


def _along(valid: Tensor, value: Tensor) -> Tensor:
    """The mask of a step with axes of size 1 for the features of `value`."""
    _check_rows(valid, value, "carry and x")
    return structure.reshape(valid, valid.shape + (1,) * (value.ndim - 1))


def _check_rows(valid: Tensor, value: Tensor, what: str) -> None:
    if value.shape[:1] != valid.shape:
        raise ShapeError(
            f"scan: with a mask every {what} has the batch as its first axis",
            got=value.shape,
            expected=f"(B={valid.shape[0]}, ...)",
        )


def hold(ys: Tensor, valid: Tensor, reverse: bool) -> Tensor:
    """In each masked step the y of the last valid step before it, zeros where there is none."""
    steps, batch = valid.shape
    if not steps or not batch:
        return ys
    if valid.is_abstract:
        index = apply(_last_valid, valid, reverse=reverse)
    else:
        index = Tensor(_last_valid_forward(valid.value, reverse))
    flat = structure.reshape(ys, (steps * batch, *ys.shape[2:]))
    rows = structure.take(flat, structure.reshape(ops.maximum(index, 0), (steps * batch,)))
    exists = structure.reshape(ops.greater_equal(index, 0), (steps, batch) + (1,) * (ys.ndim - 2))
    return elementwise.select(exists, structure.reshape(rows, ys.shape), _zero(ys))


def _last_valid_forward(valid: np.ndarray, reverse: bool) -> np.ndarray:
    """Per (t, b) the flat index t' * B + b of the last valid step up to t, or -1."""
    steps, batch = valid.shape
    times = np.where(valid, np.arange(steps)[:, None], steps if reverse else -1)
    last = np.minimum.accumulate(times[::-1])[::-1] if reverse else np.maximum.accumulate(times)
    exists = (last >= 0) & (last < steps)
    return np.where(exists, last * batch + np.arange(batch), -1)


_last_valid = Primitive(
    "last_valid",
    _last_valid_forward,
    None,
    shape=lambda primitive, operands, params: (operands[0].shape, np.dtype("int64")),
    form="reduce",
    rows=lambda classes, operands, node: MIXED if classes[0] != SHARED else SHARED,
    unified=None,
    analytic=False,
    samples=lambda rng: ([rng.random((4, 3)) > 0.5], {"reverse": False}),
)


# the reference engine ----------------------------------------------------------------------------
def _reference(step: Any, carry: Leaves, xs: Leaves, steps: int, reverse: bool) -> tuple[list[Tensor], list[Tensor], Any]:
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


def _no_steps(step: Any, carry: Leaves, xs: Leaves) -> tuple[list[Tensor], list[Tensor], Any]:
    """The result of a scan over no time: the initial carry, and ys of length 0."""
    traced, _ = trace_step(step, carry, ([_one_step(x) for x in xs[0]], xs[1]))
    return carry[0], [ops.zeros((0, *y.shape), y.dtype) for y in traced.graph.ys], traced.y_form


# the traced engines ------------------------------------------------------------------------------
def _one_step(x: Tensor) -> Tensor:
    return abstract(x.shape[1:], x.dtype, x.name)


Clock = tuple[Any, Tensor]  # the random numbers' key, and the index of each step


def _traced(
    step: Any,
    carry: Leaves,
    xs: Leaves,
    steps: int,
    reverse: bool,
    masked: bool,
    keep: str = "residuals",
    clock: Clock | None = None,
) -> tuple[list[Tensor], list[Tensor], Any]:
    """Run the step graph of `step`, as one node."""
    traced, reachable = trace_step(step, carry, ([_one_step(x) for x in xs[0]], xs[1]), masked)
    graph = traced.graph if keep == "residuals" else _keeping(traced.graph, keep)
    key, times = (clock or _new_clock(steps)) if traced.draws else (None, None)
    sequences = [*xs[0], times] if traced.draws else xs[0]
    outputs = run_graph(graph, carry[0], sequences, traced.closed(reachable, key), steps, reverse)
    count = len(graph.carry_in)
    return list(outputs[:count]), list(outputs[count : count + len(graph.ys)]), traced.y_form


def _new_clock(steps: int) -> Clock:
    return random.next_key(), ops.arange(steps)


def _keeping(graph: StepGraph, keep: str) -> StepGraph:
    key = ("keeping", keep)
    if key not in graph.cache:
        graph.cache[key] = replace(graph, keep=keep, cache={})
    return graph.cache[key]


def run_graph(
    graph: StepGraph, init: list[Any], xs: list[Any], closed: list[Any], length: int, reverse: bool
) -> tuple[Tensor, ...]:
    """Apply a step graph over time as one node; while something records, also stack its residuals."""
    operands = [*init, *xs, *closed]
    if not is_recorded(operands):
        return apply(_scan, *operands, graph=graph, length=length, reverse=reverse)
    outputs = apply(_scan, *operands, graph=linearize(graph), length=length, reverse=reverse)
    first_sum = len(graph.carry_out) + len(graph.ys)
    return outputs[:first_sum] + outputs[len(outputs) - len(graph.sums) :]


def _checkpointed(
    step: Any, carry: Leaves, xs: Leaves, steps: int, reverse: bool, size: int, masked: bool
) -> tuple[list[Tensor], list[Tensor], Any]:
    """A scan over segments of `size` steps, each a scan of its own that the backward runs again.

    What is left over runs as one more scan, first or last in the order of time.
    """
    segments, rest = divmod(steps, size)
    whole = segments * size
    traced, _ = trace_step(step, carry, ([_one_step(x) for x in xs[0]], xs[1]), masked)
    # A step that draws random numbers is told which step of the whole it is.
    key, times = _new_clock(steps) if traced.draws else (None, ops.zeros((steps,), "int64"))
    sequences = [*xs[0], times]

    def run(leaves: list[Tensor], cut: list[Tensor], n: int) -> tuple[list[Tensor], list[Tensor], Any]:
        return _traced(step, (leaves, carry[1]), (cut[:-1], xs[1]), n, reverse, masked, clock=(key, cut[-1]))

    def segment(inner_carry: Any, inner_xs: Any) -> Any:
        leaves, ys, _ = run(inner_carry, inner_xs, size)
        return leaves, ys

    def run_segments(leaves: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        cut = [structure.reshape(x[:whole], (segments, size, *x.shape[1:])) for x in sequences]
        final, ys, _ = _traced(segment, trees.flatten(leaves), trees.flatten(cut), segments, reverse, False, keep="carry")
        return final, [structure.reshape(y, (whole, *y.shape[2:])) for y in ys]

    def run_rest(leaves: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        return run(leaves, [x[whole:] for x in sequences], rest)[:2]

    if not rest:
        return *run_segments(carry[0]), traced.y_form
    first, second = (run_rest, run_segments) if reverse else (run_segments, run_rest)
    leaves, first_ys = first(carry[0])
    leaves, second_ys = second(leaves)
    pieces = zip(second_ys, first_ys, strict=True) if reverse else zip(first_ys, second_ys, strict=True)
    return leaves, [ops.concatenate(list(pair)) for pair in pieces], traced.y_form


# the primitive -----------------------------------------------------------------------------------
# Operands: initial carry, xs, closed-over inputs.  Outputs: final carry, ys, sums over time.
def _scan_forward(*arrays: Any, graph: StepGraph, length: int, reverse: bool) -> list[Any]:
    return interpret.run(graph, list(arrays), length, reverse)


def _scan_shape(primitive: Primitive, operands: Any, params: Any) -> Any:
    graph, length = params["graph"], params["length"]
    carry = [(t.shape, t.dtype) for t in graph.carry_out]
    return [*carry, *[((length, *t.shape), t.dtype) for t in graph.ys], *[(t.shape, t.dtype) for t in graph.sums]]


def _scan_vjp(cts: Any, outs: Any, *inputs: Any, graph: StepGraph, length: int, reverse: bool, needed: Any) -> Any:
    """Another scan: the adjoint step over the residuals, in the other direction of time."""
    carries, xs = len(graph.carry_in), len(graph.xs)
    cts = list(cts)
    for i, (t, out) in enumerate(zip(graph.carry_out, outs, strict=False)):
        if is_float(t) and cts[i] is None:
            cts[i] = ops.zeros_like(out)
    floating = tuple(is_float(t) for t in graph.inputs)
    needed = tuple(is_carry or need for is_carry, need in zip([True] * carries + [False] * len(needed), needed))
    needed = tuple(a and b for a, b in zip(needed, floating, strict=True))
    has_ct = tuple(ct is not None for ct in cts)
    backward = adjoint(graph, has_ct, needed)
    first_y, first_sum = carries, carries + len(graph.ys)
    residuals = list(outs[first_sum - graph.residuals : first_sum])
    outputs = run_graph(
        backward,
        [ct for ct in cts[:carries] if ct is not None],
        [*inputs[carries : carries + xs], *residuals, *[ct for ct in cts[first_y:first_sum] if ct is not None]],
        [*inputs[carries + xs :], *[ct for ct in cts[first_sum:] if ct is not None]],
        length,
        not reverse,
    )
    found = iter(outputs)
    return [next(found) if need else None for need in needed]


def _scan_rows(classes: list[str], operands: Any, node: Any) -> str:
    return SHARED if all(c == SHARED for c in classes) else MIXED


_scan = Primitive(
    "scan",
    _scan_forward,
    _scan_vjp,
    shape=_scan_shape,
    form="scan",
    rows=_scan_rows,
    unified=None,
    multiple=True,
    selective=True,
)
