"""Functions that are compiled once and called through their address.

Numba links the code of every function that a kernel calls into the kernel, and optimizes all of it
again: with the product, that takes longer than the kernel itself.  So the larger functions stay
outside.  A kernel finds their addresses in slots of memory whose symbols LLVM knows by name; that
works for kernels from the disk cache, too.  `prepare` fills the slots that a kernel needs, and comes
before the kernel runs.  A kernel that finds an empty slot raises RuntimeError.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from llvmlite import binding
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from . import build
from .build import library_function

_outlined: list[_Outlined] = []
_DTYPES = {"float32": types.float32, "float64": types.float64}


class _Outlined:
    """A function, and for each dtype the slot that holds its address."""

    def __init__(self, function: Any, arguments: str, returns: bool, label: str, used_by: str, at_once: bool) -> None:
        self.function, self.label, self.slots, self.used_by = function, label, {}, used_by
        self.returns, self.at_once = returns, at_once
        self.arguments = arguments
        for name in _DTYPES:
            slot = self.slots[name] = ctypes.c_void_p()
            binding.add_symbol(self.symbol(name), ctypes.addressof(slot))

    def symbol(self, dtype: str) -> str:
        return f"minirnn_{self.function.__name__}_{dtype}"

    def types(self, dtype: str) -> tuple[Any, ...]:
        kinds = {"p": types.CPointer(_DTYPES[dtype]), "i": types.int64, "b": types.boolean}
        return tuple(kinds[letter] for letter in self.arguments)

    def prepare(self, dtype: str) -> None:
        slot = self.slots[dtype]
        if slot.value is None:
            signature = self.types(dtype)
            with build._lock:
                build._compile(self.function, signature, self.label)
            made = self.function.overloads[signature]
            slot.value = made.library.get_pointer_to_function(made.fndesc.llvm_func_name)


def prepare(dtype: Any, used: Collection[str]) -> None:
    """Load or compile the outlined functions behind the library functions `used`, for float32 or float64."""
    for each in _outlined:
        if each.used_by in used:
            each.prepare(np.dtype(dtype).name)


def outlined(
    arguments: str, label: str, used_by: str, returns: bool = False, at_once: bool = True
) -> Callable[..., Any]:
    """A decorator: compile the function alone, and let kernels call it through its address.

    arguments: a letter for each, p pointer, i int64, b bool; the pointers' dtype is the function's.
    label: what a line on a first compilation says.  used_by: the library function that kernels call.
    returns: whether it returns a number of that dtype.  at_once: whether it is made ready when a kernel
    that calls it is compiled, and not only by `prepare`.
    """

    def decorate(function: Any) -> Any:
        compiled = library_function(function)
        if build.JIT_OFF:
            return compiled
        entry = _Outlined(compiled, arguments, returns, label, used_by, at_once)
        _outlined.append(entry)

        @intrinsic
        def call(typing: Any, *given: Any) -> Any:
            number = given[arguments.index("p")].dtype
            dtype, signature = number.name, entry.types(number.name)
            result = number if returns else types.none
            if entry.at_once:
                entry.prepare(dtype)

            def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
                kind = context.call_conv.get_function_type(result, signature)
                name = entry.symbol(dtype)
                slot = builder.module.globals.get(name) or cgutils.add_global_variable(
                    builder.module, kind.as_pointer(), name
                )
                target = builder.load(slot)
                with cgutils.if_unlikely(builder, cgutils.is_null(builder, target)):
                    context.call_conv.return_user_exc(builder, RuntimeError, (f"call prepare({dtype!r}) first",))
                values = cgutils.unpack_tuple(builder, args[0])
                status, value = context.call_conv.call_function(builder, target, result, signature, values)
                with cgutils.if_unlikely(builder, status.is_error):
                    context.call_conv.return_status_propagate(builder, status)
                return value if returns else context.get_dummy_value()

            return result(types.StarArgTuple(signature)), codegen

        return call

    return decorate
