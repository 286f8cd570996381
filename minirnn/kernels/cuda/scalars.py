"""Elements of arrays, and functions of one or a few numbers: what printed kernels are written with.

Numbers that meet have to be of one dtype, but for whole numbers of the text, which adapt: nothing is
promoted behind the text's back.  Nothing here contracts: `fma` is written where one is wanted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from . import target, twins
from .inline import emitted

_LONG = ir.IntType(64)


# types -------------------------------------------------------------------------------------------
def is_float(dtype: Any) -> bool:
    """Whether a type is a floating one."""
    return isinstance(dtype, target.cuda.types.Float)


def common(*given: Any) -> Any:
    """The one type of some numbers, None if there is none; whole numbers of the text take that of the others."""
    found = {plain(t) for t in given if not isinstance(t, target.cuda.types.IntegerLiteral)}
    found = found or {plain(t) for t in given}
    return found.pop() if len(found) == 1 else None


def plain(dtype: Any) -> Any:
    """The type of a number; a whole number of the text has one of its own."""
    return getattr(dtype, "literal_type", dtype)


# arrays ------------------------------------------------------------------------------------------
def pointer_to(context: Any, builder: Any, array: Any, value: Any, offset: Any, offset_type: Any) -> Any:
    """The address of the element of an array that stands `offset` places after its first."""
    data = context.make_array(array)(context, builder, value).data
    return builder.gep(data, [as_long(builder, offset, offset_type)])


def as_long(builder: Any, value: Any, dtype: Any) -> Any:
    """A whole number of any type as 64 bits."""
    if value.type.width == 64:
        return value
    return (builder.sext if plain(dtype).signed else builder.zext)(value, _LONG)


def _element(typing: Any, array: Any, offset: Any) -> Any:
    """One element of an array, `offset` places after its first."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointer = pointer_to(context, builder, array, values[0], values[1], signature.args[1])
        return context.unpack_value(builder, array.dtype, pointer)

    return array.dtype(array, plain(offset)), codegen


def _put(typing: Any, array: Any, offset: Any, value: Any) -> Any:
    """Set one element of an array, `offset` places after its first."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointer = pointer_to(context, builder, array, values[0], values[1], signature.args[1])
        context.pack_value(builder, array.dtype, values[2], pointer)
        return context.get_dummy_value()

    given = plain(value)
    if is_float(given) and given != array.dtype:
        return None
    return target.cuda.types.void(array, plain(offset), array.dtype), codegen


element = emitted(_element, twins.element)
put = emitted(_put, twins.put)


# functions ---------------------------------------------------------------------------------------
def _select(typing: Any, condition: Any, x: Any, y: Any) -> Any:
    """x where the condition holds, else y."""
    dtype = common(x, y)
    if dtype is None:
        return None

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.select(*values)

    return dtype(target.cuda.types.boolean, dtype, dtype), codegen


def _larger_or_smaller(sign: str, name: str, doc: str) -> Callable[..., Any]:
    def rule(typing: Any, x: Any, y: Any) -> Any:
        dtype = common(x, y)
        if dtype is None:
            return None

        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            x, y = values
            if is_float(dtype):
                is_nan = builder.fcmp_unordered("!=", x, x)
                return builder.select(builder.or_(builder.fcmp_ordered(sign, x, y), is_nan), x, y)
            compare = builder.icmp_signed if getattr(dtype, "signed", False) else builder.icmp_unsigned
            return builder.select(compare(sign, x, y), x, y)

        return dtype(dtype, dtype), codegen

    rule.__name__, rule.__doc__ = name, doc
    return rule


def _absolute(typing: Any, x: Any) -> Any:
    """The number without its sign."""
    dtype = common(x)

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        (x,) = values
        if not is_float(dtype):
            return builder.select(builder.icmp_signed("<", x, x.type(0)), builder.neg(x), x)
        return without_sign(builder, x)

    return dtype(dtype), codegen


def without_sign(builder: Any, x: Any) -> Any:
    """A float with its sign bit cleared; libNVVM knows no llvm.fabs for every device."""
    word = ir.IntType(32 if x.type == ir.FloatType() else 64)
    return builder.bitcast(builder.and_(builder.bitcast(x, word), word((1 << word.width - 1) - 1)), x.type)


def _negative(typing: Any, x: Any) -> Any:
    """The number with the other sign."""
    dtype = common(x)

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return negated(builder, values[0]) if is_float(dtype) else builder.neg(values[0])

    return dtype(dtype), codegen


def negated(builder: Any, x: Any) -> Any:
    """A float with the other sign; libNVVM knows no fneg for every device."""
    return builder.fsub(ir.Constant(x.type, -0.0), x)


def _of_floats(name: str, operands: int, doc: str) -> Callable[..., Any]:
    """The LLVM intrinsic `name` of as many floats."""

    def typed(*given: Any) -> Any:
        dtype = common(*given)
        if dtype is None or not is_float(dtype):
            return None

        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            kind = values[0].type
            function = builder.module.declare_intrinsic(
                f"llvm.{name}", [kind], ir.FunctionType(kind, [kind] * operands)
            )
            return builder.call(function, values)

        return dtype(*[dtype] * operands), codegen

    def of_one(typing: Any, x: Any) -> Any:
        return typed(x)

    def of_three(typing: Any, x: Any, y: Any, z: Any) -> Any:
        return typed(x, y, z)

    rule: Any = of_one if operands == 1 else of_three
    rule.__name__, rule.__doc__ = name, doc
    return rule


def _logical_not(typing: Any, x: Any) -> Any:
    """Whether a condition does not hold."""
    boolean = target.cuda.types.boolean
    return boolean(boolean), lambda context, builder, signature, values: builder.not_(values[0])


select = emitted(_select, twins.select)
maximum = emitted(_larger_or_smaller(">=", "maximum", "The larger one, NaN if either is."), twins.maximum)
minimum = emitted(_larger_or_smaller("<=", "minimum", "The smaller one, NaN if either is."), twins.minimum)
absolute = emitted(_absolute, twins.absolute)
negative = emitted(_negative, twins.negative)
sqrt = emitted(_of_floats("sqrt", 1, "The square root."), twins.sqrt)
fma = emitted(_of_floats("fma", 3, "x * y + z, rounded once."), twins.fma)
logical_not = emitted(_logical_not, twins.logical_not)


# conversions -------------------------------------------------------------------------------------
def _conversion(dtype: str) -> Callable[..., Any]:
    def convert(typing: Any, x: Any) -> Any:
        source, wanted = plain(x), getattr(target.cuda.types, dtype)

        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            if is_float(source) and not is_float(wanted):
                return _from_float(builder, values[0], wanted)
            return context.cast(builder, values[0], source, wanted)

        return wanted(source), codegen

    convert.__name__ = f"as_{dtype}"
    convert.__doc__ = f"Converted to {dtype}, floats cut towards zero for integers."
    return convert


def _from_float(builder: Any, x: Any, wanted: Any) -> Any:
    """A float cut towards zero; what is out of range or NaN becomes the least integer, as on x86."""
    if wanted == target.cuda.types.boolean:
        return builder.fcmp_unordered("!=", x, x.type(0.0))
    limit, kind = 2.0 ** (wanted.bitwidth - 1), ir.IntType(wanted.bitwidth)
    # A number between -limit - 1 and -limit is cut to -limit, which is what it would get anyway.
    low = builder.fcmp_ordered(">=", x, x.type(-limit))
    inside = builder.and_(low, builder.fcmp_ordered("<", x, x.type(limit)))
    return builder.select(inside, builder.fptosi(x, kind), kind(-(1 << wanted.bitwidth - 1)))


as_float32 = emitted(_conversion("float32"), twins.as_float32)
as_float64 = emitted(_conversion("float64"), twins.as_float64)
as_int32 = emitted(_conversion("int32"), twins.as_int32)
as_int64 = emitted(_conversion("int64"), twins.as_int64)
as_bool = emitted(_conversion("bool_"), twins.as_bool)
