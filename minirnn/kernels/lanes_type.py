"""The Numba type of sixteen numbers, and what `+ - * /`, comparisons and bit operations mean for it.

A number that meets a vector stands for sixteen of it.  Nothing here contracts or reorders.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import lower_builtin, models, register_model, type_callable

LANES = 16


class LanesType(types.Type):
    """A vector of LANES numbers of one dtype."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        super().__init__(name=f"lanes({dtype})")


@register_model(LanesType)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, lanes_type: LanesType) -> None:
        super().__init__(manager, lanes_type, vector_of(lanes_type.dtype))


ELEMENTS = {
    types.float32: ir.FloatType(),
    types.float64: ir.DoubleType(),
    types.int32: ir.IntType(32),
    types.int64: ir.IntType(64),
    types.boolean: ir.IntType(1),
}


def vector_of(dtype: Any) -> ir.VectorType:
    """The LLVM type of sixteen numbers."""
    return ir.VectorType(ELEMENTS[dtype], LANES)


def splat(builder: Any, scalar: Any) -> Any:
    """Sixteen copies of an LLVM number."""
    vector = ir.VectorType(scalar.type, LANES)
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.IntType(32)(0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), zeros)


def as_lanes(context: Any, builder: Any, value: Any, given: Any, dtype: Any) -> Any:
    """A vector of `dtype` from a vector of it or from a number of any type."""
    if isinstance(given, LanesType):
        return value
    number = context.cast(builder, value, given, dtype)
    if dtype == types.boolean:
        number = builder.trunc(number, ir.IntType(1)) if number.type.width > 1 else number
    return splat(builder, number)


# operators ---------------------------------------------------------------------------------------
def _common(a: Any, b: Any) -> Any:
    """The dtype in which two operands meet: that of the vectors; numbers adapt."""
    found = {t.dtype for t in (a, b) if isinstance(t, LanesType)}
    numbers = all(isinstance(t, (LanesType, types.Number, types.Boolean)) for t in (a, b))
    return found.pop() if len(found) == 1 and numbers else None


def is_float(dtype: Any) -> bool:
    """Whether a dtype is a floating one."""
    return isinstance(dtype, types.Float)


def is_signed(dtype: Any) -> bool:
    """Whether a dtype is a signed integer's."""
    return bool(getattr(dtype, "signed", False))


def _operator(function: Any, emit: Callable[..., Any], allowed: Callable[[Any], bool], result: Any = None) -> None:
    """Give a binary operator a meaning on vectors: `emit(builder, a, b, dtype)`."""

    @type_callable(function)
    def typing(context: Any) -> Any:
        def typer(a: Any, b: Any) -> Any:
            dtype = _common(a, b)
            if dtype is not None and allowed(dtype):
                return LanesType(result or dtype)
            return None

        return typer

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        dtype = _common(*sig.args)
        a, b = (as_lanes(context, builder, x, t, dtype) for x, t in zip(args, sig.args, strict=True))
        return emit(builder, a, b, dtype)

    for left, right in ((LanesType, LanesType), (LanesType, types.Any), (types.Any, LanesType)):
        lower_builtin(function, left, right)(lower)


def _arithmetic(function: Any, on_floats: str, on_integers: str) -> None:
    def emit(builder: Any, a: Any, b: Any, dtype: Any) -> Any:
        return getattr(builder, on_floats if is_float(dtype) else on_integers)(a, b)

    _operator(function, emit, lambda dtype: dtype != types.boolean)


_arithmetic(operator.add, "fadd", "add")
_arithmetic(operator.sub, "fsub", "sub")
_arithmetic(operator.mul, "fmul", "mul")
_operator(operator.truediv, lambda builder, a, b, dtype: builder.fdiv(a, b), is_float)


def _comparison(function: Any, sign: str) -> None:
    def emit(builder: Any, a: Any, b: Any, dtype: Any) -> Any:
        if is_float(dtype):
            return (builder.fcmp_unordered if sign == "!=" else builder.fcmp_ordered)(sign, a, b)
        return (builder.icmp_signed if is_signed(dtype) else builder.icmp_unsigned)(sign, a, b)

    _operator(function, emit, lambda dtype: True, types.boolean)


for _function, _sign in (
    (operator.lt, "<"), (operator.le, "<="), (operator.gt, ">"), (operator.ge, ">="), (operator.eq, "=="),
    (operator.ne, "!="),
):  # fmt: skip
    _comparison(_function, _sign)


def _bitwise(function: Any, name: str) -> None:
    _operator(function, lambda builder, a, b, dtype: getattr(builder, name)(a, b), lambda dtype: not is_float(dtype))


_bitwise(operator.and_, "and_")
_bitwise(operator.or_, "or_")
_bitwise(operator.xor, "xor")
_bitwise(operator.lshift, "shl")
_operator(
    operator.rshift,
    lambda builder, a, b, dtype: (builder.ashr if is_signed(dtype) else builder.lshr)(a, b),
    lambda dtype: not is_float(dtype),
)


def _prefix(function: Any, emit: Callable[..., Any], allowed: Callable[[Any], bool]) -> None:
    @type_callable(function)
    def typing(context: Any) -> Any:
        def typer(a: Any) -> Any:
            return a if isinstance(a, LanesType) and allowed(a.dtype) else None

        return typer

    lower_builtin(function, LanesType)(lambda context, builder, sig, args: emit(builder, args[0], sig.args[0].dtype))


def _negative(builder: Any, a: Any, dtype: Any) -> Any:
    return builder.fneg(a) if is_float(dtype) else builder.neg(a)


_prefix(operator.neg, _negative, lambda dtype: dtype != types.boolean)
_prefix(operator.invert, lambda builder, a, dtype: builder.not_(a), lambda dtype: not is_float(dtype))
