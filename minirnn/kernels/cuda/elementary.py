"""The elementary functions on the device: the formulas of the cpu engine, run on LLVM values of one number.

What libNVVM does not know for every device has another form here, with the same bits.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from .. import formulas
from ..elementary import FORMULAS, SUFFIXES
from . import target, twins
from .inline import emitted
from .scalars import is_float, negated, without_sign

_CONSTANT_MEMORY = 4  # the address space


class DeviceNumber(formulas.Emitted):
    """A number that the kernel being built will hold; an operation appends an instruction that libNVVM knows."""

    def __neg__(self) -> DeviceNumber:
        if not isinstance(self.value.type, (ir.FloatType, ir.DoubleType)):
            return self.made(self.builder.neg(self.value))
        return self.made(negated(self.builder, self.value))

    def made(self, value: Any) -> DeviceNumber:
        """A value of the same function."""
        return DeviceNumber(self.builder, value)

    def call(self, name: str, *operands: Any) -> DeviceNumber:
        """The LLVM intrinsic `name` of this and other values of its type."""
        if name == "llvm.fabs":
            return self.made(without_sign(self.builder, self.value))
        if name == "llvm.copysign":
            return self._with_sign_of(operands[0])
        return self.made(super().call(name, *operands).value)

    def _with_sign_of(self, other: Any) -> DeviceNumber:
        sign = -(1 << self.width - 1)
        size = formulas.bits(self) & ~sign
        made: DeviceNumber = formulas.from_bits(size | formulas.bits(self.made(self.operand(other))) & sign)
        return made

    def entry_of(self, numbers: tuple[float, ...]) -> DeviceNumber:
        """numbers[this] of a table of float64, for an index of 64 bits."""
        builder, kind = self.builder, ir.ArrayType(ir.DoubleType(), len(numbers))
        name = f"table_{hash(numbers) & 0xFFFFFFFF:x}"
        table = builder.module.globals.get(name)
        if table is None:
            table = ir.GlobalVariable(builder.module, kind, name, _CONSTANT_MEMORY)
            table.global_constant, table.linkage = True, "internal"
            table.initializer = ir.Constant(kind, list(numbers))
        return self.made(builder.load(builder.gep(table, [ir.IntType(64)(0), self.value])))


def of_numbers(formula: formulas.Formula, dtype: str, name: str) -> Any:
    """A formula as a function that kernels call on numbers of one dtype."""

    def typed(*given: Any) -> Any:
        wanted = getattr(target.cuda.types, dtype)
        if any(is_float(t) and t != wanted for t in given):
            return None

        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return formula(*(DeviceNumber(builder, v) for v in values)).value

        return wanted(*[wanted] * len(given)), codegen

    def of_one(typing: Any, x: Any) -> Any:
        return typed(x)

    def of_two(typing: Any, x: Any, y: Any) -> Any:
        return typed(x, y)

    rule: Any = of_one if formula.__code__.co_argcount == 1 else of_two
    rule.__name__ = rule.__qualname__ = name
    rule.__doc__ = formula.__doc__
    return emitted(rule, twins.of_formula(formula, dtype))


FUNCTIONS: dict[str, Any] = {
    f"{function}_{suffix}": of_numbers(formula, dtype, f"{function}_{suffix}")
    for function, formula in FORMULAS.items()
    for dtype, suffix in SUFFIXES.items()
}
globals().update(FUNCTIONS)
