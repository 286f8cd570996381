"""Callbacks on a pretended model: what each does at which epoch."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minirnn.errors import ArgumentError
from minirnn.layers import Dense, Input
from minirnn.models import Sequential
from minirnn.training import callbacks
from minirnn.training.optimizers import SGD
from minirnn.training.schedules import ExponentialDecay


class FakeModel:
    """Remembers what callbacks do to it; its weights are the number of the epoch."""

    def __init__(self, rate: Any = 1.0) -> None:
        self.stop_training = False
        self.optimizer = SGD(rate)
        self.weights: list[Any] = ["at first"]
        self.saved: list[tuple[str, str]] = []
        self.metric_directions = {"accuracy": "up", "mae": "down"}

    def get_weights(self) -> list[Any]:
        return list(self.weights)

    def set_weights(self, weights: list[Any]) -> None:
        self.weights = list(weights)

    def save(self, path: str) -> None:
        self.saved.append(("model", path))

    def save_weights(self, path: str) -> None:
        self.saved.append(("weights", path))


def run(
    callback: Any, values: list[float], name: str = "val_loss", model: FakeModel | None = None, batches: int = 0
) -> tuple[FakeModel, list[dict[str, float]]]:
    """A run whose epochs log these values; returns the model and the logs after the callback."""
    model = model or FakeModel()
    called = callbacks.CallbackList([callback], model, {"epochs": len(values), "steps": batches, "verbose": 0})
    called.call("on_train_begin", {})
    seen = []
    for epoch, value in enumerate(values):
        model.weights = [f"after epoch {epoch}"]
        called.call("on_epoch_begin", epoch, {})
        for batch in range(batches):
            called.call("on_train_batch_end", batch, {name: value})
        logs = {name: value}
        called.call("on_epoch_end", epoch, logs)
        seen.append(logs)
        if model.stop_training:
            break
    called.call("on_train_end", {})
    called.close()
    return model, seen


def test_early_stopping_waits_for_its_patience() -> None:
    model, seen = run(callbacks.EarlyStopping(patience=2), [3.0, 2.0, 2.5, 1.9, 1.95, 1.9, 1.0])
    assert len(seen) == 6 and model.stop_training and model.weights == ["after epoch 5"]


def test_early_stopping_at_once() -> None:
    assert len(run(callbacks.EarlyStopping(), [3.0, 2.0, 2.0, 1.0])[1]) == 3


def test_early_stopping_restores_the_best_weights_stopped_or_not() -> None:
    stopping = callbacks.EarlyStopping(patience=2, restore_best_weights=True)
    assert run(stopping, [3.0, 1.0, 2.0, 2.0, 0.5])[0].weights == ["after epoch 1"]
    assert run(stopping, [3.0, 1.0, 2.0])[0].weights == ["after epoch 1"]
    assert stopping.best_epoch == 1


def test_early_stopping_looks_at_direction_delta_baseline_and_first_epoch() -> None:
    assert len(run(callbacks.EarlyStopping("accuracy"), [0.1, 0.2, 0.1, 0.9], "accuracy")[1]) == 3
    assert len(run(callbacks.EarlyStopping("val_mae"), [0.2, 0.1, 0.3, 0.0], "val_mae")[1]) == 3
    assert len(run(callbacks.EarlyStopping("val_x", mode="max"), [0.1, 0.2, 0.1, 0.9], "val_x")[1]) == 3
    assert len(run(callbacks.EarlyStopping(min_delta=0.5), [3.0, 2.0, 1.6, 1.0])[1]) == 3
    assert len(run(callbacks.EarlyStopping(baseline=1.5, patience=2), [3.0, 2.0, 1.9, 1.8, 1.95])[1]) == 5
    assert len(run(callbacks.EarlyStopping(start_from_epoch=3), [1.0, 2.0, 3.0, 4.0, 5.0, 1.0])[1]) == 5


def test_nan_is_no_improvement() -> None:
    assert len(run(callbacks.EarlyStopping(patience=1), [math.nan, 1.0, math.nan, 0.5])[1]) == 1


def test_a_monitor_that_is_not_logged_warns_and_one_without_direction_raises() -> None:
    with pytest.warns(UserWarning, match="'val_loss', which was not logged; there is 'loss'"):
        run(callbacks.EarlyStopping(), [1.0], "loss")
    with pytest.raises(ArgumentError, match="rise or fall"):
        run(callbacks.EarlyStopping("strange"), [1.0, 2.0], "strange")
    with pytest.raises(ArgumentError, match="mode"):
        callbacks.EarlyStopping(mode="down")


def test_checkpoints_after_every_epoch(tmp_path: Path) -> None:
    path = str(tmp_path / "deep" / "{epoch:02d}-{val_loss:.2f}.safetensors")
    model, _ = run(callbacks.ModelCheckpoint(path), [0.5, 0.25])
    names = [Path(saved).name for _, saved in model.saved]
    assert names == ["01-0.50.safetensors", "02-0.25.safetensors"] and (tmp_path / "deep").is_dir()


def test_checkpoints_of_the_best_only(tmp_path: Path) -> None:
    best = callbacks.ModelCheckpoint(tmp_path / "{epoch}", save_best_only=True, save_weights_only=True)
    model, _ = run(best, [2.0, 3.0, 1.0, math.nan])
    assert [(kind, Path(saved).name) for kind, saved in model.saved] == [("weights", "1"), ("weights", "3")]
    rising = callbacks.ModelCheckpoint(
        tmp_path / "{epoch}", "accuracy", save_best_only=True, initial_value_threshold=0.5
    )
    model, _ = run(rising, [0.4, 0.6, 0.5], "accuracy")
    assert [Path(saved).name for _, saved in model.saved] == ["2"]


def test_checkpoints_after_batches(tmp_path: Path) -> None:
    model, _ = run(callbacks.ModelCheckpoint(tmp_path / "{epoch}-{batch}", save_freq=3), [1.0, 1.0], batches=4)
    assert [Path(saved).name for _, saved in model.saved] == ["1-3", "2-2"]


def test_checkpoints_that_make_no_sense_raise(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="save_freq"):
        callbacks.ModelCheckpoint(tmp_path / "x", save_freq="batch")
    with pytest.raises(ArgumentError, match="not logged"):
        run(callbacks.ModelCheckpoint(tmp_path / "{accuracy}"), [1.0])


def rates(callback: Any, values: list[float], model: FakeModel | None = None) -> list[float]:
    model = model or FakeModel()
    return [logs["learning_rate"] for logs in run(callback, values, model=model)[1]] + [model.optimizer.learning_rate]


def test_the_learning_rate_falls_on_a_plateau() -> None:
    reduce = callbacks.ReduceLROnPlateau(factor=0.5, patience=2)
    assert rates(reduce, [3.0, 2.0, 2.0, 2.0, 2.0, 2.0]) == [1, 1, 1, 1, 0.5, 0.5, 0.25]


def test_the_learning_rate_rests_and_has_a_floor() -> None:
    resting = callbacks.ReduceLROnPlateau(factor=0.5, patience=1, cooldown=2)
    assert rates(resting, [1.0] * 6) == [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125]
    floor = callbacks.ReduceLROnPlateau(factor=0.1, patience=1, min_lr=0.3)
    assert rates(floor, [1.0] * 4) == [1, 1, 0.3, 0.3, 0.3]
    with pytest.raises(ArgumentError, match="factor"):
        callbacks.ReduceLROnPlateau(factor=1.0)


def test_the_learning_rate_of_a_schedule_is_not_touched() -> None:
    with pytest.raises(ArgumentError, match="ExponentialDecay"):
        rates(callbacks.ReduceLROnPlateau(patience=1), [1.0] * 3, FakeModel(ExponentialDecay(1.0, 10, 0.5)))


def test_a_schedule_by_epochs() -> None:
    assert rates(callbacks.LearningRateScheduler(lambda epoch, rate: rate / (1 + epoch)), [1.0] * 3) == [
        1.0,
        0.5,
        0.5 / 3,
        0.5 / 3,
    ]


def read_rows(path: Path, **options: Any) -> list[list[str]]:
    with open(path, newline="") as file:
        return list(csv.reader(file, **options))


def test_csv_rows_hold_exact_numbers(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    run(callbacks.CSVLogger(path), [1 / 3, 0.5])
    assert read_rows(path) == [["epoch", "val_loss"], ["0", repr(1 / 3)], ["1", "0.5"]]
    run(callbacks.CSVLogger(path, append=True), [0.25])
    assert read_rows(path)[3:] == [["0", "0.25"]]
    run(callbacks.CSVLogger(path, append=True), [0.125], "loss")
    assert read_rows(path)[4:] == [["0", "NA"]]
    run(callbacks.CSVLogger(path, separator=";"), [0.25])
    assert read_rows(path, delimiter=";") == [["epoch", "val_loss"], ["0", "0.25"]]


def test_csv_rows_are_on_disk_before_the_next_epoch(tmp_path: Path) -> None:
    logger = callbacks.CSVLogger(tmp_path / "log.csv")
    logger.on_train_begin({})
    logger.on_epoch_end(0, {"loss": 1.0})
    assert len(read_rows(tmp_path / "log.csv")) == 2
    logger.close()
    logger.close()


def test_functions_as_hooks() -> None:
    seen: list[Any] = []
    callback = callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append((epoch, logs["val_loss"])), on_train_end=None
    )
    run(callback, [1.0, 2.0])
    assert seen == [(0, 1.0), (1, 2.0)]
    with pytest.raises(ArgumentError, match="on_epoch_ends"):
        callbacks.LambdaCallback(on_epoch_ends=print)


def test_history_collects_what_callbacks_add() -> None:
    history = callbacks.History()
    called = callbacks.CallbackList([callbacks.LearningRateScheduler(lambda e, r: r), history], FakeModel(), {})
    called.call("on_epoch_end", 4, {"loss": 2.0})
    assert history.epoch == [4] and history.history == {"loss": [2.0], "learning_rate": [1.0]}
    assert repr(history) == "History(1 epochs: loss=2, learning_rate=1)"


def test_only_hooks_that_are_defined_are_called() -> None:
    called = callbacks.CallbackList([callbacks.History()], FakeModel(), {})
    assert called.wants("on_epoch_end") and not called.wants("on_train_batch_end")
    assert callbacks.CallbackList([callbacks.LambdaCallback(on_test_end=print)], FakeModel(), {}).wants("on_test_end")


def test_a_class_is_no_callback() -> None:
    with pytest.raises(ArgumentError, match="not the class"):
        callbacks.CallbackList([callbacks.History], FakeModel(), {})  # type: ignore[list-item]


def test_all_callbacks_are_closed_even_if_one_fails() -> None:
    closed = []

    class Closing(callbacks.Callback):
        def close(self) -> None:
            closed.append(self)
            if len(closed) == 1:
                raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        callbacks.CallbackList([Closing(), Closing(), Closing()], FakeModel(), {}).close()
    assert len(closed) == 3


def test_messages_say_what_was_done(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run(callbacks.EarlyStopping(verbose=1, restore_best_weights=True), [1.0, 2.0])
    run(callbacks.ModelCheckpoint(tmp_path / "m", verbose=1), [1.0])
    run(callbacks.ReduceLROnPlateau(patience=1, verbose=1), [1.0, 1.0])
    run(callbacks.LearningRateScheduler(lambda e, r: 0.5, verbose=1), [1.0])
    assert capsys.readouterr().out.splitlines() == [
        "Epoch 2: stopped early, val_loss was best in 1",
        "Weights of epoch 1 restored",
        f"Epoch 1: saved {tmp_path / 'm'}",
        "Epoch 2: learning rate reduced from 1 to 0.1",
        "Epoch 1: learning rate 0.5",
    ]


@pytest.mark.parametrize(
    "callback",
    [callbacks.EarlyStopping(), callbacks.ReduceLROnPlateau(), callbacks.ModelCheckpoint("m", save_best_only=True)],
)
def test_a_validation_that_will_not_be_is_missed_before_the_first_epoch(callback: Any) -> None:
    model = Sequential([Input((2,)), Dense(1)])
    model.compile("sgd", "mse")
    x, y = np.ones((4, 2)), np.ones((4, 1))
    before = model.get_weights()
    with pytest.raises(ArgumentError, match="watches 'val_loss'(.|\n)*monitor='loss'"):
        model.fit(x, y, callbacks=callback, verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_a_callback_may_log_what_another_one_watches() -> None:
    model = Sequential([Input((2,)), Dense(1)])
    model.compile("sgd", "mse")
    logger = callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: logs.update(val_score=1.0))
    watcher = callbacks.EarlyStopping("val_score", mode="max", patience=1)
    history = model.fit(np.ones((4, 2)), np.ones((4, 1)), epochs=5, callbacks=[logger, watcher], verbose=0)
    assert len(history.epoch) == 2
