"""Addresses as pointers to numbers, for kernels that are bound to fixed memory; plain Python has no use for them."""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import intrinsic


def pointer_at(context: Any, builder: Any, kind: Any, value: Any, offset: Any) -> Any:
    """The address of the element `offset` places after the first of an array, or after what a pointer shows."""
    if not isinstance(kind, types.CPointer):
        value = context.make_array(kind)(context, builder, value).data
    return builder.gep(value, [offset])


def _pointer_to(dtype: Any, name: str) -> Any:
    """The function `name`: an address, given as an integer, as a pointer to numbers of a dtype."""

    def point(typing: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return builder.inttoptr(args[0], context.get_value_type(types.CPointer(dtype)))

        return types.CPointer(dtype)(types.int64), codegen

    point.__name__ = point.__qualname__ = name
    return intrinsic(point)


float32_at = _pointer_to(types.float32, "float32_at")
float64_at = _pointer_to(types.float64, "float64_at")
int32_at = _pointer_to(types.int32, "int32_at")
int64_at = _pointer_to(types.int64, "int64_at")
bool_at = _pointer_to(types.boolean, "bool_at")
