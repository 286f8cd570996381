"""Weights that stay in registers over the whole time loop, and the chains of products with them.

A thread holds one column of a matrix along a few blocks of 64 contracted indices.  What it holds is a tuple
that only ever is taken apart at places known while compiling, so that each weight has a register of its own
as long as there are enough of them; assembly shows whether there were.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from . import target, twins
from .inline import emitted
from .scalars import as_long, common, is_float, plain, pointer_to

_LONG = ir.IntType(64)
VECTOR_BYTES = 16  # that one thread reads at a time


def _numbers(*given: Any) -> list[int] | None:
    """The values of whole numbers of the kernel's text, None if they are something else."""
    if not all(isinstance(t, target.cuda.types.IntegerLiteral) for t in given):
        return None
    return [int(t.literal_value) for t in given]


def _hold(typing: Any, array: Any, at: Any, step: Any, count: Any, most: Any) -> Any:
    """`most` values of which the first `count` are elements, `step` apart; the others are zero and not read.

    A number of the text as `step` saves the registers of so many addresses.
    """
    numbers = _numbers(most)
    if numbers is None:
        return None
    (size,), dtype = numbers, array.dtype

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        begin, pace, limit = (as_long(builder, v, t) for v, t in zip(values[1:4], (at, step, count), strict=True))
        kind = context.get_value_type(dtype)
        nothing = ir.Constant(kind, 0.0)
        held = ir.Constant(ir.ArrayType(kind, size), ir.Undefined)
        start = pointer_to(context, builder, array, values[0], begin, target.cuda.types.int64)
        found = []
        for k in range(size):
            # One at a time: 64 addresses at once would take the registers that the weights are to have.
            before = builder.block
            with builder.if_then(builder.icmp_signed("<", _LONG(k), limit)):
                value = builder.load(builder.gep(start, [builder.mul(pace, _LONG(k))]))
                after = builder.block
            one = builder.phi(kind)
            one.add_incoming(nothing, before)
            one.add_incoming(value, after)
            found.append(one)
        for k, one in enumerate(found):
            held = builder.insert_value(held, one, k)
        return held

    return target.cuda.types.UniTuple(dtype, size)(array, at, step, count, most), codegen


def _chain_rule(name: str, together: Callable[[Any], int], doc: str) -> Callable[..., Any]:
    """The chain over elements of which so many are read at a time."""

    def rule(typing: Any, weights: Any, first: Any, count: Any, a: Any, at: Any, step: Any) -> Any:
        numbers, dtype = _numbers(first, count, step), common(weights.dtype, a.dtype)
        if numbers is None or not is_float(dtype):
            return None
        begin, length, pace = numbers
        if not 0 <= begin <= begin + length <= weights.count:
            return None
        some = together(dtype) if pace == 1 else 1

        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            kind = context.get_value_type(dtype)
            start = pointer_to(context, builder, a, values[3], values[4], signature.args[4])
            fma = builder.module.declare_intrinsic("llvm.fma", [kind], ir.FunctionType(kind, [kind] * 3))
            total = ir.Constant(kind, 0.0)
            for k, x in enumerate(read(builder, start, length, pace, some)):
                total = builder.call(fma, [x, builder.extract_value(values[0], begin + k), total])
            return total

        return dtype(weights, first, count, a, plain(at), step), codegen

    rule.__name__, rule.__doc__ = name, doc
    return rule


def read(builder: Any, start: Any, count: int, step: int, together: int) -> list[Any]:
    """`count` numbers that stand `step` apart; neighbours by `together` at a time, as far as there are as many."""
    found: list[Any] = []
    for k in range(0, count - count % together, together):
        pointer = builder.gep(start, [_LONG(k * step)])
        if together == 1:
            found.append(builder.load(pointer))
            continue
        vector = ir.PointerType(ir.VectorType(pointer.type.pointee, together), pointer.type.addrspace)
        numbers = builder.load(builder.bitcast(pointer, vector), align=VECTOR_BYTES)
        found += [builder.extract_element(numbers, ir.IntType(32)(lane)) for lane in range(together)]
    rest = range(len(found), count)
    return found + [builder.load(builder.gep(start, [_LONG(k * step)])) for k in rest]


def neighbours(dtype: Any) -> int:
    """How many numbers one thread reads at a time."""
    return VECTOR_BYTES * 8 // int(dtype.bitwidth)


hold = emitted(_hold, twins.hold)
chain = emitted(
    _chain_rule("chain", lambda dtype: 1, "One chain of fma from zero over weights first ... first + count."),
    twins.chain,
)  # fmt: skip
chain_aligned = emitted(
    _chain_rule(
        "chain_aligned", neighbours, "As `chain`, of neighbours that begin at a multiple of 16 bytes: read together."
    ),
    twins.chain,
)  # fmt: skip
