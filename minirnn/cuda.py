"""The cuda engine's own settings: whether it can run, which schedule, products and stream it takes.

What runs loops on a device is chosen with `mr.engine("cuda")`.  It has not run on a device yet: its kernels are
executed on the host by the tests.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from .config import products, schedule
from .errors import EngineError
from .kernels.cuda import device, streams

__all__ = ["is_available", "products", "schedule", "stream", "why_not"]


def why_not() -> str:
    """Why the cuda engine cannot run here, in a sentence; nothing if it can.

    >>> is_available() == (why_not() == "")
    True
    """
    try:
        device.require()
    except EngineError as error:
        return str(error.got)
    return ""


def is_available() -> bool:
    """Whether the cuda engine can run here: numba-cuda, a driver and a device are there."""
    return not why_not()


def stream(stream: Any) -> AbstractContextManager[None]:
    """Have the cuda engine work on a stream for a block: CuPy's, torch's, Numba's, or a stream's number.

    What it computes there is waited for when the host looks at it, or another library asks where it is.
    Raises ArgumentError for anything that is no stream.
    """
    return streams.on(stream)
