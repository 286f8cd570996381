"""Callbacks: what fit calls at the beginning and end of the run, of epochs and of batches."""

from __future__ import annotations

import csv
import math
import os
import warnings
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, TextIO

from ..errors import ArgumentError

Logs = dict[str, float] | None


class Callback:
    """The base: every hook does nothing; `self.model` and `self.params` are set before the run.

    `logs` holds the averages of the epoch so far by name ("loss", "accuracy", "val_loss", ...); what a
    callback adds to it at the end of an epoch is seen by later callbacks and by the History.
    `close` is called once however the run ends, also by Ctrl-C, when `on_train_end` is not.
    """

    # The attributes, plain values or lists of arrays, that a saved model keeps for the run that goes on from it.
    remembered: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        self.model: Any = None
        self.params: dict[str, Any] = {}

    def set_model(self, model: Any) -> None:
        """Remember the model that is trained."""
        self.model = model

    def set_params(self, params: dict[str, Any]) -> None:
        """Remember the run's `epochs`, `steps` (batches of an epoch) and `verbose`.

        fit also gives `metrics`, the names that it logs for sure, and `validates`, whether it has validation data.
        """
        self.params = params

    def on_train_begin(self, logs: Logs = None) -> None:
        """Before the first epoch."""

    def on_train_end(self, logs: Logs = None) -> None:
        """After the last epoch, unless an error or Ctrl-C ended the run."""

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        """Before an epoch, counted from 0."""

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        """After an epoch and its validation."""

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        """Before a batch, counted from 0 in each epoch."""

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        """After the update that a batch made."""

    def on_test_begin(self, logs: Logs = None) -> None:
        """Before an evaluation, in fit before a validation."""

    def on_test_end(self, logs: Logs = None) -> None:
        """After an evaluation."""

    def on_test_batch_begin(self, batch: int, logs: Logs = None) -> None:
        """Before a batch of an evaluation."""

    def on_test_batch_end(self, batch: int, logs: Logs = None) -> None:
        """After a batch of an evaluation."""

    def close(self) -> None:
        """However the run ended: release files, leave the terminal in order."""


HOOKS = tuple(name for name in vars(Callback) if name.startswith("on_"))


def _overrides(callback: Callback, hook: str) -> bool:
    """Whether its class has a hook of its own, or the object itself, as a LambdaCallback."""
    return hook in vars(callback) or getattr(type(callback), hook) is not getattr(Callback, hook)


class CallbackList:
    """Several callbacks called as one, in order; a hook that none of them overrides costs nothing."""

    def __init__(self, callbacks: Iterable[Callback], model: Any, params: dict[str, Any]) -> None:
        self.callbacks = list(callbacks)
        for callback in self.callbacks:
            if not isinstance(callback, Callback):
                raise ArgumentError(
                    "callbacks", got=repr(callback), expected="objects of minirnn.callbacks.Callback (not the class)"
                )
            callback.set_model(model)
            callback.set_params(params)
        self._hooks = {hook: [getattr(c, hook) for c in self.callbacks if _overrides(c, hook)] for hook in HOOKS}

    def wants(self, hook: str) -> bool:
        """Whether any callback overrides `hook`."""
        return bool(self._hooks[hook])

    def call(self, hook: str, *args: Any) -> None:
        """Call one hook of every callback that overrides it."""
        for method in self._hooks[hook]:
            method(*args)

    def memories(self) -> list[dict[str, Any]]:
        """What the callbacks remember, each with the name of its class."""
        return [
            {"class_name": type(c).__name__, **{name: getattr(c, name) for name in c.remembered}}
            for c in self.callbacks
            if c.remembered
        ]

    def remember(self, memories: Iterable[dict[str, Any]]) -> None:
        """Give each of the `memories` to the first callback of its class that has none yet."""
        waiting = list(memories)
        for callback in self.callbacks:
            found = next((m for m in waiting if m["class_name"] == type(callback).__name__), None)
            if found is not None:
                waiting.remove(found)
                for name in callback.remembered:
                    setattr(callback, name, found.get(name, getattr(callback, name)))

    def close(self) -> None:
        """Close every callback, also after one of them failed."""
        failure: BaseException | None = None
        for callback in self.callbacks:
            try:
                callback.close()
            except BaseException as error:
                failure = failure or error
        if failure is not None:
            raise failure


class History(Callback):
    """What fit returns: `history`, a list of each logged value over the epochs, and `epoch`, their numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.epoch: list[int] = []
        self.history: dict[str, list[float]] = {}

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self.epoch.append(epoch)
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(value)

    def __repr__(self) -> str:
        last = ", ".join(f"{name}={values[-1]:.4g}" for name, values in self.history.items())
        return f"History({len(self.epoch)} epochs{': ' if last else ''}{last})"


class _Monitor(Callback):
    """Watches one logged value: which way is better, and whether it got better."""

    def __init__(self, monitor: str, mode: str, min_delta: float) -> None:
        super().__init__()
        if mode not in ("auto", "min", "max"):
            raise ArgumentError(f"{type(self).__name__}: mode", got=repr(mode), expected='"auto", "min" or "max"')
        self.monitor, self.mode, self.min_delta = monitor, mode, abs(min_delta)

    def check_watched(self) -> None:
        """ArgumentError before the run if it will not log the watched value for want of validation data."""
        name = self.monitor.removeprefix("val_")
        if name != self.monitor and name in self.params.get("metrics", ()) and not self.params.get("validates", True):
            raise ArgumentError(
                f"{type(self).__name__} watches {self.monitor!r}, but there is no validation",
                got="neither validation_data nor validation_split",
                fix=f"give fit one of them, or monitor={name!r}",
            )

    def is_better(self, value: float, than: float | None) -> bool:
        """Whether `value` improves on `than` (None: on anything) by more than min_delta; NaN never does."""
        if than is None:
            return not math.isnan(value)
        return value > than + self.min_delta if self._wants_more() else value < than - self.min_delta

    def _wants_more(self) -> bool:
        if self.mode != "auto":
            return self.mode == "max"
        name = self.monitor.removeprefix("val_")
        if name == "loss" or name.endswith("_loss"):
            return False
        direction = getattr(self.model, "metric_directions", {}).get(name)
        if direction is None:
            raise ArgumentError(
                f"{type(self).__name__}: it is not known whether {self.monitor!r} should rise or fall",
                fix='pass mode="min" or mode="max"',
            )
        return direction == "up"

    def current(self, logs: Logs) -> float | None:
        """The watched value, or None with a warning when it was not logged."""
        value = (logs or {}).get(self.monitor)
        if value is None:
            warnings.warn(
                f"{type(self).__name__} watches {self.monitor!r}, which was not logged; "
                f"there is {', '.join(map(repr, logs or {})) or 'nothing'}",
                stacklevel=2,
            )
        return value


class EarlyStopping(_Monitor):
    """Ends the run when `monitor` has not improved for `patience` epochs.

    With `restore_best_weights` the model ends with the weights of its best epoch, whether or not it
    was stopped early (after Ctrl-C it keeps the latest).  `baseline`: a value that must be beaten for
    patience to start anew; `start_from_epoch`: epochs before it are not watched.
    """

    remembered = ("wait", "best", "best_epoch", "best_weights")

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0,
        patience: int = 0,
        verbose: int = 0,
        mode: str = "auto",
        baseline: float | None = None,
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        self.patience, self.verbose, self.baseline = patience, verbose, baseline
        self.restore_best_weights, self.start_from_epoch = restore_best_weights, start_from_epoch
        self._begin()

    def _begin(self) -> None:
        self.wait, self.stopped_epoch, self.best_epoch = 0, 0, 0
        self.best: float | None = None
        self.best_weights: list[Any] | None = None

    def on_train_begin(self, logs: Logs = None) -> None:
        self.check_watched()
        self._begin()

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        value = self.current(logs)
        if value is None or epoch < self.start_from_epoch:
            return
        self.wait += 1
        if self.is_better(value, self.best) or self.best_weights is None:
            self.best_epoch = epoch
            self.best_weights = self.model.get_weights() if self.restore_best_weights else []
        if self.is_better(value, self.best):
            self.best = value
            if self.baseline is None or self.is_better(value, self.baseline):
                self.wait = 0
        elif self.wait >= self.patience:
            self.stopped_epoch = epoch
            self.model.stop_training = True

    def on_train_end(self, logs: Logs = None) -> None:
        if self.verbose and self.stopped_epoch:
            print(f"Epoch {self.stopped_epoch + 1}: stopped early, {self.monitor} was best in {self.best_epoch + 1}")
        if self.best_weights:
            if self.verbose:
                print(f"Weights of epoch {self.best_epoch + 1} restored")
            self.model.set_weights(self.best_weights)


class ModelCheckpoint(_Monitor):
    """Saves the model (or only its weights) after every epoch, or every `save_freq` batches.

    `filepath` may hold `{epoch}` (counted from 1), `{batch}` and logged values, as in
    `"{epoch:02d}-{val_loss:.3f}.safetensors"`.  `save_best_only` saves when `monitor` improves, at
    first on `initial_value_threshold`.  A file is complete or not there; Ctrl-C leaves the last one whole.
    It saves after all other callbacks have seen the epoch, so that the file has what they remember.
    """

    remembered = ("best",)

    def __init__(
        self,
        filepath: str | os.PathLike[str],
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: str = "auto",
        save_freq: str | int = "epoch",
        initial_value_threshold: float | None = None,
    ) -> None:
        super().__init__(monitor, mode, min_delta=0)
        if save_freq != "epoch" and (not isinstance(save_freq, int) or save_freq < 1):
            raise ArgumentError("ModelCheckpoint: save_freq", got=repr(save_freq), expected='"epoch" or a number >= 1')
        self.filepath, self.verbose = os.fspath(filepath), verbose
        self.save_best_only, self.save_weights_only, self.save_freq = save_best_only, save_weights_only, save_freq
        self.best = initial_value_threshold
        self._epoch = self._batches = 0

    def on_train_begin(self, logs: Logs = None) -> None:
        if self.save_best_only:
            self.check_watched()

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        self._batches += 1
        if self.save_freq != "epoch" and self._batches % int(self.save_freq) == 0:
            self._save_if_wanted({"batch": batch + 1}, logs)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if self.save_freq == "epoch":
            self._save_if_wanted({}, logs)

    def _save_if_wanted(self, place: dict[str, int], logs: Logs) -> None:
        if self.save_best_only:
            value = self.current(logs)
            if value is not None and not self.is_better(value, self.best):
                return
            self.best = value
        try:
            path = self.filepath.format(**{"epoch": self._epoch + 1, **place, **(logs or {})})
        except KeyError as error:
            raise ArgumentError(
                "ModelCheckpoint: filepath names a value that was not logged",
                got=error.args[0],
                expected=", ".join(["epoch", *place, *(logs or {})]),
            ) from None
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        if self.save_weights_only:
            self.model.save_weights(path)
        else:
            self.model.save(path)
        if self.verbose:
            print(f"Epoch {self._epoch + 1}: saved {path}")


class ReduceLROnPlateau(_Monitor):
    """Multiplies the learning rate by `factor` when `monitor` has not improved for `patience` epochs.

    Not below `min_lr`, and not again before `cooldown` more epochs.  Logs "learning_rate".
    """

    remembered = ("wait", "rest", "best")

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        verbose: int = 0,
        mode: str = "auto",
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        if not 0 <= factor < 1:
            raise ArgumentError("ReduceLROnPlateau: factor", got=factor, expected="a number from 0 to below 1")
        self.factor, self.patience, self.verbose = factor, patience, verbose
        self.cooldown, self.min_lr = cooldown, min_lr
        self._begin()

    def _begin(self) -> None:
        self.wait, self.rest = 0, 0
        self.best: float | None = None

    def on_train_begin(self, logs: Logs = None) -> None:
        self.check_watched()
        self._begin()

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        value = self.current(logs)
        rate = self.model.optimizer.learning_rate
        if logs is not None:
            logs["learning_rate"] = rate
        if value is None:
            return
        if self.rest > 0:
            self.rest -= 1
            self.wait = 0
        if self.is_better(value, self.best):
            self.best, self.wait = value, 0
        elif self.rest == 0:
            self.wait += 1
            if self.wait >= self.patience and rate > self.min_lr:
                self._reduce(epoch, rate)

    def _reduce(self, epoch: int, rate: float) -> None:
        reduced = max(rate * self.factor, self.min_lr)
        self.model.optimizer.learning_rate = reduced
        self.rest, self.wait = self.cooldown, 0
        if self.verbose:
            print(f"Epoch {epoch + 1}: learning rate reduced from {rate:g} to {reduced:g}")


class LearningRateScheduler(Callback):
    """Sets the learning rate before each epoch to `schedule(epoch, learning_rate)` and logs it."""

    def __init__(self, schedule: Callable[[int, float], float], verbose: int = 0) -> None:
        super().__init__()
        self.schedule, self.verbose = schedule, verbose

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        optimizer = self.model.optimizer
        optimizer.learning_rate = self.schedule(epoch, optimizer.learning_rate)
        if self.verbose:
            print(f"Epoch {epoch + 1}: learning rate {optimizer.learning_rate:g}")

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if logs is not None:
            logs["learning_rate"] = self.model.optimizer.learning_rate


class CSVLogger(Callback):
    """Writes a row for each epoch: its number from 0 and the logged values, at full precision.

    Each row is on disk when the next epoch begins.  `append` goes on with an existing file and its columns.
    """

    def __init__(self, filename: str | os.PathLike[str], separator: str = ",", append: bool = False) -> None:
        super().__init__()
        self.filename, self.separator, self.append = os.fspath(filename), separator, append
        self._file: TextIO | None = None
        self._columns: list[str] | None = None

    def on_train_begin(self, logs: Logs = None) -> None:
        self._columns = None
        if self.append and os.path.exists(self.filename):
            with open(self.filename, newline="", encoding="utf-8") as file:
                self._columns = next(csv.reader(file, delimiter=self.separator), None)
        self._file = open(self.filename, "a" if self.append else "w", newline="", encoding="utf-8")

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        assert self._file is not None
        writer = csv.writer(self._file, delimiter=self.separator)
        row = {"epoch": epoch, **(logs or {})}
        if self._columns is None:
            self._columns = list(row)
            writer.writerow(self._columns)
        writer.writerow([row.get(column, "NA") for column in self._columns])
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


class LambdaCallback(Callback):
    """Calls the functions it is given, under the names of the hooks: `LambdaCallback(on_epoch_end=f)`."""

    def __init__(self, **hooks: Callable[..., Any] | None) -> None:
        super().__init__()
        unknown = sorted(set(hooks) - set(HOOKS))
        if unknown:
            raise ArgumentError("LambdaCallback", got=", ".join(unknown), expected="some of " + ", ".join(HOOKS))
        for hook, function in hooks.items():
            if function is not None:
                setattr(self, hook, function)
