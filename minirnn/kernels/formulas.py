"""Formulas: mathematics written once in plain Python, run on LLVM values while compiling or on NumPy numbers.

A formula is a function of numbers that uses `+ - * /`, comparisons, `& | ^ ~ << >>` and the functions below.
`on_numbers` makes it a Numba function: while Numba compiles a call, the formula runs once on `Emitted` values,
and each operation appends its instruction.  So a formula costs Numba one call however long it is (typing fifty
operations one by one takes twenty times as long), works on sixteen lanes as on one number, and may use loops
and tuples, which are gone when the code runs.  Without the JIT the formula itself runs, on NumPy numbers or
arrays.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

from .build import JIT_OFF
from .lanes_type import LanesType, as_lanes, splat

Formula = Callable[..., Any]

_FLOATS = {32: ir.FloatType(), 64: ir.DoubleType()}
_WIDTHS = {ir.FloatType(): 32, ir.DoubleType(): 64}


class Emitted:
    """A number or a vector of numbers that the code being built will hold; an operation appends an instruction."""

    __array_ufunc__ = None  # a NumPy number on the left leaves the operation to this class

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder = builder
        self.value = value

    @property
    def element(self) -> Any:
        """The LLVM type of one number."""
        return getattr(self.value.type, "element", self.value.type)

    @property
    def width(self) -> int:
        """Bits of one number."""
        return _WIDTHS.get(self.element) or self.element.width

    def like(self, element: Any) -> Any:
        """The LLVM type of as many numbers as this has, of another type."""
        return ir.VectorType(element, self.value.type.count) if hasattr(self.value.type, "count") else element

    def constant(self, number: Any) -> Any:
        """The LLVM constant of this value's type."""
        if self.element in _WIDTHS:
            number = float(np.float32(number) if self.width == 32 else number)
        kind = self.value.type
        return ir.Constant(kind, [number] * kind.count if hasattr(kind, "count") else number)

    def operand(self, other: Any) -> Any:
        """Another value, or a number as a constant."""
        return other.value if isinstance(other, Emitted) else self.constant(other)

    def made(self, value: Any) -> Emitted:
        """A value of the same function."""
        return type(self)(self.builder, value)

    def call(self, name: str, *operands: Any) -> Emitted:
        """The LLVM intrinsic `name` of this and other values of its type."""
        values = [self.value, *(self.operand(v) for v in operands)]
        kind = self.value.type
        lanes = f"v{kind.count}" if hasattr(kind, "count") else ""
        signature = ir.FunctionType(kind, [v.type for v in values])
        full_name = f"{name}.{lanes}f{self.width}"
        function = cgutils.get_or_insert_function(self.builder.module, signature, full_name)
        return self.made(self.builder.call(function, values))

    def entry_of(self, numbers: tuple[float, ...]) -> Emitted:
        """numbers[this] of a table of float64, for an index of 64 bits."""
        builder, word, element = self.builder, ir.IntType(64), ir.DoubleType()
        array = ir.Constant(ir.ArrayType(element, len(numbers)), list(numbers))
        start = builder.ptrtoint(cgutils.global_constant(builder, "table", array), word)
        if not hasattr(self.value.type, "count"):
            address = builder.add(start, builder.shl(self.value, word(3)))
            return self.made(builder.load(builder.inttoptr(address, element.as_pointer())))
        addresses = builder.add(splat(builder, start), builder.shl(self.value, self.constant(3)))
        places = builder.inttoptr(addresses, self.like(element.as_pointer()))
        vector, mask = self.like(element), self.like(ir.IntType(1))
        signature = ir.FunctionType(vector, [places.type, ir.IntType(32), mask, vector])
        name = f"llvm.masked.gather.v{vector.count}f64.v{vector.count}p0"
        gather = cgutils.get_or_insert_function(builder.module, signature, name)
        everywhere = ir.Constant(mask, [1] * mask.count)
        return self.made(builder.call(gather, [places, ir.IntType(32)(8), everywhere, ir.Constant(vector, None)]))

    def _apply(self, names: str, other: Any, reflected: bool = False) -> Emitted:
        """One instruction: `names` is its name for floats and its name for integers."""
        on_floats, _, on_integers = names.partition(" ")
        a, b = self.value, self.operand(other)
        a, b = (b, a) if reflected else (a, b)
        name = on_floats if self.element in _WIDTHS else on_integers
        return self.made(getattr(self.builder, name)(a, b))

    def _compare(self, sign: str, other: Any) -> Emitted:
        if self.element not in _WIDTHS:
            return self.made(self.builder.icmp_signed(sign, self.value, self.operand(other)))
        compare = self.builder.fcmp_unordered if sign == "!=" else self.builder.fcmp_ordered
        return self.made(compare(sign, self.value, self.operand(other)))

    def __neg__(self) -> Emitted:
        return self.made((self.builder.fneg if self.element in _WIDTHS else self.builder.neg)(self.value))

    def __invert__(self) -> Emitted:
        return self.made(self.builder.not_(self.value))

    def __eq__(self, other: Any) -> Any:
        return self._compare("==", other)

    def __ne__(self, other: Any) -> Any:
        return self._compare("!=", other)

    __hash__ = object.__hash__


for _name, _instruction in {
    "add": "fadd add", "sub": "fsub sub", "mul": "fmul mul", "truediv": "fdiv", "and": "- and_", "or": "- or_",
    "xor": "- xor", "lshift": "- shl", "rshift": "- ashr",
}.items():  # fmt: skip
    setattr(Emitted, f"__{_name}__", lambda a, b, names=_instruction: a._apply(names, b))
    setattr(Emitted, f"__r{_name}__", lambda a, b, names=_instruction: a._apply(names, b, reflected=True))
for _name, _sign in {"lt": "<", "le": "<=", "gt": ">", "ge": ">="}.items():
    setattr(Emitted, f"__{_name}__", lambda a, b, sign=_sign: a._compare(sign, b))


# functions of formulas ---------------------------------------------------------------------------
def width(x: Any) -> int:
    """Bits of one number."""
    return x.width if isinstance(x, Emitted) else 8 * x.dtype.itemsize


def constant(x: Any, number: float) -> Any:
    """A number of the type of x."""
    return x.made(x.constant(number)) if isinstance(x, Emitted) else x.dtype.type(number)


def fma(x: Any, y: Any, z: Any) -> Any:
    """x * y + z, rounded once."""
    values = [v for v in (x, y, z) if isinstance(v, Emitted)]
    if values:
        a, b, c = (v if isinstance(v, Emitted) else values[0].made(values[0].constant(v)) for v in (x, y, z))
        return a.call("llvm.fma", b, c)
    return _fma_of_numbers(x, y, z)


def _fma_of_numbers(x: Any, y: Any, z: Any) -> Any:
    """Rounded once (float64: but for rare ties), from an exact product and what the sum with it loses."""
    dtype = np.result_type(x, y, z)
    x, y, z = (np.asarray(v, dtype).astype(np.float64) for v in (x, y, z))
    product = x * y
    total = product + z
    rest = total - product
    lost = (product - (total - rest)) + (z - rest)
    if dtype == np.float32:  # the product is exact; rounding the sum to odd makes the second rounding right
        even = total.view(np.int64) & 1 == 0
        toward = np.nextafter(total, np.copysign(np.inf, lost))
        return np.where(even & (lost != 0) & np.isfinite(total), toward, total).astype(np.float32)[()]
    (x_high, x_low), (y_high, y_low) = ((high, v - high) for v in (x, y) for high in [_upper_half(v)])
    error = ((x_high * y_high - product) + x_high * y_low + x_low * y_high) + x_low * y_low
    result = total + (lost + error)
    return np.where(np.isfinite(result), result, total)[()]


def _upper_half(x: Any) -> Any:
    scaled = x * 134217729.0  # 2^27 + 1
    return scaled - (scaled - x)


def select(condition: Any, x: Any, y: Any) -> Any:
    """x where the condition holds, else y."""
    if not isinstance(condition, Emitted):
        return np.where(condition, x, y)[()]
    one = x if isinstance(x, Emitted) else y
    return one.made(one.builder.select(condition.value, one.operand(x), one.operand(y)))


def sqrt(x: Any) -> Any:
    """The square root."""
    return x.call("llvm.sqrt") if isinstance(x, Emitted) else np.sqrt(x)


def absolute(x: Any) -> Any:
    """The number without its sign bit."""
    return x.call("llvm.fabs") if isinstance(x, Emitted) else np.abs(x)


def copysign(x: Any, y: Any) -> Any:
    """x with the sign bit of y."""
    return x.call("llvm.copysign", y) if isinstance(x, Emitted) else np.copysign(x, y)


def bits(x: Any) -> Any:
    """The bit pattern of floats, as signed integers of their size."""
    if isinstance(x, Emitted):
        return x.made(x.builder.bitcast(x.value, x.like(ir.IntType(x.width))))
    return x.view(f"i{x.dtype.itemsize}")


def from_bits(x: Any) -> Any:
    """The floats of which signed integers are the bit patterns."""
    if isinstance(x, Emitted):
        return x.made(x.builder.bitcast(x.value, x.like(_FLOATS[x.width])))
    return x.view(f"f{x.dtype.itemsize}")


def as_float64(x: Any) -> Any:
    """float32 widened."""
    if isinstance(x, Emitted):
        return x.made(x.builder.fpext(x.value, x.like(_FLOATS[64])))
    return x.astype(np.float64)


def as_float32(x: Any) -> Any:
    """float64 rounded to float32."""
    if isinstance(x, Emitted):
        return x.made(x.builder.fptrunc(x.value, x.like(_FLOATS[32])))
    return x.astype(np.float32)


def table(index: Any, numbers: tuple[float, ...]) -> Any:
    """numbers[index] of a short table of float64."""
    return index.entry_of(numbers) if isinstance(index, Emitted) else np.asarray(numbers)[index]


def polynomial(x: Any, coefficients: tuple[float, ...]) -> Any:
    """c[0] + c[1] x + c[2] x^2 ..., pairwise (Estrin's scheme), which makes a short chain of fma."""
    terms: list[Any] = list(coefficients)
    while len(terms) > 3:
        pairs = [fma(terms[i + 1], x, terms[i]) for i in range(0, len(terms) - 1, 2)]
        terms = pairs + terms[len(pairs) * 2 :]
        x = x * x
    total = terms[-1]
    for term in terms[-2::-1]:
        total = fma(total, x, term)
    return total


# formulas as functions of kernels ----------------------------------------------------------------
def on_numbers(formula: Formula, dtype: Any, name: str) -> Any:
    """The formula as a function that kernels call, on sixteen lanes or one number of one float dtype."""
    if JIT_OFF:

        @functools.wraps(formula)
        def of_numbers(*arguments: Any) -> Any:
            with np.errstate(all="ignore"):
                return formula(*(np.asarray(v, str(dtype))[()] for v in arguments))

        return of_numbers

    def typed(given: tuple[Any, ...]) -> Any:
        if any(isinstance(v, LanesType) and v.dtype != dtype for v in given):
            raise numba.TypingError(f"{name} of {', '.join(map(str, given))}")
        vector = any(isinstance(v, LanesType) for v in given)
        result = LanesType(dtype) if vector else dtype

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            values = [
                as_lanes(context, builder, v, t, dtype) if vector else context.cast(builder, v, t, dtype)
                for v, t in zip(args, sig.args, strict=True)
            ]
            return formula(*(Emitted(builder, v) for v in values)).value

        return result(*given), codegen

    def of_one(typing: Any, x: Any) -> Any:
        return typed((x,))

    def of_two(typing: Any, x: Any, y: Any) -> Any:
        return typed((x, y))

    rule: Any = of_one if formula.__code__.co_argcount == 1 else of_two
    rule.__name__ = rule.__qualname__ = name
    rule.__doc__ = formula.__doc__
    return intrinsic(rule)
