"""The progress line on pretended terminals, in files, and after an interruption."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import pytest

from minirnn.training import progress
from minirnn.training.progress import ProgressLine, ProgressLogger


class Terminal(io.StringIO):
    """A terminal that shows what its reader would see: each line after all overwriting."""

    def isatty(self) -> bool:
        return True

    def screen(self) -> list[str]:
        lines = []
        for line in self.getvalue().split("\n"):
            shown = ""
            for part in line.split("\r"):
                shown = part + shown[len(part) :]
            lines.append(shown.rstrip())
        return lines


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    def set_width(columns: int) -> None:
        monkeypatch.setattr(progress, "terminal_width", lambda stream: columns)

    monkeypatch.setenv("TERM", "xterm")
    set_width(120)
    return set_width


def run(stream: io.StringIO, seconds: float, brief: bool = False, steps: int = 10) -> ProgressLine:
    clock = Clock()
    line = ProgressLine("Epoch 1/2", steps, stream=stream, brief=brief, clock=clock)
    for step in range(steps):
        clock.now += seconds
        line.update(step + 1, {"loss": 1 / (step + 1)})
    line.finish({"loss": 0.0625, "val_loss": 2e-7})
    return line


def test_on_a_terminal_one_line_moves_and_ends_complete() -> None:
    terminal = Terminal()
    run(terminal, 2.0)
    assert terminal.getvalue().count("\n") == 1 and terminal.getvalue().count("\r") == 11
    assert terminal.screen() == ["Epoch 1/2 - 10/10 - 20.0s - 2.0s/step - loss: 0.0625 - val_loss: 2.0000e-07", ""]
    third = terminal.getvalue().split("\r")[3]
    assert third.rstrip() == "Epoch 1/2 - 3/10 [======>.............] - 14.0s left - loss: 0.3333"


def test_a_shorter_line_leaves_nothing_of_a_longer_one() -> None:
    terminal = Terminal()
    clock = Clock()
    line = ProgressLine("E", 100, stream=terminal, clock=clock)
    for done, name in ((1, "a_very_long_name"), (2, "b")):
        clock.now += 1
        line.update(done, {name: 1.0})
    assert "long" not in terminal.screen()[0] and terminal.screen()[0].endswith("b: 1.0000")


def test_lines_never_reach_the_last_column(wide_terminal: Callable[[int], None]) -> None:
    wide_terminal(30)
    terminal = Terminal()
    run(terminal, 2.0)
    assert all(len(part.rstrip("\n")) <= 29 for part in terminal.getvalue().split("\r")[1:-1])


def test_drawing_is_not_done_more_often_than_eyes_can_follow() -> None:
    terminal = Terminal()
    run(terminal, 0.01, steps=1000)
    assert 90 <= terminal.getvalue().count("\r") <= 102


def test_elsewhere_whole_lines_are_written() -> None:
    file = io.StringIO()
    run(file, 2.0)
    assert file.getvalue() == "Epoch 1/2 - 10/10 - 20.0s - 2.0s/step - loss: 0.0625 - val_loss: 2.0000e-07\n"


def test_elsewhere_long_epochs_give_a_sign_of_life() -> None:
    file = io.StringIO()
    run(file, 12.0)
    lines = file.getvalue().splitlines()
    assert lines[0] == "Epoch 1/2 - 3/10 - loss: 0.3333" and len(lines) == 4
    assert "\r" not in file.getvalue() and "\x1b" not in file.getvalue()


def test_a_dumb_terminal_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    terminal = Terminal()
    run(terminal, 2.0)
    assert "\r" not in terminal.getvalue()


def test_brief_writes_one_line_anywhere() -> None:
    for stream in (Terminal(), io.StringIO()):
        run(stream, 40.0, brief=True)
        assert stream.getvalue().count("\n") == 1 and "\r" not in stream.getvalue()


def test_an_abandoned_line_is_ended() -> None:
    terminal = Terminal()
    clock = Clock()
    line = ProgressLine("Epoch 1/2", 10, stream=terminal, clock=clock)
    clock.now += 1
    line.update(1, {})
    line.abandon()
    line.abandon()
    assert terminal.getvalue().endswith("\n") and terminal.getvalue().count("\n") == 1


def test_the_width_of_a_stream_without_terminal_is_a_guess() -> None:
    assert progress.terminal_width(io.StringIO()) >= 20


def logged(verbose: int, stream: io.StringIO, validation: bool = True) -> str:
    logger = ProgressLogger(verbose, stream)
    logger.set_params({"epochs": 2, "steps": 3})
    for epoch in range(2):
        logger.on_epoch_begin(epoch, {})
        for batch in range(3):
            logger.on_train_batch_end(batch, {"loss": 0.5})
        if validation:
            logger.on_test_begin({})
            logger.on_test_batch_end(0, {"loss": 9.0})
            logger.on_test_end({"loss": 9.0})
        logger.on_epoch_end(epoch, {"loss": 0.5, "val_loss": 9.0})
    logger.close()
    return re.sub(r"[\d.]+(us|ms|s)", "?", stream.getvalue())


def test_validation_belongs_to_the_line_of_its_epoch() -> None:
    assert logged(2, io.StringIO()).splitlines() == [
        f"Epoch {epoch}/2 - 3/3 - ? - ?/step - loss: 0.5000 - val_loss: 9.0000" for epoch in (1, 2)
    ]


def test_an_evaluation_of_its_own_has_its_line() -> None:
    stream = io.StringIO()
    logger = ProgressLogger(1, stream)
    logger.set_params({"steps": 3})
    logger.on_test_begin({})
    logger.on_test_batch_end(0, {"loss": 9.0})
    logger.on_test_end({"loss": 8.0})
    assert re.sub(r"[\d.]+(us|ms|s)", "?", stream.getvalue()) == "Evaluate - 3/3 - ? - ?/step - loss: 8.0000\n"


def test_closing_ends_a_line_that_was_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_DRAWS", 0.0)
    terminal = Terminal()
    logger = ProgressLogger(1, terminal)
    logger.set_params({"epochs": 1, "steps": 3})
    logger.on_epoch_begin(0, {})
    logger.on_train_batch_end(0, {"loss": 1.0})
    assert not terminal.getvalue().endswith("\n")
    logger.close()
    assert terminal.getvalue().endswith("\n")
