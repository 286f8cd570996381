"""One time step of a whole model: the walk that is traced, and the one that finds the initial states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..autodiff import elementwise, ops, trees
from ..autodiff.trace import is_tracing
from ..errors import ArgumentError, MinirnnError
from ..layers.base import training_scope
from ..layers.functional import FunctionGraph, Node
from .plan import WHOLE, Plan, Slot, Walk
from .recurrences import valid_rows


class Step:
    """The step function of a model: `step((states, held), (values, valid)) -> ((states, held), outputs)`.

    states, held: for each recurrent layer a list of its states and of its last outputs, which masked rows
    repeat; values: one time step of the inputs with a time axis; valid: the mask (B,), or None.
    `fixed` has the other inputs in their places, None for those that come step by step.
    """

    def __init__(self, graph: FunctionGraph, plan: Plan, fixed: Sequence[Any], batch: int, label: str) -> None:
        self.graph, self.plan, self.fixed, self.batch, self.label = graph, plan, fixed, batch, label

    def __trace_state__(self) -> Any:
        """Nothing: what the step reads is known by the trace of it, and no other step has the same."""
        return None

    def __call__(self, carry: Any, x: Any) -> Any:
        states, held = carry
        values, valid = x
        walk = _OneStep(self, states, held, valid)
        steps = iter(values)
        inputs = [self._as_sequence(next(steps), valid) if value is None else value for value in self.fixed]
        with training_scope(False):
            outputs = walk.through(self.graph, inputs)
        outputs = [
            y if axis is None else ops.reshape(y, (*y.shape[:axis], *y.shape[axis + 1 :]))
            for y, axis in zip(outputs, self.plan.outputs, strict=True)
        ]
        return (walk.states, walk.held), outputs

    def _as_sequence(self, value: Any, valid: Any) -> Any:
        x = ops.reshape(value, (self.batch, 1, *value.shape[1:]))
        if valid is not None:
            x.mask = ops.reshape(valid, (self.batch, 1))
        return x

    def initial_states(self) -> list[list[Any]]:
        """The states that each recurrent layer begins with, by the present weights."""
        walk = _Beginning(self)
        with training_scope(False):
            walk.through(self.graph, [_LATER if value is None else value for value in self.fixed])
        return walk.states


class _OneStep(Walk):
    """Calls each layer on a sequence of one time step, and recurrent ones by their step."""

    def __init__(self, step: Step, states: Any, held: Any, valid: Any) -> None:
        super().__init__()
        self._step, self._valid = step, valid
        self._old = iter(states)
        self._repeated = None if held is None else iter(held)
        self.states: list[list[Any]] = []
        self.held: list[list[Any]] = []

    def visit(self, number: int, node: Node, args: Any, kwargs: Any) -> list[Any]:
        slot = self._step.plan.slots.get(number)
        if slot is not None:
            return self._recurrent(slot, args, kwargs)
        try:
            results = trees.flatten(node.layer(*args, **kwargs))[0]
        except MinirnnError as error:
            if is_tracing():
                raise self._refuse(node, error.what) from error
            raise
        for x, axis in zip(results, self._step.plan.axes[number], strict=True):
            if axis is not None and (x.ndim <= axis or x.shape[axis] != 1):
                raise self._refuse(node, f"it makes shape {x.shape} of one step")
        return results

    def _refuse(self, node: Node, why: str) -> ArgumentError:
        what = f"{self._step.label}: {node.layer.label} cannot run one time step at a time"
        return ArgumentError(what, got=f"with one step: {why}", fix=f"leave the number of steps open, or {WHOLE}")

    def _recurrent(self, slot: Slot, args: Any, kwargs: Any) -> list[Any]:
        how, axis, batch = slot.recurrence, slot.recurrence.time_axis, self._step.batch
        xs = [ops.reshape(x, (batch, *x.shape[2:])) for x in how.sequences(args)]
        states, last = next(self._old), None if self._repeated is None else next(self._repeated)
        mask = how.mask(args, kwargs)
        valid = None if mask is None else valid_rows(mask, batch)
        if self._valid is not None:  # also where a layer in between lost it
            valid = self._valid if valid is None else ops.logical_and(valid, self._valid)
        if valid is None:
            outputs, new = how.step(args, kwargs, xs, states)
            shown = outputs
        else:
            # What stands in masked rows is not looked at, as in a scan with a mask.
            seen = [[_selected(valid, x) for x in group] for group in (xs, states)]
            outputs, new = how.step(args, kwargs, *seen)
            outputs = [_selected(valid, y, b) for y, b in zip(outputs, last or [None] * len(outputs), strict=True)]
            new = [_selected(valid, s, old) for s, old in zip(new, states, strict=True)]
            shown = [_selected(valid, y) for y in outputs] if how.zero_if_masked else outputs
        self.states.append(list(new))
        self.held.append(list(outputs))
        timed, masked = how.timed(len(shown)), how.masked(len(shown))
        results = []
        for index, y in enumerate(shown):
            if index < timed:
                lead = (batch, 1) if axis else (1, batch)
                y = ops.reshape(y, (*lead, *y.shape[1:]))
                y.mask = ops.reshape(valid, lead) if valid is not None and index < masked else None
            results.append(y)
        return [*results, *(new if how.returns_states else ())]


def _selected(valid: Any, value: Any, otherwise: Any = None) -> Any:
    """Rows of `value` where they count, else those of another array, or zeros."""
    if otherwise is None:
        otherwise = 0.0 if value.dtype.kind in "fc" else False if value.dtype.kind == "b" else 0
    return elementwise.select(ops.reshape(valid, valid.shape + (1,) * (value.ndim - 1)), value, otherwise)


_LATER = object()  # the value of what is not known before the first step


class _Beginning(Walk):
    """Computes what does not change over time, as far as the recurrent layers' initial states need it."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self._step = step
        self.states: list[list[Any]] = []

    def visit(self, number: int, node: Node, args: Any, kwargs: Any) -> list[Any]:
        slot = self._step.plan.slots.get(number)
        if slot is not None:
            self.states.append(slot.recurrence.begin(self._step.batch, slot.steps, kwargs))
        elif all(leaf is not _LATER for leaf in trees.flatten((args, kwargs))[0]):
            return trees.flatten(node.layer(*args, **kwargs))[0]
        return [_LATER] * len(node.outputs)
