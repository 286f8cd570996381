"""On which stream of the device the cuda engine works: its default one, or one that the caller names."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

from ...errors import ArgumentError
from .device import current as current_device

_stream: contextvars.ContextVar[Any] = contextvars.ContextVar("stream", default=None)


def current() -> Any:
    """The stream in force here, None for the device's default one."""
    return _stream.get()


@contextlib.contextmanager
def on(stream: Any) -> Iterator[None]:
    """Have the cuda engine work on a stream for a block: CuPy's, torch's, Numba's, or a stream's number.

    What the block computes is waited for when the host looks at it, or another library asks where it is.
    Raises ArgumentError for anything else.
    """
    token = _stream.set(None if stream is None else _known(stream))
    try:
        yield
    finally:
        _stream.reset(token)


def _known(stream: Any) -> Any:
    """A stream as the device takes it."""
    if hasattr(stream, "synchronize") and not any(hasattr(stream, name) for name in _HANDLES):
        return stream
    handle = next((getattr(stream, name) for name in _HANDLES if hasattr(stream, name)), stream)
    if isinstance(handle, bool) or not isinstance(handle, int):
        expected = "a stream of CuPy, torch or Numba, or its number"
        raise ArgumentError("cuda stream", got=repr(stream), expected=expected)
    if handle == 0:  # the default one
        return None
    device = current_device()
    key = (id(device), handle)
    if key not in _made:  # one object for each stream, which is what it is known by
        _made[key] = device.stream(handle)
    return _made[key]


_made: dict[tuple[int, int], Any] = {}
_HANDLES = ("cuda_stream", "ptr")  # torch's and CuPy's names
