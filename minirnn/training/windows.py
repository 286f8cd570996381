"""Truncated backpropagation: batches cut along time, recurrent layers that go on where the last window ended.

What a window's loss depends on in earlier windows is only the states that its layers begin with, and those
are plain values: the gradient reaches no further back than the window (Williams & Peng 1990).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from ..autodiff import trees
from ..autodiff.tensor import Tensor
from ..errors import ArgumentError, ShapeError
from ..layers.base import training_scope
from ..layers.functional import Node
from ..layers.ragged import Ragged
from ..streaming.plan import Walk, plan_for
from .data import Batch

_INITIAL = ("initial_state", "states")  # how calls of recurrent layers name what they begin with


class Windows:
    """The windows of `size` steps of a model's batches, and the states that are carried from one to the next.

    Raises ArgumentError, naming the layer, for a model that is not causal in time.
    """

    def __init__(self, model: Any, size: int) -> None:
        if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 1:
            raise ArgumentError("tbptt", got=repr(size), expected="a number of steps, at least 1")
        if model.graph is None:
            raise ArgumentError(
                f"{model.label}: tbptt needs a functional graph, which shows the time axes",
                fix="Model(inputs, outputs) or Sequential",
            )
        self.model, self.size = model, size
        try:
            self.timed, self.plan = plan_for(model.graph, model.label, frozenset())
        except ArgumentError as error:
            raise ArgumentError(
                f"tbptt: {error.what}", got=error.got, fix="tbptt=None, or a model that reads from the first step on"
            ) from None
        if not self.timed:
            raise ArgumentError(
                f"{model.label}: tbptt: no input has a time axis", got=model.input_names, fix="tbptt=None"
            )
        for number in self.timed:
            if model.inputs[number].shape[1] is not None:
                raise ShapeError(
                    f"{model.label}: tbptt cuts the input {model.input_names[number]!r}, but its length is fixed",
                    got=model.inputs[number].shape,
                    fix="Input((None, ...))",
                )
        # By the number of the call: the states that the next window begins with, and those that it ends with.
        self.before: dict[int, Any] = {}
        self.after: dict[int, Any] = {}

    def of(self, batch: Batch) -> Iterator[Batch]:
        """The windows of a batch, the last one of what is left; the states begin anew with the first."""
        time = self._length(batch)
        for output, axis, target in zip(self.model.output_names, self.plan.outputs, batch.targets, strict=True):
            if target is not None and axis != 1:
                raise ArgumentError(
                    f"{self.model.label}: tbptt needs an output at every step, or the earlier windows have no loss",
                    got=f"output {output!r} for whole sequences",
                    fix="return_sequences=True, or tbptt=None",
                )
            if target is not None and not isinstance(target, Ragged) and target.shape[1:2] != (time,):
                raise ShapeError(
                    f"targets of output {output!r}",
                    got=target.shape,
                    expected=f"(batch, time={time}, ...), as the inputs",
                )
        self.before, self.after = {}, {}
        for start in range(0, max(time, 1), self.size):

            def part(x: Any, start: int = start) -> Any:
                stop = start + self.size
                if isinstance(x, Ragged):
                    return x.steps(start, stop)
                return x if x is None or x.shape[1:2] != (time,) else x[:, start:stop]

            yield replace(
                batch,
                inputs=[part(x) if number in self.timed else x for number, x in enumerate(batch.inputs)],
                targets=[part(x) for x in batch.targets],
                weights=[part(x) for x in batch.weights],  # those of whole rows stay
            )
            self.before, self.after = self.after, {}

    def _length(self, batch: Batch) -> int:
        lengths = {self.model.input_names[number]: batch.inputs[number].shape[1] for number in sorted(self.timed)}
        if len(set(lengths.values())) != 1:
            raise ShapeError(
                f"{self.model.label}: tbptt: inputs of one length", got=lengths, expected="one number of steps"
            )
        return next(iter(lengths.values()))

    def run(self, inputs: Sequence[Any], training: bool) -> list[Tensor]:
        """The model's outputs for one window."""
        given = dict(zip(self.model.input_names, inputs, strict=True))
        (values,), _ = self.model._cast_arguments((given,), {})
        with training_scope(training):
            return _Pass(self).through(self.model.graph, trees.flatten(values)[0])


class _Pass(Walk):
    """One run of the model's graph in which recurrent layers begin with the states that are carried."""

    def __init__(self, windows: Windows) -> None:
        super().__init__()
        self.windows = windows

    def visit(self, number: int, node: Node, args: Any, kwargs: Any) -> list[Any]:
        layer: Any = node.layer
        if number not in self.windows.plan.slots:
            return trees.flatten(layer(*args, **kwargs))[0]
        if kwargs.get("teacher") is not None:
            raise ArgumentError(
                f"{layer.label}: tbptt: a window begins with the states of the one before, not with the teacher's",
                got="teacher=",
                fix="tbptt=None, or no teacher",
            )
        before, after = self.windows.before, self.windows.after
        if before:  # what the call itself begins with was for the first window
            kwargs = {name: value for name, value in kwargs.items() if name not in _INITIAL}
        if layer.stateful:
            after[number] = None
            return trees.flatten(layer(*args, **kwargs))[0]
        with _stateful(layer):
            layer.states = before.get(number)
            results = trees.flatten(layer(*args, **kwargs))[0]
            after[number] = layer.states
        return results


@contextmanager
def _stateful(layer: Any) -> Iterator[None]:
    """Within the block the layer keeps its states; afterwards it is as it was."""
    layer.stateful = True
    try:
        yield
    finally:
        layer.states = None
        layer.stateful = False
