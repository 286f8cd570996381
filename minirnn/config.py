"""What can be set for the process or for a block of code: the engine and the default dtype."""

from __future__ import annotations

import contextvars
import os
import platform
import sys
from typing import Any

import numpy as np

from .errors import ArgumentError

__version__ = "0.1.0"
ENGINES = ("auto", "reference", "numpy")
FLOAT_DTYPES = ("float32", "float64")


class _Setting:
    """One setting: a value of the process, and one of the current context that goes before it."""

    def __init__(self, name: str, default: str, choices: tuple[str, ...]) -> None:
        self.name, self.process_value, self.choices = name, default, choices
        self.context_value: contextvars.ContextVar[str | None] = contextvars.ContextVar(name, default=None)

    def get(self) -> str:
        return self.context_value.get() or self.process_value

    def check(self, value: str) -> str:
        if value not in self.choices:
            raise ArgumentError(f"unknown {self.name}", got=repr(value), expected="one of " + ", ".join(self.choices))
        return value

    def set(self, value: str) -> _Restore:
        restore = _Restore(self, self.check(value), self.process_value)
        self.process_value = value
        return restore


class _Restore:
    """What a setter returns; as a context manager it confines the new value to the block."""

    def __init__(self, setting: _Setting, value: str, previous: str) -> None:
        self._setting, self._value, self._previous = setting, value, previous
        self._tokens: list[contextvars.Token[str | None]] = []

    def __enter__(self) -> _Restore:
        if not self._tokens:
            self._setting.process_value = self._previous
        self._tokens.append(self._setting.context_value.set(self._value))
        return self

    def __exit__(self, *exc: object) -> None:
        self._setting.context_value.reset(self._tokens.pop())


_engine = _Setting("engine", "auto", ENGINES)
_float = _Setting("dtype", "float32", FLOAT_DTYPES)


def engine(name: str) -> _Restore:
    """Choose what runs `scan`: "auto", "reference" (an eager Python loop) or "numpy".

    As a call it holds for the process, in a `with` statement for the block (and the current
    thread or task) only. "auto" is "numpy".  Raises ArgumentError for an unknown name.

    >>> with engine("reference"):
    ...     current_engine()
    'reference'
    """
    return _engine.set(name)


def current_engine(override: str | None = None) -> str:
    """The engine in force here, never "auto"; `override` goes before the settings."""
    name = _engine.check(override) if override is not None else _engine.get()
    return "numpy" if name == "auto" else name


def default_dtype(name: str) -> _Restore:
    """Choose the dtype that layers take when they are given none: "float32" or "float64".

    >>> with default_dtype("float64"):
    ...     current_dtype()
    'float64'
    """
    return _float.set(name)


def current_dtype() -> str:
    """The default floating dtype in force here."""
    return _float.get()


def show_config(file: Any = None) -> None:
    """Print versions, processor, engine and determinism, for bug reports."""
    rows = {
        "minirnn": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "processor": f"{platform.machine()}, {os.cpu_count()} cores",
        "engine": f"{_engine.get()} (runs as {current_engine()})",
        "dtype": current_dtype(),
        "determinism": "numpy engine: repeatable on one machine; equal to rounding across batch sizes",
    }
    for label, value in rows.items():
        print(f"{label:<12} {value}", file=file or sys.stdout)
