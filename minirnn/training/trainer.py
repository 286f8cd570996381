"""Trainer: what makes a graph of layers a model that learns: compile, fit, evaluate, predict, save."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..autodiff import random, trees
from ..errors import ArgumentError, StateError
from . import checkpoint, loop
from .callbacks import Callback, CallbackList, History, ModelCheckpoint
from .compiled import Compiled
from .data import Samples, check_batch_size, names_for
from .optimizers import Optimizer
from .progress import ProgressLine, ProgressLogger

BATCH_SIZE = 32


class Trainer:
    """A mixin for layers that are whole models; `Model` has it.

    Data are arrays with the samples on axis 0, or Ragged; for several inputs or outputs in lists or in
    dicts by name.

    >>> from minirnn.layers import Dense, Input
    >>> from minirnn.models import Sequential
    >>> model = Sequential([Input((1,)), Dense(1)])
    >>> model.compile("sgd", loss="mse", metrics=["mae"])
    >>> history = model.fit([[0.0], [1.0], [2.0]], [[1.0], [3.0], [5.0]], epochs=4, verbose=0)
    >>> len(history.history["mae"]), model.predict([[3.0]]).shape
    (4, (1, 1))
    """

    metadata: dict[str, Any] | None = None  # plain values of the user's, saved with the model
    stop_training = False
    trained_epochs = 0  # what fit's initial_epoch must be to go on where training ended
    history: History | None = None
    _run_callbacks: CallbackList | None = None  # those of the latest fit
    compiled: Compiled | None = None
    run_seed: int | None = None  # of the run that trained the model last
    _shown_outputs: Sequence[str] = ()
    resumed_run: dict[str, Any] | None = None  # what a loaded model's first fit goes on with

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        metrics: Any = None,
        loss_weights: Any = None,
        weighted_metrics: Any = None,
    ) -> None:
        """Choose how the model is trained: an optimizer, a loss for each output, metrics.

        Names as in Keras ("adam", "mse", "accuracy"), or objects.  For several outputs `loss`,
        `metrics` and `loss_weights` are lists in the outputs' order, or dicts by name.  Padded steps
        count neither in losses nor in metrics; `weighted_metrics` also use sample weights.
        Raises ArgumentError for names that are unknown or do not fit the outputs.
        """
        compiled = Compiled(optimizer, loss, metrics, loss_weights, weighted_metrics)
        if self._output_names():
            compiled.bind(self._output_names())
        self.compiled = compiled

    @property
    def optimizer(self) -> Optimizer | None:
        """The optimizer that compile was given."""
        return None if self.compiled is None else self.compiled.optimizer

    @property
    def metric_directions(self) -> dict[str, str]:
        """Whether each metric is better when it goes "up" or "down", where that is known."""
        return {} if self.compiled is None else self.compiled.directions()

    def fit(
        self,
        x: Any,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: str | int = "auto",
        callbacks: Callback | Sequence[Callback] | None = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        seed: int | None = None,
        tbptt: int | None = None,
    ) -> History:
        """Train for the epochs from `initial_epoch` to `epochs` and return their History.

        `validation_data`: (x, y) or (x, y, sample_weight); `validation_split`: the share of the last
        samples that is set aside before shuffling.  `verbose`: 0 silent, 1 a line that moves on a
        terminal, 2 a line an epoch, "auto" is 1.  `seed` makes the run repeatable to the bit, whatever
        random numbers were drawn before; a loaded model goes on with the numbers it was saved with,
        so `fit(..., initial_epoch=model.trained_epochs)` equals a run that was never stopped.

        `x`, `y` and `sample_weight` may be Ragged; each batch is padded to its own longest row, and what
        is padded counts nowhere.  `tbptt=k` makes one update for each window of k steps of a batch,
        truncated backpropagation through time: recurrent layers go on with the states that the window before
        ended with, which have no gradient.  It is for models that are causal in time and predict at every
        step; dropout draws anew in each window.
        Raises NonFiniteError, with the weights from before the step, when the loss is NaN or infinite.
        """
        size = check_batch_size(self._fixed_batch() or BATCH_SIZE if batch_size is None else batch_size)
        level = _verbosity(verbose)
        _check_epochs(initial_epoch, epochs)
        if seed is not None:
            random.seed(seed)  # the weights of a model that is built now follow from it, too
        samples = self._samples(x, y, sample_weight).require_some("fit")
        compiled = self._require_compiled("fit", samples)
        validation = None
        if validation_data is not None:
            validation = self._validation_samples(validation_data).require_some("fit: validation_data")
        elif validation_split:
            samples, validation = samples.split(validation_split)
        self._check_batches("fit", size, samples, *([] if validation is None else [validation]))
        self.history = History()
        given = [callbacks] if isinstance(callbacks, Callback) else list(callbacks or [])
        given.sort(key=lambda callback: isinstance(callback, ModelCheckpoint))
        # The progress line ends before other callbacks print; the History sees what they add to the logs.
        listed = [*([ProgressLogger(level)] if level else []), *given, self.history]
        params = {
            "epochs": epochs, "steps": samples.count_batches(size), "verbose": level,
            "metrics": list(compiled.results()), "validates": validation is not None,
        }  # fmt: skip
        called = CallbackList(listed, self, params)
        resumed = self._begin_run(seed)
        self._run_callbacks = called
        try:
            loop.fit(
                self,
                compiled,
                samples,
                validation,
                called,
                batch_size=size,
                epochs=epochs,
                initial_epoch=initial_epoch,
                shuffle=shuffle,
                seed=self.run_seed,
                tbptt=tbptt,
                memories=resumed["callbacks"] if initial_epoch == self.trained_epochs else (),
            )
        finally:
            called.close()
        return self.history

    def _begin_run(self, seed: int | None) -> dict[str, Any]:
        """Set the random numbers; returns what a loaded model's first run goes on with."""
        resumed, self.resumed_run = self.resumed_run, None
        if resumed is not None and seed is None:
            seed = resumed["seed"]
            random.set_state(resumed["random"])
        self.run_seed = seed
        return resumed or {"callbacks": ()}

    def evaluate(
        self,
        x: Any,
        y: Any = None,
        batch_size: int | None = None,
        verbose: str | int = "auto",
        sample_weight: Any = None,
        callbacks: Callback | Sequence[Callback] | None = None,
        return_dict: bool = False,
    ) -> Any:
        """The loss and metrics over all samples: a number, a list of them, or a dict by name."""
        size = check_batch_size(self._fixed_batch() or BATCH_SIZE if batch_size is None else batch_size)
        samples = self._samples(x, y, sample_weight).require_some("evaluate")
        self._check_batches("evaluate", size, samples)
        compiled = self._require_compiled("evaluate", samples)
        level = _verbosity(verbose)
        given = [callbacks] if isinstance(callbacks, Callback) else list(callbacks or [])
        params = {"steps": samples.count_batches(size), "verbose": level}
        called = CallbackList([*([ProgressLogger(level)] if level else []), *given], self, params)
        try:
            logs = loop.evaluate(loop.Steps(self, compiled), samples, called, size)
        finally:
            called.close()
        return _as_asked(logs, return_dict)

    def predict(self, x: Any, batch_size: int | None = None, verbose: str | int = 0) -> Any:
        """The outputs for all samples, an array or the structure of arrays that the model returns.

        For Ragged inputs, outputs at every step are Ragged of the same lengths: those that carry a mask, or
        whose time axis has no fixed size in the model's graph.
        Batches go through the model in order; stateful layers keep their states from one to the next.
        """
        size = check_batch_size(self._fixed_batch() or BATCH_SIZE if batch_size is None else batch_size)
        samples = self._samples(x, None, None)
        self._check_batches("predict", size, samples)
        level = _verbosity(verbose)
        line = ProgressLine("Predict", samples.count_batches(size), brief=level == 2) if level else None
        try:
            return loop.predict(self, samples, size, line)
        finally:
            if line is not None:
                line.abandon()

    def train_on_batch(
        self, x: Any, y: Any = None, sample_weight: Any = None, return_dict: bool = False, tbptt: int | None = None
    ) -> Any:
        """One update, or with `tbptt` one a window; the loss and metrics before it, as `evaluate` returns them."""
        return self._on_batch("train_on_batch", x, y, sample_weight, return_dict, tbptt)

    def test_on_batch(self, x: Any, y: Any = None, sample_weight: Any = None, return_dict: bool = False) -> Any:
        """The loss and metrics of this batch, as `evaluate` returns them."""
        return self._on_batch("test_on_batch", x, y, sample_weight, return_dict)

    def predict_on_batch(self, x: Any) -> Any:
        """The outputs for one batch as arrays."""
        samples = self._samples(x, None, None)
        return loop.predict(self, samples, max(samples.size, 1))

    def _on_batch(
        self, what: str, x: Any, y: Any, sample_weight: Any, return_dict: bool, tbptt: int | None = None
    ) -> Any:
        samples = self._samples(x, y, sample_weight).require_some(what)
        compiled = self._require_compiled(what, samples)
        steps = loop.Steps(self, compiled, tbptt)
        compiled.reset()
        (steps.train if what == "train_on_batch" else steps.evaluate)(samples.whole())
        return _as_asked(compiled.results(), return_dict)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to one file: configuration, weights, states, optimizer, random numbers, epoch.

        The file appears whole or not at all; `minirnn.models.load_model` reads it.
        """
        checkpoint.save_model(self, path)

    def save_weights(self, path: str | os.PathLike[str]) -> None:
        """Write only the weights to a file."""
        checkpoint.save_weights(self, path)

    def load_weights(self, path: str | os.PathLike[str]) -> None:
        """Read the weights of a model of the same architecture; FormatError, with nothing changed, for another one."""
        checkpoint.load_weights(self, path)

    # Names and data ----------------------------------------------------------------------------------
    def _output_names(self) -> Sequence[str]:
        return getattr(self, "output_names", []) or self._shown_outputs

    def _samples(self, x: Any, y: Any, sample_weight: Any) -> Samples:
        inputs = getattr(self, "input_names", []) or names_for("input", x)
        samples = Samples.of(x, None, None, inputs, [])
        outputs = self._output_names() or self._find_outputs(samples)
        return Samples.of(x, y, sample_weight, inputs, outputs)

    def _find_outputs(self, samples: Samples) -> Sequence[str]:
        """The names of the outputs of a model that has no graph yet: one sample shows them, and builds it."""
        if not samples.size:
            raise ArgumentError("the model is not built, and there are no samples to build it for")
        first = [array[:1] for array in samples.inputs]
        outputs = loop.run_model(self, first, training=False)
        for layer in loop.stateful_layers(self):
            layer.states = None
        self._shown_outputs = names_for("output", trees.flatten(outputs)[0])
        return self._output_names()

    def _fixed_batch(self) -> int | None:
        """The number of samples that an Input says a batch has."""
        return next((x.shape[0] for x in getattr(self, "inputs", []) if x.shape[:1] != (None,)), None)

    def _check_batches(self, what: str, size: int, *parts: Samples) -> None:
        """StateError, before anything runs, for batches of another size than a stateful layer can take."""
        counts = [samples.size for samples in parts if samples.size]
        sizes = [n for count in counts for n in (min(size, count), count % size) if n]
        for layer in loop.stateful_layers(self) if sizes else []:
            held = trees.flatten(layer.states)[0]
            wanted = held[0].shape[0] if held else self._fixed_batch() or sizes[0]
            wrong = [n for n in sizes if n != wanted]
            if wrong:
                raise StateError(
                    f"{what}: {layer.label} is stateful, so that its batch size may not change",
                    got=f"{' and '.join(map(str, counts))} samples in batches of {size}, one of them of {wrong[-1]}",
                    expected=f"batches of {wanted}",
                    fix=f"batch_size={wanted} and a multiple of it in samples"
                    + (", or reset_states() before" * bool(held)),
                )

    def _validation_samples(self, data: Any) -> Samples:
        if not isinstance(data, (tuple, list)) or len(data) not in (2, 3):
            raise ArgumentError(
                "validation_data",
                got=type(data).__name__ if not isinstance(data, (tuple, list)) else f"{len(data)} entries",
                expected="(x, y) or (x, y, sample_weight)",
            )
        return self._samples(data[0], data[1], data[2] if len(data) == 3 else None)

    def _require_compiled(self, what: str, samples: Samples) -> Compiled:
        if self.compiled is None:
            raise ArgumentError(
                f"{what}: the model is not compiled", fix='call compile(optimizer="adam", loss="mse") first'
            )
        self.compiled.bind(samples.output_names)
        return self.compiled


def _verbosity(verbose: str | int) -> int:
    if verbose == "auto":
        return 1
    if verbose not in (0, 1, 2):
        raise ArgumentError("verbose", got=repr(verbose), expected='0, 1, 2 or "auto"')
    return int(verbose)


def _check_epochs(initial_epoch: Any, epochs: Any) -> None:
    for name, value in (("initial_epoch", initial_epoch), ("epochs", epochs)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
            raise ArgumentError(name, got=repr(value), expected="a whole number, not negative")


def _as_asked(logs: dict[str, float], return_dict: bool) -> Any:
    if return_dict:
        return logs
    return logs["loss"] if len(logs) == 1 else list(logs.values())
