"""The loop of fit, evaluate and predict: batches, steps, epochs, callbacks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..autodiff import random, trees
from ..autodiff.tape import Tape
from ..autodiff.tensor import Tensor
from ..errors import ArgumentError
from ..layers.base import Layer, training_scope
from .callbacks import CallbackList
from .compiled import Compiled
from .data import Batch, Samples
from .interrupts import Uninterrupted
from .nonfinite import all_finite, explain, explain_gradient, explain_update
from .progress import ProgressLine
from .ragged import beside, joined, rows_of
from .windows import Windows


class _Before:
    """What a step changes beside weights, as it was before: random numbers, states of stateful layers."""

    def __init__(self, stateful: Sequence[Any]) -> None:
        self.random = random.get_state()
        self.states = [(layer, layer.states) for layer in stateful]

    def restore(self) -> None:
        random.set_state(self.random)
        for layer, states in self.states:
            layer.states = states


class Steps:
    """Steps of training and evaluation of one model; what does not change during a run is looked up once."""

    def __init__(self, model: Any, compiled: Compiled, tbptt: int | None = None) -> None:
        self.model, self.compiled = model, compiled
        self.windows = None if tbptt is None else Windows(model, tbptt)
        self.variables = model.trainable_variables
        self.constraints = model.constraints
        self.stateful = stateful_layers(model)
        # Looking for regularizers at every step would take longer than a small model's step.
        self.penalized = bool(model.losses) or type(model).losses is not Layer.losses

    def train(self, batch: Batch) -> None:
        """One update of the weights, or one for each window of the batch; see `_update_on`."""
        for part in [batch] if self.windows is None else self.windows.of(batch):
            self._update_on(part)

    def _update_on(self, batch: Batch) -> None:
        """One update of the weights; after an error or Ctrl-C all is as before it.

        Raises NonFiniteError for a loss, a gradient or an update that is not finite.
        """
        before, finished = _Before(self.stateful), False
        try:
            with np.errstate(all="ignore"):  # overflow is found out below, and reported with its place
                with Tape() as tape:
                    outputs, batch, loss = self._measure(batch, training=True)
                self._check(batch, loss, before, training=True)
                gradients = tape.gradient(loss, self.variables)
                if not all(g is None or all_finite(g.value) for g in gradients):
                    before.restore()
                    raise explain_gradient(self.model, self.variables, gradients, self._again(batch, True), float(loss))
                with Uninterrupted():
                    self._update(gradients)
                    finished = True  # a Ctrl-C that was held back until here comes after the step
                self.compiled.track(outputs, batch)
        except BaseException:
            if not finished:
                before.restore()
            raise

    def evaluate(self, batch: Batch) -> None:
        """Count the loss and the metrics of a batch; NonFiniteError for a loss that is not finite."""
        before = _Before(self.stateful)
        try:
            with np.errstate(all="ignore"):
                outputs, batch, loss = self._measure(batch, training=False)
                self._check(batch, loss, before, training=False)
                self.compiled.track(outputs, batch)
        except BaseException:
            before.restore()
            raise

    def _measure(self, batch: Batch, training: bool) -> tuple[Sequence[Tensor], Batch, Any]:
        """The outputs, the batch with its targets like them, and the loss."""
        outputs = self._run(batch, training)
        if len(outputs) != len(self.compiled.goals):
            raise ArgumentError(
                f"{self.model.label}: another number of outputs than when it was compiled",
                got=len(outputs),
                expected=len(self.compiled.goals),
                fix="compile it again",
            )
        batch = beside(batch, [goal.name for goal in self.compiled.goals], outputs)
        loss = self.compiled.measure(outputs, batch, self.model.losses if self.penalized else [])
        if training and loss is None:
            raise ArgumentError(f"{self.model.label}: there is no loss to train with", fix='compile(..., loss="mse")')
        return outputs, batch, loss

    def _run(self, batch: Batch, training: bool) -> list[Tensor]:
        if training and self.windows is not None:
            return self.windows.run(batch.inputs, training)
        found: list[Tensor] = trees.flatten(run_model(self.model, batch.inputs, training))[0]
        return found

    def _check(self, batch: Batch, loss: Any, before: _Before, training: bool) -> None:
        value = 0.0 if loss is None else float(loss)
        if not math.isfinite(value):
            before.restore()
            raise explain(self.model, self.compiled, self._again(batch, training), batch, value)

    def _again(self, batch: Batch, training: bool) -> Callable[[], Any]:
        """The forward pass, for a second look once `before.restore()` lets it see what the first one saw."""
        return lambda: self._run(batch, training)

    def _update(self, gradients: Sequence[Any]) -> None:
        optimizer = self.compiled.optimizer
        former = [variable.value for variable in self.variables]
        try:
            optimizer.apply(gradients, self.variables)
            for variable, constraint in self.constraints:
                variable.assign(constraint(variable.value))
            if not all(all_finite(variable.value) for variable in self.variables):
                raise explain_update(self.model, self.variables, optimizer.learning_rate)
        except BaseException:
            for variable, value in zip(self.variables, former, strict=True):
                variable.assign(value)
            raise


def run_model(model: Any, inputs: Sequence[Any], training: bool) -> Any:
    """The model's outputs for one array per input."""
    names = getattr(model, "input_names", [])
    given = inputs[0] if len(inputs) == 1 else dict(zip(names, inputs, strict=True)) if names else list(inputs)
    with training_scope(training):
        return model(given)


def stateful_layers(model: Any) -> list[Any]:
    """The layers that keep states from call to call, with their `states`."""
    return [layer for layer in model.all_layers() if getattr(layer, "stateful", False) and hasattr(layer, "states")]


def fit(
    model: Any,
    compiled: Compiled,
    training: Samples,
    validation: Samples | None,
    callbacks: CallbackList,
    *,
    batch_size: int,
    epochs: int,
    initial_epoch: int,
    shuffle: bool,
    seed: int | None,
    tbptt: int | None = None,
    memories: Sequence[dict[str, Any]] = (),
) -> None:
    """Train for the epochs from `initial_epoch` to `epochs`; the callbacks are closed by the caller.

    `memories`: what the callbacks of the run that this one goes on with remembered.
    """
    steps = Steps(model, compiled, tbptt)
    logs: dict[str, float] = {}
    model.stop_training = False
    callbacks.call("on_train_begin", {})
    callbacks.remember(memories)
    for epoch in range(initial_epoch, epochs):
        if seed is not None:
            seed_epoch(seed, epoch)
        compiled.reset()
        callbacks.call("on_epoch_begin", epoch, {})
        _train_epoch(model, steps, training, callbacks, batch_size, training.shuffled_order(epoch) if shuffle else None)
        logs = compiled.results()
        if validation is not None:
            logs |= {f"val_{name}": value for name, value in evaluate(steps, validation, callbacks, batch_size).items()}
        model.trained_epochs = epoch + 1
        callbacks.call("on_epoch_end", epoch, logs)
        if model.stop_training:
            break
    callbacks.call("on_train_end", logs)


def _train_epoch(
    model: Any, steps: Steps, samples: Samples, callbacks: CallbackList, batch_size: int, order: np.ndarray | None
) -> None:
    watched = callbacks.wants("on_train_batch_end")
    for number, batch in enumerate(samples.batches(batch_size, order)):
        callbacks.call("on_train_batch_begin", number, {})
        steps.train(batch)
        if watched:
            callbacks.call("on_train_batch_end", number, steps.compiled.results())
        if model.stop_training:
            break


def seed_epoch(seed: int, epoch: int) -> None:
    """Random numbers that depend on the seed and the epoch only, so that any epoch can be the first of a run."""
    words = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)
    random.seed(int(words[0] >> np.uint64(1)))


def evaluate(steps: Steps, samples: Samples, callbacks: CallbackList, batch_size: int) -> dict[str, float]:
    """The averages of the loss and the metrics over all samples."""
    steps.compiled.reset()
    callbacks.call("on_test_begin", {})
    watched = callbacks.wants("on_test_batch_end")
    for number, batch in enumerate(samples.batches(batch_size)):
        callbacks.call("on_test_batch_begin", number, {})
        steps.evaluate(batch)
        if watched:
            callbacks.call("on_test_batch_end", number, steps.compiled.results())
    logs = steps.compiled.results()
    callbacks.call("on_test_end", logs)
    return logs


def predict(model: Any, samples: Samples, batch_size: int, line: ProgressLine | None = None) -> Any:
    """The model's outputs for all samples as arrays or Ragged, in the structure in which the model returns them."""
    parts: list[list[Any]] = []
    form: Any = None
    # Without samples one empty batch says what the shapes are.
    batches = samples.batches(batch_size) if samples.size else [samples.whole()]
    for number, batch in enumerate(batches):
        leaves, form = trees.flatten(run_model(model, batch.inputs, training=False))
        symbols = getattr(model, "outputs", None) or [None] * len(leaves)
        parts.append([rows_of(leaf, x, batch.inputs) for leaf, x in zip(leaves, symbols, strict=True)])
        if line is not None:
            line.update(number + 1, {})
    if line is not None:
        line.finish({})
    return trees.unflatten(form, [joined(column) for column in zip(*parts, strict=True)])
