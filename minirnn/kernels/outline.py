"""Functions that are compiled once and called through their address.

Numba links the code of every function that a kernel calls into the kernel, and optimizes all of it
again: with the product, that takes longer than the kernel itself.  So the larger functions stay
outside.  A kernel finds their addresses in slots of memory whose symbols LLVM knows by name; that
works for kernels from the disk cache, too.  `prepare` fills the slots that a kernel needs, and comes
before the kernel runs.  A kernel that finds an empty slot raises RuntimeError.

The functions take pointers.  A call gives pointers, or for each an array and the number of elements
before the one that is meant; arguments at the end that have a default may be missing.
"""

from __future__ import annotations

import ctypes
import functools
import inspect
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from llvmlite import binding
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from . import build
from .build import library_function
from .pointers import pointer_at
from .tile import address

_outlined: list[_Outlined] = []
_DTYPES = {"float32": types.float32, "float64": types.float64}


class _Outlined:
    """A function, and for each dtype the slot that holds its address."""

    # Where an argument compares so to a number, another function of the same arguments is called.
    instead: tuple[tuple[int, str, int, str], ...] = ()
    uses: tuple[_Outlined, ...] = ()  # what it calls

    def __init__(self, function: Any, arguments: str, label: str) -> None:
        self.function, self.arguments, self.label = function, arguments, label
        self.slots: dict[str, Any] = {}
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
        for other in self.uses:
            other.prepare(dtype)


def _named(name: str) -> _Outlined:
    return next(each for each in _outlined if each.function.__name__ == name)


def prepare(dtype: Any, used: Collection[str]) -> None:
    """Load or compile those outlined functions that are named in `used`, for float32 or float64."""
    for each in _outlined:
        if each.function.__name__ in used:
            each.prepare(np.dtype(dtype).name)


def _sorted_out(arguments: str, given: Any) -> list[Any]:
    """What is given for each argument: for a pointer it may be the pair of an array and an offset."""
    remaining, pairs = iter(given), len(given) > len(arguments)
    return [
        (each, next(remaining)) if pairs and letter == "p" else each
        for letter, each in zip(arguments, remaining, strict=False)
    ]


def outlined(
    arguments: str, label: str, returns: bool = False, instead: Any = (), uses: Any = ()
) -> Callable[..., Any]:
    """A decorator: compile the function alone, and let kernels call it through its address.

    arguments: a letter for each, p pointer, i int64, b bool; the pointers' dtype is the function's.
    label: what a line on a first compilation says.  returns: whether it returns a number of that dtype.
    instead: ("rows", "==", 1, other), say, calls the other outlined function where `rows` is 1; of several that
    hold the last counts.  uses: the outlined functions that have to be ready before it is called.
    """

    def decorate(function: Any) -> Any:
        if build.JIT_OFF:
            return _plain(function, arguments)
        compiled = library_function(function, no_cpython_wrapper=True)  # Python has no pointers to call it with
        entry = _Outlined(compiled, arguments, label)
        _outlined.append(entry)
        parameters = inspect.signature(function).parameters
        entry.uses = tuple(_named(other.__name__) for other in uses)
        places = list(parameters)
        entry.instead = tuple((places.index(name), how, n, other.__name__) for name, how, n, other in instead)
        defaults = [parameter.default for parameter in parameters.values()]

        def call(typing: Any, *given: Any) -> Any:
            kinds = _sorted_out(arguments, given)
            dtype = given[0].dtype
            signature = entry.types(dtype.name)
            result = dtype if returns else types.none
            entry.prepare(dtype.name)

            def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
                values = _sorted_out(arguments, cgutils.unpack_tuple(builder, args[0]))
                for i, kind in enumerate(kinds):
                    if type(kind) is tuple:
                        values[i] = pointer_at(context, builder, kind[0], *values[i])
                for kind, default in list(zip(signature, defaults, strict=True))[len(values) :]:
                    values.append(context.get_constant(kind, default))
                kind = context.call_conv.get_function_type(result, signature)
                target = _in_slot(builder, entry.symbol(dtype.name), kind)
                for place, how, number, other in entry.instead:
                    holds = builder.icmp_signed(how, values[place], values[place].type(number))
                    in_place = _in_slot(builder, _named(other).symbol(dtype.name), kind)
                    target = builder.select(holds, in_place, target)
                with cgutils.if_unlikely(builder, cgutils.is_null(builder, target)):
                    context.call_conv.return_user_exc(
                        builder, RuntimeError, (f"{function.__name__}: call prepare first",)
                    )
                status, value = context.call_conv.call_function(builder, target, result, signature, values)
                with cgutils.if_unlikely(builder, status.is_error):
                    context.call_conv.return_status_propagate(builder, status)
                return value if returns else context.get_dummy_value()

            wanted: list[Any] = []
            for kind, exact in zip(kinds, signature, strict=False):
                wanted += [kind[0], types.int64] if type(kind) is tuple else [exact]
            return result(types.StarArgTuple(wanted)), codegen

        call.__name__ = call.__qualname__ = function.__name__
        call.__doc__ = function.__doc__
        return intrinsic(call)

    return decorate


def _plain(function: Any, arguments: str) -> Any:
    """An outlined function without the JIT."""

    @functools.wraps(function)
    def call(*given: Any) -> Any:
        return function(*(address(*x) if type(x) is tuple else x for x in _sorted_out(arguments, given)))

    return call


def _in_slot(builder: Any, name: str, kind: Any) -> Any:
    """The address that a slot holds."""
    slot = builder.module.globals.get(name) or cgutils.add_global_variable(builder.module, kind.as_pointer(), name)
    return builder.load(slot)
