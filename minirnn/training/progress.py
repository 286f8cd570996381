"""Progress of fit and evaluate: a line that moves on a terminal, plain lines everywhere else."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from .callbacks import Callback

SECONDS_BETWEEN_DRAWS = 0.1  # on a terminal
SECONDS_BETWEEN_LINES = 30.0  # elsewhere: a sign of life during a long epoch
BAR_WIDTH = 20


class ProgressLine:
    """One count from 0 to `total`, redrawn in place on a terminal, written as whole lines elsewhere.

    `brief` writes only the last line.  `clock` gives seconds.

    >>> line = ProgressLine("Epoch 1/2", 3, brief=True, clock=lambda: 0.0)
    >>> line.update(1, {"loss": 0.5})
    >>> line.finish({"loss": 0.25})
    Epoch 1/2 - 3/3 - 0s - loss: 0.2500
    """

    def __init__(
        self,
        title: str,
        total: int,
        *,
        stream: TextIO | None = None,
        brief: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.title, self.total, self.brief, self.clock = title, total, brief, clock
        self.stream = sys.stdout if stream is None else stream
        self.moves = not brief and is_terminal(self.stream)
        self.done = 0
        self._start = self._last = clock()
        self._drawn = 0  # characters that stand on the terminal's line

    def update(self, done: int, values: Mapping[str, float]) -> None:
        """Say that `done` of `total` are finished; draws only when enough time has passed."""
        self.done = done
        now = self.clock()
        wait = SECONDS_BETWEEN_DRAWS if self.moves else SECONDS_BETWEEN_LINES
        if self.brief or now - self._last < wait:
            return
        self._last = now
        if self.moves:
            self._draw(self._moving(now - self._start, values))
        else:
            self._write(f"{self.title} - {self.done}/{self.total}{_listed(values)}\n")

    def finish(self, values: Mapping[str, float]) -> None:
        """Write the last line."""
        self.done = self.total
        seconds = self.clock() - self._start
        each = f" - {_duration(seconds / self.total)}/step" if self.total and seconds else ""
        text = f"{self.title} - {self.total}/{self.total} - {_duration(seconds)}{each}{_listed(values)}"
        if self._drawn:
            self._write("\r" + text.ljust(self._drawn) + "\n")
            self._drawn = 0
        else:
            self._write(text + "\n")

    def abandon(self) -> None:
        """Leave the line as it is and start a new one, so that what follows does not run into it."""
        if self._drawn:
            self._write("\n")
            self._drawn = 0

    def _moving(self, seconds: float, values: Mapping[str, float]) -> str:
        share = self.done / self.total if self.total else 1.0
        filled = int(share * BAR_WIDTH)
        bar = "=" * filled + ">" * (filled < BAR_WIDTH) + "." * (BAR_WIDTH - filled - 1)
        left = f" - {_duration(seconds / share - seconds)} left" if share else ""
        return f"{self.title} - {self.done}/{self.total} [{bar}]{left}{_listed(values)}"

    def _draw(self, text: str) -> None:
        text = text[: terminal_width(self.stream) - 1]  # a full last column would start a second line
        self._write("\r" + text.ljust(self._drawn))
        self._drawn = len(text)

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()


def is_terminal(stream: Any) -> bool:
    """Whether a line on `stream` can be overwritten."""
    isatty = getattr(stream, "isatty", None)
    return bool(isatty and isatty()) and os.environ.get("TERM") != "dumb"


def terminal_width(stream: Any) -> int:
    """The columns of the terminal behind `stream`, 80 if they are unknown."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (AttributeError, OSError, ValueError):
        return shutil.get_terminal_size().columns


def _listed(values: Mapping[str, float]) -> str:
    return "".join(f" - {name}: {_number(value)}" for name, value in values.items())


def _number(value: float) -> str:
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e5 else f"{value:.4e}"


def _duration(seconds: float) -> str:
    """
    >>> [_duration(s) for s in (0.0, 0.00002, 0.012, 3.21, 75, 3700)]
    ['0s', '20us', '12ms', '3.2s', '1m15s', '1h01m']
    """
    if seconds == 0:
        return "0s"
    if seconds < 1:
        return f"{seconds * 1e6:.0f}us" if seconds < 1e-3 else f"{seconds * 1e3:.0f}ms"
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"


class ProgressLogger(Callback):
    """Shows the progress of fit and evaluate: `verbose` 1 as it goes, 2 one line an epoch."""

    def __init__(self, verbose: int, stream: TextIO | None = None) -> None:
        super().__init__()
        self.verbose, self.stream = verbose, stream
        self.line: ProgressLine | None = None
        self._in_epoch = False

    def _begin(self, title: str) -> None:
        self.line = ProgressLine(title, self.params["steps"], stream=self.stream, brief=self.verbose == 2)

    def _end(self, logs: Mapping[str, float] | None) -> None:
        if self.line is not None:
            self.line.finish(logs or {})
            self.line = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._in_epoch = True
        self._begin(f"Epoch {epoch + 1}/{self.params['epochs']}")

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        if self.line is not None:
            self.line.update(batch + 1, logs or {})

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._in_epoch = False
        self._end(logs)

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
        if not self._in_epoch:  # validation belongs to the line of its epoch
            self._begin("Evaluate")

    def on_test_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        if self.line is not None and not self._in_epoch:
            self.line.update(batch + 1, logs or {})

    def on_test_end(self, logs: dict[str, float] | None = None) -> None:
        if not self._in_epoch:
            self._end(logs)

    def close(self) -> None:
        """End a line that was interrupted."""
        if self.line is not None:
            self.line.abandon()
            self.line = None
