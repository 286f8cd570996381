"""Addresses as pointers to numbers, for kernels that are bound to fixed memory; plain Python has no use for them."""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import intrinsic


def _pointer_to(dtype: Any) -> Any:
    """Makes an address, as an integer, a pointer to numbers."""

    def typed(typing: Any, number: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return builder.inttoptr(args[0], context.get_value_type(types.CPointer(dtype)))

        return types.CPointer(dtype)(types.int64), codegen

    return typed


@intrinsic
def float32_at(typing: Any, number: Any) -> Any:
    """The float32 numbers at an address."""
    return _pointer_to(types.float32)(typing, number)


@intrinsic
def float64_at(typing: Any, number: Any) -> Any:
    """The float64 numbers at an address."""
    return _pointer_to(types.float64)(typing, number)


@intrinsic
def int32_at(typing: Any, number: Any) -> Any:
    """The int32 numbers at an address."""
    return _pointer_to(types.int32)(typing, number)


@intrinsic
def int64_at(typing: Any, number: Any) -> Any:
    """The int64 numbers at an address."""
    return _pointer_to(types.int64)(typing, number)


@intrinsic
def bool_at(typing: Any, number: Any) -> Any:
    """The bools at an address."""
    return _pointer_to(types.boolean)(typing, number)
