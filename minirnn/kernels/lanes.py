"""Sixteen numbers at once: how kernels move them between arrays and vectors, and compute with them.

`load` and `store` move up to sixteen neighbours between an array and a vector; `+ - * /`, comparisons
and the functions below work lane by lane, a number meeting a vector stands for sixteen of it.  There
are always sixteen lanes: LLVM cuts them to what the machine has, and no lane ever looks at another, so
results do not depend on the machine's width.  Nothing here contracts or reorders: `fma` is written
where one is wanted.  Without the JIT (`NUMBA_DISABLE_JIT=1`) the same names are plain Python functions
of one number, LANES is 1 (see twins.py).

Offsets count elements from an array's first one, whatever its rank and strides.
"""

from __future__ import annotations

from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .lanes_type import ELEMENTS, LANES, LanesType, as_lanes, is_float, is_signed, splat, vector_of
from .pointers import pointer_at


# arrays ------------------------------------------------------------------------------------------
def _valid(builder: Any, count: Any) -> Any:
    """Which of the sixteen lanes are below `count`."""
    short = ir.IntType(32)
    most = ir.Constant(count.type, LANES)
    count = builder.select(builder.icmp_signed("<", count, most), count, most)
    numbers = ir.Constant(ir.VectorType(short, LANES), list(range(LANES)))
    return builder.icmp_signed("<", numbers, splat(builder, builder.trunc(count, short)))


def _stored(dtype: Any) -> Any:
    """The LLVM type of an element in memory: a bool takes a byte."""
    return ir.IntType(8) if dtype == types.boolean else ELEMENTS[dtype]


def _to_register(builder: Any, vector: Any, dtype: Any) -> Any:
    return builder.icmp_unsigned("!=", vector, ir.Constant(vector.type, None)) if dtype == types.boolean else vector


def _suffix(dtype: Any) -> str:
    element = _stored(dtype)
    return f"v{LANES}" + ("f32" if element == ir.FloatType() else "f64" if element == ir.DoubleType() else str(element))


def _declare(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), name)


def _size(dtype: Any) -> int:
    """Bytes of an element in memory."""
    return 1 if dtype == types.boolean else dtype.bitwidth // 8


def _align(dtype: Any) -> Any:
    return ir.IntType(32)(_size(dtype))


def _index(*given: Any) -> tuple[Any, ...]:
    """Offsets and counts are int64."""
    return (types.int64,) * len(given)


@intrinsic
def load(typing: Any, array: Any, offset: Any, count: Any) -> Any:
    """The vector of an array's elements from `offset` on; lanes from `count` on are zero and not read."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        dtype, pointer = array.dtype, pointer_at(context, builder, array, args[0], args[1])
        memory = ir.VectorType(_stored(dtype), LANES)
        function = _declare(
            builder,
            f"llvm.masked.load.{_suffix(dtype)}.p0",
            memory,
            [memory.as_pointer(), ir.IntType(32), ir.VectorType(ir.IntType(1), LANES), memory],
        )
        place = builder.bitcast(pointer, memory.as_pointer())
        zeros = ir.Constant(memory, None)
        vector = builder.call(function, [place, _align(dtype), _valid(builder, args[2]), zeros])
        return _to_register(builder, vector, dtype)

    return LanesType(array.dtype)(array, *_index(offset, count)), codegen


@intrinsic
def zeros(typing: Any, array: Any) -> Any:
    """Sixteen zeros of an array's dtype."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return ir.Constant(vector_of(array.dtype), None)

    return LanesType(array.dtype)(array), codegen


@intrinsic
def store(typing: Any, array: Any, offset: Any, value: Any, count: Any) -> Any:
    """Put the first `count` lanes into an array from `offset` on."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        dtype, pointer = array.dtype, pointer_at(context, builder, array, args[0], args[1])
        vector = as_lanes(context, builder, args[2], value, dtype)
        memory = ir.VectorType(_stored(dtype), LANES)
        vector = builder.zext(vector, memory) if dtype == types.boolean else vector
        function = _declare(
            builder,
            f"llvm.masked.store.{_suffix(dtype)}.p0",
            ir.VoidType(),
            [memory, memory.as_pointer(), ir.IntType(32), ir.VectorType(ir.IntType(1), LANES)],
        )
        place = builder.bitcast(pointer, memory.as_pointer())
        builder.call(function, [vector, place, _align(dtype), _valid(builder, args[3])])
        return context.get_dummy_value()

    if isinstance(value, LanesType) and value.dtype != array.dtype:
        raise numba.TypingError(f"store: lanes of {value.dtype} into an array of {array.dtype}")
    return types.void(array, types.int64, value, types.int64), codegen


@intrinsic
def load_apart(typing: Any, array: Any, offset: Any, stride: Any, count: Any) -> Any:
    """As `load`, of elements that stand `stride` places apart."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        dtype, pointer = array.dtype, pointer_at(context, builder, array, args[0], args[1])
        memory = ir.VectorType(_stored(dtype), LANES)
        places = _apart(builder, pointer, args[2], _size(dtype))
        function = _declare(
            builder,
            f"llvm.masked.gather.{_suffix(dtype)}.v{LANES}p0",
            memory,
            [places.type, ir.IntType(32), ir.VectorType(ir.IntType(1), LANES), memory],
        )
        zeros = ir.Constant(memory, None)
        vector = builder.call(function, [places, _align(dtype), _valid(builder, args[3]), zeros])
        return _to_register(builder, vector, dtype)

    return LanesType(array.dtype)(array, *_index(offset, stride, count)), codegen


@intrinsic
def store_apart(typing: Any, array: Any, offset: Any, stride: Any, value: Any, count: Any) -> Any:
    """As `store`, to places that stand `stride` elements apart."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        dtype, pointer = array.dtype, pointer_at(context, builder, array, args[0], args[1])
        vector = as_lanes(context, builder, args[3], value, dtype)
        memory = ir.VectorType(_stored(dtype), LANES)
        vector = builder.zext(vector, memory) if dtype == types.boolean else vector
        places = _apart(builder, pointer, args[2], _size(dtype))
        function = _declare(
            builder,
            f"llvm.masked.scatter.{_suffix(dtype)}.v{LANES}p0",
            ir.VoidType(),
            [memory, places.type, ir.IntType(32), ir.VectorType(ir.IntType(1), LANES)],
        )
        builder.call(function, [vector, places, _align(dtype), _valid(builder, args[4])])
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64, value, types.int64), codegen


def _apart(builder: Any, pointer: Any, stride: Any, size: int) -> Any:
    """Sixteen addresses, `stride` elements of `size` bytes apart."""
    numbers = ir.Constant(ir.VectorType(ir.IntType(64), LANES), [i * size for i in range(LANES)])
    steps = builder.mul(numbers, splat(builder, stride))
    addresses = builder.add(splat(builder, builder.ptrtoint(pointer, ir.IntType(64))), steps)
    return builder.inttoptr(addresses, ir.VectorType(pointer.type, LANES))


@intrinsic
def element(typing: Any, array: Any, offset: Any) -> Any:
    """One element of an array, `offset` places after its first."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = pointer_at(context, builder, array, args[0], args[1])
        return context.unpack_value(builder, array.dtype, pointer)

    return array.dtype(array, types.int64), codegen


@intrinsic
def put(typing: Any, array: Any, offset: Any, value: Any) -> Any:
    """Set one element of an array, `offset` places after its first."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = pointer_at(context, builder, array, args[0], args[1])
        context.pack_value(builder, array.dtype, args[2], pointer)
        return context.get_dummy_value()

    return types.void(array, types.int64, array.dtype), codegen


@intrinsic(prefer_literal=True)
def stride(typing: Any, array: Any, axis: Any) -> Any:
    """How many elements apart an array's neighbours along an axis are; the axis is written as a number."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        strides = context.make_array(array)(context, builder, args[0]).strides
        in_bytes = builder.extract_value(strides, axis.literal_value)
        return builder.sdiv(in_bytes, in_bytes.type(_size(array.dtype)), flags=["exact"])

    return types.int64(array, axis), codegen


# functions ---------------------------------------------------------------------------------------
def _common_of_all(values: Any) -> Any:
    """As `_common`, for any number of operands; plain numbers alone have none."""
    found = {t.dtype for t in values if isinstance(t, LanesType)}
    return found.pop() if len(found) == 1 else None


@intrinsic
def select(typing: Any, condition: Any, x: Any, y: Any) -> Any:
    """x where the condition holds, else y."""
    dtype = _common_of_all((x, y)) or typing.unify_types(x, y)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        chosen = as_lanes(context, builder, args[0], condition, types.boolean)
        a, b = (as_lanes(context, builder, v, t, dtype) for v, t in zip(args[1:], (x, y), strict=True))
        return builder.select(chosen, a, b)

    return LanesType(dtype)(condition, x, y), codegen


def _llvm_function(name: str, operands: int) -> Any:
    """The LLVM intrinsic `name` on vectors of floats."""

    def typed(typing: Any, *given: Any) -> Any:
        dtype = _common_of_all(given)
        if not is_float(dtype):
            return None

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            vectors = [as_lanes(context, builder, v, t, dtype) for v, t in zip(args, sig.args, strict=True)]
            vector = vector_of(dtype)
            full_name = f"llvm.{name}.{_suffix(dtype)}"
            return builder.call(_declare(builder, full_name, vector, [vector] * operands), vectors)

        return LanesType(dtype)(*given), codegen

    return typed


@intrinsic
def fma(typing: Any, x: Any, y: Any, z: Any) -> Any:
    """x * y + z, rounded once."""
    return _llvm_function("fma", 3)(typing, x, y, z)


@intrinsic
def sqrt(typing: Any, x: Any) -> Any:
    """The square root."""
    return _llvm_function("sqrt", 1)(typing, x)


@intrinsic
def absolute(typing: Any, x: Any) -> Any:
    """The number without its sign bit."""
    return _llvm_function("fabs", 1)(typing, x)


def _converted(builder: Any, value: Any, source: Any, target: Any) -> Any:
    vector = vector_of(target)
    if source == target:
        return value
    if target == types.boolean:
        zeros = ir.Constant(value.type, None)
        return (
            builder.fcmp_unordered("!=", value, zeros) if is_float(source) else builder.icmp_signed("!=", value, zeros)
        )
    if is_float(source) and is_float(target):
        return builder.fpext(value, vector) if target == types.float64 else builder.fptrunc(value, vector)
    if is_float(target):
        return (builder.sitofp if is_signed(source) else builder.uitofp)(value, vector)
    if is_float(source):
        return builder.fptosi(value, vector)
    from_width, to_width = (ELEMENTS[t].width for t in (source, target))
    if from_width >= to_width:
        return value if from_width == to_width else builder.trunc(value, vector)
    return (builder.sext if is_signed(source) else builder.zext)(value, vector)


def _conversion(dtype: Any, name: str) -> Any:
    """The function `name`: converted to a dtype, floats cut towards zero for integers; a number becomes sixteen."""

    def convert(typing: Any, x: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            if not isinstance(x, LanesType):
                return as_lanes(context, builder, args[0], x, dtype)
            return _converted(builder, args[0], x.dtype, dtype)

        return LanesType(dtype)(x), codegen

    convert.__name__ = convert.__qualname__ = name
    return intrinsic(convert)


as_float32 = _conversion(types.float32, "as_float32")
as_float64 = _conversion(types.float64, "as_float64")
as_int32 = _conversion(types.int32, "as_int32")
as_int64 = _conversion(types.int64, "as_int64")
as_bool = _conversion(types.boolean, "as_bool")


@intrinsic
def maximum(typing: Any, x: Any, y: Any) -> Any:
    """The larger one, NaN if either is."""
    return _larger_or_smaller(typing, ">=", x, y)


@intrinsic
def minimum(typing: Any, x: Any, y: Any) -> Any:
    """The smaller one, NaN if either is."""
    return _larger_or_smaller(typing, "<=", x, y)


def _larger_or_smaller(typing: Any, sign: str, x: Any, y: Any) -> Any:
    dtype = _common_of_all((x, y)) or typing.unify_types(x, y)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        a, b = (as_lanes(context, builder, v, t, dtype) for v, t in zip(args, (x, y), strict=True))
        if not is_float(dtype):
            compare = builder.icmp_signed if is_signed(dtype) else builder.icmp_unsigned
            return builder.select(compare(sign, a, b), a, b)
        is_nan = builder.fcmp_unordered("!=", a, a)
        return builder.select(builder.or_(builder.fcmp_ordered(sign, a, b), is_nan), a, b)

    return LanesType(dtype)(x, y), codegen


if numba.config.DISABLE_JIT:
    from .twins import *  # noqa: F403
