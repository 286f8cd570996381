"""Pieces of a device's memory: what was sent there once, and what is kept for the next array of the same size.

A stream does one thing after the other.  So an array may take the memory of one that nobody holds any more, as
long as the same stream writes it; the device would otherwise be asked for memory, and wait, at every call.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from ..loop_program import address_of
from .device import Buffer, Device, too_little

_Key = tuple[int, Any, str, int]  # of buffers that are exchangeable: device, stream, dtype, size


class Memory:
    """A buffer of a device, the stream that uses it, and the copy of it on the host once there is one."""

    def __init__(self, device: Device, buffer: Buffer, stream: Any, owner: Any = None) -> None:
        self.device, self.buffer, self.stream = device, buffer, stream
        self.is_known_elsewhere = owner is not None  # to others, who may use it when nobody here does
        self.owner = owner
        self._host: np.ndarray | None = None

    @property
    def is_on_host(self) -> bool:
        """Whether the host has its copy already."""
        return self._host is not None

    def host(self) -> np.ndarray:
        """The copy on the host, flat."""
        if self._host is None:
            self._host = self.device.to_host(self.buffer, self.stream)
        return self._host

    def for_stream(self, stream: Any) -> Buffer:
        """The buffer, once another stream that used it has done so."""
        if self.stream is not stream:
            self.device.wait(self.stream)
            self.stream = stream
        return self.buffer

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # at the end of the process anything may be gone
            if not self.is_known_elsewhere:
                _keep(self)


# memory that nobody holds ------------------------------------------------------------------------
_kept: dict[_Key, list[Buffer]] = {}
_kept_bytes: dict[int, int] = {}  # by device


def _keep(memory: Memory) -> None:
    """Keep a buffer for later, up to the device's limit."""
    device, buffer = memory.device, memory.buffer
    size, dtype = buffer.size, np.dtype(buffer.dtype)
    there = _kept_bytes.get(id(device), 0) + size * dtype.itemsize
    if there <= device.limits.kept_bytes:
        _kept_bytes[id(device)] = there
        _kept.setdefault((id(device), memory.stream, dtype.str, size), []).append(buffer)


def taken(size: int, dtype: Any, device: Device, stream: Any) -> Memory:
    """Memory for so many elements, which are not set."""
    dtype, size = np.dtype(dtype), max(size, 1)
    kept = _kept.get((id(device), stream, dtype.str, size))
    if kept:
        with contextlib.suppress(IndexError):  # another thread was quicker
            buffer = kept.pop()
            _kept_bytes[id(device)] -= size * dtype.itemsize
            return Memory(device, buffer, stream)
    buffer = _with_room(lambda: device.empty(size, dtype), size * dtype.itemsize, device)
    return Memory(device, buffer, stream)


def _with_room(make: Callable[[], Buffer], size: int, device: Device) -> Buffer:
    """What `make` makes, if need be in place of all that is only kept; EngineError if there is still no room."""
    try:
        return make()
    except MemoryError:
        _kept.clear()
        _kept_bytes.clear()
        _sent.clear()
    try:
        return make()
    except MemoryError:
        raise too_little(size, device) from None


# copies of what is on the host -------------------------------------------------------------------
_sent: dict[tuple[Any, ...], tuple[Any, Memory]] = {}  # of arrays that never change, as long as those live


def copied(host: np.ndarray, device: Device, stream: Any) -> Memory:
    """A copy of a C-contiguous array."""
    if not host.size:
        host = np.zeros(1, host.dtype)
    return Memory(device, _with_room(lambda: device.to_device(host, stream), host.nbytes, device), stream)


def copied_once(array: np.ndarray, device: Device, stream: Any) -> Memory:
    """A copy, in order, of an array that never changes; it is kept as long as the array lives.

    Another view of all of an array, such as the same axes exchanged once more, is the same array.
    """
    owner = array.base if type(array.base) is np.ndarray and array.base.size == array.size else array
    key = (id(device), id(owner), array.dtype.str, array.shape, array.strides, address_of(array))
    found = _sent.get(key)
    if found is not None and found[0]() is owner:
        return found[1]
    copy = copied(np.ascontiguousarray(array), device, stream)
    _sent[key] = (weakref.ref(owner, lambda gone: _sent.pop(key, None)), copy)
    return copy
