"""Waiting awake until a number in memory changes, for threads that would be woken too late.

A sleeping thread is back 50 to 150 us after it was woken, and often on the core of the thread that woke it.  One
that keeps looking at memory, without the interpreter's lock, is back at once and on a core of its own.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from . import build

_TEXT = """
from minirnn.kernels.waiting import number_at, rest

@kernel
def wait_awake(address, before, looks):
    for _ in range(looks):
        if number_at(address) != before:
            for _ in range(150):  # some 3 us: whoever changed it still holds the interpreter's lock
                rest()
            return
        rest()
"""
_ON_INTEL, _ON_ARM = ("llvm.x86.sse2.pause", ()), ("llvm.aarch64.hint", (1,))
_REST: dict[str, tuple[str, tuple[int, ...]]]
_REST = {"x86_64": _ON_INTEL, "AMD64": _ON_INTEL, "aarch64": _ON_ARM, "arm64": _ON_ARM}


def compiled() -> Callable[[int, int, int], None]:
    """A function (address, before, looks): look until the int64 there is another one, but not more often than that."""
    return build.compiled(_TEXT, "wait_awake", label="waiting", signature="void(int64, int64, int64)")


@intrinsic
def number_at(typing_context: Any, address: Any) -> Any:
    """The int64 that is in memory at an address now."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        return builder.load_atomic(pointer, "acquire", 8)

    return types.int64(types.int64), emit


@intrinsic
def rest(typing_context: Any) -> Any:
    """Leave the core to its other hardware thread for some cycles, where there is an instruction for it."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if platform.machine() in _REST:
            name, numbers = _REST[platform.machine()]
            arguments = [ir.IntType(32)(number) for number in numbers]
            kind = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
            builder.call(builder.module.declare_intrinsic(name, (), kind), arguments)
        return context.get_dummy_value()

    return types.none(), emit
