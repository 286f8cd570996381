"""Ctrl-C at the right moment: what has begun to change the weights is finished first."""

from __future__ import annotations

import signal
import threading
from types import TracebackType
from typing import Any


class Uninterrupted:
    """Within the block a Ctrl-C is held back, and takes effect at its end.

    Does nothing outside of the main thread, where Python delivers no Ctrl-C.

    >>> import os
    >>> try:
    ...     with Uninterrupted():
    ...         signal.raise_signal(signal.SIGINT)
    ...         print("finished")
    ... except KeyboardInterrupt:
    ...     print("interrupted")
    finished
    interrupted
    """

    def __init__(self) -> None:
        self._former: Any = None
        self._held: tuple[Any, ...] | None = None

    def __enter__(self) -> None:
        former = signal.getsignal(signal.SIGINT)
        if callable(former) and threading.current_thread() is threading.main_thread():
            self._former = former
            signal.signal(signal.SIGINT, self._hold)

    def _hold(self, *event: Any) -> None:
        self._held = event

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._former is not None:
            signal.signal(signal.SIGINT, self._former)
            if self._held is not None:
                self._former(*self._held)
