"""Memory of large results, used again when nobody looks at them any more.

The C library gives large pieces of memory back to the system, and each page that comes anew costs its first
touch some 2 us: a training step of 50 MB spent a sixth of its time so.  Training makes arrays of the same few
sizes again and again; so what is let go of stays here, up to a limit, for the next array of its size.
"""

from __future__ import annotations

import itertools
import math
from contextlib import suppress
from typing import Any

import numpy as np

from .contract import ALIGNMENT, aligned_empty

LARGE = 2**18  # bytes: smaller pieces stay with the C library anyway
_MOST = 2**29  # bytes that are kept in all
_PLACES, _APART = 16, 5 * ALIGNMENT  # where in a page pieces begin, and bytes between these places

_number = itertools.count()
_kept: dict[int, list[np.ndarray]] = {}  # by kinds of sizes; what was let go of last comes last


def recycled(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """An array whose elements are not set, as `numpy.empty`, perhaps where another one has been.

    >>> array = recycled((512, 128), np.dtype("float32"))
    >>> array.shape, array.flags.c_contiguous
    ((512, 128), True)
    """
    size = math.prod(shape) * dtype.itemsize
    if size < LARGE:
        return np.empty(shape, dtype)
    try:
        piece = _kept[_kind(size)].pop()
    except (KeyError, IndexError):
        piece = None
    if piece is None or piece.size < size:
        piece = _made(size)
    return np.asarray(_Memory(piece, shape, dtype))


def forget() -> None:
    """Give the memory back that nobody looks at."""
    _kept.clear()


def _kind(size: int) -> int:
    """The same for sizes that differ by an eighth or less, as those of sequences of like lengths."""
    return size >> (size.bit_length() - 4) << (size.bit_length() - 4)


def _made(size: int) -> np.ndarray:
    """A new piece, which begins with a cache line.

    Each one begins elsewhere in its page: results that a loop writes side by side would be in each other's way.
    """
    start = next(_number) % _PLACES * _APART
    return aligned_empty(start + size, np.uint8)[start:]


def _keep(piece: np.ndarray) -> None:
    """Keep a piece of memory, and of too much not what was let go of first.

    Threads that do this at once may lose a piece, which the C library then takes.
    """
    kind = _kind(piece.size)
    _kept[kind] = [*_kept.pop(kind, []), piece]
    excess = sum(kept.size for pieces in [*_kept.values()] for kept in pieces) - _MOST
    with suppress(IndexError, StopIteration):  # another thread was quicker
        while excess > 0:
            excess -= next(pieces for pieces in [*_kept.values()] if pieces).pop(0).size


class _Memory:
    """What an array of NumPy's looks at: a piece that is kept when the last such array is gone."""

    __slots__ = ("__array_interface__", "piece")

    def __init__(self, piece: np.ndarray, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.piece = piece
        self.__array_interface__ = {**piece.__array_interface__, "shape": shape, "typestr": dtype.str}

    def __del__(self, keep: Any = _keep) -> None:
        keep(self.piece)
