"""Waiting awake: until the number changes, or for as many looks as were allowed."""

from __future__ import annotations

import ctypes
import threading

import pytest

from minirnn.kernels import build

if build.JIT_OFF:
    pytest.skip("nothing is compiled", allow_module_level=True)

from minirnn.kernels import waiting

SECONDS = 20  # after which a test has failed


def test_a_change_by_another_thread_is_seen() -> None:
    number, wait = ctypes.c_int64(3), waiting.compiled()
    waiter = threading.Thread(target=wait, args=(ctypes.addressof(number), 3, 10**15), daemon=True)
    waiter.start()
    number.value = -1
    waiter.join(SECONDS)
    assert not waiter.is_alive()


def test_without_a_change_it_ends_after_so_many_looks() -> None:
    number = ctypes.c_int64(3)
    for looks in (0, 1, 1000):
        waiting.compiled()(ctypes.addressof(number), 3, looks)
    waiting.compiled()(ctypes.addressof(number), 4, 10**15)  # which it is not
